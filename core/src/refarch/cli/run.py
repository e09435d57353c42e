"""``refarch run``: build a pipeline, run or resume it, and say how it went."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from refarch.architecture import PipelineSpec, RunRecord
    from refarch.plugins import Registry


@click.command("run")
@click.argument("pipeline", required=False, type=click.Path(path_type=Path))
@click.option("--backbone", metavar="NAME", help="An installed model, a local folder or a hub id.")
@click.option(
    "--technique", "techniques", metavar="NAME", multiple=True, help="A technique; repeat to compose several."
)
@click.option("--task", metavar="NAME", help="A task.")
@click.option("--set", "settings", metavar="KEY=VALUE", multiple=True, help="Set one value (see above); repeatable.")
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), help="The run's seed; 0 when left out.")
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), help="The run's folder; a new one below runs/ otherwise."
)
@click.option("--json", "as_json", is_flag=True, help="Print the record as JSON on standard output.")
@click.option("--quiet", is_flag=True, help="Show no progress.")
@click.option("--dry-run", is_flag=True, help="Check every name and option, print the resolved pipeline, run nothing.")
def command(
    pipeline: Path | None,
    backbone: str | None,
    techniques: tuple[str, ...],
    task: str | None,
    settings: tuple[str, ...],
    seed: int | None,
    out: Path | None,
    as_json: bool,
    quiet: bool,
    dry_run: bool,
) -> None:
    """Run a pipeline: backbone + technique(s) + task + training.

    PIPELINE is a YAML file; flags win over it, and --set wins over both. A folder that holds an interrupted run of the
    same pipeline is resumed.

    \b
    Keys of --set (values are YAML, so lists are [a, b]):
      training.epochs=3                      a field of the training
      technique.rank=4                       an option of the only, or first, technique
      technique.NAME.rank=4                  an option of the technique NAME
      technique.slots=[attention.query]      where it works; likewise layers and preset
      task.max_length=64                     an option of the task
      backbone.dtype=bfloat16, seed=1        fields of the backbone; the seed

    \b
    Examples:
      refarch run pipeline.yaml --out runs/first
      refarch run --backbone B --technique T --task K --set training.epochs=1
      refarch run pipeline.yaml --set technique.rank=2 --dry-run > smaller.yaml
    """  # noqa: D301 - click reads \b as: keep these lines as they are
    from refarch.cli.pipeline_file import build
    from refarch.pipeline.run_folder import new_folder
    from refarch.plugins.lookup import locate, look_up
    from refarch.plugins.registry import default_registry

    registry = default_registry()
    spec = build(pipeline, backbone=backbone, techniques=techniques, task=task, seed=seed, settings=settings)
    resolved = look_up(spec, registry)
    if dry_run:
        _show(resolved.pipeline, registry)
        return
    folder = out or new_folder(Path("runs"), resolved.pipeline)
    if (folder / "record.json").exists():
        click.echo(f"{folder} holds a finished run; this is its record", err=True)
    else:
        locate(spec.backbone, registry)  # a wrong name is told before torch is loaded
        if not quiet:
            click.echo(f"running in {folder}", err=True)
    from refarch.pipeline.runner import run

    try:
        with contextlib.redirect_stdout(sys.stderr):  # whatever a plugin prints: standard output is the result's
            record, folder = run(resolved, folder, registry=registry, progress=not quiet)
    except KeyboardInterrupt:
        click.echo(f"\nthe same command with --out {folder} resumes this run", err=True)
        raise
    click.echo(record.to_json() if as_json else summary(record, folder))


def _show(pipeline: PipelineSpec, registry: Registry) -> None:
    """The resolved pipeline as YAML, with a note where its backbone can only be a hub id."""
    import yaml

    from refarch.errors import nearest
    from refarch.plugins.lookup import locate

    name = pipeline.backbone.name
    if locate(pipeline.backbone, registry) == name and not Path(name).exists():
        near = nearest(name, (model.name for model in registry.models()))
        also = f"; the nearest installed model is {near[0]!r}" if near else ""
        click.echo(f"note: {name!r} is no installed model and no folder, so a hub id{also}", err=True)
    click.echo(yaml.safe_dump(pipeline.model_dump(mode="json"), sort_keys=False, allow_unicode=True), nl=False)


def summary(record: RunRecord, folder: Path) -> str:
    """The result of a run as a block of text."""
    others = [(name, value) for name, value in sorted(record.metrics.items()) if name not in (record.metric, "loss")]
    better = "higher" if record.greater_is_better else "lower"
    percentage = record.trainable_parameters / max(1, record.total_parameters)
    times = record.times
    rows = [
        (record.metric, f"{record.score:.4f}  ({better} is better; {record.examples.get('test', 0):,} test examples)"),
        *((f"  {name}", f"{value:.4f}  (trivial baseline)") for name, value in record.baselines.items()),
        *((name, f"{value:.4f}") for name, value in others),
        (
            "trainable parameters",
            f"{record.trainable_parameters:,} ({percentage:.2%} of {record.total_parameters:,});"
            f" {record.module_parameters:,} in modules",
        ),
        ("times", f"load {times.load:.1f} s, train {times.train:.1f} s, evaluate {times.evaluate:.1f} s"),
        ("steps, device", f"{record.steps:,} on {record.device}, {record.threads} threads"),
        *([("peak memory", f"{record.peak_memory_bytes / 2**20:,.0f} MiB")] if record.peak_memory_bytes else []),
        ("saved modules", f"{record.saved_bytes / 2**10:,.0f} KiB"),
        ("record", str(folder / "record.json")),
    ]
    width = max(len(name) for name, _ in rows)
    return "\n".join([_title(record.pipeline), *(f"  {name.ljust(width)}  {value}" for name, value in rows)])


def _title(pipeline: PipelineSpec) -> str:
    techniques = " + ".join(choice.label or choice.name for choice in pipeline.techniques)
    return f"{techniques} on {pipeline.backbone.name}, {pipeline.task.name}, seed {pipeline.seed}"
