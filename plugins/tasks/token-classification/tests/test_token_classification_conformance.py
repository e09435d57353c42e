"""The conformance kit for tasks, on a local CoNLL file."""

import random
from pathlib import Path
from typing import Any

from refarch.testing import TaskConformance

WORDS = {"B-person": ["ann", "bob"], "I-person": ["smith", "jones"], "B-place": ["paris", "oslo"]}
OTHERS = ["went", "to", "the", "river", "and", "saw", "a", "film"]


def sentences(count: int, seed: int = 0) -> list[list[tuple[str, str]]]:
    """Sentences whose tags follow from the words."""
    chance = random.Random(seed)
    made = []
    for _ in range(count):
        person = [(chance.choice(WORDS[tag]), tag) for tag in ("B-person", "I-person")[: chance.randint(1, 2)]]
        others = [(chance.choice(OTHERS), "O") for _ in range(chance.randint(2, 12))]
        made.append([*person, *others, (chance.choice(WORDS["B-place"]), "B-place"), (".", "O")])
    return made


def written(path: Path, rows: list[list[tuple[str, str]]], separator: str = "\t") -> str:
    path.write_text(
        "\n\n".join("\n".join(separator.join(pair) for pair in row) for row in rows) + "\n", encoding="utf-8"
    )
    return str(path)


class TestTokenClassification(TaskConformance):
    task = "token-classification"

    @classmethod
    def prepare(cls, folder: Path) -> dict[str, Any]:
        return {"train": written(folder / "train.conll", sentences(60))}
