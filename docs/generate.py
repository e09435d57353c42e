"""Generate the documentation's tables from the code's own data, so that they cannot drift apart from it."""

from __future__ import annotations

import inspect
from pathlib import Path

from refarch.architecture import ALIASES, MEANING, RULES, SLOTS
from refarch.plugins import HOOK_SPECIFICATIONS


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    lines += [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows]
    return "\n".join(lines) + "\n"


def slots() -> str:
    """The slot vocabulary."""
    rows = [[f"`{slot.name}`", slot.kind, slot.per, slot.meaning] for slot in SLOTS.values()]
    aliases = "".join(f"`{alias}` is another name of `{target}`.\n" for alias, target in ALIASES.items())
    return table(["slot", "kind", "one per", "what it is"], rows) + "\n" + aliases


def properties() -> str:
    """The properties and their values."""
    rows = [
        [f"`{name}`" if i == 0 else "", f"`{value}`", meaning]
        for name, values in MEANING.items()
        for i, (value, meaning) in enumerate(values.items())
    ]
    return table(["property", "value", "meaning"], rows)


def rules() -> str:
    """Which combinations of properties are refused, and why."""
    return table(["rule", "because"], [[rule.name, rule.reason] for rule in RULES])


def matrix() -> str:
    """Which slot kinds take which integration forms, found out by asking the validators."""
    from refarch.architecture import Gate, ModuleSpec
    from refarch.errors import SpecError

    tokens: dict[str, object] = {"form": "tokens", "input_type": "data", "insertion": "parallel", "adapted": "addition"}
    gate: dict[str, object] = {"gate": Gate().model_dump()}
    forms: dict[str, list[dict[str, object]]] = {
        "direct addition": [{}],
        "scaled addition": [{}],
        "gated addition": [gate, {**gate, **tokens}],
        "rescaling": [{"form": "vector", "intra": "diagonal", "insertion": "sequential"}],
        "concatenation": [tokens],
        "transformation": [{"input_type": "weights", "insertion": "parallel"}],
        "selection": [{"adapted": "selection", "function": None, "parameters": ("*",), "input_type": "weights"}],
    }
    base: dict[str, object] = {
        "name": "m", "insertion": "sequential", "input_type": "hidden", "adapted": "reparameterisation",
        "intra": "dense", "inter": "fixed", "form": "linear", "function": "a:B",
    }  # fmt: skip
    kinds: dict[str, str] = {}
    for slot in SLOTS.values():
        kinds.setdefault(slot.kind, slot.name)

    def possible(values: dict[str, object]) -> bool:
        try:
            ModuleSpec.parse(values)
        except SpecError:
            return False
        return True

    rows = []
    for form, changes in forms.items():
        row = [form]
        for name in [*kinds.values(), "ffn.down:input"]:
            tried = ({**base, "integration": form, "workspace": (name,), **change} for change in changes)
            row.append("yes" if any(possible(values) for values in tried) else "")
        rows.append(row)
    return table(["integration", *kinds, "a linear input"], rows)


def hook_reference() -> str:
    """All hooks with their signatures and docstrings."""
    parts = []
    for name, function in sorted(HOOK_SPECIFICATIONS.items()):
        signature = str(inspect.signature(function)).replace("'", "")
        parts.append(f"## {name}\n\n```python\ndef {name}{signature}\n```\n\n{inspect.getdoc(function)}\n")
    return "\n".join(parts)


def write_all(folder: Path) -> None:
    """Write every generated file."""
    folder.mkdir(exist_ok=True)
    pages = {
        "slots": slots(), "properties": properties(), "rules": rules(), "matrix": matrix(), "hooks": hook_reference(),
    }  # fmt: skip
    for name, text in pages.items():
        (folder / f"{name}.md").write_text(text, encoding="utf-8")
