"""peft's types that no technique of refarch's is, each with the reason."""

UNMAPPED: dict[str, str] = {
    "ADAMSS": "updates within clusters of the weight's singular subspaces, which no technique here has",
    "C3A": "a block-circulant update, which no technique here has",
    "CPT": "tokens of a context under a projection that bounds how far they move; no technique here has one",
    "DEFT": "takes a learned subspace out of the weight and puts another in; no technique here does both",
    "DELORA": "a low-rank update of bounded norm: normalised in each rank, which LoRA is not",
    "FROD": "a sparse update in bases that all layers share, from a joint decomposition of their weights",
    "GLORA": "updates of weight and bias by up to five factors of different forms at once",
    "GRALORA": "low-rank updates of the blocks of a weight, which no technique here has",
    "HIRA": "the weight times a low-rank matrix, entry by entry; LoHa's factors are both learned",
    "LILY": "low-rank factors that layers share, mixed by routers; molora's experts belong to one layer",
    "MISS": "one shared matrix, repeated along the input; no technique here repeats one",
    "MULTITASK_PROMPT_TUNING": "prompts of several tasks as one prompt times a factor for each task; a file has"
    " not one prompt",
    "OSF": "rewrites the base's weights within the directions of small singular values, and saves these",
    "PEANUT": "an update that a network computes from the weight, nonlinear in it",
    "POLY": "low-rank skills mixed by a table of tasks, looked up by the task's number; routers here read the input",
    "PSOFT": "a rotation between two frozen factors of the weight, which no technique here has",
    "PVERA": "VeRA with vectors that are drawn anew in every pass; VeRA's are fixed",
    "RANDLORA": "a sum of many frozen random products with trained diagonals; VeRA has one product",
    "ROAD": "rotations of pairs of output units with a scale for each; OFT and BOFT rotate inputs and keep lengths",
    "SHADOW": "a second, small network beside all layers; modules here stand at slots",
    "SHIRA": "trains some entries of a weight; a selection here takes whole parameters",
    "SUPERTUNING": "trains some entries of a weight; a selection here takes whole parameters",
    "TINYLORA": "one small vector through fixed random tensors and the weight's singular vectors",
    "TRAINABLE_TOKENS": "trains some rows of the embedding; a selection here takes the whole table",
    "UNILORA": "all factors of all layers as projections of one vector, which no technique here has",
    "VBLORA": "low-rank factors put together from a bank of vectors that all layers share",
    "WAVEFT": "an update from a few wavelet coefficients; FourierFT's are Fourier's",
    "XLORA": "mixes whole LoRA adapters by weights that a first pass through the whole model gives; molora's routers"
    " read what each layer reads, in the same pass",
}
