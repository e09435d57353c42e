"""The text form of expressions::

expression  = NAME | OPERATOR "(" argument { "," argument } ")"
argument    = [ LABEL "=" ] expression [ ":" WEIGHT ]  |  OPTION "=" VALUE
"""

from __future__ import annotations

import re
from typing import Any

from pydantic import ValidationError

from refarch.architecture.expression import OPERATORS, PART, Operator
from refarch.architecture.spec import explain
from refarch.errors import SpecError, did_you_mean

_TOKEN = re.compile(
    rf"\s*(?:(?P<number>[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)(?![\w-])|(?P<name>{PART})|(?P<sign>[(),:=]))"
)
_DEEPEST = 50
"""How deep expressions may nest; far more than anybody writes, and far less than what a parser's stack holds."""


class _Parser:
    """Reads tokens from left to right."""

    def __init__(self, text: str) -> None:
        self.text, self.tokens, self.at, self.depth = text, [], 0, 0  # type: ignore[var-annotated]
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
            "write it like stack(prompt, sum(lora-a: 0.5, lora-b: 0.5)); operators: " + ", ".join(OPERATORS),
        )

    def take(self, kind: str, value: str | None = None) -> str:
        found, text, _ = self.tokens[self.at]
        if found != kind or (value is not None and text != value):
            raise self.error(f"expected {value or 'a ' + kind}, but there is {text or 'the end'!r}")
        self.at += 1
        return str(text)

    def next_is(self, value: str, ahead: int = 0) -> bool:
        index = min(self.at + ahead, len(self.tokens) - 1)
        return self.tokens[index][0] == "sign" and self.tokens[index][1] == value

    def expression(self) -> str | Operator:
        # Names may be all digits, which read as numbers.
        kind = "number" if self.tokens[self.at][0] == "number" else "name"
        name = self.take(kind)
        if not self.next_is("("):
            if not re.fullmatch(PART, name):
                raise self.error(f"{name!r} is no name of a part")
            return name
        if name not in OPERATORS:
            raise SpecError(f"there is no operator {name!r}", did_you_mean(name, OPERATORS))
        self.depth += 1
        if self.depth > _DEEPEST:
            raise self.error(f"it nests deeper than {_DEEPEST} operators")
        found = self.operator(name)
        self.depth -= 1
        return found

    def operator(self, name: str) -> Operator:
        cls = OPERATORS[name]
        known = set(cls.model_fields) - {"op", "terms"}
        values: dict[str, Any] = {"terms": []}
        self.take("sign", "(")
        while True:
            key = self.tokens[self.at][1] if self.next_is("=", 1) else None
            if key in known:
                self.at += 2
                values[str(key)] = self.value()
            else:
                values["terms"].append(self.term(key, name, known))
            if not self.next_is(","):
                break
            self.take("sign", ",")
        self.take("sign", ")")
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise explain(error, cls, f"{name}(...)") from None

    def term(self, label: str | None, operator: str, known: set[str]) -> dict[str, Any]:
        if label is not None:
            self.at += 2
            if self.tokens[self.at][0] == "number" or self.tokens[self.at][1] in ("true", "false"):
                raise SpecError(f"{operator} has no option {label!r}", did_you_mean(label, known))
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


def parse(text: str) -> str | Operator:
    """See :func:`refarch.architecture.expression.parse_expression`."""
    parser = _Parser(text)
    found = parser.expression()
    parser.take("end")
    return found
