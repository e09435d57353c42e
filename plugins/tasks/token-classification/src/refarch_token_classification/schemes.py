"""How tags mark entities: IOB1, IOB2 (also called BIO) and IOBES (also called BIOES), checked and rewritten.

IOB2 begins every entity with B. IOB1 begins it with I, and with B only where it follows another of its type. IOBES
begins with B and ends with E, and marks an entity of one word S.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

OUTSIDE = "O"
PREFIXES = {"IOB1": "BI", "IOB2": "BI", "IOBES": "BIES", "unchecked": "BIES"}


class Problem(NamedTuple):
    """What is wrong with a sentence's tags, and at which word."""

    place: int
    message: str


def parts(tag: str) -> tuple[str, str]:
    """``B-person`` as ``B`` and ``person``; ``O`` as ``O`` and nothing."""
    prefix, _, kind = tag.partition("-")
    return prefix, kind


def problem(tags: Sequence[str], scheme: str) -> Problem | None:
    """The first tag of a sentence that does not keep to a scheme."""
    before, entity = OUTSIDE, ""
    for place, tag in enumerate(tags):
        prefix, kind = parts(tag)
        if tag != OUTSIDE and not (kind and prefix in set(PREFIXES[scheme])):
            expected = ", ".join(f"{letter}-TYPE" for letter in PREFIXES[scheme])
            return Problem(place, f"the tag {tag!r} is neither O nor one of {expected}")
        same, inside = kind == entity, before in ("B", "I")
        if scheme == "IOB2" and prefix == "I" and not (same and inside):
            return Problem(place, f"the tag {tag!r} continues no entity; in IOB2 an entity begins with B")
        if scheme == "IOB1" and prefix == "B" and not (same and inside):
            return Problem(place, f"the tag {tag!r} follows no entity of its type; in IOB1 others begin with I")
        if scheme == "IOBES" and (prefix in ("I", "E")) != inside:
            wrong = "continues no entity" if prefix in ("I", "E") else f"cuts off the entity {before}-{entity}"
            return Problem(place, f"the tag {tag!r} {wrong}; in IOBES an entity has B, then I, and ends with E")
        if scheme == "IOBES" and inside and not same:
            return Problem(place, f"the tag {tag!r} continues an entity of another type, {entity!r}")
        before, entity = prefix, kind
    if scheme == "IOBES" and before in ("B", "I"):
        return Problem(len(tags) - 1, f"the tag {tags[-1]!r} ends the sentence inside an entity, without E")
    return None


def found(sentences: Sequence[Sequence[str]]) -> str:
    """The scheme that all tags keep to; IOB2 where they keep to both IOB2 and IOB1, or to none."""
    prefixes = {parts(tag)[0] for tags in sentences for tag in tags}
    if prefixes & {"E", "S"}:
        return "IOBES"
    return next((s for s in ("IOB2", "IOB1") if not any(problem(tags, s) for tags in sentences)), "IOB2")


def as_iob2(tags: Sequence[str]) -> list[str]:
    """The same entities as IOB1 tags mark, in IOB2."""
    rewritten, before = [], (OUTSIDE, "")
    for tag in tags:
        prefix, kind = parts(tag)
        begins = prefix == "I" and before[1] != kind
        rewritten.append(f"B-{kind}" if begins else tag)
        before = (prefix, kind)
    return rewritten


def names(tags: Iterable[str], declared: Sequence[str] = ()) -> list[str]:
    """The tags in the order of their numbers: those declared, or O and each type's in alphabetical order; with all that
    a type may need, though no sentence had them.
    """
    used = {*tags, *declared, OUTSIDE}
    letters = "BIES" if {parts(tag)[0] for tag in used} & {"E", "S"} else "BI"
    kinds = sorted({kind for _, kind in map(parts, used) if kind})
    complete = [OUTSIDE, *(f"{letter}-{kind}" for kind in kinds for letter in letters)]
    return [*declared, *(tag for tag in complete if tag not in declared)]


def continued(tag: str) -> str:
    """The tag of a word's later pieces, where these are trained on too."""
    prefix, kind = parts(tag)
    return f"I-{kind}" if prefix == "B" else tag
