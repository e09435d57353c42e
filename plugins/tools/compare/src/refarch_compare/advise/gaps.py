"""What would be worth measuring next: the cells whose absence leaves most open."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from refarch_compare.advise.candidates import Candidate
from refarch_compare.advise.standing import Ranking, Standing
from refarch_compare.stats.paired import FEWEST, Pair
from refarch_compare.structure.distance import matrix
from refarch_compare.structure.features import structure

MOST_SEEDS = 30
"""A difference that needs more seeds than this is too small to be worth telling apart."""
PIPELINE = "pipeline.json"
"""What a run's folder says of how it was made."""


@dataclass(frozen=True)
class Gap:
    """One thing to measure."""

    name: str
    seeds: int
    """How many more."""
    why: str
    command: str
    """The first of the runs; empty where it cannot run here."""


@dataclass(frozen=True)
class Place:
    """What is asked about."""

    task: str
    backbone: str
    runs: bool
    """Whether the task is installed, so that it can be run."""

    def notes(self) -> tuple[str, ...]:
        """What a reader has to know of the commands."""
        return () if self.runs else (f"no task {self.task!r} is installed, so no commands are given to measure more",)

    def command(self, candidate: Candidate, rows: Standing | None = None) -> str:
        """A run that fills a cell: another seed of what was run, or the candidate's first."""
        if not self.runs:
            return ""
        seeds = {row.seed for row in rows.rows} if rows else set()
        seed = next(number for number in range(len(seeds) + 1) if number not in seeds)
        pipeline = Path(rows.rows[0].path).with_name(PIPELINE) if rows and not rows.imported else None
        if pipeline is not None and pipeline.is_file():
            return shlex.join(["refarch", "run", str(pipeline), "--seed", str(seed)])
        words = ["refarch", "run", "--backbone", self.backbone, "--technique", candidate.spec.name]
        words += ["--task", self.task, "--seed", str(seed)]
        for key, value in candidate.options.items():
            words += ["--set", f"technique.{key}={_yaml(value)}"]
        return shlex.join(words)


def gaps(
    found: Sequence[Candidate],
    here: Ranking,
    elsewhere: Sequence[Ranking],
    place: Place,
    most: int = 5,
) -> list[Gap]:
    """The most informative missing cells, best first.

    First candidates with too few seeds here, which stand nearest to an answer; then those that nothing is known of
    here: what did well elsewhere, then what is structurally farthest from all that was measured; then rivals of the
    first place whose difference a handful of seeds would settle.
    """
    by_name = {candidate.name: candidate for candidate in found}
    known = {s.name: s for s in here.standings if s.name in by_name}
    thin = [
        _more(by_name[name], standing, FEWEST - standing.seeds, place)
        for name, standing in known.items()
        if standing.seeds < FEWEST
    ]
    listed = [*thin, *_unknown(by_name, known, elsewhere, place, most), *_rivals(by_name, here, place)]
    return listed[:most]


def _more(candidate: Candidate, standing: Standing, missing: int, place: Place) -> Gap:
    if standing.imported:
        why, missing = f"only imported records here, of {_seeds(standing.seeds)}", FEWEST
    else:
        why = f"{_seeds(standing.seeds)} here, and {FEWEST} tell noise from more"
    return Gap(candidate.name, missing, why, place.command(candidate, standing))


def _unknown(
    by_name: Mapping[str, Candidate],
    known: Mapping[str, Standing],
    elsewhere: Sequence[Ranking],
    place: Place,
    most: int,
) -> list[Gap]:
    """Candidates without a record here."""
    tiers: dict[str, tuple[int, str]] = {}
    for ranking in reversed(elsewhere):  # the most telling last, so that it stays
        tiers.update({s.name: (s.tier, ranking.scope) for s in ranking.standings if s.tier is not None})
    rest = [candidate for name, candidate in by_name.items() if name not in known]
    good = sorted((c for c in rest if c.name in tiers), key=lambda c: (tiers[c.name][0], c.cost.trainable))
    found = [
        Gap(c.name, FEWEST, f"no record here; place {tiers[c.name][0]} for {tiers[c.name][1]}", place.command(c))
        for c in good
    ]
    measured = [by_name[name] for name in known] + good
    others = [candidate for candidate in rest if candidate.name not in tiers]
    for candidate, apart in spread(others, measured, most - len(found)):
        why = "no record here" if apart is None else f"no record here; structurally {apart:.2f} from all of the above"
        found.append(Gap(candidate.name, FEWEST, why, place.command(candidate)))
    return found


def spread(
    candidates: Sequence[Candidate], known: Sequence[Candidate], count: int
) -> Iterable[tuple[Candidate, float | None]]:
    """Candidates in turn, each the structurally farthest from those known and those before it.

    Yields:
        The candidate, and its distance from the nearest of them; None for the first of all, which is the one nearest
        to the others on average.
    """
    apart = matrix([structure(candidate.spec, candidate.name) for candidate in (*known, *candidates)])
    there, rest = list(range(len(known))), list(range(len(known), len(apart)))
    for _ in range(min(count, len(rest))):
        if there:
            nearest = {i: min(apart[i, j] for j in there) for i in rest}
            chosen = max(rest, key=lambda i: nearest[i])
            distance: float | None = float(nearest[chosen])
        else:
            chosen, distance = min(rest, key=lambda i: apart[i].sum()), None
        rest.remove(chosen)
        there.append(chosen)
        yield candidates[chosen - len(known)], distance


def _rivals(by_name: Mapping[str, Candidate], here: Ranking, place: Place) -> list[Gap]:
    """Those that a handful of seeds would tell from one of the first place."""
    first = {s.name for s in here.standings if s.tier == 1} or {s.name for s in here.standings}
    standings = {standing.name: standing for standing in here.standings}
    found: list[tuple[int, Gap]] = []
    for pair in here.pairs:
        needed = seeds_to_tell(pair)
        if needed is None or not {pair.first, pair.second} <= first & by_name.keys():
            continue
        both = f"{pair.first} and {pair.second}"
        why = f"{both} are within noise after {pair.blocks} blocks; about {needed} more of each would tell them apart"
        command = place.command(by_name[pair.first], standings[pair.first])
        found.append((needed, Gap(both, needed, why, command)))
    return [gap for _, gap in sorted(found, key=lambda item: item[0])]


def seeds_to_tell(pair: Pair) -> int | None:
    """About how many more blocks would tell a pair apart, if its difference and spread are what they seem.

    None where it is told apart already, has no spread to judge by, or would need too many.
    """
    mean, spread = pair.difference.mean, pair.difference.spread
    if pair.verdict != "within noise" or not spread or not mean:
        return None
    # twice the standard error for 5% significance and as much again for 80% power: (1.96 + 0.84)^2
    needed = math.ceil((2.8 * spread / mean) ** 2) - pair.blocks
    return max(1, needed) if needed <= MOST_SEEDS else None


def _yaml(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _seeds(count: int) -> str:
    return f"{count} {'seed' if count == 1 else 'seeds'}"
