"""What would be worth measuring next: the cells whose absence leaves most open."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from refarch_compare.advise.candidates import Candidate
from refarch_compare.advise.standing import Ranking
from refarch_compare.stats.paired import FEWEST, Pair

MOST_SEEDS = 30
"""A difference that needs more seeds than this is too small to be worth telling apart."""


@dataclass(frozen=True)
class Gap:
    """One thing to measure."""

    name: str
    seeds: int
    """How many more."""
    why: str
    command: str
    """The first of the runs."""


def gaps(
    found: Sequence[Candidate],
    rankings: Mapping[str, Ranking],
    task: str,
    backbone: str,
    most: int = 5,
) -> list[Gap]:
    """The most informative missing cells, best first.

    First candidates that nothing is known of here, those that did well elsewhere before others; then those with too few
    seeds; then close rivals of the best whose difference a handful of seeds would settle.
    """
    here, *elsewhere = rankings.values()
    known = {standing.name: standing for standing in here.standings}
    place = {s.name: i for ranking in reversed(elsewhere) for i, s in enumerate(ranking.standings)}
    listed: list[tuple[tuple[float, ...], Gap]] = []
    for position, candidate in enumerate(found):
        run = command(candidate.name, candidate.options, task, backbone)
        standing = known.get(candidate.name)
        if standing is None:
            good = place.get(candidate.name)
            why = "no record of it here" if good is None else f"no record of it here, and place {good + 1} elsewhere"
            rank = (0.0, math.inf if good is None else good, position)
            listed.append((rank, Gap(candidate.name, FEWEST, why, run)))
        elif standing.seeds < FEWEST:
            missing = FEWEST - standing.seeds
            why = (
                f"{standing.seeds} {'seed' if standing.seeds == 1 else 'seeds'} here, and {FEWEST} tell noise from more"
            )
            order = list(known).index(candidate.name)
            listed.append(((1.0, order, position), Gap(candidate.name, missing, why, run)))
    options = {candidate.name: candidate.options for candidate in found}
    for pair in here.pairs:
        needed = seeds_to_tell(pair)
        best = here.standings[0].name if here.standings else ""
        if needed is None or best not in (pair.first, pair.second):
            continue
        rival = pair.second if pair.first == best else pair.first
        if rival in options:
            why = f"within noise of {best} after {pair.blocks} blocks; about {needed} more would tell them apart"
            listed.append(((2.0, needed, 0), Gap(rival, needed, why, command(rival, options[rival], task, backbone))))
    return [gap for _, gap in sorted(listed, key=lambda item: item[0])][:most]


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


def command(name: str, options: Mapping[str, Any], task: str, backbone: str) -> str:
    """The command of a run that fills a cell."""
    technique, _, _ = name.partition(":")
    sets = [f"--set technique.{key}={json.dumps(value)}" for key, value in options.items()]
    return " ".join(["refarch run", f"--backbone {backbone}", f"--technique {technique}", f"--task {task}", *sets])
