"""A mapping's rules at work: the tensors of one module of theirs, and the functions of ours that stand there."""

from __future__ import annotations

import re

import torch
from torch import Tensor

from refarch import InterchangeSpec, TensorRule
from refarch.engine import Insertion, put_part, take_part
from refarch.errors import CheckpointError, CompositionError
from refarch_interchange.mapping.operations import operation

PREFIX = "base_model.model."
"""Before every path of a module in the names of peft's tensors."""
PROMPT_PREFIX = "base_model."
"""The same where peft puts tokens before a model that it leaves as it is."""
Theirs = dict[str, Tensor]
"""Tensors of one module by the name that rules have for them (``lora_A.weight``)."""


def prefix(mapping: InterchangeSpec) -> str:
    """What stands before a path in a mapping's files."""
    return PROMPT_PREFIX if mapping.targets == "none" else PREFIX


class Sorter:
    """Sorts the names of tensors by the module and the rule that they belong to."""

    def __init__(self, mapping: InterchangeSpec) -> None:
        ends = [re.escape(rule.theirs).replace(r"\*", r"[^.]+") for rule in mapping.tensors]
        self._patterns = [re.compile(rf"{re.escape(PREFIX)}(.+)\.({end})") for end in ends]

    def find(self, name: str) -> tuple[str, str] | None:
        """The module's path, and the tensor's name after it; None if no rule is about it."""
        found = next(filter(None, (pattern.fullmatch(name) for pattern in self._patterns)), None)
        return (found[1], found[2]) if found else None


def own_tensors(insertion: Insertion) -> dict[str, Tensor]:
    """Parameters and buffers of a function by name, and those of its gate as ``gate.NAME``."""
    own: dict[str, Tensor] = {**dict(insertion.function.named_parameters()), **dict(insertion.function.named_buffers())}
    gate = insertion.gate.named_parameters() if insertion.gate is not None else ()
    return {**own, **{f"gate.{name}": parameter for name, parameter in gate}}


def expanded(rule: TensorRule, own: dict[str, Tensor]) -> list[str]:
    """The names of a function's tensors that a rule is about, in order."""
    if "{}" not in rule.own:
        return [rule.own] if rule.own in own else []
    pattern = re.compile(re.escape(rule.own).replace(r"\{\}", r"(\d+)"))
    numbered = [(int(found[1]), name) for name in own if (found := pattern.fullmatch(name))]
    return [name for _, name in sorted(numbered)]


@torch.no_grad()
def read(mapping: InterchangeSpec, insertion: Insertion, theirs: Theirs, path: str) -> None:
    """Fill one function from the tensors of its module.

    Raises:
        CheckpointError: a tensor is missing, or has another shape.
    """
    own = own_tensors(insertion)
    done = set()
    for rule in mapping.tensors:
        names = expanded(rule, own)
        done |= set(names)
        if not names or rule.theirs not in theirs:
            if bool(names) != (rule.theirs in theirs):
                state = "is missing" if names else "belongs to other settings than the file's"
                raise CheckpointError(f"{path}: tensor {rule.theirs} {state}", "the file may be truncated or altered")
            continue
        values = list(theirs[rule.theirs]) if "{}" in rule.own else [theirs[rule.theirs]]
        if len(values) != len(names):
            raise CheckpointError(f"{path}: tensor {rule.theirs} holds {len(values)} parts, {len(names)} are expected")
        for name, value in zip(names, values, strict=True):
            _fill(rule, insertion, own[name], value, f"{path}.{rule.theirs}")
    left = set(own) - done - set(insertion.spec.frozen)
    if left:
        raise CompositionError(f"mapping {mapping.name!r} has no rule for {', '.join(sorted(left))}", "tell its author")


def _fill(rule: TensorRule, insertion: Insertion, target: Tensor, value: Tensor, where: str) -> None:
    part = insertion.site.end.part
    try:
        value = operation(rule.operation).read(value, target)
        if part is not None and rule.rows:
            value = take_part(value, part, 0)
    except (RuntimeError, ValueError, IndexError) as error:
        raise CheckpointError(f"{where} has shape {tuple(value.shape)}: {error}") from None
    if value.shape != target.shape:
        raise CheckpointError(
            f"{where} has shape {tuple(value.shape)}, where {tuple(target.shape)} is expected",
            "is it for another base, or are its settings not those it was made with?",
        )
    target.copy_(value)


@torch.no_grad()
def write(mapping: InterchangeSpec, own: dict[str, Tensor], side: str) -> Theirs:
    """The tensors of a module that has one function, by the rules' names."""
    theirs = {}
    for rule in mapping.tensors:
        values = [operation(rule.operation).write(own[name].detach(), side) for name in expanded(rule, own)]
        if values:
            theirs[rule.theirs] = torch.stack(values) if "{}" in rule.own else values[0]
    return theirs


@torch.no_grad()
def put_together(
    mapping: InterchangeSpec, parts: list[tuple[Insertion, dict[str, Tensor]]], width: int, norms: Tensor | None
) -> dict[str, Tensor]:
    """The tensors, in our form, of a function over a whole fused projection, from those of its parts.

    Args:
        mapping: whose rules say what belongs to a part alone; what does not must be the same in all parts.
        parts: insertions at parts, with their tensors.
        width: d_out of the whole projection.
        norms: of the rows of its weight, [d_out], where a rule fills what no part has with them.
    """
    whole: dict[str, Tensor] = {}
    for rule in mapping.tensors:
        for name in expanded(rule, parts[0][1]):
            first = parts[0][1][name]
            if not rule.rows:
                whole[name] = first
                continue
            if rule.absent == "row norms":
                assert norms is not None
                value = norms.to(first).clone()
            else:
                value = first.new_full((width, *first.shape[1:]), float(rule.absent))
            for insertion, own in parts:
                value = put_part(value, insertion.site.end.part, own[name], 0)
            whole[name] = value
    return whole


def shared(mapping: InterchangeSpec, parts: list[tuple[Insertion, dict[str, Tensor]]]) -> bool:
    """Whether the parts of a fused projection have equal values in all that their module would have once."""
    names = [name for rule in mapping.tensors if not rule.rows for name in expanded(rule, parts[0][1])]
    return all(
        own[name].shape == parts[0][1][name].shape and torch.equal(own[name], parts[0][1][name])
        for _, own in parts[1:]
        for name in names
    )
