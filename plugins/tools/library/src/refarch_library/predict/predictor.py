"""Many adaptations on one backbone: loaded when they are first asked, dropped when there is no room for them."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from transformers import PreTrainedModel

from refarch import Adaptation, Registry, Task, default_registry
from refarch.errors import CheckpointError, CompositionError, UsageError
from refarch.plugins import locate
from refarch.tasks import Question, make_task
from refarch_library.base import choice, load_base
from refarch_library.entry import Entry
from refarch_library.finding import Found, find
from refarch_library.predict.loaded import Loaded, View
from refarch_library.predict.mixing import Mixture, NotByRow
from refarch_library.store import Library, load_parts

Answer = dict[str, Any]
"""What the task's ``ask`` gives for one text."""


class Predictor:
    """Answers texts with the entries of a library, or with runs, on one backbone.

    A batch may mix entries: those of one task and kind of head share forward passes, in which each row has its own
    adaptations, wherever these can be told apart by rows (a head that was trained along cannot); others take turns.

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
        self._mixtures: dict[View, Mixture] = {}
        """By view, the entries whose rows share a forward pass now."""
        self._held: OrderedDict[str, Loaded] = OrderedDict()
        self._apart: set[frozenset[str]] = set()
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
            for rows in self._together([name for name, _ in requests]):
                owners = [self.load(requests[row][0]) for row in rows]
                found = self._answer(owners, [requests[row][1] for row in rows])
                for row, answer in zip(rows, found, strict=True):
                    answers[row] = answer
        return answers

    def _together(self, names: Sequence[str]) -> list[list[int]]:
        """The rows in groups that are asked at once: those of one entry, or of several whose rows can share a batch."""
        by_name: dict[str, list[int]] = {}
        for row, name in enumerate(names):
            by_name.setdefault(name, []).append(row)
        alike: list[list[Loaded]] = []
        for name in by_name:
            loaded = self.load(name)
            own = next((members for members in alike if loaded.asks_as(members[0])), None)
            if own is None or len(own) == self.limit:
                alike.append([loaded])
            else:
                own.append(loaded)
        groups: list[list[int]] = []
        for members in alike:
            held = all(self._held.get(member.name) is member for member in members)
            together = len(members) > 1 and held and self._mix(members)
            for some in [members] if together else [[member] for member in members]:
                groups.append([row for member in some for row in by_name[member.name]])
        return groups

    def _mix(self, members: Sequence[Loaded]) -> bool:
        """Whether entries can share a forward pass; if so, they are ready for it."""
        view, key = members[0].view, frozenset(member.name for member in members)
        if self._mixed(members) is not None:
            return True
        if key in self._apart:
            return False
        self._dissolve(view)
        try:
            self._mixtures[view] = Mixture(members)
        except CompositionError:
            self._apart.add(key)
        return view in self._mixtures

    def _mixed(self, members: Sequence[Loaded]) -> Mixture | None:
        """The mixture that all of some entries of one view are in."""
        mixture = self._mixtures.get(members[0].view)
        return mixture if mixture is not None and mixture.holds(members) else None

    def _dissolve(self, view: View) -> None:
        """Let a view's entries run by themselves again."""
        if view in self._mixtures:
            self._mixtures.pop(view).dissolve()

    def _answer(self, owners: Sequence[Loaded], texts: Sequence[Question]) -> list[Answer]:
        """The answers to texts, each by its own entry; all are in one view."""
        first, view = owners[0], owners[0].view
        cast = torch.autocast(
            view.model.device.type, getattr(torch, first.precision), enabled=first.precision != "float32"
        )
        with torch.inference_mode(), cast:
            mixture = self._mixed(owners)
            if mixture is not None:
                try:
                    return mixture.ask(owners, texts, self.batch_size)
                except NotByRow:
                    self._apart.add(frozenset(member.name for member in mixture.members))
                    self._dissolve(view)
            answers: list[Answer] = [{}] * len(texts)
            for owner in dict.fromkeys(owners):
                rows = [row for row, own in enumerate(owners) if own is owner]
                with owner.active():
                    found = owner.task.ask(view.model, view.tokenizer, [texts[row] for row in rows], self.batch_size)
                for row, answer in zip(rows, found, strict=True):
                    answers[row] = answer
            return answers

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
                self._held[name] = Loaded(name, found.entry, view, self._put(found, view), task)
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
        if self._mixed([loaded]) is not None:
            self._dissolve(loaded.view)
        for adaptation in reversed(loaded.adaptations):
            adaptation.detach()

    def _put(self, found: Found, view: View) -> tuple[Adaptation, ...]:
        done = load_parts(view.model, found.folder, found.entry, registry=self.registry)
        for adaptation in done:
            adaptation.enabled = False
        return done

    def _task(self, entry: Entry) -> Task:
        own = entry.record.pipeline.task
        spec = self.registry.task(own.name)
        task = make_task(spec, own.options, entry.record.formulation)
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
