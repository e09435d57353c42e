"""Move a saved module to another backbone of compatible slots, and draw the baseline that porting is compared with.

Sabry and Belz 2024 (arXiv 2401.14228) compare a ported module with one from scratch, and with one whose parameters are
sampled from the ported module's own distribution: a normal one of each tensor's mean and standard deviation.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from refarch import Adaptation, Function, Registry, attach
from refarch.engine import fold, own_parameters, read, trusted_technique
from refarch.errors import CheckpointError, SlotError, SpecError
from refarch_library.transfer.matching import Match, Matcher


def port(
    folder: Path,
    model: PreTrainedModel,
    registry: Registry,
    *,
    layers: Any = None,
    trainable: bool = False,
    fresh: dict[str, Tensor] | None = None,
) -> tuple[Adaptation, Match]:
    """Attach a saved module's technique to another model, with its values.

    Args:
        folder: of the saved adaptation.
        model: another backbone; the same one gives the module itself.
        registry: where names are looked up.
        layers: at which layers it is to work there, as for :func:`refarch.attach`; its own choice when left out.
        trainable: True to go on training it.
        fresh: gets the values that the technique starts with there, by name.

    Returns:
        The adaptation, and which tensor came from where.

    Raises:
        CheckpointError: the files are damaged, or slots or widths differ; with the differences. The model is untouched.
    """
    saved, tensors = read(folder)
    technique = trusted_technique(saved, None, registry)
    if layers is not None:
        options = {**technique.options, "layers": layers}
        technique = technique.technique.configure(options)
    try:
        adaptation = attach(
            model,
            technique,
            name=saved.name,
            seed=saved.seed,
            train_head=saved.train_head,
            trainable=trainable,
            registry=registry,
        )
    except (SlotError, SpecError) as error:
        raise CheckpointError(
            f"{saved.name!r} does not fit {type(model).__name__}: {error.message}", error.hint
        ) from None
    with ExitStack() as undo:
        undo.callback(adaptation.detach)
        family = registry.backbone(saved.family)
        matcher = Matcher(saved, adaptation, family)  # type: ignore[arg-type]
        if saved.folded:
            _fold(adaptation, matcher)
        match = matcher.match()
        if fresh is not None:
            fresh.update({name: tensor.clone() for name, tensor in adaptation.state_dict().items()})
        _fill(adaptation, {own: tensors[source] for own, source in match.tensors.items()})
        undo.pop_all()
    return adaptation, match


@torch.no_grad()
def sample(adaptation: Adaptation, match: Match, seed: int) -> None:
    """Give every ported tensor that trains values from a normal distribution of its own mean and standard deviation.

    Args:
        adaptation: ported; its frozen factors stay.
        match: what was ported.
        seed: decides the values.
    """
    generator = torch.Generator().manual_seed(seed)
    frozen = {id(p) for item in adaptation.insertions for p in own_parameters(item.function, item.spec.frozen)}
    for name, parameter in adaptation.named_parameters():
        if name not in match.tensors or id(parameter) in frozen:
            continue
        values = parameter.float()
        deviation = float(values.std(correction=0)) if values.numel() > 1 else 0.0
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.copy_(float(values.mean()) + deviation * noise)


def head_alone(adaptation: Adaptation, match: Match, fresh: Mapping[str, Tensor]) -> None:
    """Keep the ported head and give everything else the values that the technique starts with.

    Args:
        adaptation: ported.
        match: what was ported.
        fresh: the adaptation's values before.
    """
    _fill(adaptation, {name: tensor for name, tensor in fresh.items() if name not in match.head})


@torch.no_grad()
def _fill(adaptation: Adaptation, values: Mapping[str, Tensor]) -> None:
    for name, tensor in adaptation.state_dict().items():
        if name in values:
            tensor.copy_(values[name])


def _fold(adaptation: Adaptation, matcher: Matcher) -> None:
    """Drop what only training needs, as it was dropped from the saved module, and take the shapes that it has now."""
    for insertion in adaptation.insertions:
        fold(insertion.function)
    adaptation.folded = True
    for path, module in adaptation.tree.named_modules():
        source = (matcher.module(f"{path}.") or "").removesuffix(".") if isinstance(module, Function) else ""
        if source:
            own = {n: s for n, s in matcher.shapes.items() if n.startswith(f"{source}.")}
            module.resize({name.removeprefix(f"{source}."): shape for name, shape in own.items()})  # type: ignore[operator]
