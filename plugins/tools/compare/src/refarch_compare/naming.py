"""How techniques are named on the command line: ``NAME``, ``NAME:preset``, ``NAME:key=value,key=value``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import yaml

from refarch import ConfiguredTechnique, Registry
from refarch.errors import UsageError

FORM = "write NAME, NAME:preset, NAME:key=value or NAME:preset,key=value,key=[a, b]"


class Named(NamedTuple):
    """A technique with the name that it was asked for by."""

    label: str
    technique: ConfiguredTechnique


def parse(text: str, registry: Registry) -> Named:
    """Read a technique and its options.

    Raises:
        UsageError: it is not of the form.
        UnknownNameError: no such technique.
        SpecError: no such preset or option, or a wrong value.
    """
    name, options = split(text)
    return Named(text, registry.technique(name).configure(options))


def split(text: str) -> tuple[str, dict[str, Any]]:
    """Name and options, among them ``preset`` for a bare word.

    Raises:
        UsageError: it is not of the form.
    """
    name, colon, rest = text.partition(":")
    options: dict[str, Any] = {}
    for item in _items(rest) if colon else ():
        key, equals, value = item.partition("=")
        key, value = (key.strip(), value) if equals else ("preset", key.strip())
        if not key or not value.strip():
            raise UsageError(f"{text!r}: {item!r} is neither a preset nor key=value", FORM)
        if key in options:
            raise UsageError(f"{text!r}: {key!r} is given twice", FORM)
        options[key] = value if key == "preset" else _value(text, value)
    if not name.strip() or (colon and not options):
        raise UsageError(f"{text!r} names no technique with options", FORM)
    return name.strip(), options


def _items(text: str) -> Iterable[str]:
    """The parts between commas that stand in no brackets."""
    depth, start = 0, 0
    for position, character in enumerate(text):
        depth += (character in "[{") - (character in "]}")
        if character == "," and not depth:
            yield text[start:position].strip()
            start = position + 1
    yield text[start:].strip()


def _value(text: str, value: str) -> Any:
    try:
        return yaml.safe_load(value)
    except yaml.YAMLError:
        raise UsageError(f"{text!r}: the value {value!r} is not valid YAML", FORM) from None


def label(technique: ConfiguredTechnique) -> str:
    """A name for a configured technique: its own, and the options that are not as they are by default."""
    changed = {o.name: technique.options[o.name] for o in technique.technique.options}
    own = {o.name: o.default for o in technique.technique.options}
    parts = [f"{name}={value}" for name, value in changed.items() if value != own[name]]
    return f"{technique.name}:{','.join(parts)}" if parts else technique.name


def variants(registry: Registry, presets: bool = True, alike: bool = False) -> list[Named]:
    """Every installed technique that loads, and its presets.

    Args:
        registry: where techniques are looked up.
        presets: False for techniques alone.
        alike: whether presets count that are as the technique is in structure, and differ in options alone.
    """
    found = []
    for item in registry.found:
        if item.kind != "technique" or item.status != "ok":
            continue
        spec = registry.load_quietly(item).spec
        if spec is None:
            continue
        technique = registry.technique(item.name)
        found.append(Named(item.name, technique.configure({})))
        for preset, values in technique.presets.items() if presets else ():
            made = technique.configure({"preset": preset})
            if alike or ("modules" in values and made.technique.modules != technique.modules):
                found.append(Named(f"{item.name}:{preset}", made))
    return found
