"""The text form of expressions::

expression  = NAME | OPERATOR "(" argument { "," argument } ")"
argument    = [ LABEL "=" ] expression [ ":" WEIGHT ]  |  OPTION "=" VALUE

The parser makes the plain data that JSON or YAML would hold, from a table of which operators there are and what options
each has; :mod:`~refarch.architecture.expression` makes specs of it. So it knows no operator.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from refarch.errors import SpecError, did_you_mean

PART = r"[A-Za-z0-9_][\w-]*"
"""A part's name: letters, digits, hyphens, underscores."""
_TOKEN = re.compile(
    rf"\s*(?:(?P<number>[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)(?![\w-])|(?P<name>{PART})|(?P<sign>[(),:=]))"
)
_DEEPEST = 50
"""How deep expressions may nest; far more than anybody writes, and far less than what a parser's stack holds."""


class _Parser:
    """Reads tokens from left to right."""

    def __init__(self, text: str, options: Mapping[str, Collection[str]]) -> None:
        self.text, self.options = text, options
        self.tokens: list[tuple[str, str, int]] = []
        self.at, self.depth = 0, 0
        place = 0
        while place < len(text.rstrip()):
            match = _TOKEN.match(text, place)
            if match is None:
                raise self.error(f"there is {text[place:].strip()[:10]!r}", place)
            self.tokens.append((str(match.lastgroup), match.group(str(match.lastgroup)), place))
            place = match.end()
        self.tokens.append(("end", "", len(text)))

    def error(self, problem: str, place: int | None = None) -> SpecError:
        where = self.tokens[self.at][2] if place is None else place
        return SpecError(
            f"the expression {self.text[:80]!r} cannot be read: {problem} at character {where + 1}",
            "write it like stack(prompt, sum(lora-a: 0.5, lora-b: 0.5)); operators: " + ", ".join(self.options),
        )

    def take(self, kind: str, value: str | None = None) -> str:
        found, text, _ = self.tokens[self.at]
        if found != kind or (value is not None and text != value):
            raise self.error(f"expected {value or 'a ' + kind}, but there is {text or 'the end'!r}")
        self.at += 1
        return text

    def next_is(self, value: str, ahead: int = 0) -> bool:
        index = min(self.at + ahead, len(self.tokens) - 1)
        return self.tokens[index][0] == "sign" and self.tokens[index][1] == value

    def expression(self) -> str | dict[str, Any]:
        # Names may be all digits, which read as numbers.
        kind = "number" if self.tokens[self.at][0] == "number" else "name"
        name = self.take(kind)
        if not self.next_is("("):
            if not re.fullmatch(PART, name):
                raise self.error(f"{name!r} is no name of a part")
            return name
        if name not in self.options:
            raise SpecError(f"there is no operator {name!r}", did_you_mean(name, self.options))
        self.depth += 1
        if self.depth > _DEEPEST:
            raise self.error(f"it nests deeper than {_DEEPEST} operators")
        found = self.operator(name)
        self.depth -= 1
        return found

    def operator(self, name: str) -> dict[str, Any]:
        values: dict[str, Any] = {"op": name, "terms": []}
        self.take("sign", "(")
        while True:
            key = self.tokens[self.at][1] if self.next_is("=", 1) else None
            if key is not None and key in self.options[name]:
                self.at += 2
                values[key] = self.value()
            else:
                values["terms"].append(self.term(key, name))
            if not self.next_is(","):
                break
            self.take("sign", ",")
        self.take("sign", ")")
        return values

    def term(self, label: str | None, operator: str) -> dict[str, Any]:
        if label is not None:
            self.at += 2
            if self.tokens[self.at][0] == "number" or self.tokens[self.at][1] in ("true", "false"):
                raise SpecError(f"{operator} has no option {label!r}", did_you_mean(label, self.options[operator]))
        values: dict[str, Any] = {"of": self.expression(), "label": label}
        if self.next_is(":"):
            self.take("sign", ":")
            values["weight"] = float(self.take("number"))
        return values

    def value(self) -> Any:
        kind, text, _ = self.tokens[self.at]
        if kind not in ("name", "number"):
            raise self.error("expected a value")
        self.at += 1
        return {"true": True, "false": False}.get(text, text)


def parse(text: str, options: Mapping[str, Collection[str]]) -> str | dict[str, Any]:
    """An expression's text as plain data: a part's name, or an operator's fields.

    Args:
        text: the expression.
        options: of each operator the names of its options.

    Raises:
        SpecError: with the place where the text stops making sense.
    """
    parser = _Parser(text, options)
    found = parser.expression()
    parser.take("end")
    return found
