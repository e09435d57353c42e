"""What is to be measured: techniques by name on a backbone, or the configurations of runs, grouped by backbone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from refarch import Formulation, PipelineSpec, Registry
from refarch.architecture import BackboneChoice, TechniqueChoice
from refarch.errors import RefarchError
from refarch.pipeline import backbone_kind
from refarch.plugins import configured, resolve_pipeline
from refarch_compare import naming
from refarch_compare.evidence.store import Problem
from refarch_compare.measure.measuring import Subject
from refarch_compare.measure.reading import Run, text_of
from refarch_compare.tasks import model_arguments


@dataclass
class Group:
    """Subjects that share a backbone with its head.

    Attributes:
        backbone: the choice.
        auto_class: what it is loaded with.
        arguments: for loading it, from the task.
        precision: of the runs' training; None to choose.
        subjects: what is measured on it.
    """

    backbone: BackboneChoice
    auto_class: str
    arguments: dict[str, Any]
    precision: str | None = None
    subjects: list[Subject] = field(default_factory=list)


Heads = dict[str, tuple[Formulation, dict[str, Any]]]
"""By place: how the task is put to the backbone, and what it asks of the model's head."""


def of_runs(runs: Sequence[Run], registry: Registry) -> tuple[list[Group], list[Problem]]:
    """The configurations of runs by backbone, and the runs whose data or plugins cannot be had any more.

    Runs that differ in seed, task or label alone are one configuration, if their tasks' heads are of one shape.
    """
    heads: Heads = {}
    alike: dict[str, dict[str, list[Run]]] = {}
    problems: list[Problem] = []
    for run in runs:
        pipeline = run.record.pipeline
        try:
            formulation, arguments = heads[run.place] if run.place in heads else _head(pipeline, registry)
            configured(pipeline, registry)
        except RefarchError as error:
            problems.append(Problem(str(run.folder), " ".join(error.message.split())))
            continue
        heads[run.place] = formulation, arguments
        base = [pipeline.backbone.model_dump(), formulation.auto_class, arguments, pipeline.training.precision]
        choices = [choice.model_dump(exclude={"label"}) for choice in pipeline.techniques]
        alike.setdefault(text_of(base), {}).setdefault(text_of(choices), []).append(run)
    return [_group(list(same.values()), heads, registry) for same in alike.values()], problems


def _group(configurations: list[list[Run]], heads: Heads, registry: Registry) -> Group:
    first = configurations[0][0]
    formulation, arguments = heads[first.place]
    pipeline = first.record.pipeline
    subjects = [_subject(runs, formulation, registry) for runs in configurations]
    return Group(pipeline.backbone, formulation.auto_class, arguments, pipeline.training.precision, subjects)


def of_names(
    names: Sequence[str], backbone: str, task: str | None, dtype: str | None, registry: Registry
) -> list[Group]:
    """Techniques by name on a backbone, with a task's head or with none.

    Args:
        names: as :mod:`refarch_compare.naming` reads them.
        backbone: a model plugin's name, a folder or a hub id.
        task: a task's name; the backbone is loaded without a head when left out.
        dtype: that the backbone is loaded in; its own when left out.
        registry: where names are looked up.

    Raises:
        UsageError: an unknown name, a wrong option.
    """
    choice = BackboneChoice.parse({"name": backbone, "dtype": dtype}, "--backbone")
    chosen = [naming.parse(name, registry) for name in dict.fromkeys(names)]
    if task is None:
        subjects = [Subject(item.label, ((item.technique.name, item.technique),)) for item in chosen]
        return [Group(choice, "AutoModel", {}, subjects=subjects)]
    first = TechniqueChoice(name=chosen[0].technique.name)
    pipeline = resolve_pipeline(PipelineSpec(backbone=choice, techniques=(first,), task=task), registry)  # type: ignore[arg-type]
    formulation, arguments = _head(pipeline, registry)
    subjects = [
        Subject(
            item.label,
            ((item.technique.name, item.technique),),
            head=formulation.new_head and not item.technique.selects_head,
        )
        for item in chosen
    ]
    return [Group(choice, formulation.auto_class, arguments, subjects=subjects)]


def _head(pipeline: PipelineSpec, registry: Registry) -> tuple[Formulation, dict[str, Any]]:
    kind = backbone_kind(pipeline.backbone, registry)
    formulation = registry.task(pipeline.task.name).formulation(kind, pipeline.task.formulation)
    return formulation, model_arguments(pipeline, formulation, registry)


def _subject(runs: list[Run], formulation: Formulation, registry: Registry) -> Subject:
    first = runs[0]
    techniques = tuple(configured(first.record.pipeline, registry))
    folders = tuple(first.folder / name for name in first.record.adaptations)
    return Subject(
        label=first.label,
        techniques=techniques,
        head=formulation.new_head and not techniques[0][1].selects_head,
        folders=folders if all(folder.is_dir() for folder in folders) else (),
        runs=tuple(run.folder for run in runs),
    )
