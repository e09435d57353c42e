"""Tiny models of the installed backbone families, and batches for them."""

from __future__ import annotations

import copy
import functools
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn
from transformers import AutoConfig, PretrainedConfig, PreTrainedModel

from refarch.architecture import FamilySpec
from refarch.architecture.family import BackboneKind
from refarch.plugins.registry import Registry, default_registry

Batch = dict[str, Tensor]
PAD = 0
FIRST_TOKEN = 3
"""Ids below are kept for padding, beginning and end."""
DECODER_TOKENS = 4


class Tiny(NamedTuple):
    """One family's tiny model under one of transformers' auto classes.

    The weights are random with a spread that makes wrong masks and positions visible; dropout is off everywhere, so
    that training is deterministic too.
    """

    family: FamilySpec
    auto_class: str

    @property
    def label(self) -> str:
        """``bert-AutoModelForMaskedLM``."""
        return f"{self.family.name}-{self.auto_class}"

    @property
    def kind(self) -> BackboneKind:
        """What the family's stacks make it."""
        return self.family.kind

    def model(self) -> PreTrainedModel:
        """A fresh copy in evaluation mode; equal at every call."""
        return cast(PreTrainedModel, _copy(_built(self.family.to_json(), self.auto_class), {}))

    def meta(self) -> PreTrainedModel:
        """The same model without storage."""
        with torch.device("meta"):
            return self.build(self.config()).eval()

    def config(self, **changes: Any) -> PretrainedConfig:
        """The tiny configuration, with every dropout rate at zero."""
        config = AutoConfig.for_model(self.family.tiny.model_type, **{**self.family.tiny.config, **changes})
        for name, value in list(vars(config).items()):
            if "drop" in name and isinstance(value, float):
                setattr(config, name, 0.0)
        return config

    def build(self, config: PretrainedConfig) -> PreTrainedModel:
        """A model of this auto class."""
        return getattr(transformers, self.auto_class).from_config(config)

    def batch(self, model: PreTrainedModel, lengths: Sequence[int] = (7, 7), seed: int = 0) -> Batch:
        """Token ids, mask and, where the model takes them, positions; row i depends on seed, i and its length alone.

        Shorter rows are padded on the left in a decoder, on the right otherwise.
        """
        vocabulary, longest = int(model.config.vocab_size), max(lengths)
        ids = torch.full((len(lengths), longest), PAD)  # b t
        mask = torch.zeros_like(ids)
        decoded = []
        for row, length in enumerate(lengths):
            generator = torch.Generator().manual_seed(1000 * seed + row)
            where = slice(longest - length, None) if self.kind == "decoder" else slice(0, length)
            decoded.append(torch.randint(FIRST_TOKEN, vocabulary, (DECODER_TOKENS,), generator=generator))
            ids[row, where] = torch.randint(FIRST_TOKEN, vocabulary, (length,), generator=generator)
            mask[row, where] = 1
        batch = {"input_ids": ids, "attention_mask": mask}
        if self.kind == "decoder":
            batch["position_ids"] = (mask.cumsum(dim=1) - 1).clamp(min=0)
        if self.kind == "encoder-decoder":
            batch["decoder_input_ids"] = torch.stack(decoded)
        return batch

    def real(self, output: Tensor, lengths: Sequence[int], row: int) -> Tensor:
        """The part of a row's output that belongs to real tokens; all of it where there is no token axis of inputs."""
        if output.ndim < 2 or output.shape[1] != max(lengths) or self.kind == "encoder-decoder":
            return output[row]
        where = slice(-lengths[row], None) if self.kind == "decoder" else slice(0, lengths[row])
        return output[row, where]

    def loss(self, model: PreTrainedModel, batch: Batch) -> Tensor:
        """The model's own loss for fixed random labels; a cross entropy over the output where the head is unknown."""
        generator = torch.Generator().manual_seed(7)
        ids = batch.get("decoder_input_ids", batch["input_ids"])
        shape: tuple[int, ...] | None = None
        if "SequenceClassification" in self.auto_class:
            shape, classes = (ids.shape[0],), int(model.config.num_labels or 1)
        elif "TokenClassification" in self.auto_class:
            shape, classes = tuple(ids.shape), int(model.config.num_labels or 1)
        elif self.auto_class.endswith("LM"):
            shape, classes = tuple(ids.shape), int(model.config.vocab_size)
        if shape is not None:
            labels = torch.randint(0, classes, shape, generator=generator)
            return model(**batch, labels=labels).loss.float()
        output = primary(model(**batch)).float()
        targets = torch.randint(0, output.shape[-1], output.shape[:-1], generator=generator)
        return F.cross_entropy(output.reshape(-1, output.shape[-1]), targets.reshape(-1))


def primary(output: Any) -> Tensor:
    """The tensor that an output is about: logits, or hidden states where there is no head."""
    for name in ("logits", "start_logits", "last_hidden_state"):
        if output.get(name) is not None:
            return output[name]
    return output[0]


@torch.no_grad()
def outputs(model: PreTrainedModel, batch: Batch) -> Tensor:
    """The model's output in evaluation mode."""
    was = model.training
    model.eval()
    try:
        return primary(model(**batch)).clone()
    finally:
        model.train(was)


@torch.no_grad()
def spread(model: torch.nn.Module, seed: int) -> None:
    """Add noise to every parameter, biases and norms too, so that none of them is trivial."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)


def all_tiny(families: Sequence[str] | None = None, registry: Registry | None = None) -> list[Tiny]:
    """Every family's tiny model under every auto class that the family names.

    Args:
        families: only these; all installed ones when left out.
        registry: where families are looked up.

    Raises:
        UnknownNameError: no such family.
    """
    registry = registry or default_registry()
    if families is None:
        chosen = registry.families()
    else:
        specs = [registry.backbone(name) for name in families]
        chosen = [spec for spec in specs if isinstance(spec, FamilySpec)]
    return [Tiny(family, auto_class) for family in chosen for auto_class in family.tiny.auto_classes]


def all_with_head(auto_class: str, registry: Registry | None = None) -> list[Tiny]:
    """The tiny model of every family that transformers has such a head for, whether the family names it or not."""
    heads = getattr(transformers, auto_class)._model_mapping
    families = (registry or default_registry()).families()
    return [Tiny(family, auto_class) for family in families if type(Tiny(family, auto_class).config()) in heads]


def _copied(module: nn.Module, memo: dict[int, Any]) -> nn.Module:
    return memo[id(module)] if id(module) in memo else _copy(module, memo)


def _copy(module: nn.Module, memo: dict[int, Any]) -> nn.Module:
    """What ``copy.deepcopy`` gives, several times faster: most of a module's attributes are empty or plain."""
    made: nn.Module = module.__new__(type(module))
    memo[id(module)] = made
    for name, value in vars(module).items():
        if name == "_modules":
            made.__dict__[name] = {key: None if child is None else _copied(child, memo) for key, child in value.items()}
        elif value is None or type(value) in (bool, int, float, str):
            made.__dict__[name] = value
        elif type(value) in (dict, OrderedDict, set, list) and not value:
            made.__dict__[name] = type(value)()
        else:
            made.__dict__[name] = copy.deepcopy(value, memo)
    return made


@functools.lru_cache(maxsize=64)
def _built(family: str, auto_class: str) -> PreTrainedModel:
    tiny = Tiny(FamilySpec.from_json(family), auto_class)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = tiny.build(tiny.config())
    spread(model, seed=1)
    return model.eval()
