"""How each number came about, and the commands that make it again."""

from __future__ import annotations

import base64
import json
import re
import shlex
from pathlib import Path
from typing import Any, NamedTuple

from refarch.errors import RefarchError
from refarch.files import read_json
from refarch_compare.report.report import Report
from refarch_compare.report.results import Result

MOST = 12
"""Commands of one result that are written out."""


class Recipe(NamedTuple):
    """How a result is made again."""

    file: str
    """What the pipeline is saved as; empty where there is none."""
    pipeline: str
    """The pipeline as JSON."""
    commands: str

    @property
    def encoded(self) -> str:
        """The pipeline for a link that saves it."""
        return base64.b64encode(self.pipeline.encode()).decode()


def recipe(result: Result) -> Recipe:
    """The pipeline of a result's runs, without the seed, and a command for each seed."""
    if result.setting.imported:
        return Recipe("", "", "")
    pipeline = _pipeline(Path(result.rows[0].path))
    if pipeline is None:
        return Recipe("", "", "")
    stem = re.sub(r"[^A-Za-z0-9]+", "-", result.name).strip("-").lower() or "result"
    file = f"{stem}-{result.id}.json"
    seeds = [seed for seed in result.seeds if seed is not None]
    lines = [
        shlex.join(["refarch", "run", file, "--seed", str(seed), "--out", f"again/{stem}-{result.id}-seed{seed}"])
        for seed in seeds[:MOST]
    ]
    if len(seeds) > MOST:
        lines.append(f"# and likewise for the seeds {', '.join(map(str, seeds[MOST:]))}")
    return Recipe(file, json.dumps(pipeline, indent=2), "\n".join(lines))


def _pipeline(record: Path) -> dict[str, Any] | None:
    """The pipeline of a record; None if the file has gone since it was read."""
    try:
        pipeline = dict(read_json(record)["pipeline"])
    except (RefarchError, KeyError, TypeError, ValueError):
        return None
    pipeline.pop("seed", None)
    return pipeline


def commands(report: Report) -> str:
    """Commands for the report itself and for the rows behind it."""
    roots, where = list(report.roots), ["--where", report.where] if report.where else []
    alpha = ["--alpha", f"{report.alpha:g}"] if report.alpha != 0.05 else []
    lines = [
        shlex.join(["refarch", "compare", "report", *roots, *where, *alpha]) + "   # this report",
        shlex.join(["refarch", "compare", "evidence", *roots, *where, "--csv"]) + "   # every run and figure behind it",
    ]
    lines += [
        shlex.join(["refarch", "compare", "run", f"{study['root']}/study.json", "--out", "again"])
        + "   # the study once more, from its beginning"
        for study in studies(report)
    ]
    if not isinstance(report.relation, str):
        lines.append(shlex.join(["refarch", "compare", "relate", *roots, *where]) + "   # structure and results")
    return "\n".join(lines)


def studies(report: Report) -> list[dict[str, str]]:
    """The studies among the report's folders: where they are, and what they are as JSON."""
    found = []
    for root in report.roots:
        try:
            spec = read_json(Path(root, "study.json")) if Path(root, "study.json").is_file() else None
        except RefarchError:
            continue
        if spec:
            found.append({"root": root, "spec": json.dumps(_said(spec), indent=2)})
    return found


def _said(value: Any) -> Any:
    """Without what says nothing: fields that are null or empty."""
    if isinstance(value, dict):
        return {key: _said(item) for key, item in value.items() if item not in (None, {}, [])}
    return [_said(item) for item in value] if isinstance(value, list) else value
