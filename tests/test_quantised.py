"""Quantised bases, with the real layers of bitsandbytes and torchao as they run on a CPU."""

import copy
import functools
import logging
import shutil

import pytest
import torch
import torch.nn.functional as F
import transformers
from safetensors.torch import load_file
from torch import nn
from transformers import BitsAndBytesConfig, TorchAoConfig

import refarch
from refarch.engine import keep_order
from refarch.errors import CheckpointError, CompositionError, SlotError
from refarch.pipeline import quiet

torchao = pytest.importorskip("torchao.quantization")
bnb = pytest.importorskip("bitsandbytes")
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)

SIZES = {
    "llama": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1, "num_key_value_heads": 2},
    "bert": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1, "hidden_dropout_prob": 0.0},
    "gpt2": {"n_embd": 64, "n_layer": 1, "resid_pdrop": 0.0},
}
HEADS = {"llama": "AutoModelForCausalLM", "bert": "AutoModelForSequenceClassification", "gpt2": "AutoModelForCausalLM"}
FOUR = functools.partial(torchao.IntxWeightOnlyConfig, weight_dtype=torch.int4, granularity=torchao.PerGroup(32))
KINDS = {
    "nf4": lambda: BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4"),
    "llm-int8": lambda: BitsAndBytesConfig(load_in_8bit=True),
    "ao-int8": lambda: TorchAoConfig(torchao.Int8WeightOnlyConfig()),
    "ao-int4": lambda: TorchAoConfig(FOUR()),
    "fp4-double": lambda: BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_use_double_quant=True),
    "ao-float8": lambda: TorchAoConfig(torchao.Float8WeightOnlyConfig()),
    "ao-dynamic": lambda: TorchAoConfig(torchao.Int8DynamicActivationInt8WeightConfig()),
}
TRAINS = [kind for kind in KINDS if kind != "ao-dynamic"]
QUERY = {
    "llama": "model.layers.0.self_attn.q_proj",
    "bert": "bert.encoder.layer.0.attention.self.query",
    "gpt2": "transformer.h.0.attn.c_attn",
}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """Loads a tiny saved model, plain or quantised."""

    @functools.cache
    def folder(family):
        path = tmp_path_factory.mktemp("base") / family
        torch.manual_seed(0)
        config = transformers.AutoConfig.for_model(
            family, vocab_size=64, pad_token_id=0, num_attention_heads=4, **SIZES[family]
        )
        model = getattr(transformers, HEADS[family]).from_config(config)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.1)
        model.save_pretrained(path)
        return path

    def load(family, kind=None, dtype=torch.float32, reorders=False):
        """Quantised anew; evaluating with the same kernels as in training, whatever the CPU."""
        choice = {} if kind is None else {"quantization_config": KINDS[kind]()}
        with quiet():
            model = getattr(transformers, HEADS[family]).from_pretrained(folder(family), dtype=dtype, **choice).eval()
        if not reorders:
            keep_order(model)
        return model

    once = functools.cache(load)
    return lambda *args, anew=False, **how: load(*args, **how) if anew else copy.deepcopy(once(*args, **how))


def batch(family):
    ids = torch.randint(3, 64, (4, 7), generator=torch.Generator().manual_seed(1))
    return {"input_ids": ids, "labels": torch.tensor([0, 1, 1, 0]) if family == "bert" else ids}


def logits(model, family="llama"):
    with torch.no_grad():
        return model.eval()(**batch(family)).logits


def stored(model):
    """Every tensor of a model as it is stored, those inside of a tensor subclass too."""
    found = {}
    for name, parameter in model.named_parameters():
        inner = parameter.__tensor_flatten__()[0] if hasattr(parameter, "__tensor_flatten__") else []
        for part in inner or ["data"]:
            found[f"{name}.{part}"] = getattr(parameter, part).detach().clone()
    return found


def meant(layer):
    """The weight by what the layer computes: unit vectors come out as its columns. [d_out, d_in]"""
    with torch.no_grad():
        out = layer.train()(torch.eye(layer.in_features)).float()
        layer.eval()
    return (out if layer.bias is None else out - layer.bias).t()


def train(model, adaptation, family, steps=8, lr=0.02):
    """The losses; only what is attached gets gradients."""
    optimizer = torch.optim.Adam(adaptation.parameters(), lr=lr)
    losses = []
    model.train()
    for _ in range(steps):
        loss = model(**batch(family)).loss
        loss.backward()
        own = {id(parameter) for parameter in adaptation.parameters() if parameter.requires_grad}
        assert all((p.grad is not None) == (id(p) in own) for p in model.parameters())
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    model.eval()
    return losses


def test_training_goes_on_after_an_evaluation_in_another_order_of_weights(base):
    """A CPU with AVX512-BF16 reorders 4-bit weights while evaluating; in that order no gradient passes."""
    from bitsandbytes.functional import has_avx512bf16

    if not has_avx512bf16():
        pytest.skip("this CPU has no kernel of bitsandbytes that reorders weights")
    model = base("llama", "nf4", reorders=True)
    logits(model)
    layer = model.get_submodule(QUERY["llama"])
    assert layer.weight.quant_state.packing_format_for_cpu
    adaptation = refarch.attach(model, "lora")
    losses = train(model, adaptation, "llama")
    logits(model)
    assert losses[-1] < 0.95 * losses[0] and train(model, adaptation, "llama")[-1] < losses[-1]
    assert not layer.weight.quant_state.packing_format_for_cpu
    adaptation.detach()
    logits(model)
    assert layer.weight.quant_state.packing_format_for_cpu


FAST = {"ia3": 0.1, "ln-tuning": 0.1, "prompt-tuning": 0.1, "adaption-prompt": 0.2}
"""Learning rates of techniques with few parameters."""
LIVES = [
    *[("llama", kind, name, {}) for kind in TRAINS[:4] for name in ("lora", "ia3", "adapter", "prefix-tuning", "dora")],
    *[("llama", kind, "lora", {}) for kind in TRAINS[4:]],
    *[("llama", "nf4", name, {}) for name in ("oft", "hra", "boft", "prompt-tuning", "adaption-prompt")],
    *[("llama", "ao-int8", "lora", {"preset": preset}) for preset in ("pissa", "olora")],
    ("bert", "llm-int8", "lora", {"dropout": 0.1}),
    ("bert", "nf4", "bitfit", {}),
    ("bert", "ao-int8", "ln-tuning", {}),
    *[("gpt2", kind, name, {}) for kind in ("nf4", "llm-int8") for name in ("lora", "dora", "oft")],
]


@pytest.mark.parametrize(("family", "kind", "technique", "options"), LIVES, ids=lambda value: str(value))
def test_training_saving_and_detaching(base, tmp_path, family, kind, technique, options):
    model = base(family, kind)
    plain, before = logits(model, family), stored(model)
    adaptation = refarch.attach(model, technique, **options)
    losses = train(model, adaptation, family, lr=FAST.get(technique, 0.02))
    assert losses[-1] < 0.95 * losses[0]
    trained = logits(model, family)
    assert not torch.allclose(trained, plain, atol=1e-2)
    adaptation.save(tmp_path)
    again = base(family, kind, anew=technique == "lora")
    refarch.load(again, tmp_path)
    assert torch.equal(logits(again, family), trained)
    with adaptation.disabled():
        assert torch.equal(logits(model, family), plain)
    adaptation.detach()
    after = stored(model)
    assert after.keys() == before.keys() and all(torch.equal(after[name], before[name]) for name in before)
    assert torch.equal(logits(model, family), plain)


@pytest.mark.parametrize("kind", KINDS)
def test_merging_is_refused_and_says_what_to_do(base, kind):
    model = base("llama", kind)
    adaptation = refarch.attach(model, "lora", trainable=False)
    before, kept = logits(model), stored(model)
    with pytest.raises(CompositionError) as caught:
        adaptation.merge()
    name = type(model.get_submodule(QUERY["llama"]).weight).__name__
    assert f"decoder.0.attention.query: its weight is quantised ({name}" in caught.value.message
    assert "keep it attached" in caught.value.hint and "load the base without quantisation" in caught.value.hint
    assert adaptation.state == "attached" and torch.equal(logits(model), before)
    after = stored(model)
    assert all(torch.equal(after[key], kept[key]) for key in kept)


def test_what_no_base_merges_is_told_nothing_of_quantisation(base):
    with pytest.raises(CompositionError) as caught:
        refarch.attach(base("llama", "nf4"), "adapter").merge()
    assert "quantis" not in str(caught.value)


@pytest.mark.parametrize(
    ("family", "kind"), [("llama", kind) for kind in TRAINS] + [("gpt2", "nf4"), ("gpt2", "llm-int8")]
)
def test_the_safe_alternative_merges_into_the_plain_base(base, tmp_path, family, kind):
    model = base(family, kind)
    adaptation = refarch.attach(model, "lora")
    train(model, adaptation, family, steps=3)
    adaptation.save(tmp_path)
    plain = base(family)
    loaded = refarch.load(plain, tmp_path)
    attached = logits(plain, family)
    loaded.merge()
    torch.testing.assert_close(logits(plain, family), attached, rtol=1e-4, atol=1e-4)
    loaded.commit()
    assert not hasattr(plain, "refarch")
    error = (attached - logits(model, family)).norm() / attached.norm()
    assert 0 < error < 0.5  # the base's quantisation error, nothing more


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", TRAINS)
def test_the_layer_computes_itself_and_the_update_joins(base, kind, dtype):
    """Against F(x) + s B A x by a hook on a copy, with a float32 update over a base of either dtype."""
    model = base("llama", kind, dtype)
    other = copy.deepcopy(model)
    adaptation = refarch.attach(model, "lora", slots=("attention.query",), layers=[0])
    ((_, function),) = adaptation.functions()
    with torch.no_grad():
        function.up.normal_(std=0.3)

    def hook(_, args, y):
        return (y.float() + function.scale * args[0].float() @ function.down.t() @ function.up.t()).to(y.dtype)

    other.get_submodule(QUERY["llama"]).register_forward_hook(hook)
    found, wanted = logits(model), logits(other)
    assert found.dtype == wanted.dtype == dtype
    exact = dtype == torch.float32
    torch.testing.assert_close(found, wanted, rtol=1e-4 if exact else 0.05, atol=1e-4 if exact else 0.15)


@pytest.mark.parametrize(
    ("family", "kind"),
    [*[("llama", kind) for kind in TRAINS], *[(family, kind) for family in ("gpt2", "bert") for kind in TRAINS[:2]]],
)
def test_functions_that_start_from_the_weight_read_what_the_layer_means(base, family, kind):
    model = base(family, kind)
    layer = model.get_submodule(QUERY[family])
    logits(model, family)  # some layers move what they hold with the first pass
    weight = meant(layer)[:64]  # the query's part
    options = {"slots": ("attention.query",), "layers": [0], "rank": 4}
    plain = logits(model, family)
    adaptation = refarch.attach(model, "lora", preset="pissa", **options)
    ((_, function),) = adaptation.functions()
    u, s, v = torch.linalg.svd(weight)
    torch.testing.assert_close(
        function.scale * function.up_0 @ function.down_0, (u[:, :4] * s[:4]) @ v[:4], rtol=1e-3, atol=2e-3
    )
    torch.testing.assert_close(logits(model, family), plain, rtol=1e-5, atol=1e-5)
    with torch.no_grad():  # the next one starts from the map that this one makes of the layer
        function.up.add_(0.1)
    second = refarch.attach(model, "dora", **options)
    ((_, decomposed),) = second.functions()
    wanted = (weight + function.scale * (function.up @ function.down - function.up_0 @ function.down_0)).norm(dim=1)
    torch.testing.assert_close(decomposed.magnitude, wanted, rtol=1e-3, atol=2e-3)


def test_a_weight_that_cannot_be_read_is_refused_where_it_is_needed(base):
    model = base("llama")
    layer = model.get_submodule(QUERY["llama"])
    layer.weight = nn.Parameter(layer.weight.detach().to(torch.float8_e4m3fn), requires_grad=False)
    layer.forward = lambda x: F.linear(x, layer.weight.float())
    options = {"slots": ("attention.query",), "layers": [0]}
    for technique in ("dora", "lora"):
        choice = {"preset": "pissa"} if technique == "lora" else {}
        with pytest.raises(CompositionError, match="cannot be read as a matrix: its weight is quantised") as caught:
            refarch.attach(model, technique, **options, **choice)
        assert "plain weights" in caught.value.hint and not hasattr(model, "refarch")
    adaptation = refarch.attach(model, "lora", **options)
    assert train(model, adaptation, "llama", steps=3)[-1] > 0


def test_layers_without_gradients_are_refused_for_training_only(base, tmp_path):
    """What an int8 activation gives has no gradient: below it, training would go wrong in silence."""
    model = base("llama", "ao-dynamic")
    layer = model.get_submodule(QUERY["llama"])
    assert not layer(torch.randn(2, 64, requires_grad=True)).requires_grad  # the library's limit, not ours
    before = [(name, p.requires_grad) for name, p in model.named_parameters()]
    for technique in ("lora", "prompt-tuning", "ln-tuning"):
        with pytest.raises(
            CompositionError, match=r"gradients do not pass .*q_proj' \(and 6 more\): its Int8Tensor"
        ) as caught:
            refarch.attach(model, technique)
        assert "trainable=False" in caught.value.hint
    assert [(name, p.requires_grad) for name, p in model.named_parameters()] == before
    trained = base("llama", "ao-int8")
    adaptation = refarch.attach(trained, "lora")
    train(trained, adaptation, "llama", steps=3)
    adaptation.save(tmp_path)
    with pytest.raises(CompositionError, match="gradients do not pass"):
        refarch.load(model, tmp_path, trainable=True, any_base=True)
    plain = logits(model)
    refarch.load(model, tmp_path, any_base=True)
    assert not torch.allclose(logits(model), plain, atol=1e-2)


@pytest.mark.parametrize("kind", ["nf4", "ao-int8"])
def test_quantised_values_are_not_selected(base, kind):
    model = base("llama", kind)
    with pytest.raises(SlotError, match=r"selects .*weight, which is quantised .*cannot be trained, and 6 more"):
        refarch.attach(model, "full")
    assert not hasattr(model, "refarch")


def test_another_base_is_refused_and_another_precision_is_not(base, tmp_path):
    model = base("llama", "nf4")
    adaptation = refarch.attach(model, "lora")
    train(model, adaptation, "llama", steps=2)
    adaptation.save(tmp_path)
    refarch.load(base("llama", "ao-int8"), tmp_path)
    other = base("llama", "nf4")
    with torch.no_grad():
        other.model.layers[0].mlp.up_proj.weight.data[::2] ^= 17
    with pytest.raises(CheckpointError, match="same architecture, but other weights"):
        refarch.load(other, tmp_path)


def test_a_weight_reordered_for_the_cpu_is_read_as_loaded(base):
    """bitsandbytes does this itself on CPUs with AVX512-BF16, in evaluation."""
    reorder = getattr(bnb.functional, "_convert_weight_packed_for_cpu", None)
    if reorder is None:
        pytest.skip("this bitsandbytes does not reorder")
    model = base("llama", "nf4")
    layer = model.get_submodule(QUERY["llama"])
    weight, kept = meant(layer), layer.weight.data.clone()
    identity = refarch.attach(model, "lora").base_fingerprint()
    refarch.adaptations(model)[0].detach()
    layer.weight.data, layer.weight.quant_state = reorder(layer.weight.data, layer.weight.quant_state)
    assert layer.weight.shape != kept.shape
    adaptation = refarch.attach(model, "dora", slots=("attention.query",), layers=[0], trainable=False)
    ((_, function),) = adaptation.functions()
    torch.testing.assert_close(
        function.magnitude, weight.norm(dim=1), rtol=0.01, atol=0
    )  # its scales are bfloat16 since
    assert adaptation.base_fingerprint() == identity and torch.equal(layer.weight.data, kept)


PIPELINES = {
    "nf4": {"quant_method": "bitsandbytes", "load_in_4bit": True, "llm_int8_skip_modules": ["classifier"]},
    "ao-int8": {
        "quant_method": "torchao",
        "quant_type": {"default": {"_type": "Int8WeightOnlyConfig", "_version": 2, "_data": {}}},
        "modules_to_not_convert": ["classifier"],
    },
}


@pytest.fixture(scope="module")
def headless(folder, tmp_path_factory):
    """The tiny BERT without a head, which each run's seed then draws."""
    path = tmp_path_factory.mktemp("headless")
    shutil.copytree(folder / "model", path, dirs_exist_ok=True)
    with quiet():
        transformers.BertModel.from_pretrained(path, add_pooling_layer=True).save_pretrained(path)
    return path


@pytest.mark.parametrize("kind", PIPELINES)
def test_a_pipeline_trains_on_a_quantised_backbone(folder, headless, pipeline, tmp_path, caplog, kind):
    values = pipeline(folder, epochs=1, batch_size=64)
    values["backbone"] = {"name": str(headless), "config": {"quantization_config": PIPELINES[kind]}}
    spec, pool = refarch.PipelineSpec.parse(values), refarch.Pool()
    names = ("alone", "first", "second") if kind == "ao-int8" else ("alone",)
    for name in names:
        refarch.run(spec, tmp_path / name, pool=None if name == "alone" else pool)
    assert not [record for record in caplog.records if "changed the backbone" in record.message]
    found = [load_file(next((tmp_path / name / "adaptations/lora").glob("*.safetensors"))) for name in names]
    assert any("up" in name and tensor.abs().max() > 0 for name, tensor in found[0].items())
    assert all(torch.equal(other[name], found[0][name]) for other in found[1:] for name in found[0])


def test_a_quantised_head_is_not_trained(folder, pipeline, tmp_path):
    values = pipeline(folder)
    config = {key: value for key, value in PIPELINES["nf4"].items() if key != "llm_int8_skip_modules"}
    values["backbone"] = {"name": str(folder / "model"), "config": {"quantization_config": config}}
    with pytest.raises(SlotError, match=r"classifier.weight, which is quantised \(Params4bit") as caught:
        refarch.run(refarch.PipelineSpec.parse(values), tmp_path / "run")
    assert "llm_int8_skip_modules" in caught.value.hint
