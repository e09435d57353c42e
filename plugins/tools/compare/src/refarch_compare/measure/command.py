"""``refarch compare measure``: efficiency by the clock, and how fast runs came to a score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from refarch import Registry
    from refarch_compare.evidence.store import Problem
    from refarch_compare.measure.curves import Reached
    from refarch_compare.measure.reading import Run
    from refarch_compare.measure.report import Report, Setting
    from refarch_compare.measure.subjects import Group


@click.command("measure")
@click.argument("runs", nargs=-1, type=click.Path(path_type=Path))
@click.option("--backbone", metavar="NAME", help="Without runs: an installed model, a local folder or a hub id.")
@click.option("--technique", "techniques", metavar="NAME", multiple=True, help="Without runs: a technique; repeatable.")
@click.option("--task", metavar="NAME", help="Without runs: a task, whose head trains along; no head otherwise.")
@click.option("--dtype", type=click.Choice(["float32", "bfloat16", "float16"]), help="Without runs: the backbone's.")
@click.option("--target", type=float, help="Of runs: tell when each came to this score on its validation split.")
@click.option("--no-timing", is_flag=True, help="With --target: read metrics files only, run nothing.")
@click.option("--batch", type=click.IntRange(1), default=8, show_default=True, help="Sequences at once.")
@click.option("--tokens", type=click.IntRange(1), default=64, show_default=True, help="Tokens of each.")
@click.option("--rounds", type=click.IntRange(2), default=7, show_default=True, help="Turns of each; medians are told.")
@click.option("--steps", type=click.IntRange(1), default=3, show_default=True, help="Steps and calls of each turn.")
@click.option(
    "--precision",
    type=click.Choice(["float32", "bfloat16", "float16"]),
    help="Autocast; as the runs were trained, or none, when left out.",
)
@click.option("--threads", type=click.IntRange(1), help="Torch's threads; as a run would take them when left out.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Write everything to this file as JSON.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
@click.option("--quiet", is_flag=True, help="Show no progress.")
def command(
    runs: tuple[Path, ...],
    backbone: str | None,
    techniques: tuple[str, ...],
    task: str | None,
    dtype: str | None,
    target: float | None,
    no_timing: bool,
    out: Path | None,
    as_json: bool,
    quiet: bool,
    **conditions: Any,
) -> None:
    """Measure what techniques cost: time and memory of a step, latency, loading, swapping.

    RUNS are folders of runs and studies; each configuration among them is measured once, and the figures are written as
    measures.json beside the records of its runs, where `refarch compare evidence` finds them. Or name a backbone and
    techniques (NAME, NAME:preset, NAME:key=value).

    All take turns with the frozen backbone in one process, so that every round gives a ratio to it: of a step (forward,
    backward, update; for the backbone forward and the gradients of its inputs), and of a call for inference. Shown are
    the ratios' medians and quartiles. Peak memory is that of tensors in a step, counted by the allocator.

    \b
    Examples:
      refarch compare measure --backbone minilm --technique lora --technique ia3 --technique adapter:pfeiffer
      refarch compare measure studies/first --batch 16 --tokens 128
      refarch compare measure studies/first --target 0.8 --no-timing
    """  # noqa: D301 - click reads \b as: keep these lines as they are
    from refarch import default_registry, terminal
    from refarch.errors import UsageError
    from refarch.files import write_text
    from refarch_compare.measure.reading import require
    from refarch_compare.measure.report import Setting

    _check(runs, {"--backbone": backbone, "--technique": techniques, "--task": task, "--dtype": dtype}, target)
    if no_timing and target is None:
        raise UsageError("--no-timing leaves nothing to do", "give --target, or leave it out")
    registry = default_registry()
    setting = Setting.parse({k: v for k, v in conditions.items() if v is not None}, "the conditions")
    fixed = conditions["precision"] is not None
    found, problems = _read(runs)
    if backbone is not None:
        require(techniques, backbone, task, registry)
    reached = _targets(found, target) if target is not None else {}
    groups, gone = ([], []) if no_timing else _groups(found, backbone, techniques, task, dtype, registry)
    reports = [_measured(group, setting, fixed, registry, quiet) for group in groups]
    problems += gone
    _write(found, reports, reached)
    data = {
        "reports": [report.model_dump(mode="json") for report in reports],
        "targets": {str(folder): one.model_dump(mode="json") for folder, one in reached.items()},
        "skipped": [{"path": problem.path, "reason": problem.reason} for problem in problems],
    }
    if out is not None:
        write_text(out, terminal.as_json(data) + "\n")
    click.echo(terminal.as_json(data)) if as_json else _show(reports, found, reached)
    _complain(reports, problems)


def _check(runs: tuple[Path, ...], named: Mapping[str, Any], target: float | None) -> None:
    """Either runs or names.

    Raises:
        UsageError: both, or neither.
    """
    from refarch.errors import UsageError

    given = [flag for flag, value in named.items() if value]
    if runs and given:
        raise UsageError(f"{given[0]} is for measuring without runs", "give runs, or a backbone and techniques")
    if not runs and not (named["--backbone"] and named["--technique"]):
        raise UsageError(
            "there is nothing to measure", "give folders of runs, or --backbone NAME and --technique NAME once or more"
        )
    if not runs and target is not None:
        raise UsageError("--target is read from the metrics of runs, and there are none", "give folders of runs")


def _read(roots: tuple[Path, ...]) -> tuple[list[Run], list[Problem]]:
    """The finished runs.

    Raises:
        DataError: there are none.
    """
    from refarch.errors import DataError
    from refarch_compare.measure.reading import read_runs

    found, problems = read_runs(roots)
    if roots and not found:
        skipped = "".join(f"\n  {problem.path}: {problem.reason}" for problem in problems[:5])
        raise DataError(
            f"there is no record of a run below {' or '.join(map(str, roots))}{skipped}",
            "a finished run leaves record.json in its folder",
        )
    return found, problems


def _groups(
    runs: Sequence[Run],
    backbone: str | None,
    techniques: Sequence[str],
    task: str | None,
    dtype: str | None,
    registry: Registry,
) -> tuple[list[Group], list[Problem]]:
    from refarch_compare.measure.subjects import of_names, of_runs

    if backbone is not None:
        return of_names(techniques, backbone, task, dtype, registry), []
    return of_runs(runs, registry)


def _measured(group: Group, setting: Setting, fixed: bool, registry: Registry, quiet: bool) -> Report:
    """Load a group's backbone and measure its subjects."""
    import torch

    from refarch.pipeline import load_backbone, torch_threads
    from refarch_compare.measure.measuring import measure

    def tell(text: str) -> None:
        if not quiet:
            click.echo(f"{group.backbone.name}: {text}", err=True)

    if group.precision is not None and not fixed:
        setting = setting.model_copy(update={"precision": group.precision})
    with torch_threads(setting.threads):
        model, _ = load_backbone(group.backbone, group.auto_class, group.arguments, registry, setting.seed)
        if torch.cuda.is_available():
            model.to("cuda")  # type: ignore[arg-type]
        return measure(
            model,
            group.subjects,
            setting,
            registry,
            backbone=group.backbone.name,
            auto_class=group.auto_class,
            tell=tell,
        )


def _targets(runs: Sequence[Run], target: float) -> dict[Path, Reached]:
    """When each run came to the target.

    Raises:
        DataError: none was evaluated on the way.
    """
    from refarch.errors import DataError
    from refarch_compare.measure.curves import curve, reached

    found = {}
    for run in runs:
        points = curve(run.folder, run.record.metric)
        if points:
            found[run.folder] = reached(points, target, run.record.greater_is_better)
    if not found:
        raise DataError(
            "none of the runs was evaluated on its validation split on the way, so when it came to a score is unknown",
            "train with training.evaluations: 10, for example",
        )
    return found


def _write(runs: Sequence[Run], reports: Sequence[Report], reached: Mapping[Path, Reached]) -> None:
    """Write the figures beside the records, among those that were there."""
    import json

    from refarch.files import read_json, write_text
    from refarch_compare.evidence.reading import MEASURES

    figures: dict[Path, dict[str, float]] = {}
    for report in reports:
        for one in report.measured:
            for folder in one.runs:
                figures.setdefault(Path(folder), {}).update(one.measures(report.setting))
    for run in runs:
        if run.folder in reached:
            figures.setdefault(run.folder, {}).update(reached[run.folder].measures(run.record.metric))
    for place, values in figures.items():
        path = place / MEASURES
        before = read_json(path) if path.is_file() else {}
        write_text(path, json.dumps({**before, **values}, indent=2) + "\n")


def _show(reports: Sequence[Report], runs: Sequence[Run], reached: Mapping[Path, Reached]) -> None:
    for report in reports:
        _show_report(report)
    if reached:
        _show_targets(runs, reached)


def _show_report(report: Report) -> None:
    from refarch import terminal
    from refarch_compare.measure.report import Spread

    def ratio(spread: Spread) -> str:
        return f"{spread.median:.3f} ({spread.low:.3f}-{spread.high:.3f})"

    setting, frozen, mebi = report.setting, report.frozen, 2**20
    rows: list[list[Any]] = [
        ["frozen backbone", None, "1", "1", frozen.peak_bytes / mebi, frozen.saved_activation_bytes / mebi, None, None]
    ]
    for one in report.measured:
        memory = [one.peak_bytes / mebi, one.saved_activation_bytes / mebi]
        swap = one.swap_seconds.median * 1e3 if one.swap_seconds else None
        times = [one.load_seconds.median * 1e3, swap]
        ratios = [ratio(one.step_ratio), ratio(one.inference_ratio)]
        rows.append([one.label, one.module_parameters, *ratios, *memory, *times])
    head = ("", "parameters", "step", "inference", "peak MiB", "saved MiB", "load ms", "swap ms")
    title = (
        f"{report.backbone}, {setting.batch} x {setting.tokens} tokens, {setting.rounds} rounds, {report.device},"
        f" {report.threads} threads; frozen: step {frozen.step_seconds.median * 1e3:.1f} ms,"
        f" inference {frozen.inference_seconds.median * 1e3:.1f} ms"
    )
    terminal.table(head, rows, title)


def _show_targets(runs: Sequence[Run], reached: Mapping[Path, Reached]) -> None:
    from refarch import terminal

    rows = []
    for run in runs:
        one = reached.get(run.folder)
        when: list[Any] = ["not evaluated", None, None] if one is None else [one.step, one.seconds, one.best]
        if one is not None and one.step is None:
            when = ["not reached", None, one.best]
        pipeline = run.record.pipeline
        rows.append([run.label, pipeline.task.name, pipeline.seed, run.record.metric, *when])
    target = next(iter(reached.values())).target
    head = ("technique", "task", "seed", "metric", "step", "seconds", "best")
    terminal.table(head, rows, f"first evaluation on the validation split at {target:g} or better")


def _complain(reports: Sequence[Report], problems: Sequence[Problem]) -> None:
    """Name what was skipped.

    Raises:
        RunError: something could not be measured.
    """
    from refarch.errors import RunError

    if problems:
        count = len(problems)
        click.echo(f"skipped {count} {'record' if count == 1 else 'records'} that cannot be used:", err=True)
        for problem in problems[:5]:
            click.echo(f"  {problem.path}: {problem.reason}", err=True)
    failed = [one for report in reports for one in report.failed]
    if failed:
        lines = "".join(f"\n  - {one.label}: {one.reason}" for one in failed)
        raise RunError(
            f"{len(failed)} could not be measured:{lines}",
            "the others were; --task gives the backbone a head, fewer --tokens may help",
        )
