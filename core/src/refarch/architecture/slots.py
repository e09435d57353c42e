"""The slot vocabulary: one set of names for the places in a transformer where a module may join.

``inputs``, ``embedding`` and ``head`` exist once; every other slot exists per stack (``encoder``, ``decoder``) and,
apart from ``final_norm``, per layer. A workspace names slots as ``name`` or ``name:side``::

    attention.query            the output side of the query projection (the default side)
    ffn.down:input             what the down projection reads
    ffn.hidden                 an alias of ffn.down:input
    cross_attention.key?       where the backbone has it; without the mark a missing slot is an error
"""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple

from pydantic import AfterValidator, Field, model_validator

from refarch.architecture.spec import Spec
from refarch.errors import did_you_mean

SlotKind = Literal["linear", "norm", "embedding", "inputs", "key_value", "sublayer", "layer", "head", "model"]
Side = Literal["input", "output"]
StackName = Literal["encoder", "decoder"]


class Slot(NamedTuple):
    """One entry of the vocabulary."""

    name: str
    kind: SlotKind
    per: Literal["model", "stack", "layer"]
    meaning: str
    reads_at: str = ""
    """For a sublayer: the leaf slot whose input it reads."""
    ends_at: str = ""
    """For a sublayer: the leaf slot whose output it ends with."""


def _attention(prefix: str, what: str) -> list[Slot]:
    return [
        Slot(f"{prefix}.query", "linear", "layer", f"query projection of {what}"),
        Slot(f"{prefix}.key", "linear", "layer", f"key projection of {what}"),
        Slot(f"{prefix}.value", "linear", "layer", f"value projection of {what}"),
        Slot(f"{prefix}.output", "linear", "layer", f"output projection of {what}"),
        Slot(f"{prefix}.key_value", "key_value", "layer", f"the keys and values that {what} attends to"),
        Slot(f"{prefix}.query_norm", "norm", "layer", f"norm of the queries of {what}, where it has one"),
        Slot(f"{prefix}.key_norm", "norm", "layer", f"norm of the keys of {what}, where it has one"),
        Slot(f"{prefix}.norm", "norm", "layer", f"norm that belongs to {what}"),
        Slot(f"{prefix}.post_norm", "norm", "layer", f"second norm of {what}, after it, where it has two"),
        Slot(prefix, "sublayer", "layer", f"{what} as a whole", f"{prefix}.query", f"{prefix}.output"),
    ]


SLOTS: dict[str, Slot] = {
    slot.name: slot
    for slot in [
        Slot("inputs", "inputs", "model", "the sequence of embedded tokens before the first layer"),
        Slot("embedding", "embedding", "model", "token embedding table"),
        Slot("embedding_norm", "norm", "model", "norm of the embedded input, before the first layer"),
        *_attention("attention", "self-attention"),
        *_attention("cross_attention", "attention over the encoder's output"),
        Slot("ffn.up", "linear", "layer", "first projection of the feed-forward sublayer"),
        Slot("ffn.gate", "linear", "layer", "gate projection, where the feed-forward sublayer has one"),
        Slot("ffn.down", "linear", "layer", "last projection of the feed-forward sublayer"),
        Slot("ffn.norm", "norm", "layer", "norm that belongs to the feed-forward sublayer"),
        Slot("ffn.post_norm", "norm", "layer", "second norm of the feed-forward sublayer, after it, where it has two"),
        Slot("ffn", "sublayer", "layer", "the feed-forward sublayer as a whole", "ffn.up", "ffn.down"),
        Slot("layer", "layer", "layer", "a whole transformer layer: the residual stream after it"),
        Slot("final_norm", "norm", "stack", "norm after the last layer"),
        Slot("head", "head", "model", "the task head on top of the backbone"),
        Slot("model", "model", "model", "everything: backbone and head"),
    ]
}
"""Every slot by name, in the order in which data flows."""

ALIASES: dict[str, str] = {"ffn.hidden": "ffn.down:input"}
"""Other names for one side of a slot."""

TABLE_SLOTS: tuple[str, ...] = tuple(
    slot.name for slot in SLOTS.values() if slot.per == "layer" and slot.kind not in ("sublayer", "layer")
)
"""The slots that a family's table gives a path for, per layer."""

SUBLAYERS: tuple[str, ...] = tuple(slot.name for slot in SLOTS.values() if slot.kind == "sublayer")
"""Those that it may give a path for, where they are no sequence of leaves (a mixture of experts)."""


class SlotRef(NamedTuple):
    """A slot and the side of it that is meant."""

    slot: Slot
    side: Side
    optional: bool = False
    """Whether a backbone may lack the slot altogether."""

    def __str__(self) -> str:
        return self.slot.name if self.side == "output" else f"{self.slot.name}:input"


def parse_slot(text: str) -> SlotRef:
    """Read ``name`` or ``name:side``, with or without a ``?`` at the end.

    Raises:
        ValueError: no such slot (the nearest names are given), or a side on a slot that has none.
    """
    plain = text.removesuffix("?")
    name, _, side = ALIASES.get(plain, plain).partition(":")
    if name not in SLOTS:
        raise ValueError(f"there is no slot {text!r}; {did_you_mean(text, [*SLOTS, *ALIASES])}")
    slot = SLOTS[name]
    if side not in ("", "input", "output"):
        raise ValueError(f"slot {text!r}: the side is 'input' or 'output', not {side!r}")
    if side == "input" and slot.kind != "linear":
        raise ValueError(f"slot {name!r} is of kind {slot.kind}; only a linear slot has an input side")
    return SlotRef(slot, "input" if side == "input" else "output", plain != text)


def _check_slot(text: str) -> str:
    parse_slot(text)
    return text


SlotName = Annotated[str, AfterValidator(_check_slot)]
"""A slot as written in a workspace: ``attention.query``, ``ffn.down:input``, ``ffn.hidden``."""


class Layers(Spec):
    """Which layers of a stack. Exactly one way of choosing; all layers when none is given."""

    first: int | None = Field(None, ge=1)
    """The first n layers."""
    last: int | None = Field(None, ge=1)
    """The last n layers."""
    every: int | None = Field(None, ge=1)
    """Layers 0, k, 2k ..."""
    indices: tuple[int, ...] | None = Field(None, min_length=1)
    """These layers; negative counts from the end."""
    stacks: tuple[StackName, ...] | None = Field(None, min_length=1)
    """Only these stacks of an encoder-decoder; all stacks when left out."""

    @model_validator(mode="after")
    def _one_way(self) -> Layers:
        ways = [name for name in ("first", "last", "every", "indices") if getattr(self, name) is not None]
        if len(ways) > 1:
            raise ValueError(f"choose one of first, last, every, indices; got {' and '.join(ways)}")
        return self

    @property
    def narrows(self) -> bool:
        """Whether some layers are chosen, and not all of a stack."""
        return any(getattr(self, way) is not None for way in ("first", "last", "every", "indices"))

    def choose(self, count: int) -> list[int]:
        """The chosen layer indices of a stack of ``count`` layers, in ascending order.

        Raises:
            ValueError: an index is out of range.
        """
        wanted = self.first or self.last or 0
        if wanted > count:
            way = "first" if self.first else "last"
            raise ValueError(f"layers: {way}={wanted}, but the stack has {count} layers")
        if self.indices is not None:
            wrong = [i for i in self.indices if not -count <= i < count]
            if wrong:
                raise ValueError(f"layers: indices {wrong} are out of range for a stack of {count} layers")
            return sorted({i % count for i in self.indices})
        if self.first is not None:
            return list(range(self.first))
        if self.last is not None:
            return list(range(count - self.last, count))
        return list(range(0, count, self.every or 1))
