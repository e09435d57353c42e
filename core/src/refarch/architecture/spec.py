"""What every spec is: a frozen, strict, JSON-serialisable pydantic model with errors that a newcomer understands."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from refarch.errors import SpecError, did_you_mean

CONTRACT = 1
"""The version of the plugin contract that this core speaks. Every spec carries the version it was written for."""

S = TypeVar("S", bound="Spec")


def as_tuples(value: Any) -> Any:
    """Plain data with tuples for lists, at any depth: hashable, and the same before and after a trip through JSON."""
    if isinstance(value, Mapping):
        return {key: as_tuples(item) for key, item in value.items()}
    return tuple(as_tuples(item) for item in value) if isinstance(value, (list, tuple)) else value


PlainValue = Annotated[Any, AfterValidator(as_tuples)]
"""A field that holds whatever JSON can."""
PlainData = Annotated[dict[str, Any], AfterValidator(as_tuples)]
"""The same by name."""


class Spec(BaseModel):
    """Base of all specs: frozen, unknown fields refused, equal when their fields are equal."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, use_attribute_docstrings=True)

    def to_json(self, indent: int | None = 2) -> str:
        """This spec as JSON text; ``from_json`` gives an equal spec back."""
        return self.model_dump_json(indent=indent)

    @classmethod
    def from_json(cls: type[S], text: str | bytes) -> S:
        """Read a spec from JSON text.

        Raises:
            SpecError: the text is not JSON or not a valid spec of this kind.
        """
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise explain(error, cls) from None

    @classmethod
    def parse(cls: type[S], data: Mapping[str, Any], where: str = "") -> S:
        """Validate plain data (from YAML, keyword arguments ...) into a spec.

        Args:
            data: field names and values.
            where: what is being read, for the message ("pipeline.yaml").

        Raises:
            SpecError: naming each wrong field, what it holds and what it may hold.
        """
        try:
            return cls.model_validate(dict(data))
        except ValidationError as error:
            raise explain(error, cls, where) from None


def explain(error: ValidationError, cls: type[BaseModel], where: str = "") -> SpecError:
    """Turn pydantic's report into a :class:`~refarch.errors.SpecError` in plain words, with nearest field names."""
    lines, hints = [], []
    items = error.errors()
    places = [item["loc"] for item in items]
    for item in items:
        if item["type"] == "too_short" and any(
            p != item["loc"] and p[: len(item["loc"])] == item["loc"] for p in places
        ):
            continue
        path = ".".join(str(part) for part in item["loc"] if part not in ("function-after", "function-before"))
        kind, given = item["type"], item.get("input")
        if kind == "extra_forbidden":
            lines.append(f"{path}: there is no such field")
            hints.append(did_you_mean(str(item["loc"][-1]), _fields_at(cls, item["loc"][:-1])))
        elif kind == "missing":
            lines.append(f"{path}: is required but was not given")
        elif kind in ("value_error", "assertion_error"):
            text = item["msg"].split(", ", 1)[-1]
            lines.append(f"{path}: {text}" if path else text)
        else:
            shown = repr(given) if len(repr(given)) <= 80 else repr(given)[:77] + "..."
            lines.append(f"{path or cls.__name__}: {item['msg'][:1].lower()}{item['msg'][1:]}, but got {shown}")
    head = f"{where or cls.__name__} is not valid"
    body = lines[0] if len(lines) == 1 else "\n".join(["", *(f"  - {line}" for line in lines)])
    return SpecError(f"{head}: {body}", "; ".join(dict.fromkeys(hints)) or None)


def _fields_at(cls: type[BaseModel], loc: tuple[int | str, ...]) -> list[str]:
    """Field names of the model that ``loc`` points into, as far as plain nesting lets us follow."""
    current: type[BaseModel] = cls
    for part in loc:
        field = current.model_fields.get(str(part))
        if field is None:
            continue
        for candidate in _models_in(field.annotation):
            current = candidate
            break
    return list(current.model_fields)


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in getattr(annotation, "__args__", ()) for model in _models_in(part)]
