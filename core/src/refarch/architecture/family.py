"""A backbone family: the table from standard slots to one architecture's own module paths. And named models.

A table's entries are short strings, relative to a layer::

    attention.self.query           a module
    attn.c_attn[0/3]               the first of three equal parts of a fused projection
    wi | wi_1                      alternatives; the first that exists
    crossattention.self.query?     may be missing
"""

from __future__ import annotations

import re
from typing import Annotated, Any, NamedTuple

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from refarch.architecture.base import CONTRACT, Spec
from refarch.architecture.module import ImportPath
from refarch.architecture.slots import TABLE_SLOTS, StackName
from refarch.architecture.technique import PluginName
from refarch.errors import did_you_mean

_ENTRY = re.compile(r"^(?P<path>[\w.]+)(\[(?P<index>\d+)/(?P<of>\d+)\])?$")


class Part(NamedTuple):
    """One of ``of`` equal parts of a fused projection's output."""

    number: int
    of: int


class Entry(NamedTuple):
    """One alternative of a table entry."""

    path: str
    part: Part | None


class Alternatives(NamedTuple):
    """A parsed table entry."""

    entries: tuple[Entry, ...]
    optional: bool


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
            raise ValueError(f"{text!r} is no table entry; write 'path', 'path[0/3]', 'path | other', 'path?'")
        part = Part(int(match["index"]), int(match["of"])) if match["of"] else None
        if part and not part.number < part.of:
            raise ValueError(f"{text!r}: part {part.number} of {part.of} does not exist (parts count from 0)")
        entries.append(Entry(match["path"], part))
    return Alternatives(tuple(entries), optional)


def _check_entry(text: str) -> str:
    parse_entry(text)
    return text


TableEntry = Annotated[str, AfterValidator(_check_entry)]
LayerPath = Annotated[str, StringConstraints(pattern=r"^[\w.]+\.\{\}$")]


class StackTable(Spec):
    """One stack of layers of a family. All paths but those in ``slots`` are relative to ``model.base_model``."""

    name: StackName
    module: str = ""
    """The module that takes ``input_ids`` or ``inputs_embeds`` and the attention mask; empty for the base model."""
    layers: LayerPath
    """A layer's path with ``{}`` for its index: ``encoder.layer.{}``."""
    slots: dict[str, TableEntry]
    """Slot name to path, relative to the layer. ``attention.key_value`` is the module that calls the attention
    function."""
    final_norm: str | None = None
    pooler: str | None = None
    """A module that reads the whole last hidden state (it must not see prompt positions)."""

    @model_validator(mode="after")
    def _slots_exist(self) -> StackTable:
        wrong = [name for name in self.slots if name not in TABLE_SLOTS]
        if wrong:
            hint = "; ".join(f"{name!r}: {did_you_mean(name, TABLE_SLOTS)}" for name in wrong)
            raise ValueError(f"no such slot in a layer: {hint}")
        return self


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
    head: TableEntry
    """The task head, relative to the model itself."""
    tiny: TinyModel
    contract: int = CONTRACT

    @model_validator(mode="after")
    def _stacks_differ(self) -> FamilySpec:
        names = [stack.name for stack in self.stacks]
        if len(set(names)) != len(names):
            raise ValueError(f"family {self.name!r}: two stacks have one name: {names}")
        return self


class ModelSpec(Spec):
    """A named pretrained model: where its files are."""

    name: PluginName
    summary: str = Field(min_length=1, max_length=120)
    source: ImportPath
    """A callable without arguments that returns a local folder or a hub id."""
    licence: str = ""
    contract: int = CONTRACT
