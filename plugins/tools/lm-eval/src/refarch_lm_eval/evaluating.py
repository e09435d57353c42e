"""What a folder holds, evaluated."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import refarch
from refarch import default_registry, pipeline
from refarch.errors import UsageError
from refarch_lm_eval.adapted import find, load_base
from refarch_lm_eval.tasks import HARNESS, Settings, load_tasks, require_folders


def evaluated(
    folder: Path,
    names: Sequence[str],
    settings: Settings,
    *,
    include: Sequence[Path] = (),
    backbone: str | None = None,
    base: bool = False,
    device: str | None = None,
) -> dict[str, Any]:
    """Evaluate a run or an adaptation on tasks of the harness.

    Args:
        folder: of a finished run, or of an adaptation.
        names: of tasks.
        settings: how they are run.
        include: folders with further tasks.
        backbone: instead of the run's own.
        base: also evaluate the model without what was trained.
        device: the accelerator, if there is one, when left out.

    Returns:
        Plain data: what was evaluated and how, and ``results`` (and ``base``), one entry a task and metric.

    Raises:
        RefarchError: with the cause, whatever cannot be found, loaded or run.
    """
    if not names:
        raise UsageError("no task is named", "give one at least: --tasks arc_easy")
    registry = default_registry()
    require_folders(include)
    saved = find(folder, backbone, registry)
    tasks = load_tasks(names, include)
    from refarch_lm_eval.harness import AdaptedLM, evaluate  # loads torch

    model, tokenizer = load_base(saved, registry, pipeline.device(device))
    if settings.chat and not tokenizer.chat_template:
        raise UsageError(f"the tokenizer of {saved.backbone.name!r} has no chat template", "leave --chat out")
    lm = AdaptedLM(model, tokenizer, settings.batch_size, settings.max_length)
    without = evaluate(lm, tasks, settings) if base else None
    attached = [refarch.load(model, each, registry=registry) for each in saved.folders]
    values = evaluate(lm, tasks, settings)
    return {
        "format": 1,
        "folder": str(folder),
        "backbone": saved.backbone.name,
        "adaptations": [adaptation.name for adaptation in attached],
        "harness": metadata.version(HARNESS),
        **settings._asdict(),
        "results": [value._asdict() for value in values],
        "base": None if without is None else [value._asdict() for value in without],
    }
