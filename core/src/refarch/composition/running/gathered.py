"""Parts of one plain form in a batch that mixes them, computed together: their tensors are gathered row by row.

====================  ==================================================
additive, low rank    y_b + s_b B_b (A_b x_b)
factors, output side  y_b * l_b
factors, input side   F(x_b * l_b)
keys and values       A(q_b, [P_b; K_b], [P'_b; V_b]), shorter ones behind a mask
====================  ==================================================

BatchRows of other parts, and of none, get the neutral element of each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from refarch.architecture.family import FusedPart
from refarch.composition.running.nodes import InnerMap, Leaf, Node
from refarch.composition.running.rows import BatchRows, ByTerm
from refarch.engine.bindings.attention.call import AttentionCall
from refarch.engine.bindings.attention.key_value import KeyValueBinding
from refarch.engine.bindings.module import ModuleBinding
from refarch.engine.functions.low_rank import LowRank
from refarch.engine.layers.linear import put_part, take_part
from refarch.engine.layers.precision import autocasts

ByIndex = dict[int, Any]
"""A binding for each term that has one."""


def _kind(node: Node) -> str:
    """The plain form that a term has at this place, if it has one."""
    if not isinstance(node, Leaf) or node.whole:
        return ""
    kinds = {_binding_kind(binding) for binding in node.bindings}
    parts = [str(binding.site.end.part) for binding in node.bindings if isinstance(binding, ModuleBinding)]
    return kinds.pop() if len(kinds) == 1 and len(parts) == len(set(parts)) else ""


def _binding_kind(binding: Any) -> str:
    if isinstance(binding, KeyValueBinding):
        own = binding.gate is not None or binding.spec.projected or binding.spec.counted
        plain = not own and binding.spec.integration == "concatenation"
        return "tokens" if plain else ""
    if not isinstance(binding, ModuleBinding) or binding.carrier is not None or binding.tokens is not None:
        return ""
    if binding.spec.integration == "rescaling" and binding.spec.router is None:
        return binding.site.ref.side
    return "sum" if binding.parallel and binding.is_plain() else ""


class Gathered:
    """The terms of a split that can be computed together at one place.

    Args:
        terms: all terms that may get some rows.

    Attributes:
        terms: those of a plain form.
    """

    def __init__(self, terms: Sequence[tuple[int, Node]]) -> None:
        by_kind: dict[str, dict[str, ByIndex]] = {}
        self.terms: set[int] = set()
        self.parts: dict[str, FusedPart | None] = {}
        for index, node in terms:
            kind = _kind(node)
            if not kind or (kind == "tokens" and len(node.leaves()[0].bindings) > 1):
                continue
            self.terms.add(index)
            for binding in node.leaves()[0].bindings:
                part = binding.site.end.part if kind != "tokens" else None
                self.parts[str(part)] = part
                by_kind.setdefault(kind, {}).setdefault(str(part), {})[index] = binding
        self.by_kind = by_kind
        self.kept: dict[tuple[str, str], tuple[Any, tuple[Tensor, ...]]] = {}

    def __call__(self, inner: InnerMap, x: Any, rows: BatchRows, together: set[int], groups: ByTerm) -> Tensor:
        """F(x) with what the terms ``together`` make of it at their rows.

        Args:
            inner: F.
            x: what it reads.
            rows: all that are computed.
            together: the terms.
            groups: the rows by term.
        """
        if isinstance(x, AttentionCall):
            return inner(self._longer(x, rows, groups, together))
        read = x
        for part, by in self._of("input", together):
            (factors,) = self._stacked("input", part, by, rows, groups, _ones)
            read = _times(x, factors, rows)
        y = inner(read)
        for part, by in self._of("sum", together):
            y = self._add(y, x, part, by, rows, groups)
        for part, by in self._of("output", together):
            (factors,) = self._stacked("output", part, by, rows, groups, _ones)
            y = put_part(y, self.parts[part], _times(take_part(y, self.parts[part]), factors, rows))
        return y

    def _of(self, kind: str, together: set[int]) -> list[tuple[str, ByIndex]]:
        found = {
            part: {index: by[index] for index in sorted(together) if index in by}
            for part, by in self.by_kind.get(kind, {}).items()
        }
        return [(part, by) for part, by in found.items() if by]

    def _add(self, y: Tensor, x: Tensor, part: str, by: ByIndex, rows: BatchRows, groups: ByTerm) -> Tensor:
        down, up = self._stacked("sum", part, by, rows, groups, _low_rank)  # rows r d_in, rows r d_out
        count = len(rows.names)
        flat = x.reshape(count, -1, x.shape[-1])  # rows n d_in
        flat = flat if autocasts(y) else flat.to(down.dtype)
        if any(binding.function.drops for binding in by.values()):
            flat = _dropped(flat, self._numbers(by, rows, groups), [item.function.dropout for item in by.values()])
        h = torch.bmm(flat, down.transpose(1, 2))  # rows n r
        own = take_part(y, self.parts[part])
        added = torch.bmm(h, up).to(y.dtype).reshape(own.shape)
        return put_part(y, self.parts[part], own + added)

    def _longer(self, x: AttentionCall, rows: BatchRows, groups: ByTerm, together: set[int]) -> AttentionCall:
        for part, by in self._of("tokens", together):
            keys, values, hidden = self._stacked("tokens", part, by, rows, groups, _tokens)  # rows l width, rows l
            times = x.query.shape[0] // len(rows.names)
            keys, values = _heads(keys, x.key, times), _heads(values, x.value, times)
            unseen = hidden.repeat_interleave(times, dim=0) if bool(hidden.any()) else None
            x = x.before(keys, values, unseen)
        return x

    def _stacked(
        self,
        kind: str,
        part: str,
        by: ByIndex,
        rows: BatchRows,
        groups: ByTerm,
        stack: Callable[[list[Any]], tuple[Tensor, ...]],
    ) -> tuple[Tensor, ...]:
        """The terms' tensors, gathered for the rows. Stacked, they are kept as long as their values stay the same."""
        key = _version(by)
        kept = self.kept.get((kind, part))
        if kept is not None and key is not None and kept[0] == key:
            stacked = kept[1]
        else:
            stacked = stack(list(by.values()))
            self.kept.pop((kind, part), None)
            if key is not None:
                self.kept[kind, part] = (key, stacked)
        number = self._numbers(by, rows, groups)
        if number == list(range(len(by))):  # one row each, in order
            return tuple(tensor[: len(by)] for tensor in stacked)
        chosen = torch.tensor(number, device=stacked[0].device)
        return tuple(tensor.index_select(0, chosen) for tensor in stacked)

    @staticmethod
    def _numbers(by: ByIndex, rows: BatchRows, groups: ByTerm) -> list[int]:
        """For each row which of the bindings is its; the neutral element comes after all of them."""
        places: dict[int | None, int] = {index: place for place, index in enumerate(by)}
        number = [len(by)] * len(rows.names)
        for index, own in groups:
            for position in own.positions(rows) if index in places else ():
                number[position] = places[index]
        return number


def _version(by: ByIndex) -> tuple[Any, ...] | None:
    """What changes whenever a value of the bindings' parameters does; None where gradients or chance are at work."""
    marks: list[Any] = [tuple(by), torch.is_inference_mode_enabled()]
    grad = torch.is_grad_enabled()
    for binding in by.values():
        function = binding.function
        if function.training or torch.compiler.is_compiling():
            return None
        marks.append(function.scale if isinstance(function.scale, (int, float)) else None)
        values = function.parameters() if function._modules else function._parameters.values()
        for value in values:
            if value is None or (grad and value.requires_grad):
                return None
            marks += (value._version, value.data_ptr())
    return tuple(marks)


def _dropped(x: Tensor, number: list[int], rates: list[float]) -> Tensor:
    """x: [rows, n, width], with each row's own dropout."""
    rate = x.new_tensor([*rates, 0.0])[torch.tensor(number, device=x.device)][:, None, None]  # rows 1 1
    return x * (torch.rand_like(x) >= rate) / (1 - rate)


def _ones(bindings: list[Any]) -> tuple[Tensor, ...]:
    """Factors, and ones: [terms + 1, width]."""
    own = [binding.function() for binding in bindings]
    return (torch.stack([*own, torch.ones_like(own[0])]),)


def _low_rank(bindings: list[Any]) -> tuple[Tensor, ...]:
    """Factors of rank r, the greatest, with zeros to fill: [terms + 1, r, d_in] and [terms + 1, r, d_out], scaled."""
    functions: list[LowRank] = [binding.function for binding in bindings]
    rank = max(function.down.shape[0] for function in functions)
    down = [_longer(f.down, rank) for f in functions]
    up = [_longer(f.up.t() * f.scale, rank) for f in functions]
    return torch.stack([*down, torch.zeros_like(down[0])]), torch.stack([*up, torch.zeros_like(up[0])])


def _longer(matrix: Tensor, rows: int) -> Tensor:
    """Zeros below a matrix, up to so many rows."""
    missing = rows - matrix.shape[0]
    return F.pad(matrix, (0, 0, 0, missing)) if missing else matrix


def _tokens(bindings: list[Any]) -> tuple[Tensor, ...]:
    """Keys and values, [terms + 1, l, width], and which of them are only there to fill, [terms + 1, l]."""
    own = [binding.function() for binding in bindings]
    length = max(keys.shape[0] for keys, _ in own)
    found = []
    for which in (0, 1):
        filled = [F.pad(pair[which], (0, 0, length - pair[which].shape[0], 0)) for pair in own]
        found.append(torch.stack([*filled, torch.zeros_like(filled[0])]))
    places = torch.arange(length, device=found[0].device)
    hidden = torch.stack([places < length - len(keys) for keys, _ in own] + [places >= 0])
    return (*found, hidden)


def _times(x: Tensor, factors: Tensor, rows: BatchRows) -> Tensor:
    """x: [size, ..., width], factors: [rows, width]."""
    flat = x.reshape(len(rows.names), -1, x.shape[-1])  # rows n width
    return (flat * factors.unsqueeze(1).to(x.dtype)).reshape(x.shape)


def _heads(tokens: Tensor, states: Tensor, times: int) -> Tensor:
    """tokens: [rows, l, kv heads * dim], states: [b, kv heads, s, dim] -> [b, kv heads, l, dim]."""
    _, heads, _, dim = states.shape
    own = tokens.unflatten(-1, (heads, dim)).transpose(1, 2).to(states.dtype)  # rows heads l dim
    return own.repeat_interleave(times, dim=0)
