"""Port an entry to another backbone, and compare it with both baselines: as it is, and as a starting point."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from refarch import PipelineSpec, Pool, Registry, run
from refarch.architecture import BackboneChoice
from refarch.errors import CheckpointError, UsageError
from refarch.files import below
from refarch.pipeline import load_backbone
from refarch_library.base import arguments
from refarch_library.finding import Found
from refarch_library.transfer.matching import Match
from refarch_library.transfer.porting import head_alone, port, sample
from refarch_library.transfer.scoring import score_saved, score_start

STARTS = ("ported", "sampled", "head", "scratch")
"""The module itself; parameters from its own distribution; its head alone, where it has one; none of it."""


@dataclass
class Ported:
    """An entry's adaptations on another backbone, saved.

    Attributes:
        folders: by start, those of the adaptations in their order. One sampled start for each seed.
        matches: what came from where, of each adaptation.
    """

    folders: dict[str, list[Path]] = field(default_factory=dict)
    matches: list[Match] = field(default_factory=list)


def port_entry(
    found: Found, to: str, out: Path, registry: Registry, *, layers: Any = None, seeds: Sequence[int] = ()
) -> Ported:
    """Save an entry's adaptations for another backbone, and for each seed the sampled ones.

    Args:
        found: the entry.
        to: the backbone: an installed model's name, a folder or a hub id.
        out: a folder; gets ``ported/NAME``, ``head/NAME`` and ``sampled-SEED/NAME``.
        registry: where names are looked up.
        layers: at which layers they work there.
        seeds: of the sampled ones.

    Raises:
        CheckpointError: slots or widths differ; with the differences.
        UsageError: the backbone cannot be loaded, or the entry does not say which head it had.
    """
    entry = found.entry
    if not entry.base.auto_class:
        raise UsageError(f"entry {entry.name!r} does not say with which head its backbone was loaded", "add it again")
    model, _ = load_backbone(
        BackboneChoice(name=to), entry.base.auto_class, arguments(entry), registry, entry.record.seeds.head
    )
    model.eval()
    ported = Ported()
    for part in entry.parts:
        fresh: dict[str, Tensor] = {}
        adaptation, match = port(below(found.folder, part.folder), model, registry, layers=layers, fresh=fresh)
        ported.matches.append(match)
        values = {name: tensor.clone() for name, tensor in adaptation.state_dict().items()}
        ported.folders.setdefault("ported", []).append(adaptation.save(out / "ported" / part.name))
        for seed in seeds:
            sample(adaptation, match, seed)
            ported.folders.setdefault(f"sampled-{seed}", []).append(
                adaptation.save(out / f"sampled-{seed}" / part.name)
            )
            adaptation.load_state_dict(values)
        head_alone(adaptation, match, fresh)
        ported.folders.setdefault("head", []).append(adaptation.save(out / "head" / part.name))
        adaptation.load_state_dict(values)
    if not any(match.head for match in ported.matches):
        del ported.folders["head"]
    return ported


def pipeline_for(
    found: Found, to: str, starts: Sequence[Path], seed: int, *, layers: Any = None, **training: Any
) -> PipelineSpec:
    """The pipeline of an entry's run on another backbone.

    Args:
        found: the entry.
        to: the backbone.
        starts: the folder that each technique starts from; none to start from scratch.
        seed: of the run.
        layers: at which layers the techniques work.
        training: fields that differ from the run's.
    """
    own = found.entry.record.pipeline
    if starts and len(starts) != len(own.techniques):
        raise CheckpointError(f"entry {found.entry.name!r} has other adaptations than its pipeline has techniques")
    techniques = []
    for number, choice in enumerate(own.techniques):
        options = {**choice.options, **({"layers": layers} if layers is not None else {})}
        start = str(starts[number].resolve()) if starts else None
        techniques.append(choice.model_copy(update={"options": options, "start": start}))
    return own.model_copy(
        update={
            "backbone": BackboneChoice(name=to),
            "techniques": tuple(techniques),
            "training": own.training.model_copy(update=training),
            "seed": seed,
        }
    )


@dataclass
class Row:
    """What came of one start.

    Attributes:
        start: one of :data:`STARTS`.
        zero_shot: the score before any training, for each seed.
        trained: the score after training, for each seed; empty where nothing was trained.
        error: why it could not be trained.
    """

    start: str
    zero_shot: list[float] = field(default_factory=list)
    trained: list[float] = field(default_factory=list)
    error: str = ""

    def plain(self) -> dict[str, Any]:
        """As plain data, with means."""
        means = {f"{k}_mean": statistics.fmean(v) if v else None for k, v in vars(self).items() if isinstance(v, list)}
        return {**vars(self), **means}


def compare(
    found: Found,
    to: str,
    out: Path,
    registry: Registry,
    *,
    seeds: Sequence[int],
    train: bool,
    layers: Any = None,
    told: Callable[[str], None] = lambda text: None,
    **training: Any,
) -> tuple[Ported, list[Row]]:
    """Port an entry and score every start, before training and, if asked for, after it.

    Runs have folders of their own below ``out``: killed at any moment, this goes on where it was. See
    :func:`port_entry` for the arguments and errors.

    Args:
        found: the entry.
        to: the backbone.
        out: where everything is written.
        registry: where names are looked up.
        seeds: of the runs.
        train: whether to train from each start.
        layers: at which layers the modules work there.
        told: is told what comes next.
        training: fields that differ from the run's own.
    """
    ported, pool = port_entry(found, to, out, registry, layers=layers, seeds=seeds), Pool()
    rows = [Row(start) for start in STARTS if start in ("sampled", "scratch") or start in ported.folders]
    for seed in seeds:
        for row in rows:
            told(f"{row.start}, seed {seed}")
            folders = ported.folders.get(f"sampled-{seed}" if row.start == "sampled" else row.start, [])
            pipeline = pipeline_for(found, to, folders, seed, layers=layers, **training)
            try:
                before = score_saved(pipeline, folders, registry, pool) if folders else None
                row.zero_shot.append(score_start(pipeline, registry, pool) if before is None else before)
                if train:
                    record, _ = run(pipeline, out / "runs" / f"{row.start}-{seed}", registry=registry, pool=pool)
                    row.trained.append(record.score)
            except CheckpointError as error:
                row.error = error.message
    return ported, rows
