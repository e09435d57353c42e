"""From a study's spec to its cells: names looked up, data read, sizes solved for the budget on empty backbones."""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass
from typing import Any

from pydantic import Field

from refarch import Formulation, PipelineSpec, Registry, pipeline as pipelines
from refarch.architecture import Spec, TechniqueChoice
from refarch.errors import RefarchError, UsageError
from refarch.plugins import locate, resolve_pipeline
from refarch_compare.cost.budget import BudgetError, Solved, nearest
from refarch_compare.study.shape import Shapes
from refarch_compare.study.spec import BackboneEntry, Search, StudySpec, TaskEntry, TechniqueEntry
from refarch_compare.tasks import model_arguments


class Cell(Spec):
    """One run of a study."""

    id: str
    """The name of its folder below ``runs/``."""
    technique: str
    """Labels of the study's entries."""
    task: str
    backbone: str
    seed: int
    group: str
    """Cells that differ in nothing but the seed; a search is made for a group."""
    parameters: int
    """Trainable parameters of the technique's modules, counted before the run."""
    matched: bool | None
    """Whether that is the budget, within its tolerance; None where the budget does not apply."""
    pipeline: PipelineSpec
    """What runs. Where a search finds the learning rate, that is still to come."""
    size: str = Field("", exclude=True)
    """What the technique's size is, for people; not kept in files, as it follows from the pipeline and the plugin."""
    rate: str = Field("", exclude=True)
    """The learning rate, for people."""


class Plan(Spec):
    """All cells of a study, and what was decided on the way."""

    study: StudySpec
    cells: tuple[Cell, ...]
    notes: tuple[str, ...] = ()
    """What a reader of the results must know: techniques off the budget or left out."""

    def groups(self) -> dict[str, list[Cell]]:
        """The cells by group, in order."""
        found: dict[str, list[Cell]] = {}
        for cell in self.cells:
            found.setdefault(cell.group, []).append(cell)
        return found


@dataclass(frozen=True)
class _Named:
    """A technique on a task and a backbone."""

    technique: TechniqueEntry
    task: TaskEntry
    backbone: BackboneEntry
    pipeline: PipelineSpec
    sizes: tuple[str, ...]
    """The technique's options that are sizes."""
    searched: bool
    """Whether a search finds the learning rate."""

    @property
    def where(self) -> str:
        return f"{self.technique.label} on {self.task.label}, {self.backbone.label}"

    @property
    def group(self) -> str:
        return f"{self.technique.label}.{self.task.label}.{self.backbone.label}"


@dataclass(frozen=True)
class _Combination(_Named):
    """The same, with the way in which the task is put to the backbone."""

    formulation: Formulation

    def cell(self, seed: int, solved: Solved, matched: bool | None) -> Cell:
        return Cell(
            id=f"{self.group}.seed{seed}",
            technique=str(self.technique.label),
            task=str(self.task.label),
            backbone=str(self.backbone.label),
            seed=seed,
            group=self.group,
            parameters=solved.parameters,
            matched=matched,
            pipeline=self.pipeline.model_copy(update={"seed": seed}),
            size=", ".join(f"{size}={self.pipeline.techniques[0].options[size]}" for size in self.sizes),
            rate="searched" if self.searched else f"{self.pipeline.training.learning_rate:g}",
        )


def plan(study: StudySpec, registry: Registry) -> Plan:
    """Decide everything about a study that can be decided before it runs.

    All names and options are looked up first; then each task's data are read once, so that a missing file is found now
    and not after hours; then every technique is attached to every backbone, without weights, and its size solved for.

    Args:
        study: the spec.
        registry: where names are looked up.

    Raises:
        UsageError: an unknown name, a wrong option, a slot that a backbone lacks, two cells that are the same run ...
        BudgetError: a technique cannot have about as many parameters as the budget; says the nearest it can.
    """
    combinations = _combinations(study, registry)
    arguments = _read_tasks(combinations, registry)
    shapes = Shapes(registry)
    blocks: dict[tuple[str, str], list[tuple[_Combination, Solved, bool | None]]] = {}
    unmet: list[str] = []
    for combination in combinations:
        block = blocks.setdefault((str(combination.backbone.label), str(combination.task.label)), [])
        solved, combination = _sized(study, combination, arguments[_reading(combination)], shapes)
        matched = _matched(study, combination.technique, solved)
        if matched is False:
            unmet.append(_said(study, combination, solved))
        if matched is not False or (study.budget and study.budget.otherwise == "nearest"):
            block.append((combination, solved, matched))
    unmet = list(dict.fromkeys(unmet))
    if unmet and study.budget and study.budget.otherwise == "refuse":
        raise _over(study, unmet)
    cells = [one.cell(seed, s, m) for block in blocks.values() for seed in study.seeds for one, s, m in block]
    if not cells:
        raise UsageError("no technique of the study comes near the budget", "raise budget.tolerance")
    _all_differ(cells)
    verb = "Left out" if study.budget and study.budget.otherwise == "leave out" else "Off the budget"
    return Plan(study=study, cells=tuple(cells), notes=tuple(f"{verb}: {line}" for line in unmet))


def trial_pipeline(spec: Search, pipeline: PipelineSpec, rate: float) -> PipelineSpec:
    """What a trial runs: the group's pipeline with the search's seed, scored on validation."""
    training = {**pipeline.training.model_dump(), "evaluate_every": None, "evaluations": spec.evaluations}
    training |= {**spec.training, "learning_rate": rate}
    data = {**pipeline.model_dump(), "training": training, "seed": spec.seed, "score_on": "validation"}
    return PipelineSpec.parse(data, "a trial's pipeline")


def _combinations(study: StudySpec, registry: Registry) -> list[_Combination]:
    """Every technique on every task and backbone: first all names, then what takes the models' configurations."""
    named = [
        _named(study, technique, task, backbone, registry)
        for backbone in study.backbones
        for task in study.tasks
        for technique in study.techniques
    ]
    return [_formulated(one, registry) for one in named]


def _named(
    study: StudySpec, technique: TechniqueEntry, task: TaskEntry, backbone: BackboneEntry, registry: Registry
) -> _Named:
    """A technique on a task and a backbone with the pipeline of the first seed, before its size is solved.

    Needs no torch, so that all names are looked up before any configuration of a model.
    """
    options = dict(technique.options)
    if technique.preset is not None:
        if options.get("preset", technique.preset) != technique.preset:
            raise UsageError(f"technique {technique.label!r} has two presets", "give preset, or options.preset")
        options["preset"] = technique.preset
    where = f"{technique.label} on {task.label}, {backbone.label}"
    try:
        pipeline = PipelineSpec(
            backbone=backbone.choice(),
            techniques=(TechniqueChoice(name=technique.name, options=options, label=technique.label),),
            task=task.choice(),
            training={**study.training, **task.training, **technique.training},  # type: ignore[arg-type]
            seed=study.seeds[0],
        )
        pipeline = resolve_pipeline(pipeline, registry)
        if study.search is not None:
            trial_pipeline(study.search, pipeline, pipeline.training.learning_rate)
        locate(pipeline.backbone, registry)
    except RefarchError as error:
        raise type(error)(f"{where}: {error.message}", error.hint) from None
    except ValueError as error:  # pydantic's: a technique's name that could be none, two rhythms of evaluation ...
        raise UsageError(f"{where}: {error}") from None
    sizes = tuple(option.name for option in registry.technique(technique.name).options if option.size)
    return _Named(technique, task, backbone, pipeline, sizes, study.search is not None)


def _formulated(named: _Named, registry: Registry) -> _Combination:
    """The same, with the way in which its task is put to its backbone."""
    try:
        kind = pipelines.backbone_kind(named.pipeline.backbone, registry)
        formulation = registry.task(named.task.name).formulation(kind, named.task.formulation)
    except RefarchError as error:
        raise type(error)(f"{named.where}: {error.message}", error.hint) from None
    return _Combination(**vars(named), formulation=formulation)


def _reading(combination: _Combination) -> tuple[str, str]:
    return str(combination.task.label), combination.formulation.name


def _read_tasks(combinations: list[_Combination], registry: Registry) -> dict[tuple[str, str], dict[str, Any]]:
    """Read each task's data once in each of its formulations; returns what they ask of the model's head."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for combination in combinations:
        if _reading(combination) in found:
            continue
        try:
            arguments = model_arguments(combination.pipeline, combination.formulation, registry)
        except RefarchError as error:
            raise type(error)(f"task {combination.task.label!r}: {error.message}", error.hint) from None
        found[_reading(combination)] = arguments
    return found


def _sized(
    study: StudySpec, combination: _Combination, arguments: dict[str, Any], shapes: Shapes
) -> tuple[Solved, _Combination]:
    """How near the budget it comes, and the combination at that size."""
    pipeline, technique = combination.pipeline, combination.technique
    spec, choice = shapes.registry.technique(technique.name), pipeline.techniques[0]

    def counted(options: dict[str, Any]) -> int:
        form, label = combination.formulation, str(technique.label)
        return shapes.count(
            pipeline.backbone, form.auto_class, arguments, spec.configure(options), label, form.new_head
        )

    try:
        if study.budget is None or not technique.budget:
            return Solved(counted(dict(choice.options)), dict(choice.options)), combination
        solved = nearest(spec, choice.options, counted, study.budget.parameters)
    except RefarchError as error:
        raise type(error)(f"{technique.label} on {combination.backbone.label}: {error.message}", error.hint) from None
    if solved.option is None:
        return solved, combination
    sized = choice.model_copy(update={"options": solved.options})
    pipeline = pipeline.model_copy(update={"techniques": (sized,)})
    return solved, dataclasses.replace(combination, pipeline=pipeline)


def _matched(study: StudySpec, technique: TechniqueEntry, solved: Solved) -> bool | None:
    if study.budget is None or not technique.budget:
        return None
    return solved.off(study.budget.parameters) <= study.budget.tolerance


def _said(study: StudySpec, combination: _Combination, solved: Solved) -> str:
    assert study.budget is not None
    name, label = combination.technique.name, combination.technique.label
    return f"{label} on {combination.backbone.label}: {solved.words(name, study.budget.parameters)}"


def _over(study: StudySpec, unmet: list[str]) -> BudgetError:
    assert study.budget is not None
    lines = unmet[0] if len(unmet) == 1 else "".join(f"\n  - {line}" for line in unmet)
    return BudgetError(
        f"the budget of {study.budget.parameters:,} trainable parameters within {study.budget.tolerance:.0%} cannot be"
        f" met: {lines}",
        "choose another budget or tolerance; or take these as they come (budget.otherwise: nearest), leave them out"
        " (budget.otherwise: leave out), or except one (budget: false in its entry)",
    )


def _all_differ(cells: list[Cell]) -> None:
    seen: dict[str, str] = {}
    for cell in cells:
        choice = cell.pipeline.techniques[0].model_copy(update={"label": None})
        text = cell.pipeline.model_copy(update={"techniques": (choice,)}).to_json(indent=None)
        key = hashlib.sha256(text.encode()).hexdigest()
        if key in seen:
            raise UsageError(
                f"the cells {seen[key]} and {cell.id} are the same run", "remove one of the two entries, or change it"
            )
        seen[key] = cell.id
