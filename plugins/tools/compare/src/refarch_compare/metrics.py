"""What runs logged on the way: the lines of their ``metrics.jsonl``."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

METRICS = "metrics.jsonl"
"""What a run's folder holds beside its record."""


def lines(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a file, none where there is no file; a last line that a kill cut short is left out."""
    if not path.is_file():
        return
    with open(path, encoding="utf-8", errors="replace") as file:
        for text in file:
            try:
                line = json.loads(text)
            except ValueError:
                continue
            if isinstance(line, dict):
                yield line


def is_number(value: object) -> bool:
    """Whether it is a finite number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
