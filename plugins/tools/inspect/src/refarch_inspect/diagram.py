"""One layer as a diagram: what the drawings share, and the one for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from refarch_inspect.looked import Looked, Row, Stack

SUBLAYERS = {
    "attention": (("query", "key", "value"), "key_value", "output"),
    "cross_attention": (("query", "key", "value"), "key_value", "output"),
    "ffn": (("gate", "up"), "", "down"),
}
"""What runs in a sublayer: projections side by side, attention over keys and values, the last projection."""
MARKS = {"linear": "●", "norm": "○", "key_value": "◆", "embedding": "▪", "head": "▪"}


@dataclass
class Sublayer:
    """A sublayer's slots as they are drawn, top to bottom."""

    name: str
    first: list[Row] = field(default_factory=list)
    middle: Row | None = None
    last: Row | None = None
    norm: Row | None = None
    place: str = ""
    inner: list[Row] = field(default_factory=list)
    """Norms of queries and keys."""
    post: Row | None = None
    """A second norm, before the residual is added."""


@dataclass
class Drawing:
    """A stack: what is above the layer, its sublayers in order, what is below."""

    stack: Stack
    above: list[Row]
    sublayers: list[Sublayer]
    below: list[Row]


def drawings(rows: Sequence[Row], stacks: Sequence[Stack]) -> list[Drawing]:
    """One for each stack."""
    result = []
    for position, stack in enumerate(stacks):
        own = {row.slot: row for row in rows if row.stack == stack.name}
        model = {row.slot: row for row in rows if not row.stack}
        sublayers = []
        for name, (first, middle, last) in SUBLAYERS.items():
            beside = [own[f"{name}.{part}"] for part in first if f"{name}.{part}" in own]
            norm, post = own.get(f"{name}.norm"), own.get(f"{name}.post_norm")
            whole = own.get(name)
            if whole and whole.module:  # its inside is out of reach
                place = stack.placed.get(f"{name}.norm", "before")
                sublayers.append(Sublayer(name, [whole], norm=norm, place=place, post=post))
            elif beside or f"{name}.{last}" in own:
                place = stack.placed.get(f"{name}.norm", "before")
                inner = [own[f"{name}.{part}_norm"] for part in first if f"{name}.{part}_norm" in own]
                ends = own.get(f"{name}.{middle}"), own.get(f"{name}.{last}")
                sublayers.append(Sublayer(name, beside, *ends, norm, place, inner, post))
        above = [model[name] for name in ("embedding", "embedding_norm") if name in model and not position]
        below = [own["final_norm"]] if "final_norm" in own else []
        if position == len(stacks) - 1 and "head" in model:
            below.append(model["head"])
        result.append(Drawing(stack, above, sublayers, below))
    return result


def text(looked: Looked) -> str:
    """The diagram for a terminal."""
    lines: list[str] = []
    for drawing in drawings(looked.rows, looked.stacks):
        stack = drawing.stack
        lines += ["", f"{stack.name}: {stack.count} x {stack.layers}"]
        lines += [_slot(row, "  ") for row in drawing.above]
        lines += ["  │"]
        groups = [drawing.sublayers] if stack.parallel else [[sublayer] for sublayer in drawing.sublayers]
        for group in groups:
            lines.append(f"  ├──╮  {' beside '.join(sublayer.name for sublayer in group)}")
            after = []
            for sublayer in group:
                rows = [*sublayer.first, *sublayer.inner, sublayer.middle, sublayer.last, sublayer.post]
                if sublayer.place == "before":
                    rows = [sublayer.norm, *rows]
                elif sublayer.place == "inside":
                    rows = [*rows, sublayer.norm]
                else:
                    after.append(sublayer.norm)
                lines += [_slot(row, "  │  ") for row in rows if row]
            lines += ["  ⊕──╯"] + [_slot(row, "  ") for row in after if row] + ["  │"]
        lines += [_slot(row, "  ") for row in drawing.below]
        if stack.uncovered:
            lines.append(f"  named by no slot: {', '.join(stack.uncovered)}")
    return "\n".join(lines[1:])


def _slot(row: Row, indent: str) -> str:
    mark = MARKS.get(row.kind, "●") if row.module else "┄"
    what = f"{row.entry:<34} {row.shape}" if row.module else row.reason
    return f"{indent}{mark} {row.slot:<26}{what}".rstrip()
