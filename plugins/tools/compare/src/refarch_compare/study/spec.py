"""What a study is: a grid of techniques, tasks, backbones and seeds, with a budget and a search. Needs no torch."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, Field, StringConstraints, field_validator, model_validator

from refarch import TrainingSpec
from refarch.architecture import BackboneChoice, Spec, TaskChoice
from refarch.errors import SpecError

Label = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$", max_length=60)]
"""What an entry is called in tables and in names of folders."""


def _training_fields(value: dict[str, Any]) -> dict[str, Any]:
    try:
        TrainingSpec.parse(value, "training")
    except SpecError as error:
        raise ValueError(str(error)) from None
    return value


Training = Annotated[dict[str, Any], AfterValidator(_training_fields)]
"""Fields of a pipeline's training; those that are left out come from the technique, the task and the defaults."""


class TechniqueEntry(Spec):
    """One configuration of one technique."""

    name: str = Field(min_length=1)
    label: Label | None = None
    """Its name in the study; the technique's, with the preset's, when left out."""
    preset: str | None = None
    options: dict[str, Any] = {}
    """The technique's options, and ``slots`` and ``layers``. Its size is solved for where the study has a budget."""
    training: Training = {}
    budget: bool = True
    """False for a technique that is in the study whatever it costs: full finetuning, the head alone."""


class TaskEntry(Spec):
    """One task with its options."""

    name: str = Field(min_length=1)
    label: Label | None = None
    """Its name in the study; the task's when left out."""
    options: dict[str, Any] = {}
    formulation: str | None = None
    """How the task is put to the backbones; what suits each of them when left out."""
    training: Training = {}

    def choice(self) -> TaskChoice:
        """The same for a pipeline."""
        return TaskChoice(name=self.name, options=self.options, formulation=self.formulation)


class BackboneEntry(BackboneChoice):
    """One pretrained model."""

    label: Label | None = None
    """Its name in the study; the last part of the backbone's name when left out."""

    def choice(self) -> BackboneChoice:
        """The same for a pipeline."""
        return BackboneChoice.parse(self.model_dump(exclude={"label"}))


class Budget(Spec):
    """How many trainable parameters each technique's modules may have; the head does not count."""

    parameters: int = Field(ge=1)
    tolerance: float = Field(0.1, ge=0, lt=1)
    """How far from it a technique may be, as a share of it."""
    otherwise: Literal["refuse", "nearest", "leave out"] = "refuse"
    """What becomes of a technique that cannot come so near: the study does not start, or the technique takes part as
    near as it comes and is marked, or it is left out."""


class Search(Spec):
    """A search for the learning rate of each technique on each task and backbone, on the validation split alone."""

    trials: int = Field(8, ge=1)
    """The same number for each technique."""
    learning_rate: tuple[float, float] = (1e-5, 1e-1)
    """Where it is searched, on a logarithmic scale."""
    seed: int = Field(0, ge=0, lt=2**31)
    """The seed of the trials' runs and of what is tried."""
    training: Training = {}
    """Fields of the training that differ in trials: shorter ones, for example."""
    prune: bool = True
    """Stop a trial that, at one of its evaluations, is worse than the median of the trials before it was there."""
    evaluations: int = Field(4, ge=1)
    """Of each trial, evenly spread, at which it can be stopped."""
    settled: int = Field(3, ge=1)
    """So many trials must have run to their end before one is stopped."""

    @field_validator("learning_rate")
    @classmethod
    def _a_range(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0 < value[0] < value[1]:
            raise ValueError(f"expected a lower and a higher learning rate above 0, but got {list(value)}")
        return value


class StudySpec(Spec):
    """A study: what is compared, on what, how often, and on which terms."""

    name: str = "study"
    techniques: tuple[TechniqueEntry, ...] = Field(min_length=1)
    tasks: tuple[TaskEntry, ...] = Field(min_length=1)
    backbones: tuple[BackboneEntry, ...] = Field(min_length=1)
    seeds: tuple[int, ...] = Field((0, 1, 2), min_length=1)
    """Seeds of the runs; a number n stands for 0 to n - 1."""
    training: Training = {}
    """For all runs; an entry's own values win."""
    budget: Budget | None = None
    search: Search | None = None

    @field_validator("techniques", "tasks", "backbones", mode="before")
    @classmethod
    def _by_name(cls, value: Any) -> Any:
        items = [value] if isinstance(value, (str, dict)) else value
        if not isinstance(items, (list, tuple)):
            return items
        return tuple({"name": item} if isinstance(item, str) else item for item in items)

    @field_validator("seeds", mode="before")
    @classmethod
    def _first_seeds(cls, value: Any) -> Any:
        return tuple(range(value)) if isinstance(value, int) and not isinstance(value, bool) else value

    @field_validator("budget", mode="before")
    @classmethod
    def _budget_by_number(cls, value: Any) -> Any:
        return {"parameters": value} if isinstance(value, int) and not isinstance(value, bool) else value

    @model_validator(mode="after")
    def _labelled(self) -> StudySpec:
        labelled = {
            "techniques": _labels(self.techniques, lambda e: f"{e.name}-{e.preset}" if e.preset else e.name),
            "tasks": _labels(self.tasks, lambda e: e.name),
            "backbones": _labels(self.backbones, lambda e: _last_part(e.name)),
        }
        for name, entries in labelled.items():
            object.__setattr__(self, name, entries)
        twice = sorted({seed for seed in self.seeds if self.seeds.count(seed) > 1})
        if twice:
            raise ValueError(f"seeds: {twice[0]} stands there twice")
        wrong = [seed for seed in self.seeds if not 0 <= seed < 2**31]
        if wrong:
            raise ValueError(f"seeds: {wrong[0]} is no seed; expected 0 to {2**31 - 1}")
        trainings = [self.training, *(t.training for t in self.techniques), *(t.training for t in self.tasks)]
        if self.search is not None and any("learning_rate" in training for training in trainings):
            raise ValueError("training.learning_rate is set, but a search is to find it; remove one of the two")
        return self


Entry = TypeVar("Entry", TechniqueEntry, TaskEntry, BackboneEntry)


def _labels(entries: tuple[Entry, ...], default: Any) -> tuple[Entry, ...]:
    """The entries, each with a label; two of one label are refused."""
    found = tuple(e if e.label else e.model_copy(update={"label": _as_label(default(e))}) for e in entries)
    labels = [entry.label for entry in found]
    twice = next((label for label in labels if labels.count(label) > 1), None)
    if twice is not None:
        alike = [entry for entry in found if entry.label == twice]
        same = alike[0] == alike[1]
        raise ValueError(
            f"{twice!r} stands there twice, " + ("the same each time" if same else "give each a 'label' of its own")
        )
    return found


def _as_label(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]+", "-", text).strip("-_")[:60] or "x"


def _last_part(name: str) -> str:
    return Path(name).name or name


def differences_allowed(old: StudySpec, new: StudySpec) -> list[str]:
    """What of a study that has begun was changed, other than adding entries and seeds; empty if nothing was."""
    changed = [
        name
        for name in StudySpec.model_fields
        if name not in ("techniques", "tasks", "backbones", "seeds", "name")
        and getattr(old, name) != getattr(new, name)
    ]
    for name in ("techniques", "tasks", "backbones"):
        now = {entry.label: entry for entry in getattr(new, name)}
        changed += [f"{name}.{e.label}" for e in getattr(old, name) if now.get(e.label) != e]
    return [*changed, *(f"seeds.{seed}" for seed in _missing(old.seeds, new.seeds))]


def _missing(old: Iterable[int], new: Iterable[int]) -> list[int]:
    return sorted(set(old) - set(new))
