"""Pretrain a tiny T5 on unlabelled text, for tables of runs: no small trained encoder-decoder comes in a package.

It learns to restore sentences of which some tokens are masked or missing (denoising, as BART does), with the tokenizer
of the house's tiny decoder. Everything is seeded: the same machine makes the same model.
"""

from __future__ import annotations

import csv
import random
import sys
import zipfile
from pathlib import Path

from refarch.files import write_text

STEPS, BATCH, LENGTH, RATE = 2000, 24, 48, 3e-3
SHAPE = {"d_model": 128, "d_ff": 384, "d_kv": 32, "num_heads": 4, "num_layers": 2, "num_decoder_layers": 2}
DONE = "pretrained.json"
ABOUT = (
    f"`tiny-t5`: 2 + 2 layers x 128, pretrained by `docs/pretrain.py` in {STEPS:,} steps to restore masked sentences of"
    " film plots and of E2E's development set"
)


def tiny_t5(folder: Path, data: Path, tokenizer: Path, steps: int = STEPS) -> Path:
    """The model's folder; pretrained first, unless it is there.

    Args:
        folder: where to.
        data: the house's data.
        tokenizer: a folder with a tokenizer.
        steps: of pretraining.
    """
    import torch
    from tokenizers.processors import TemplateProcessing
    from transformers import AutoTokenizer, T5Config, T5ForConditionalGeneration

    if (folder / DONE).is_file():
        return folder
    tokens = AutoTokenizer.from_pretrained(tokenizer)
    tokens.pad_token = tokens.unk_token
    end = TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[(tokens.eos_token, tokens.eos_token_id)]
    )
    tokens.backend_tokenizer.post_processor = end  # T5 reads, and classifies by, what ends a text
    random.seed(0)
    torch.manual_seed(0)
    ends = {"pad_token_id": tokens.pad_token_id, "eos_token_id": tokens.eos_token_id}
    config = T5Config(vocab_size=len(tokens), decoder_start_token_id=tokens.pad_token_id, **ends, **SHAPE)
    model = T5ForConditionalGeneration(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps, pct_start=0.05)
    encoded = [ids[:LENGTH] for ids in tokens(sentences(data), add_special_tokens=False)["input_ids"]]
    for step in range(steps):
        clean = [[*ids, tokens.eos_token_id] for ids in random.sample(encoded, BATCH)]
        noisy = [[*corrupted(ids[:-1], tokens.unk_token_id), ids[-1]] for ids in clean]
        source, target = padded(noisy, tokens.pad_token_id), padded(clean, -100)
        mask = padded([[1] * len(ids) for ids in noisy], 0)
        loss = model(input_ids=source, attention_mask=mask, labels=target).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 250 == 0 or step == steps - 1:
            print(f"[pretraining tiny-t5, step {step}/{steps}] loss {float(loss):.3f}", file=sys.stderr, flush=True)
    model.eval().save_pretrained(folder)
    tokens.save_pretrained(folder)
    write_text(folder / DONE, f'{{"steps": {steps}, "loss": {float(loss):.4f}}}\n')
    return folder


def sentences(data: Path) -> list[str]:
    """Film plots and opinions (subjectivity), and restaurants (E2E, development set)."""
    with zipfile.ZipFile(data / "nltk" / "subjectivity.zip") as archive:
        names = [name for name in archive.namelist() if name.endswith((".5000", ".5000.txt"))]
        found = [line for name in sorted(names) for line in archive.read(name).decode("latin-1").splitlines()]
    with (data / "e2e_nlg" / "devset.csv").open(encoding="utf-8", newline="") as file:
        found += [row["ref"] for row in csv.DictReader(file)]
    return [line.strip() for line in found if len(line) > 20]


def corrupted(ids: list[int], mask: int) -> list[int]:
    """Half of the noise masks tokens, half of it leaves them out: 20 % together."""
    kept = []
    for token in ids:
        draw = random.random()
        if draw >= 0.1:
            kept.append(mask if draw < 0.2 else token)
    return kept


def padded(rows: list[list[int]], value: int) -> object:
    """[rows, longest]."""
    import torch

    longest = max(map(len, rows))
    return torch.tensor([row + [value] * (longest - len(row)) for row in rows])
