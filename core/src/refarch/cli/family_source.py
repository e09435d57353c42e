"""What ``refarch new backbone`` starts from: a family's table, and that table as source code."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from refarch.architecture import FamilySpec, Spec
from refarch.architecture.slots import TABLE_SLOTS
from refarch.errors import DataError, SpecError, UsageError

WIDTH = 100
COMMENTS = {
    "FamilySpec.model_types": "EDIT: the config.model_type values that this table serves",
    "FamilySpec.embedding": "below model.base_model",
    "FamilySpec.head": "below the model itself; one alternative for each kind of head",
    "FamilySpec.tiny": "EDIT: a model small enough for tests, and the auto classes that it is tested with",
    "StackTable.layers": "below model.base_model; {} is the layer's index",
    "StackTable.slots": "EDIT: slot to path below the layer; attention.key_value is what calls the attention function",
}
"""What is said above a field of the source."""


def draft(name: str, summary: str, model_type: str | None, table: Path | None) -> tuple[FamilySpec, list[str]]:
    """A table under a new name, and what its author should know.

    Args:
        name: the new family's.
        summary: the new family's.
        model_type: take the table of the installed family that serves this transformers model type.
        table: or a file with a family's spec as JSON; ``-`` reads standard input.

    Raises:
        UsageError: no installed family serves the model type, or the file holds no table.
    """
    if table is not None:
        return _given(table).model_copy(update={"name": name, "summary": summary}), []
    assert model_type is not None
    found = _serving(model_type)
    tiny = found.tiny
    if tiny.model_type != model_type:
        tiny = tiny.model_copy(update={"model_type": model_type})
    change = {"name": name, "summary": summary, "model_types": (model_type,), "tiny": tiny}
    note = (
        f"the table is that of the family {found.name!r}, which serves {model_type!r} too; attaching to such a model is"
        f" refused while both are installed (REFARCH_BLOCK={found.name} leaves this one)"
    )
    return found.model_copy(update=change), [note]


def _serving(model_type: str) -> FamilySpec:
    from refarch.plugins.registry import default_registry

    for family in default_registry().families():
        if model_type in family.model_types:
            return family
    served = sorted({kind for family in default_registry().families() for kind in family.model_types})
    raise UsageError(
        f"no installed family serves the model type {model_type!r}, so there is no table to start from"
        f" (served: {', '.join(served) or 'none'})",
        f"start from a table proposed by structure: pip install refarch-inspect, then refarch inspect --model-type"
        f" {model_type} --save table.json, and give --table table.json in place of --model-type",
    )


def _given(table: Path) -> FamilySpec:
    try:
        text = sys.stdin.read() if str(table) == "-" else table.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {table}: {getattr(error, 'strerror', None) or error}") from None
    try:
        return FamilySpec.from_json(text)
    except SpecError as error:
        raise DataError(f"{table} holds no family's table: {error.message}", error.hint) from None


def source(spec: FamilySpec) -> str:
    """A family's spec as Python code that makes it: ``FAMILY = FamilySpec(...)``, with what to edit marked."""
    return f"FAMILY = {_code(spec, '')}"


def _code(value: Any, indent: str) -> str:
    inner = f"{indent}    "
    if isinstance(value, Spec):
        lines = [line for field in _given_fields(value) for line in _field(value, field, inner)]
        return "\n".join([f"{type(value).__name__}(", *lines, f"{indent})"])
    if isinstance(value, dict):
        lines = [f"{inner}{_code(key, inner)}: {_code(item, inner)}," for key, item in value.items()]
        return "\n".join(["{", *lines, f"{indent}}}"]) if lines else "{}"
    if isinstance(value, (tuple, list)):
        opening, closing = "()" if isinstance(value, tuple) else "[]"
        items = [_code(item, inner) for item in value]
        flat = f"{opening}{', '.join(items)}{',' if len(items) == 1 and opening == '(' else ''}{closing}"
        if len(indent + flat) <= WIDTH and "\n" not in flat:
            return flat
        return "\n".join([opening, *(f"{inner}{item}," for item in items), f"{indent}{closing}"])
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)


def _given_fields(spec: Spec) -> list[str]:
    """The fields that differ from their defaults."""
    fields = type(spec).model_fields
    return [name for name, field in fields.items() if field.is_required() or getattr(spec, name) != field.default]


def _field(spec: Spec, name: str, indent: str) -> list[str]:
    value = getattr(spec, name)
    lines = []
    comment = COMMENTS.get(f"{type(spec).__name__}.{name}")
    if comment:
        lines.append(f"{indent}# {comment}")
    text = _code(value, indent)
    if name == "slots":
        absent = [slot for slot in TABLE_SLOTS if slot not in value and not slot.startswith("cross_")]
        if absent:
            body, _, end = text.rpartition("\n")
            text = f"{body}\n{indent}    # not in the table: {', '.join(absent)}\n{end}"
    return [*lines, f"{indent}{name}={text},"]
