"""Find what a peft configuration is here, and its options; shared with the importer of refarch-compare."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from refarch import InterchangeSpec
from refarch.errors import CheckpointError
from refarch.plugins import resolve

GENERAL = (
    "task_type",
    "peft_type",
    "auto_mapping",
    "peft_version",
    "base_model_name_or_path",
    "revision",
    "inference_mode",
    "target_modules",
)
"""Settings that every configuration has, and that say nothing about the technique."""
TRUE_WHEN_ABSENT = ("init_lora_weights", "use_cayley_neumann")
"""Settings that are on in a file of an older version, which does not have them yet; others are off."""
MOST_REPEATS, LONGEST_PATTERN = 8, 1000
"""What is asked of a pattern before it is matched: a file may come from anybody."""
TRAINING = {"optimizer_type": "AdamW"}
"""What is taken for granted about a training that a file does not tell."""


class Place(NamedTuple):
    """A module that is adapted."""

    path: str
    d_in: int
    d_out: int


class Match(NamedTuple):
    """The mapping of a configuration, or why there is none."""

    mapping: InterchangeSpec | None
    reason: str = ""


def match(
    settings: Mapping[str, Any],
    mappings: Iterable[InterchangeSpec],
    training: Mapping[str, Any] = TRAINING,
    handled: Iterable[str] = (),
) -> Match:
    """The first mapping whose conditions hold and that has a word for every setting that means something.

    Args:
        settings: peft's configuration.
        mappings: in the order in which they are tried.
        training: settings of the training, which conditions call ``train.NAME``.
        handled: settings that the caller takes care of by itself.
    """
    kind = str(settings["peft_type"])
    known = {**settings, **{f"train.{name}": value for name, value in training.items()}}
    reason = ""
    for mapping in mappings:
        if mapping.kind != kind or not all(holds(known, name, value) for name, value in mapping.when.items()):
            continue
        used = {*mapping.options.values(), *mapping.patterns.values(), *mapping.when, *mapping.silent, *GENERAL}
        used |= {mapping.inputs, *handled}
        other = [name for name, value in settings.items() if name not in used and not neutral(value)]
        if not other:
            return Match(mapping)
        reason = reason or f"{', '.join(other)} has no counterpart in technique {mapping.technique!r}"
    return Match(None, reason)


def holds(settings: Mapping[str, Any], name: str, value: Any) -> bool:
    """Whether a setting has a value, or one of several."""
    given = settings.get(name, name in TRUE_WHEN_ABSENT)
    choices = value if isinstance(value, tuple) else (value,)
    return any(given == choice and isinstance(given, bool) == isinstance(choice, bool) for choice in choices)


def neutral(value: Any) -> bool:
    """Whether a setting's value means: nothing special."""
    return value is None or value is False or value in ("none", 0, 0.0) or value == [] or value == {}


def options(mapping: InterchangeSpec, settings: Mapping[str, Any], place: Place) -> dict[str, Any]:
    """The technique's options at one module."""
    found = {own: settings[theirs] for own, theirs in mapping.options.items() if theirs in settings}
    for own, theirs in mapping.patterns.items():
        value = by_pattern(settings.get(theirs) or {}, place.path)
        if value is not None:
            found[own] = value
    found |= dict(mapping.fixed)
    for own, path in mapping.derived.items():
        found[own] = resolve(path)(settings, place)
    return {name: value for name, value in found.items() if value is not None}


def by_pattern(patterns: Mapping[str, Any], path: str) -> Any:
    """The value of the first pattern that matches the end of a path, as peft looks it up; None if none does."""
    return next((value for key, value in patterns.items() if _matches(rf"(.*\.)?({_bounded(key)})", path)), None)


def _bounded(pattern: str) -> str:
    """A pattern of a file, if matching it cannot take forever: few repetitions, and none of a repetition.

    Raises:
        CheckpointError: it could.
    """
    nested, repeats = re.search(r"[+*}]\)+[+*{]", pattern), len(re.findall(r"[+*}]", pattern))
    if nested or repeats > MOST_REPEATS or len(pattern) > LONGEST_PATTERN:
        raise CheckpointError(
            f"the settings match modules by {pattern[:80]!r}, which can take very long",
            "name the modules in a list",
        )
    return pattern


def _matches(pattern: str, path: str) -> bool:
    try:
        return re.fullmatch(pattern, path) is not None
    except re.error as error:
        raise CheckpointError(f"the settings hold {pattern!r}, which is no pattern: {error}") from None


def targeted(settings: Mapping[str, Any], name: str, path: str) -> bool | None:
    """Whether a setting of targets names a module, as peft decides; None where it leaves that to peft itself."""
    targets = settings.get(name)
    if targets is None or targets == "all-linear":
        return None
    if _names(settings.get("exclude_modules") or (), path):
        return False
    saved = settings.get("modules_to_save") or ()
    if any(_matches(rf"(.*\.)?{_bounded(module)}(\..*)?", path) for module in saved):
        return False
    if not _names(targets, path):
        return False
    layers = settings.get("layers_to_transform")
    if layers is None or isinstance(targets, str) or layers == []:
        return True
    given = settings.get("layers_pattern") or ()
    patterns = [rf"(?:^|.*?\.){re.escape(p)}\.(\d+)\." for p in ([given] if isinstance(given, str) else given)]
    found = next(filter(None, (re.match(p, path) for p in patterns or [r".*?\.[^.]*\.(\d+)\."])), None)
    return found is not None and int(found[1]) in ([layers] if isinstance(layers, int) else layers)


def _names(targets: str | Iterable[str], path: str) -> bool:
    if isinstance(targets, str):
        return _matches(_bounded(targets), path)
    return any(path == target or path.endswith(f".{target}") for target in targets)
