"""The conformance kit for tasks, on a local file with several references for some sources."""

import json
from pathlib import Path
from typing import Any

from refarch.testing import TaskConformance

ROWS = [
    {"source": f"name[The {name}], food[{food}]", "target": [f"the {name} serves {food}.", f"{food} at {name}"][:count]}
    for name in ("mill", "inn", "vaults", "plough", "wok", "grill")
    for food, count in (("fish", 1), ("rice", 2), ("pies", 1), ("soup", 2), ("bread", 1))
]
OPTIONS = {"max_target": 16}
"""The kit's tokenizer allows 48 tokens in all."""


def written(folder: Path) -> str:
    path = folder / "rows.json"
    path.write_text(json.dumps(ROWS), encoding="utf-8")
    return str(path)


class TestTextGeneration(TaskConformance):
    task = "text-generation"

    @classmethod
    def prepare(cls, folder: Path) -> dict[str, Any]:
        return {"train": written(folder), **OPTIONS}
