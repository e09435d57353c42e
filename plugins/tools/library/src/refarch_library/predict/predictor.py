"""Many adaptations on one backbone: loaded when they are first asked, dropped when there is no room for them."""

from __future__ import annotations

import contextlib
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from refarch import SOURCE_OPTIONS, SPLIT_OPTIONS, Adaptation, Registry, Task, default_registry, load
from refarch.errors import CheckpointError, UsageError
from refarch.files import below
from refarch.pipeline.evaluation import told_rows
from refarch.pipeline.resolve import locate
from refarch.pipeline.task import Question
from refarch.plugins import resolve
from refarch_library.base import choice, load_base
from refarch_library.entry import Entry
from refarch_library.finding import Found, find
from refarch_library.predict.mixing import NotMixable, mixed
from refarch_library.store import Library

Answer = dict[str, Any]
"""What the task's ``ask`` gives for one text."""


@dataclass
class View:
    """The backbone under one head. The views of a predictor share the backbone's parameters."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase


@dataclass
class Loaded:
    """An entry on the backbone.

    Attributes:
        entry: what it says about itself.
        view: where its adaptations are; they are disabled unless it is asked.
        adaptations: in their order.
        task: what encodes texts for it and reads its answers.
    """

    entry: Entry
    view: View
    adaptations: tuple[Adaptation, ...]
    task: Task

    @property
    def bytes(self) -> int:
        """What its parameters take."""
        return sum(p.numel() * p.element_size() for a in self.adaptations for p in a.parameters())

    @property
    def mixes(self) -> bool:
        """Whether its rows may stand in one batch with another entry's: it replaces no parameter, of a head say."""
        return not any(adaptation.copies for adaptation in self.adaptations)

    @property
    def mixes_with(self) -> tuple[Any, ...]:
        """What entries must have in common to be asked as one: the view, and all that decides how texts are asked."""
        pipeline = self.entry.record.pipeline
        data = {option.name for option in (*SOURCE_OPTIONS, *SPLIT_OPTIONS)}
        options = {name: value for name, value in pipeline.task.options.items() if name not in data}
        how = (pipeline.task.name, self.task.formulation, pipeline.training.precision, repr(sorted(options.items())))
        return id(self.view), *how

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """While inside, the view computes with this entry's adaptations and no others."""
        for adaptation in self.adaptations:
            adaptation.enabled = True
        try:
            yield
        finally:
            for adaptation in self.adaptations:
                adaptation.enabled = False


class Predictor:
    """Answers texts with the entries of a library, or with runs, on one backbone.

    The backbone is that of the first entry that is asked. Entries with heads of different kinds or labels can be mixed:
    each kind of head is a view of its own over the same parameters. The answers are those of the model that the run
    evaluated.

    One predictor may be used by several threads: a lock lets one of them compute at a time. It is not meant to be
    shared between processes.

    Args:
        library: where entries are looked up; the default one when left out.
        backbone: a model plugin's name, a folder or a hub id, instead of the one that the entries name; it must be the
            same model.
        limit: at most so many entries are held; the least recently asked one is dropped for a new one.
        max_bytes: at most so many bytes of parameters are held, beside the backbone's; the last entry always is.
        batch_size: texts at a time.
        device: the accelerator, if there is one, when left out.
        registry: where plugins are looked up.

    Raises:
        UsageError: ``limit`` is below one.
    """

    def __init__(
        self,
        library: Library | None = None,
        *,
        backbone: str | None = None,
        limit: int = 32,
        max_bytes: int | None = None,
        batch_size: int = 32,
        device: str | torch.device | None = None,
        registry: Registry | None = None,
    ) -> None:
        if limit < 1:
            raise UsageError(f"a predictor that holds {limit} entries can answer nothing", "hold one at least")
        self.library, self.backbone, self.limit, self.max_bytes = library or Library(), backbone, limit, max_bytes
        self.batch_size, self.device = batch_size, device
        self.registry = registry or default_registry()
        self.place = ""
        self._views: dict[tuple[Any, ...], View] = {}
        self._held: OrderedDict[str, Loaded] = OrderedDict()
        self._lock = threading.RLock()

    @property
    def held(self) -> tuple[str, ...]:
        """The entries that are loaded, the one that would be dropped first in front."""
        return tuple(self._held)

    def ask(self, name: str, texts: Sequence[Question]) -> list[Answer]:
        """The answers of one entry.

        Args:
            name: an entry's, or the folder of an entry or of a finished run.
            texts: one each, or pairs of texts for a task about pairs.

        Raises:
            RefarchError: the entry cannot be loaded, or a text cannot be encoded.
        """
        return self.ask_each([(name, text) for text in texts])

    def ask_each(self, requests: Sequence[tuple[str, Question]]) -> list[Answer]:
        """Answers to a batch in which each text names its own entry; in the order of the requests.

        Raises:
            RefarchError: as :meth:`ask`.
        """
        answers: list[Answer] = [{}] * len(requests)
        with self._lock:
            for names, rows in self._batches([name for name, _ in requests]):
                texts = [requests[row][1] for row in rows]
                owners = [requests[row][0] for row in rows]
                for row, answer in zip(rows, self._answers(names, owners, texts), strict=True):
                    answers[row] = answer
        return answers

    def _batches(self, owners: Sequence[str]) -> list[tuple[list[str], list[int]]]:
        """The entries that may share batches, with the rows that are theirs."""
        groups = _groups(owners)
        together: dict[Any, list[str]] = {}
        for number, name in enumerate(groups):
            loaded = self.load(name)
            together.setdefault(loaded.mixes_with if len(groups) > 1 and loaded.mixes else number, []).append(name)
        return [(names, sorted(row for name in names for row in groups[name])) for names in together.values()]

    def _answers(self, names: Sequence[str], owners: Sequence[str], texts: Sequence[Question]) -> list[Answer]:
        """The answers to texts of entries that may share batches; entry by entry where they cannot after all."""
        held = {name: self._held[name] for name in names if name in self._held}
        if len(held) == len(names) > 1:  # all of them have room at once
            first = held[names[0]]
            with (
                contextlib.suppress(NotMixable),
                mixed({name: loaded.adaptations for name, loaded in held.items()}) as rows,
                told_rows(lambda chosen: rows([owners[row] for row in chosen])),
                self._computing(first),
            ):
                return first.task.ask(first.view.model, first.view.tokenizer, texts, self.batch_size)
        answers: list[Answer] = [{}] * len(texts)
        for name, own in _groups(owners).items():
            for row, answer in zip(own, self._answer(self.load(name), [texts[row] for row in own]), strict=True):
                answers[row] = answer
        return answers

    def _answer(self, loaded: Loaded, texts: Sequence[Question]) -> list[Answer]:
        """The answers to texts of one entry."""
        with self._computing(loaded), loaded.active():
            return loaded.task.ask(loaded.view.model, loaded.view.tokenizer, texts, self.batch_size)

    @contextlib.contextmanager
    def _computing(self, loaded: Loaded) -> Iterator[None]:
        precision = loaded.entry.record.pipeline.training.precision
        kind = loaded.view.model.device.type
        with torch.inference_mode(), torch.autocast(kind, getattr(torch, precision), enabled=precision != "float32"):
            yield

    def load(self, name: str) -> Loaded:
        """Hold an entry, and drop others as far as there is no room. :meth:`ask` does this when it is needed.

        Raises:
            RefarchError: it cannot be loaded here; what is held stays.
        """
        with self._lock:
            if name not in self._held:
                found = find(name, self.library)
                task = self._task(found.entry)
                view = self._view(found)
                self._held[name] = Loaded(found.entry, view, self._put(found, view), task)
                while len(self._held) > 1 and self._is_full():
                    self._drop()
            self._held.move_to_end(name)
            return self._held[name]

    @property
    def bytes(self) -> int:
        """What the parameters of all held entries take."""
        return sum(loaded.bytes for loaded in self._held.values())

    def close(self) -> None:
        """Drop everything, the backbone too."""
        with self._lock:
            while self._held:
                self._drop()
            self._views.clear()
            self.place = ""

    def _is_full(self) -> bool:
        return len(self._held) > self.limit or (self.max_bytes is not None and self.bytes > self.max_bytes)

    def _drop(self) -> None:
        _, loaded = self._held.popitem(last=False)
        for adaptation in reversed(loaded.adaptations):
            adaptation.detach()

    def _put(self, found: Found, view: View) -> tuple[Adaptation, ...]:
        done: list[Adaptation] = []
        try:
            for part in found.entry.parts:
                done.append(load(view.model, below(found.folder, part.folder), registry=self.registry))
        except BaseException:
            for adaptation in reversed(done):
                adaptation.detach()
            raise
        for adaptation in done:
            adaptation.enabled = False
        return tuple(done)

    def _task(self, entry: Entry) -> Task:
        own = entry.record.pipeline.task
        spec = self.registry.task(own.name)
        task: Task = resolve(spec.implementation)(**spec.configure(own.options))
        task.formulation, task.metric = entry.record.formulation, spec.metric
        if not task.answers_texts:
            raise UsageError(
                f"entry {entry.name!r}: the task {own.name!r} does not say how new texts are asked",
                "load the entry with Library.load, and ask the model yourself",
            )
        return task

    def _view(self, found: Found) -> View:
        """The backbone under the entry's head; whether it is the entry's own is checked when that is loaded onto it."""
        own, base = choice(found.entry, self.backbone), found.entry.base
        key = (base.auto_class, tuple(sorted(base.labels.items())), own.dtype, repr(sorted(own.config.items())))
        if key not in self._views:
            place = f"{locate(own, self.registry)} {own.revision or ''}".strip()
            if self._views and place != self.place:
                raise CheckpointError(
                    f"entry {found.entry.name!r} belongs to another backbone, {place}, than those that are held,"
                    f" {self.place}",
                    "use a predictor for each backbone; if it is the same one elsewhere, name it with backbone=",
                )
            view = View(*load_base(found.entry, self.registry, backbone=self.backbone, device=self.device))
            for other in list(self._views.values())[:1]:
                share(other.model, view.model)
            self._views[key], self.place = view, place
        return self._views[key]


def share(first: PreTrainedModel, second: PreTrainedModel) -> None:
    """Let a model use the parameters of another one's backbone where both have the same values at the same place."""
    own = {n: p for n, p in first.base_model.named_parameters() if not n.startswith("refarch.")}
    for name, parameter in list(second.base_model.named_parameters()):
        other = own.get(name)
        if other is not None and other.dtype == parameter.dtype and torch.equal(other, parameter):
            owner, _, leaf = name.rpartition(".")
            second.base_model.get_submodule(owner)._parameters[leaf] = other


def _groups(names: Iterable[str]) -> dict[str, list[int]]:
    """The rows of each name."""
    found: dict[str, list[int]] = {}
    for row, name in enumerate(names):
        found.setdefault(name, []).append(row)
    return found
