"""Everything that a report says, before it is HTML, Markdown or CSV."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from refarch import ConfiguredTechnique, Registry
from refarch.errors import RefarchError, UsageError
from refarch.files import read_json
from refarch_compare.evidence.query import select
from refarch_compare.evidence.store import Evidence, Problem, load
from refarch_compare.relate.relating import Relation, relate
from refarch_compare.report.results import Result, Results, gather
from refarch_compare.report.statistics import Comparison, Ranks, comparisons, ranks
from refarch_compare.structure.features import Structure, structure

FAILURE = "failure.json"
"""What a study's cell leaves that has no result, and why."""


@dataclass(frozen=True)
class Report:
    """A report."""

    title: str
    roots: tuple[str, ...]
    where: str | None
    alpha: float
    evidence: Evidence
    """All that was read; ``results`` may be of a part of it."""
    results: Results
    comparisons: tuple[Comparison, ...]
    ranks: tuple[Ranks, ...]
    relation: Relation | str
    """Structure related to scores, or why it is not."""
    techniques: tuple[tuple[str, ConfiguredTechnique], ...]
    """Of each structure that differs: the name of a result, and the spec."""
    failed: tuple[Problem, ...]
    notes: tuple[str, ...]

    @functools.cached_property
    def structures(self) -> tuple[tuple[str, Structure], ...]:
        """The structures that differ, by name."""
        return tuple((name, structure(spec, name)) for name, spec in self.techniques)

    @property
    def ordered(self) -> list[Result]:
        """The results by setting, best mean first."""
        return [result for comparison in self.comparisons for result in comparison.results]

    @property
    def imported(self) -> int:
        """How many results others measured."""
        return sum(result.setting.imported for result in self.results.results)

    def counts(self) -> str:
        """What is here, in words."""
        results = self.results.results
        runs = sum(len(result.rows) for result in results)
        parts = [
            _many(len(results), "result"),
            _many(len({result.technique for result in results}), "technique"),
            _many(len({result.setting.problem for result in results}), "task"),
            _many(len({result.setting.backbone for result in results}), "backbone"),
        ]
        marked = f", {self.imported} of the results imported" if self.imported else ""
        return f"{parts[0]} from {_many(runs, 'record')}: {parts[1]}, {parts[2]}, {parts[3]}{marked}."

    def warnings(self) -> list[str]:
        """What a reader must know before reading on."""
        found = []
        if self.imported:
            origins = sorted({r.setting.origin for r in self.results.results if r.setting.imported})
            found.append(
                f"{_many(self.imported, 'result')} {'is' if self.imported == 1 else 'are'} of others"
                f" ({'; '.join(origins)}), marked so, and compared only among themselves."
            )
        if self.evidence.problems:
            count = len(self.evidence.problems)
            found.append(f"{_many(count, 'record')} could not be read and {'is' if count == 1 else 'are'} not here.")
        if self.failed:
            found.append(f"{_many(len(self.failed), 'run')} ended without a result; the end of this page says why.")
        thin = sum(len(result.rows) == 1 for result in self.results.results)
        if thin:
            found.append(f"{_many(thin, 'result')} rest on a single run, which says nothing of noise.")
        return [*found, *self.notes]


def make(
    roots: Sequence[Path | str],
    registry: Registry,
    *,
    where: str | None = None,
    title: str | None = None,
    alpha: float = 0.05,
) -> Report:
    """Read the evidence and compare it.

    Args:
        roots: folders with runs, studies or imported records.
        registry: where techniques are looked up.
        where: an SQL condition that rows must meet.
        title: of the report.
        alpha: the rate of false differences; intervals have level 1 - alpha.

    Raises:
        DataError: there is no readable record.
        UsageError: no row meets the condition, or it is not SQL.
    """
    evidence = load(roots, registry)
    rows = select(evidence.rows, where)
    if not rows:
        raise UsageError(f"none of the {len(evidence.rows)} records meets {where!r}", "loosen --where")
    results = gather(rows, registry, 1 - alpha)
    try:
        relation: Relation | str = relate(rows, alpha=alpha, check=False)
    except RefarchError as error:
        relation = f"Nothing can be said: {error.message}."
    return Report(
        title=title or "Comparison of finetuning techniques",
        roots=tuple(map(str, roots)),
        where=where,
        alpha=alpha,
        evidence=evidence,
        results=results,
        comparisons=tuple(comparisons(results, alpha)),
        ranks=tuple(ranks(results, alpha)),
        relation=relation,
        techniques=_techniques(results.results),
        failed=tuple(_failures(map(Path, roots))),
        notes=tuple(_notes(map(Path, roots))),
    )


def _techniques(results: Iterable[Result]) -> tuple[tuple[str, ConfiguredTechnique], ...]:
    """A spec for each structure that differs, under the first name that it has."""
    found: dict[str, tuple[str, ConfiguredTechnique]] = {}
    for result in results:
        for spec in result.rows[0].specs if len(result.rows[0].specs) == 1 else ():
            key = str([module | {"module": ""} for module in structure(spec, result.name).plain()])
            taken = {name for name, _ in found.values()}
            name = f"{result.name}, {result.setting.problem}" if result.name in taken else result.name
            found.setdefault(key, (name, spec))
    return tuple(found.values())


def _failures(roots: Iterable[Path]) -> Iterable[Problem]:
    """Cells of studies without a result."""
    for root in roots:
        for path in sorted(root.rglob(FAILURE)) if root.is_dir() else ():
            if (path.parent / "record.json").is_file():  # it was run again since
                continue
            try:
                data = read_json(path)
                message = str(data.get("message") or data)
            except (RefarchError, AttributeError) as error:
                message = str(error)
            yield Problem(str(path.parent), " ".join(message.split()))


def _notes(roots: Iterable[Path]) -> Iterable[str]:
    """What studies say of themselves: techniques that could not meet the budget, or were left out."""
    for root in roots:
        plan = root / "plan.json"
        if not (root / "study.json").is_file() or not plan.is_file():
            continue
        try:
            notes = read_json(plan, limit=256 * 2**20).get("notes") or ()
        except (RefarchError, AttributeError):
            yield f"The plan of the study {root} cannot be read."
            continue
        yield from (str(note) for note in notes)


def _many(count: int, what: str) -> str:
    return f"{count:,} {what if count == 1 else what + 's'}"
