"""The conformance kit for tasks, on a local CSV file."""

from pathlib import Path
from typing import Any

from refarch.testing import TaskConformance


class TestTextClassification(TaskConformance):
    task = "text-classification"

    @classmethod
    def prepare(cls, folder: Path) -> dict[str, Any]:
        rows = [f"{word} film number {i},{word}" for i in range(30) for word in ("good", "bad", "dull")]
        (folder / "films.csv").write_text("\n".join(["text,label", *rows]) + "\n", encoding="utf-8")
        return {"train": str(folder / "films.csv")}
