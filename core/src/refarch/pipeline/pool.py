"""What runs of one process can share: a backbone that is loaded once, and data that are read and encoded once.

A run on a shared base gives bit for bit what it gives on a fresh one. A new head's values are drawn again from the
run's seed, in the way that transformers draws them when it loads the model; after a run everything is detached, and
whatever does not come back as it was is loaded again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import pickle
import zlib
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from refarch.architecture import Formulation, PipelineSpec, TaskChoice, TaskSpec
from refarch.engine import adaptations
from refarch.engine.layers.quantised import inner_tensors
from refarch.pipeline.backbone import backbone_kind, load_backbone
from refarch.pipeline.seeding import seeds
from refarch.plugins import Registry, ResolvedPipeline, look_up
from refarch.tasks.making import make_task
from refarch.tasks.task import Data, Task

logger = logging.getLogger(__name__)
_FLAG = "_is_hf_initialized"
"""transformers' mark on what it has loaded: a parameter without it has the values of a new head."""
_TENSORS = ("_modules", "_parameters", "_buffers")
"""Attributes of a torch module that hold what checksums watch over."""


@dataclass(frozen=True)
class Base:
    """A pipeline's parts before its techniques are attached."""

    spec: TaskSpec
    formulation: Formulation
    task: Task
    data: Data
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase


@dataclass
class _Kept:
    """A loaded backbone, with what it takes to see that it is as it was."""

    key: str
    seed: int
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    device: torch.device
    attributes: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    settings: str = ""
    content: dict[str, int] = field(default_factory=dict)


class Pool:
    """Keeps the last backbone and the data of the last tasks for the next run. For one run at a time.

    Args:
        tasks: how many tasks' data are kept.
    """

    def __init__(self, tasks: int = 4) -> None:
        self.tasks = tasks
        self._kept: _Kept | None = None
        self._returns = False
        self._read: OrderedDict[str, Task] = OrderedDict()
        self._encoded: OrderedDict[str, tuple[Task, Data]] = OrderedDict()

    def take(self, pipeline: PipelineSpec | ResolvedPipeline, registry: Registry) -> Base:
        """A pipeline's parts, kept or new.

        Args:
            pipeline: looked up; a plain spec is looked up first.
            registry: where names are looked up.

        Raises:
            RefarchError: with the cause, whatever part of it cannot be had.
        """
        pipeline, spec, _ = look_up(pipeline, registry)
        own = seeds(pipeline.seed)
        formulation = spec.formulation(backbone_kind(pipeline.backbone, registry), pipeline.task.formulation)
        task = self._task(pipeline.task, spec, formulation, own.data)
        arguments = task.model_arguments()
        backbone = pipeline.backbone.to_json(indent=None)
        key = f"{backbone} {formulation.auto_class} {json.dumps(arguments, sort_keys=True, default=repr)}"
        if not self._fits(key, own.head):
            self._kept = None  # before the next one is loaded: there may not be room for both
            loaded = load_backbone(pipeline.backbone, formulation.auto_class, arguments, registry, own.head)
            self._kept = _Kept(key, own.head, *loaded, device=loaded[0].device)
        kept = self._kept
        assert kept is not None
        if self._returns and not kept.content:
            _remember(kept)
        task, data = self._data(task, kept.tokenizer, backbone)
        return Base(spec, formulation, task, data, kept.model, kept.tokenizer)

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """A run's turn with what it takes; afterwards, however it ends, the backbone is made ready for the next one."""
        self._returns = True
        try:
            yield
        finally:
            self._returns = False
            kept, self._kept = self._kept, None
            if kept is not None:
                self._kept = _restored(kept)

    def _task(self, choice: TaskChoice, spec: TaskSpec, formulation: Formulation, seed: int) -> Task:
        key = f"{choice.to_json(indent=None)} {formulation.name} {seed}"
        if key not in self._read:
            task = make_task(spec, choice.options, formulation.name)
            task.read(seed)
            self._read[key] = task
            _shorten(self._read, self.tasks)
        self._read.move_to_end(key)
        return self._read[key]

    def _data(self, task: Task, tokenizer: PreTrainedTokenizerBase, backbone: str) -> tuple[Task, Data]:
        """The task's splits, encoded. Tasks that have read the same share them: their seeds made no difference."""
        key = f"{backbone} {_digest(task)}"
        if key not in self._encoded:
            self._encoded[key] = task, task.encode(tokenizer)
            _shorten(self._encoded, self.tasks)
        self._encoded.move_to_end(key)
        return self._encoded[key]

    def _fits(self, key: str, seed: int) -> bool:
        """Whether the kept backbone is the wanted one, or could be made so."""
        kept = self._kept
        if kept is None or kept.key != key:
            return False
        if kept.seed != seed:
            before = {name: tensor.clone() for name, tensor in _new(kept.model).items()}
            _renew(kept.model, kept.seed)
            after = _new(kept.model)
            if not all(torch.equal(tensor, after[name]) for name, tensor in before.items()):
                return False  # this class of model draws in another way when it is loaded
            _renew(kept.model, seed)
            kept.seed = seed
            kept.content |= {name: _checksum(tensor) for name, tensor in _new(kept.model).items()}
        return True


def _digest(task: Task) -> str:
    """What a task has read, as a number; tasks that cannot be pickled are each their own."""
    try:
        return hashlib.sha256(pickle.dumps(task)).hexdigest()
    except Exception:  # a task may hold anything
        return str(id(task))


def _shorten(store: OrderedDict[str, Any], size: int) -> None:
    while len(store) > size:
        store.popitem(last=False)


def _tensors(model: PreTrainedModel) -> dict[str, Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def _new(model: PreTrainedModel) -> dict[str, Tensor]:
    """Parameters and buffers whose values were not read from files."""
    return {name: tensor.detach() for name, tensor in _tensors(model).items() if not getattr(tensor, _FLAG, False)}


def _renew(model: PreTrainedModel, seed: int) -> None:
    """Draw a new head's values as loading the model with this seed does."""
    torch.manual_seed(seed)
    for module in model.modules():
        setattr(module, _FLAG, False)
    model.initialize_weights()


def _remember(kept: _Kept) -> None:
    model = kept.model
    kept.attributes = {k: v for k, v in vars(model).items() if k not in _TENSORS}
    kept.config, kept.settings = dict(vars(model.config)), _settings(model)
    kept.content = {name: _checksum(tensor) for name, tensor in _tensors(model).items()}


def _restored(kept: _Kept) -> _Kept | None:
    """The backbone with nothing attached and as it was loaded; None if it is not."""
    model = kept.model
    try:
        for adaptation in reversed(adaptations(model)):
            adaptation.detach()
        model.to(kept.device).eval()  # type: ignore[arg-type]
        if any(getattr(module, "gradient_checkpointing", False) for module in model.modules()):
            model.gradient_checkpointing_disable()
        for owner, values in ((model, kept.attributes), (model.config, kept.config)):
            for name in [
                k for k in vars(owner) if k not in values and k not in ("_modules", "_parameters", "_buffers")
            ]:
                delattr(owner, name)
            vars(owner).update(values)
        content = {name: _checksum(tensor) for name, tensor in _tensors(model).items()}
        changed = [name for name in kept.content.keys() | content.keys() if kept.content.get(name) != content.get(name)]
        if _settings(model) != kept.settings:
            changed.append("its configuration")
    except Exception as error:  # whatever a run left behind
        changed = [f"{type(error).__name__}: {error}"]
    if changed:
        logger.warning("a run has changed the backbone (%s); it will be loaded again", ", ".join(changed[:3]))
        return None
    return kept


def _settings(model: PreTrainedModel) -> str:
    generation = getattr(model, "generation_config", None)
    both = [model.config.to_dict(), None if generation is None else generation.to_dict()]
    return json.dumps(both, sort_keys=True, default=repr)


def _checksum(tensor: Tensor) -> int:
    found = 0
    for inner in inner_tensors(tensor):
        flat = inner.detach().cpu().contiguous().reshape(-1)
        found = zlib.crc32(flat.view(torch.uint8).numpy().data, found)
    return found
