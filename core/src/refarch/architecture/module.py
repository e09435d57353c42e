"""A module spec: the fields of one module of a technique, which combine."""

from __future__ import annotations

from typing import Any

from pydantic import model_validator

from refarch.architecture.module_fields import ModuleFields
from refarch.architecture.rules import check


class ModuleSpec(ModuleFields):
    """One module of a technique: the property values that the engine executes."""

    @model_validator(mode="after")
    def _combination_is_possible(self) -> ModuleSpec:
        check(self)
        return self

    def changed(self, **changes: Any) -> dict[str, Any]:
        """Its fields as plain data, some of them with other values: a preset's ``modules`` are a list of such.

        Args:
            changes: the other values, by field.
        """
        return {**self.model_dump(exclude_defaults=True), **changes}
