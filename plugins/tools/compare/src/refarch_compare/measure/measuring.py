"""Measure configurations against the frozen backbone: rounds in which each has its turn."""

from __future__ import annotations

import functools
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from refarch import ConfiguredTechnique, Registry
from refarch.errors import RefarchError
from refarch.pipeline import versions
from refarch_compare.measure.bench import Bench
from refarch_compare.measure.report import Cost, Failed, Measured, Report, Setting, Spread
from refarch_compare.storages import storage_bytes

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Subject:
    """What is measured: techniques on a backbone.

    Attributes:
        label: its name in tables.
        techniques: name and configured spec of each adaptation, in order.
        head: whether the head trains along.
        folders: their saved adaptations; fresh ones are saved for the occasion when left out.
        runs: folders of runs of this configuration.
    """

    label: str
    techniques: tuple[tuple[str, ConfiguredTechnique], ...]
    head: bool = False
    folders: tuple[Path, ...] = ()
    runs: tuple[Path, ...] = ()


@dataclass
class _Turns:
    """What the rounds have shown of one subject, or of the frozen backbone."""

    subject: Subject | None
    folders: list[Path] = field(default_factory=list)
    step: list[float] = field(default_factory=list)
    call: list[float] = field(default_factory=list)
    load: list[float] = field(default_factory=list)
    swap: list[float] | None = None
    peak: int = 0
    saved: int = 0
    counts: tuple[int, int] = (0, 0)
    file_bytes: int = 0
    failure: str = ""


def measure(
    model: PreTrainedModel,
    subjects: Sequence[Subject],
    setting: Setting,
    registry: Registry,
    *,
    backbone: str,
    auto_class: str,
    tell: Tell = lambda text: None,
) -> Report:
    """Measure subjects on one backbone, which is left as it was.

    Args:
        model: the backbone, nothing attached.
        subjects: what is attached in turn.
        setting: the conditions.
        registry: where techniques are looked up.
        backbone: its name.
        auto_class: the class that it was loaded with.
        tell: hears what is going on.

    Raises:
        RefarchError: the backbone itself cannot be run so.
    """
    model.eval()
    bench = Bench(model, setting, registry)
    frozen, turns = _Turns(None), [_Turns(subject) for subject in subjects]
    with tempfile.TemporaryDirectory(prefix="refarch-measure-") as scratch:
        for number, one in enumerate([frozen, *turns]):
            tell(f"memory: {one.subject.label if one.subject else 'the frozen backbone'}")
            _try(one, functools.partial(_prepare, bench, one, Path(scratch, str(number))))
        chance = random.Random(setting.seed)
        for round_ in range(setting.rounds + 1):
            tell(f"round {round_} of {setting.rounds}" if round_ else "warming up")
            there = [one for one in (frozen, *turns) if not one.failure]
            chance.shuffle(there)
            for one in there:
                _try(one, functools.partial(_turn, bench, one, timed=bool(round_)))
    done = [one for one in turns if not one.failure]
    return Report(
        backbone=backbone,
        auto_class=auto_class,
        setting=setting,
        device=str(bench.device),
        threads=torch.get_num_threads(),
        base_bytes=storage_bytes([*model.parameters(), *model.buffers()]),
        frozen=Cost(**_cost(frozen)),
        measured=tuple(_measured(one, frozen) for one in done),
        failed=tuple(_failed(one) for one in turns if one.failure),
        versions=versions(),
        when=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _try(one: _Turns, work: Callable[[], None]) -> None:
    """Let a subject fail alone; the frozen backbone's failure is everybody's."""
    try:
        work()
    except (RefarchError, RuntimeError, ValueError, IndexError, torch.OutOfMemoryError) as error:
        if one.subject is None:
            raise
        text = error.message if isinstance(error, RefarchError) else f"{type(error).__name__}: {error}"
        one.failure = text.splitlines()[0]


def _prepare(bench: Bench, one: _Turns, scratch: Path) -> None:
    """What is the same in every round: memory, counts, files."""
    if one.subject is None:
        with bench.train(()).ready() as trainer:
            one.saved, one.peak = trainer.saved(), trainer.peak()
        return
    with bench.attached(one.subject.techniques, one.subject.head) as adaptations:
        one.counts = sum(a.count() for a in adaptations), sum(a.count(head=False) for a in adaptations)
        with bench.train(adaptations).ready() as trainer:
            one.saved, one.peak = trainer.saved(), trainer.peak()
        one.folders = list(one.subject.folders) or [a.save(scratch / a.name) for a in adaptations]
    one.file_bytes = sum(file.stat().st_size for folder in one.folders for file in folder.iterdir())
    one.swap = bench.swap(one.folders)


def _turn(bench: Bench, one: _Turns, timed: bool) -> None:
    """A subject's part of a round: some steps, some calls."""
    if one.subject is None:
        step = _steps(bench, ())
        call = bench.time(bench.call, bench.setting.steps)
    else:
        with bench.attached(one.subject.techniques, one.subject.head) as adaptations:
            step = _steps(bench, adaptations)
        bench.wait()
        began = time.perf_counter()
        with bench.loaded(one.folders):
            bench.wait()
            load = time.perf_counter() - began
            call = bench.time(bench.call, bench.setting.steps)
        if timed:
            one.load.append(load)
    if timed:
        one.step.append(step)
        one.call.append(call)


def _steps(bench: Bench, adaptations: Sequence[Any]) -> float:
    with bench.train(adaptations).ready() as trainer:
        return bench.time(trainer.step, bench.setting.steps)


def _cost(one: _Turns) -> dict[str, Any]:
    return {
        "step_seconds": Spread.of(one.step),
        "inference_seconds": Spread.of(one.call),
        "peak_bytes": one.peak,
        "saved_activation_bytes": one.saved,
    }


def _measured(one: _Turns, frozen: _Turns) -> Measured:
    assert one.subject is not None
    return Measured(
        **_cost(one),
        label=one.subject.label,
        techniques=tuple({"name": spec.name, "options": dict(spec.options)} for _, spec in one.subject.techniques),
        step_ratio=Spread.of([a / b for a, b in zip(one.step, frozen.step, strict=True)]),
        inference_ratio=Spread.of([a / b for a, b in zip(one.call, frozen.call, strict=True)]),
        trainable_parameters=one.counts[0],
        module_parameters=one.counts[1],
        saved_bytes=one.file_bytes,
        load_seconds=Spread.of(one.load),
        swap_seconds=Spread.of(one.swap) if one.swap else None,
        runs=tuple(map(str, one.subject.runs)),
    )


def _failed(one: _Turns) -> Failed:
    assert one.subject is not None
    return Failed(label=one.subject.label, reason=one.failure, runs=tuple(map(str, one.subject.runs)))
