"""A pipeline spec from a YAML file, flags and ``--set``; whatever is wrong is said in words, with its place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from refarch.architecture import PipelineSpec
from refarch.errors import UnknownNameError, UsageError, did_you_mean
from refarch.yaml_text import parse_yaml, read_mapping

FORM = "write --set key=value, for example --set training.epochs=3 or --set technique.rank=4"
KEYS = "its keys are backbone, techniques, task, training and seed; refarch schema pipeline describes them"
CHOICE_FIELDS = ("name", "options", "label", "formulation")


def build(
    path: Path | None,
    *,
    backbone: str | None = None,
    techniques: Sequence[str] = (),
    task: str | None = None,
    seed: int | None = None,
    settings: Sequence[str] = (),
) -> PipelineSpec:
    """The pipeline of a file; flags win over the file, and ``settings`` (``key=value``) win over both.

    Raises:
        UsageError: something is missing, misspelt or of the wrong type.
    """
    data = read_mapping(path, "a pipeline", KEYS) if path else {}
    for key, name in (("backbone", backbone), ("task", task)):
        if name is not None and _choice(data.get(key)).get("name") != name:
            data[key] = {"name": name}
    if techniques:
        data["techniques"] = [{"name": name} for name in techniques]
    if seed is not None:
        data["seed"] = seed
    for text in settings:
        apply(data, text)
    if path is None:
        flags = {"backbone": "--backbone", "techniques": "--technique", "task": "--task"}
        missing = [flag for key, flag in flags.items() if not data.get(key)]
        if missing:
            raise UsageError(
                f"no pipeline file was given, and {', '.join(missing)} is missing",
                "refarch run PIPELINE.yaml, or refarch run --backbone B --technique T --task K",
            )
    return PipelineSpec.parse(data, str(path) if path else "the pipeline")


def apply(data: dict[str, Any], text: str) -> None:
    """Carry out one ``key=value`` on a pipeline's plain data.

    Raises:
        UsageError: it has no such form, or there is no such key.
    """
    key, equals, value_text = text.partition("=")
    parts = key.strip().split(".")
    if not equals:
        raise UsageError(f"--set {text}: there is no '=' in it", FORM)
    if not all(parts):
        raise UsageError(
            f"--set {text}: {'the key is empty' if not key.strip() else 'a part of the key is empty'}", FORM
        )
    try:
        value = parse_yaml(value_text)
    except ValueError as error:
        raise UsageError(f"--set {text}: the value is not valid YAML: {error}", "quote it as a whole") from None
    target, rest = _target(data, parts, text)
    for part in rest[:-1]:
        inner = target.setdefault(part, {})
        if not isinstance(inner, dict):
            raise UsageError(f"--set {text}: {part!r} holds {inner!r}, nothing that has a {rest[-1]!r}")
        target = inner
    target[rest[-1]] = value


def _target(data: dict[str, Any], parts: list[str], text: str) -> tuple[dict[str, Any], list[str]]:
    """The mapping that a dotted key points into, and what is left of the key."""
    first, rest = parts[0], parts[1:]
    if first in ("backbone", "task") and rest:
        choice = data[first] = _choice(data.get(first))
        return (choice, rest) if first == "backbone" else _into_options(choice, rest)
    if first in ("technique", "techniques") and rest:
        return _technique(data, rest, text)
    if first in ("training",) and rest:
        data[first] = dict(data.get(first) or {})
        return data[first], rest
    whole = "techniques" if first == "technique" else first
    if whole not in PipelineSpec.model_fields:
        known = [*(name for name in PipelineSpec.model_fields if name != "techniques"), "technique"]
        raise UnknownNameError(f"--set {text}: a pipeline has no {first!r}", did_you_mean(first, known))
    return data, [whole, *rest]


def _technique(data: dict[str, Any], rest: list[str], text: str) -> tuple[dict[str, Any], list[str]]:
    given = data.get("techniques") or []
    choices = data["techniques"] = [_choice(item) for item in (given if isinstance(given, (list, tuple)) else [given])]
    if not choices:
        raise UsageError(f"--set {text}: the pipeline has no technique yet", "add --technique NAME")
    if len(rest) > 1:
        names = {str(choice.get("label") or choice.get("name")): choice for choice in choices}
        if rest[0] in names:
            return _into_options(names[rest[0]], rest[1:])
        if rest[0] not in (*CHOICE_FIELDS, "layers"):
            raise UnknownNameError(
                f"--set {text}: the pipeline has no technique {rest[0]!r}", did_you_mean(rest[0], names)
            )
    return _into_options(choices[0], rest)


def _into_options(choice: dict[str, Any], rest: list[str]) -> tuple[dict[str, Any], list[str]]:
    if rest[0] in CHOICE_FIELDS:
        return choice, rest
    choice["options"] = dict(choice.get("options") or {})
    return choice["options"], rest


def _choice(value: Any) -> dict[str, Any]:
    """A choice as a mapping, whatever shorthand it was written in."""
    return dict(value) if isinstance(value, Mapping) else {} if value is None else {"name": value}
