"""The harness's tasks, and how they are asked for. Nothing here needs torch, so an unknown name is told at once."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from refarch.errors import DataError, PluginError, UnknownNameError, UsageError, did_you_mean

HARNESS = "lm-eval"
"""The harness's distribution."""


class Settings(NamedTuple):
    """How tasks are run."""

    few_shot: int | None = None
    """Examples in the prompt; as many as the task says when left out."""
    limit: int | None = None
    """At most so many examples a task."""
    chat: bool = False
    """Write prompts by the tokenizer's chat template."""
    seed: int = 1234
    """Decides the examples in prompts."""
    batch_size: int = 8
    max_length: int | None = None
    """Tokens that the model can read; its own limit when left out."""


def require_harness() -> None:
    """Say how to install the harness where it is missing: a development set-up leaves it out, since it is heavy.

    Raises:
        PluginError: it is missing.
    """
    if importlib.util.find_spec("lm_eval") is None:
        wanted = next(
            (text for text in metadata.requires("refarch-lm-eval") or () if text.startswith(HARNESS)), HARNESS
        )
        raise PluginError(
            "refarch evaluate runs EleutherAI's lm-evaluation-harness, which is not installed here",
            f'pip install "{wanted}"',
        )


def load_tasks(names: Sequence[str], folders: Sequence[Path] = ()) -> list[Any]:
    """The harness's tasks and groups.

    The index of its own tasks takes a while to read; it is left out where the folders hold all that is asked for.

    Args:
        names: of tasks, groups or tags.
        folders: with further tasks, as YAML. They may name functions to be run.

    Raises:
        UnknownNameError: there is no such task; the nearest names are given.
        DataError: a task's data cannot be loaded.
        PluginError: the harness is not installed.
    """
    require_folders(folders)
    require_harness()
    from lm_eval.tasks import TaskManager  # takes seconds: it imports datasets

    include = [str(folder) for folder in folders]
    manager = TaskManager(include_path=include, include_defaults=False)
    if not set(names) <= set(manager.all_tasks):
        manager = TaskManager(include_path=include)
    for name in names:
        if name not in manager.all_tasks:
            raise UnknownNameError(
                f"the harness {metadata.version(HARNESS)} has no task {name!r}", did_you_mean(name, manager.all_tasks)
            )
    try:
        with quiet():
            loaded = manager.load(list(names))
    except Exception as error:  # whatever a configuration, the datasets library, the network or the hub raises
        raise DataError(
            f"the tasks {', '.join(names)} cannot be loaded: {type(error).__name__}: {line(error)}",
            "data come from the hub by way of datasets, which needs a connection; for local data write a task yourself"
            " (a YAML file with dataset_path and dataset_kwargs) and give its folder with --include-path",
        ) from error
    groups = [loaded["groups"][name] for name in names if name in loaded["groups"]]
    inside = {task.task_name for group in groups for task in group.get_all_tasks()}
    return [*groups, *(task for name, task in loaded["tasks"].items() if name not in inside)]


def require_folders(folders: Sequence[Path]) -> None:
    """Refuse folders of further tasks that are none.

    Raises:
        UsageError: with the first of them.
    """
    missing = [folder for folder in folders if not folder.is_dir()]
    if missing:
        raise UsageError(f"{missing[0]} is no folder", "give a folder of task configurations with --include-path")


def line(error: Exception) -> str:
    """The first line of what an error says."""
    return (str(error).strip() or "no message").splitlines()[0]


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the harness from reporting what is expected: a model that is loaded already."""
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
