"""A backbone family: the table from standard slots to one architecture's own module paths. And named models.

A table's entries are short strings, relative to a layer::

    attention.self.query           a module
    attn.c_attn[0/3]               the first of three equal parts of a fused projection
    qkv[0/3 per num_heads]         the same, where each head has its three parts side by side
    qkv[1/num_heads:num_kv:num_kv] the second of three parts that are as wide as these numbers say
    wi | wi_1                      alternatives; the first that exists
    crossattention.self.query?     may be missing

Names within the brackets are values of the model's configuration.

A module that is an ``nn.Identity`` says that the architecture has nothing at that layer: ModernBERT's first layer has
no attention norm, its embedded input is normed already.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from refarch.architecture.module_fields import ImportPath
from refarch.architecture.slots import SLOTS, SUBLAYERS, TABLE_SLOTS, StackName
from refarch.architecture.spec import CONTRACT, Spec
from refarch.architecture.technique import PluginName
from refarch.errors import did_you_mean

BackboneKind = Literal["encoder", "decoder", "encoder-decoder"]
"""What kind of model a backbone is."""
_NUMBER = r"(?:[1-9]\d*|[a-z_]\w*)"
_ENTRY = re.compile(
    rf"^(?P<path>[\w.]+)(\[(?P<index>\d+)/(?P<of>[1-9]\d*|{_NUMBER}(?::{_NUMBER})+)(?: +per +(?P<per>{_NUMBER}))?\])?$"
)
_FORMS = "'path', 'path[0/3]', 'path[0/3 per heads]', 'path[0/a:b:b]', 'path | other', 'path?'"


class FusedPart(NamedTuple):
    """A part of a fused projection's output: of each of ``groups`` equal runs of features, its share of the run."""

    number: int
    """Which part, from 0."""
    shares: tuple[int, ...]
    """How wide the parts are, in proportion to each other."""
    groups: int = 1

    @property
    def of(self) -> int:
        """The number of parts."""
        return len(self.shares)

    def sizes(self, width: int) -> list[int]:
        """The width of each part within a group, for a projection of ``width`` features.

        Raises:
            ValueError: it does not divide so.
        """
        unit, left = divmod(width, self.groups * sum(self.shares))
        if left:
            raise ValueError(f"{width} features do not divide into {self.groups} times {self.shares}")
        return [unit * share for share in self.shares]

    def width(self, width: int) -> int:
        """How many of ``width`` features are the part's own."""
        return self.groups * self.sizes(width)[self.number]


class PartEntry(NamedTuple):
    """A part as a table writes it: with names of configuration values where it depends on the model."""

    number: int
    shares: tuple[int | str, ...]
    groups: int | str = 1

    def resolve(self, value: Callable[[str], int]) -> FusedPart:
        """The part with its numbers; ``value`` reads the model's configuration."""
        shares = tuple(value(share) if isinstance(share, str) else share for share in self.shares)
        return FusedPart(self.number, shares, value(self.groups) if isinstance(self.groups, str) else self.groups)


class Entry(NamedTuple):
    """One alternative of a table entry."""

    path: str
    part: PartEntry | None


class Alternatives(NamedTuple):
    """A parsed table entry."""

    entries: tuple[Entry, ...]
    optional: bool


@lru_cache(maxsize=4096)
def parse_entry(text: str) -> Alternatives:
    """Read a table entry.

    Raises:
        ValueError: it is not of the form described above.
    """
    body = text.strip()
    optional = body.endswith("?")
    entries = []
    for alternative in body.rstrip("?").split("|"):
        match = _ENTRY.match(alternative.strip())
        if match is None:
            raise ValueError(f"{text!r} is no table entry; write {_FORMS}")
        part = None
        if match["of"]:
            shares = [_number(share) for share in match["of"].split(":")]
            equal = len(shares) == 1 and isinstance(shares[0], int)
            part = PartEntry(
                int(match["index"]), (1,) * int(shares[0]) if equal else tuple(shares), _number(match["per"] or "1")
            )
            if not part.number < len(part.shares):
                raise ValueError(
                    f"{text!r}: part {part.number} of {len(part.shares)} does not exist (parts count from 0)"
                )
        entries.append(Entry(match["path"], part))
    return Alternatives(tuple(entries), optional)


def _number(text: str) -> int | str:
    """A number, or the name of one."""
    return int(text) if text.isdigit() else text


def _check_entry(text: str) -> str:
    parse_entry(text)
    return text


TableEntry = Annotated[str, AfterValidator(_check_entry)]
LayerPath = Annotated[str, StringConstraints(pattern=r"^([\w.]+\.\{\}\.)*[\w.]+\.\{\}$")]


def parse_head(text: str) -> tuple[tuple[str, ...], ...]:
    """Read a head entry: alternatives, each of one path or of several that are joined with ``+``.

    Raises:
        ValueError: it is not of the form ``classifier | pooler + classifier``.
    """
    found = tuple(tuple(path.strip() for path in alternative.split("+")) for alternative in text.split("|"))
    for path in (path for alternative in found for path in alternative):
        if not re.fullmatch(r"[\w.]+", path):
            raise ValueError(f"{text!r} is no head entry; write 'path', 'path | other', 'path + further'")
    return found


def _check_head(text: str) -> str:
    parse_head(text)
    return text


HeadEntry = Annotated[str, AfterValidator(_check_head)]


class StackTable(Spec):
    """One stack of layers of a family. All paths but those in ``slots`` are relative to ``model.base_model``."""

    name: StackName
    module: str = ""
    """The module that takes ``input_ids`` or ``inputs_embeds`` and the attention mask; empty for the base model."""
    layers: LayerPath
    """A layer's path with ``{}`` for its index: ``encoder.layer.{}``. With several, the layers are those of nested
    lists, counted through. Layers that run at several depths (ALBERT's) count once: a module at one is at all of them.
    """
    slots: dict[str, TableEntry]
    """Slot name to path, relative to the layer. ``attention.key_value`` is the module that calls the attention
    function."""
    unreachable: dict[str, str] = {}
    """Slots that the layers have, but not as a module that something can be attached to, each with the reason. They
    are refused with it, even where a workspace marks them as optional."""
    embedding_norm: TableEntry | None = None
    """The norm of the embedded input of a second stack, which has embeddings of its own (the first one's is a field of
    the family)."""
    final_norm: TableEntry | None = None
    body: str | None = None
    """The module that returns the last hidden state, where the stack's module goes on to read it (a pooler does, which
    must not see prompt positions)."""
    position_bias: str | None = None
    """The attention module that computes the position biases of all of the stack's layers, by the method
    ``compute_bias(queries, keys, past_seen_tokens=)`` of transformers' T5; left out where there are none."""
    positions: Literal["sequence", "after padding"] = "sequence"
    """How positions are counted: from 0 along the sequence; or, as in RoBERTa, from ``pad_token_id + 1`` over the
    tokens that are no padding, which the stack's module sees from ids but not from embeddings."""

    @model_validator(mode="after")
    def _slots_exist(self) -> StackTable:
        wrong = [name for name in self.slots if name not in (*TABLE_SLOTS, *SUBLAYERS)]
        if wrong:
            hint = "; ".join(f"{name!r}: {did_you_mean(name, TABLE_SLOTS)}" for name in wrong)
            raise ValueError(f"no such slot in a layer: {hint}")
        for name, reason in self.unreachable.items():
            if name not in SLOTS or SLOTS[name].per != "layer":
                raise ValueError(f"unreachable: there is no slot {name!r} in a layer; {did_you_mean(name, SLOTS)}")
            if name in self.slots:
                raise ValueError(f"slot {name!r} is said to be unreachable, and to be at {self.slots[name]!r}")
            if not reason.strip():
                raise ValueError(f"unreachable: slot {name!r} needs the reason")
        return self

    def obstacle(self, slot: str) -> str:
        """Why a slot cannot be reached; empty if it can be, or is not there at all."""
        return self.unreachable.get(slot, "")


class TinyModel(Spec):
    """A model small enough for tests: a transformers model type and values of its configuration."""

    model_type: str
    config: dict[str, Any]
    auto_classes: tuple[str, ...] = Field(min_length=1)
    """The transformers auto classes that this family is tested with; the first is the default."""


class FamilySpec(Spec):
    """A backbone family."""

    name: PluginName
    summary: str = Field(min_length=1, max_length=120)
    model_types: tuple[str, ...] = Field(min_length=1)
    """The ``config.model_type`` values of transformers that this table serves."""
    stacks: tuple[StackTable, ...] = Field(min_length=1, max_length=2)
    embedding: TableEntry
    """The token embedding, relative to ``model.base_model``."""
    embedding_norm: TableEntry | None = None
    """The norm of the embedded input, relative to ``model.base_model``."""
    head: HeadEntry
    """The task head, relative to the model itself: ``classifier``, or ``pre_classifier + classifier`` where it has
    several modules, and alternatives for the model's classes; the first whose modules all exist."""
    tiny: TinyModel
    kin: dict[str, dict[str, Any]] = {}
    """For other model types of the table: where their tiny model's configuration differs. They are tested too."""
    contract: int = CONTRACT

    @model_validator(mode="after")
    def _stacks_differ(self) -> FamilySpec:
        names = [stack.name for stack in self.stacks]
        if len(set(names)) != len(names):
            raise ValueError(f"family {self.name!r}: two stacks have one name: {names}")
        strangers = [kind for kind in self.kin if kind not in self.model_types or kind == self.tiny.model_type]
        if strangers:
            raise ValueError(f"family {self.name!r}: kin {strangers} are none of the other model types")
        return self

    @property
    def kind(self) -> BackboneKind:
        """What the stacks make it."""
        return "encoder-decoder" if len(self.stacks) == 2 else self.stacks[0].name

    def relatives(self) -> list[FamilySpec]:
        """This family with each of its kin as the tiny model, under the first auto class."""
        return [
            self.model_copy(
                update={
                    "kin": {},
                    "tiny": TinyModel(
                        model_type=kind,
                        config={**self.tiny.config, **changes},
                        auto_classes=self.tiny.auto_classes[:1],
                    ),
                }
            )
            for kind, changes in self.kin.items()
        ]


class ModelSpec(Spec):
    """A named pretrained model: where its files are."""

    name: PluginName
    summary: str = Field(min_length=1, max_length=120)
    source: ImportPath
    """A callable without arguments that returns a local folder or a hub id."""
    licence: str = ""
    contract: int = CONTRACT
