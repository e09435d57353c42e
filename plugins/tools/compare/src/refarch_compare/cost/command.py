"""``refarch estimate``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from refarch import Registry
    from refarch_compare.cost.backbone import Backbone, Dtype
    from refarch_compare.cost.estimate import Estimate, Refusal
    from refarch_compare.cost.step import Device, Optimizer
    from refarch_compare.naming import Named

UNITS = {"": 10**9, "MB": 10**6, "GB": 10**9, "TB": 10**12, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}
"""Of sizes of memory; a plain number is in GB."""


@click.command("estimate")
@click.option("--backbone", required=True, metavar="MODEL", help="A model plugin, folder, config.json, hub id or type.")
@click.option("--technique", "names", multiple=True, metavar="NAME", help="With options if need be; all when left out.")
@click.option("--batch", type=click.IntRange(1), default=8, show_default=True, help="Examples a step.")
@click.option(
    "--tokens",
    "--length",
    "tokens",
    type=click.IntRange(1),
    default=128,
    show_default=True,
    help="Tokens of each example.",
)
@click.option("--dtype", type=click.Choice(["float32", "bfloat16", "float16"]), help="Of the backbone's weights.")
@click.option("--optimizer", type=click.Choice(["adamw", "sgd"]), default="adamw", show_default=True)
@click.option("--device", type=click.Choice(["cuda", "cpu"]), default="cuda", show_default=True, help="To train on.")
@click.option("--model-class", "auto_class", metavar="CLASS", help="transformers' AutoModel class, for the head.")
@click.option("--labels", metavar="NAME,NAME", help="What the head tells apart; the configuration's own if left out.")
@click.option("--train-head", is_flag=True, help="The model's head trains along.")
@click.option("--gradient-checkpointing", "checkpointing", is_flag=True, help="Layers run again in the backward pass.")
@click.option("--memory", metavar="SIZE", help="24GB, 80GiB, or a number of GB: find the largest batch that fits.")
@click.option("--budget", type=click.IntRange(1), metavar="N", help="Choose sizes for N trainable parameters.")
@click.option("--no-run", is_flag=True, help="Parameters, bytes and merging alone.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def command(
    backbone: str,
    names: tuple[str, ...],
    batch: int,
    tokens: int,
    dtype: Dtype | None,
    optimizer: Optimizer,
    device: Device,
    auto_class: str | None,
    labels: str | None,
    train_head: bool,
    checkpointing: bool,
    memory: str | None,
    budget: int | None,
    no_run: bool,
    as_json: bool,
) -> None:
    """Say what techniques cost on a backbone before training.

    The model is built from its configuration alone and run without values (on torch's meta device), so that any size
    takes seconds and no weights. Parameters and the bytes of a checkpoint are exact. Operations are counted in one call
    and one training step; memory is what that step holds at most. Modules and their gradients are in float32 whatever
    the backbone's dtype; no token is padding. docs/compare.md says what each figure means.

    NAME is a technique, with a preset or options if need be: adapter:pfeiffer, lora:rank=16,slots=[ffn.up, ffn.down].

    \b
    Examples:
      refarch estimate --backbone minilm --technique lora --technique ia3
      refarch estimate --backbone ./llama-70b/config.json --technique lora:rank=16 --dtype bfloat16 --batch 1
      refarch estimate --backbone bert --technique lora --memory 24GB --tokens 512
      refarch estimate --backbone minilm --budget 100000 --json
    """  # noqa: D301 - click reads \b as: keep these lines as they are
    import logging
    import sys
    import time

    from refarch_inspect.names import meant

    from refarch import default_registry, terminal
    from refarch.errors import UsageError
    from refarch_compare import naming

    if no_run and memory is not None:
        raise UsageError("--memory needs a step to be counted", "leave out --no-run")
    limit = None if memory is None else _size(memory)
    registry = default_registry()
    meant(backbone, registry)
    chosen = [naming.parse(name, registry) for name in names] or naming.variants(registry, presets=False)
    from refarch_compare.cost.backbone import find  # loads torch
    from refarch_compare.cost.estimate import Estimate, Estimator, Setting

    logging.getLogger("transformers").setLevel(logging.ERROR)
    started = time.perf_counter()
    model = find(backbone, registry, dtype, auto_class, labels.split(",") if labels else ())
    setting = Setting(
        batch=batch,
        tokens=tokens,
        optimizer=optimizer,
        device=device,
        train_head=train_head,
        run=not no_run,
        checkpointing=checkpointing,
        memory=limit,
    )
    estimator = Estimator(model, setting)
    found = []
    with click.progressbar(chosen, label="counting", file=sys.stderr, width=20) as items:
        for item in items:
            found.append(_one(estimator, item, budget, registry))
    done = [item for item in found if isinstance(item, Estimate)]
    if not done:
        raise UsageError(f"{found[0].technique}: {found[0].refused}")  # type: ignore[union-attr]
    if as_json:
        data = {"backbone": _about(model), "setting": vars(setting), "estimates": [item.plain() for item in found]}
        click.echo(terminal.as_json(data))
        return
    _print(model, found, memory, time.perf_counter() - started)


def _one(estimator: Any, item: Named, budget: int | None, registry: Registry) -> Estimate | Refusal:
    from refarch.errors import RefarchError
    from refarch_compare.cost.budget import solve_budget
    from refarch_compare.cost.estimate import Refusal

    technique = item.technique
    if budget is not None:
        try:
            spec, own = technique.technique, technique.options
            solved = solve_budget(spec, estimator.backbone.model, budget, options=own, registry=registry)
        except RefarchError as error:
            return Refusal(technique=item.label, backbone=estimator.backbone.label, refused=error.message)
        technique = spec.configure(solved.options)
    return estimator.try_estimate(technique, item.label)  # type: ignore[no-any-return]


def _size(text: str) -> int:
    """Bytes."""
    import re

    from refarch.errors import UsageError

    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([A-Za-z]*)", text.strip())
    size = int(float(found[1]) * UNITS.get(found[2].upper(), 0)) if found else 0
    if not size:
        raise UsageError(
            f"--memory: {text!r} is no size", "write a number of GB, or one with its unit: 24GB, 80GiB, 500MB"
        )
    return size


def _about(backbone: Backbone) -> dict[str, Any]:
    return {
        "name": backbone.label,
        "class": type(backbone.model).__name__,
        "parameters": backbone.parameters,
        "dtype": backbone.dtype,
    }


def _print(backbone: Backbone, found: Sequence[Estimate | Refusal], memory: str | None, seconds: float) -> None:
    from refarch import terminal
    from refarch_compare.cost.estimate import Estimate

    done = [item for item in found if isinstance(item, Estimate)]
    about = _about(backbone)
    click.echo(f"{about['name']}: {about['class']}, {about['parameters']:,} parameters in {about['dtype']}")
    first = done[0]
    if first.operations and first.memory:
        click.echo(
            f"batches of {first.batch} x {first.tokens} tokens; the frozen backbone's forward pass:"
            f" {_count(first.operations.base)} operations a token, {_bytes(first.memory.base)} of weights"
        )
    click.echo()
    head = ["technique", "trainable", "of all", "frozen", "checkpoint", "merges"]
    if first.operations:
        head += ["inference", "training", "optimizer", "activations", "peak"]
    if memory is not None:
        head.append(f"batch in {memory}" if memory.strip()[-1:].isalpha() else f"batch in {memory} GB")
    terminal.table(head, [_row(item) for item in done])
    if first.operations:
        click.echo(
            "inference and training: operations a token beside the backbone's forward pass, in per cent of it; unmerged"
        )
    for item in found:
        if not isinstance(item, Estimate):
            click.echo(f"{item.technique}: {item.refused}")
    by_reason: dict[tuple[str, ...], list[str]] = {}
    for item in done:
        by_reason.setdefault(item.not_merged_because, []).append(item.technique)
    for reasons, names in by_reason.items():
        for reason in reasons:
            click.echo(f"{', '.join(names)}: not merged: {reason}")
    click.echo(f"counted in {seconds:.1f} s", err=True)


def _row(item: Estimate) -> list[Any]:
    row: list[Any] = [
        item.technique,
        item.trainable_parameters,
        f"{item.trainable_parameters / item.total_parameters:.3%}",
        item.frozen_parameters,
        item.saved_bytes,
        item.merges,
    ]
    if item.operations and item.memory:
        base = item.operations.base
        row += [f"{item.operations.inference_extra / base:+.2%}", f"{item.operations.training_extra / base:+.0%}"]
        row += [_bytes(item.memory.optimizer), _bytes(item.memory.activations), _bytes(item.memory.peak)]
    if item.largest_batch is not None:
        row.append(item.largest_batch)
    return row


def _bytes(value: int) -> str:
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if value >= size:
            return f"{value / size:,.{1 if value < 100 * size else 0}f} {unit}"
    return f"{value} B"


def _count(value: float) -> str:
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6)):
        if value >= size:
            return f"{value / size:.4g} {unit}"
    return f"{value:,.0f}"
