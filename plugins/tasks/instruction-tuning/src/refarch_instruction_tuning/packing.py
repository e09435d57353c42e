"""Several examples in a row, each as if it were alone: positions start anew, and attention stays within an example."""

from __future__ import annotations

import bisect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from refarch.errors import RefarchError, UsageError
from refarch.tasks import Features, PairCollator

PROBE = 32
"""Tokens of each of the two examples on which a model is tried."""
WINDOWS = ("sliding_window", "attention_chunk_size")
"""What transformers' configurations call a limit on how far a token sees; masks that are given replace it."""


def pack(rows: Sequence[Mapping[str, Any]], longest: int) -> list[Features]:
    """Put examples into as few rows of at most ``longest`` tokens as best-fit decreasing needs.

    Returns:
        ``input_ids``, ``labels``, ``position_ids`` and ``segments``, the number of tokens of each example. Rows come in
        the order of their first examples, and examples in their own.
    """
    order = sorted(range(len(rows)), key=lambda index: -len(rows[index]["input_ids"]))  # stable, so always the same
    members: list[list[int]] = []
    rooms: list[tuple[int, int]] = []  # what is left in a row, and its number; sorted
    for index in order:
        size = len(rows[index]["input_ids"])
        place = bisect.bisect_left(rooms, (size, -1))
        room, number = rooms.pop(place) if place < len(rooms) else (longest, len(members))
        if number == len(members):
            members.append([])
        members[number].append(index)
        bisect.insort(rooms, (room - size, number))
    return [_joined([rows[index] for index in sorted(chosen)]) for chosen in sorted(map(sorted, members))]


def _joined(rows: Sequence[Mapping[str, Any]]) -> Features:
    lengths = [len(row["input_ids"]) for row in rows]
    return {
        "input_ids": [token for row in rows for token in row["input_ids"]],
        "labels": [label for row in rows for label in row["labels"]],
        "position_ids": [place for length in lengths for place in range(length)],
        "segments": lengths,
    }


@dataclass(frozen=True)
class PackedCollator:
    """Pads packed rows, and says which tokens see each other; rows that are not packed are padded alone.

    Attributes:
        pairs: pads.
        kind: of the mask: bool, true where a token is seen; or a dtype of numbers that are added to the scores.
    """

    pairs: PairCollator
    kind: torch.dtype = torch.bool

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """``input_ids``, ``labels``, ``position_ids`` [b, t], and ``attention_mask`` [b, 1, t, t]."""
        batch = self.pairs(rows)
        if "segments" in rows[0]:
            mask = seen([row["segments"] for row in rows], batch["input_ids"].shape[1])
            if self.kind != torch.bool:
                mask = torch.zeros(mask.shape, dtype=self.kind).masked_fill(~mask, torch.finfo(self.kind).min)
            batch["attention_mask"] = mask
        return batch


def seen(segments: Sequence[Sequence[int]], tokens: int) -> Tensor:
    """Which tokens see which, [b, 1, t, t]: those before them in their own segment. What is left over is padding, which
    sees padding alone.
    """
    numbers = torch.full((len(segments), tokens), -1)  # b t
    for row, lengths in enumerate(segments):
        own = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(list(lengths)))
        numbers[row, : len(own)] = own
    same = numbers[:, :, None] == numbers[:, None, :]  # b t t
    return (same & torch.ones(tokens, tokens, dtype=torch.bool).tril())[:, None]


@torch.no_grad()
def check_packing(model: PreTrainedModel, rows: Sequence[Mapping[str, Any]], longest: int) -> torch.dtype:
    """Try on two examples whether a model computes for each what it computes for it alone.

    Args:
        model: with its techniques attached.
        rows: examples, not packed.
        longest: tokens of the longest example.

    Returns:
        The kind of mask with which it does: bool, or the model's dtype.

    Raises:
        UsageError: it does not, or cannot be asked so.
    """
    for name in WINDOWS:
        window = getattr(model.config.get_text_config(), name, None)
        if isinstance(window, int) and window < longest:
            raise _refused(f"it sees {window} tokens back at most, and examples have up to {longest}")
    chosen = sorted(rows, key=lambda row: -len(row["input_ids"]))[:2]
    short = [{name: row[name][:PROBE] for name in ("input_ids", "labels")} for row in chosen]
    row, reasons = _joined(short * (1 if len(short) > 1 else 2)), list[str]()
    training = model.training
    model.eval()
    try:
        for kind in (torch.bool, model.dtype):
            try:
                difference = _difference(model, row, PackedCollator(PairCollator(0), kind))
            except (RefarchError, RuntimeError, ValueError, TypeError, IndexError) as error:  # whatever a mask leads to
                reasons.append(error.message if isinstance(error, RefarchError) else str(error).split("\n")[0])
                continue
            if difference < torch.finfo(model.dtype).eps ** 0.5:
                return kind
            reasons.append(f"its outputs differ from those of each example alone, by {difference:.1e}")
    finally:
        model.train(training)
    raise _refused(reasons[0])


def _difference(model: PreTrainedModel, row: Features, collator: PackedCollator) -> float:
    """By how much outputs for packed examples differ from those of each alone, relative to these; the largest."""
    batch = {name: value.to(model.device) for name, value in collator([row]).items()}
    del batch["labels"]
    together, start, found = model(**batch).logits[0].float(), 0, list[float]()  # t v
    for length in row["segments"]:
        ids = batch["input_ids"][:, start : start + length]
        alone = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0].float()
        found.append(float((together[start : start + length] - alone).norm() / alone.norm()))
        start += length
    return max(found, key=lambda value: (value != value, value))  # one that is no number is the largest


def _refused(reason: str) -> UsageError:
    return UsageError(
        f"this model, with what is attached to it, cannot keep examples of one row apart: {reason}",
        "set task.packing=false, or use a decoder (and a technique) whose attention takes a mask of tokens by tokens",
    )
