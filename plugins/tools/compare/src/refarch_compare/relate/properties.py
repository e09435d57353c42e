"""The structural properties of a row, derived from the specs of its techniques: whatever fields a module spec has.

Nothing is listed by name: a property that the core gains is related to results without a change here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from refarch import ConfiguredTechnique, ModuleSpec
from refarch.architecture import parse_slot
from refarch_compare.evidence.row import Row
from refarch_compare.structure.features import OWN_NAMES

YES, NO = "yes", "no"
IDENTITY = ("name", "function", "arguments", "provenance", "workspace", "parameters", "layers")
"""Fields that say which module it is and where, rather than of what kind; the workspace is turned into places below."""
DETAILS = ("shared", "gate", "router", "projected", "learning_rate_scale", "identity_at_start")
"""Fields that spell out another property (whose sharing, which gate and router), or say how training begins."""


def properties(row: Row) -> dict[str, str]:
    """Each property's value in words; a technique of several modules has the values of all, joined by ``and``.

    The workspace becomes one property a place (``at attention``, ``at ffn``, ``at norms``), as techniques differ in
    which of them they combine.
    """
    modules = [module for spec in row.specs for module in spec.technique.modules]
    found = {
        name: " and ".join(sorted({_value(name, getattr(module, name)) for module in modules}))
        for name in ModuleSpec.model_fields
        if name not in (*IDENTITY, *DETAILS)
    }
    return {**found, **_places(row.specs)}


def _value(name: str, value: Any) -> str:
    """A field as a category: words stay; a structure of its own, or what names parameters or code, is there or not."""
    if name in OWN_NAMES:
        return YES if value else NO
    if isinstance(value, bool):
        return YES if value else NO
    if isinstance(value, str):
        return value
    if hasattr(value, "model_dump"):
        return YES if value.model_dump(exclude_defaults=True) else NO
    return YES if value else NO


def _places(specs: Sequence[ConfiguredTechnique]) -> dict[str, str]:
    places = set()
    for spec in specs:
        for module in spec.technique.modules:
            for text in module.workspace:
                slot = parse_slot(text).slot
                places.add("norms" if slot.kind == "norm" else slot.name.partition(".")[0])
    return dict.fromkeys((f"at {place}" for place in sorted(places)), YES)


def table(rows: Sequence[Row]) -> dict[str, list[str]]:
    """Properties by name; a place where a row's technique does not work is ``no``."""
    found = [properties(row) for row in rows]
    names = dict.fromkeys(name for values in found for name in values)
    return {name: [values.get(name, NO) for values in found] for name in names}
