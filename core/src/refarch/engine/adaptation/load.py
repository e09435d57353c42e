"""Load a saved adaptation: nothing that its files say is believed before it is checked against the model."""

from __future__ import annotations

import math
from contextlib import ExitStack
from pathlib import Path

import torch
from torch import nn
from transformers import PreTrainedModel

from refarch.architecture import ConfiguredTechnique, FamilySpec, Layers, TechniqueSpec
from refarch.architecture.fingerprint import Fingerprint
from refarch.engine.adaptation import plan as planning
from refarch.engine.adaptation.adaptation import Adaptation, adaptations
from refarch.engine.adaptation.attach import device_of, family_of, label_for, refuse_untrainable
from refarch.engine.checkpoints.format import Checkpoint, refuse_differences
from refarch.engine.checkpoints.provenance import import_paths
from refarch.engine.checkpoints.reading import read
from refarch.engine.functions.core_techniques import CORE_TECHNIQUES
from refarch.engine.functions.function import Function, fold
from refarch.engine.host.fingerprint import fingerprint
from refarch.engine.slots.resolver import Resolver
from refarch.errors import CheckpointError, RefarchError
from refarch.plugins.registry import Registry, default_registry


def load(
    model: PreTrainedModel,
    folder: str | Path,
    *,
    name: str | None = None,
    trainable: bool = False,
    any_base: bool = False,
    technique: TechniqueSpec | ConfiguredTechnique | None = None,
    family: FamilySpec | None = None,
    registry: Registry | None = None,
) -> Adaptation:
    """Load a saved adaptation onto a model.

    Args:
        model: the base that the adaptation was trained on.
        folder: what :meth:`Adaptation.save` has written.
        name: the adaptation's name on the model; its saved one when left out.
        trainable: True to go on training it.
        any_base: accept a base of the same structure with other weights.
        technique: for a technique that no plugin provides, the spec that you trust; its options, slots and layers are
            the saved ones unless they are decided in it.
        family: a backbone table; found by the model's type when left out.
        registry: where names are looked up.

    Raises:
        CheckpointError: the files are truncated or altered, or the base, slots, shapes or functions differ. The model
            is untouched.
    """
    if (Path(folder) / "composition.json").is_file():
        raise CheckpointError(f"{folder} holds a composition of several", "load it with refarch.load_composition")
    saved, tensors = read(Path(folder))  # nothing of it is believed
    wanted = technique if isinstance(technique, ConfiguredTechnique) else trusted_technique(saved, technique, registry)
    resolver = Resolver(model, family or family_of(model, registry))
    check_base(saved, _fingerprint(model, resolver), any_base)
    plan = planned(resolver, wanted, saved, device_of(model))
    refuse_untrainable(model, plan, trainable)
    label = label_for(model, name, saved.name)
    with ExitStack() as undo:
        adaptation = Adaptation(
            model,
            resolver,
            plan,
            name=label,
            seed=saved.seed,
            source=saved.source,
            train_head=saved.train_head,
            trainable=trainable,
            folded=saved.folded,
        )
        undo.callback(adaptation.detach)
        resize(adaptation.tree, saved)
        check_fits(saved, adaptation.slot_map, {name: tuple(t.shape) for name, t in adaptation.state_dict().items()})
        adaptation.load_state_dict(tensors)
        undo.pop_all()
    return adaptation


def _fingerprint(model: PreTrainedModel, resolver: Resolver) -> Fingerprint:
    """Of the base as it is below whatever is attached or merged."""
    present = adaptations(model)
    return present[0].base_fingerprint() if present else fingerprint(model, [place.path for place in resolver.head()])


SLACK = (2**16, 2**28)
"""Numbers that a function may have beyond those that its checkpoint holds: of layers of other widths, and of what only
training needs, where that was dropped from the checkpoint."""


def trusted_technique(
    checkpoint: Checkpoint, trusted: TechniqueSpec | None, registry: Registry | None
) -> ConfiguredTechnique:
    """The checkpoint's technique, if a spec that the user trusts declares the functions that it uses: the given one, or
    that of an installed plugin of its name.

    A checkpoint cannot bring code: the import paths in it count only where a trusted spec has them too.

    Raises:
        CheckpointError: the installed plugin does not declare what the checkpoint uses.
        UnknownNameError: no plugin of that name is installed.
    """
    wanted = checkpoint.technique
    registry = registry or default_registry()
    own = CORE_TECHNIQUES.get(wanted.name) if trusted is None else trusted
    known = registry.technique(wanted.name) if own is None else own
    strange = import_paths(wanted.technique) - import_paths(known, presets=True)
    if strange:
        here = "this refarch" if trusted is None else "the given spec"
        if own is None:
            found = registry.find("technique", wanted.name)
            here = f"the installed {found.distribution} {found.version}"
        raise CheckpointError(
            f"the checkpoint was made by {checkpoint.source.distribution or 'an inline spec'}"
            f" {checkpoint.source.version} and uses {', '.join(sorted(strange))}, which {here}"
            " does not declare",
            "install the version that made it, or pass technique= with a spec that you trust",
        )
    return wanted


def planned(
    resolver: Resolver, technique: ConfiguredTechnique, checkpoint: Checkpoint, device: torch.device
) -> planning.Plan:
    """Build the functions that a checkpoint's values belong to, without touching the model.

    Raises:
        RefarchError: it cannot be built here; whatever the checkpoint's options make a function raise is told as a
            :class:`CheckpointError`.
    """
    try:
        _check_size(resolver, technique, checkpoint)
        found = planning.build(resolver, technique, checkpoint.seed, None, device, values=False)
        for insertion in found.insertions if checkpoint.folded else ():
            fold(insertion.function)
    except RefarchError:
        raise
    except Exception as error:  # options come from the file, and functions may raise anything at strange ones
        raise CheckpointError(
            f"adaptation {checkpoint.name!r} cannot be built from its options: {type(error).__name__}: {error}",
            "the checkpoint was altered, or its technique's plugin is broken",
        ) from error
    return found


def _check_size(resolver: Resolver, technique: ConfiguredTechnique, checkpoint: Checkpoint) -> None:
    """Refuse options that ask for far more memory than the checkpoint has values, before any is taken.

    Raises:
        CheckpointError: naming the module.
    """
    saved = sum(math.prod(shape) for shape in checkpoint.shapes.values())
    for spec in technique.technique.modules:
        if spec.function is None:
            continue
        small = spec.model_copy(update={"layers": Layers(first=1, stacks=spec.layers.stacks)})
        alone = technique.model_copy(update={"technique": technique.technique.model_copy(update={"modules": (small,)})})
        built = planning.build(resolver, alone, 0, None, torch.device("meta"), values=False)
        own = {id(p): p.numel() for item in built.insertions for p in item.function.parameters()}
        wanted = sum(own.values())
        if wanted > 2 * saved + SLACK[checkpoint.folded]:
            raise CheckpointError(
                f"module {spec.name!r} would take {wanted:,} numbers in its first layer, and the checkpoint holds"
                f" {saved:,} in all",
                "its options were altered",
            )


def check_base(checkpoint: Checkpoint, base: Fingerprint, any_base: bool) -> None:
    """Refuse a base that is not the one the checkpoint belongs to.

    Raises:
        CheckpointError: with what differs.
    """
    reason = checkpoint.base.differs(base)
    if reason and not (any_base and checkpoint.base.structure == base.structure):
        raise CheckpointError(
            f"adaptation {checkpoint.name!r} belongs to another base: {reason}",
            "load the base that it was trained on, or pass any_base=True if only the weights differ on purpose",
        )


@torch.no_grad()
def start_from(adaptation: Adaptation, folder: Path) -> None:
    """Give an adaptation the values of a saved one, as a starting point for training.

    Args:
        adaptation: attached, of the same technique with the same options at the same slots.
        folder: of the saved one. It may have a head that the adaptation does not train, or lack one that it does.

    Raises:
        CheckpointError: the files are damaged, or the base, slots or shapes differ. The adaptation is as it was.
    """
    saved, tensors = read(folder)
    check_base(saved, adaptation.base_fingerprint(), False)
    refuse_differences("slots", saved.slot_map, adaptation.slot_map, folder)
    heads = tuple(f"base:{place.path}." for place in adaptation.resolver.head())
    own = adaptation.state_dict()
    shared = {name: tensor for name, tensor in tensors.items() if name in own or not name.startswith(heads)}
    wanted = {name: tensor for name, tensor in own.items() if name in tensors or not name.startswith(heads)}
    there, here = ({name: str(tuple(t.shape)) for name, t in each.items()} for each in (shared, wanted))
    if saved.folded and there != here:
        raise CheckpointError(
            f"{folder} was saved without what only training needs", "save it with for_training=True to start from it"
        )
    refuse_differences("shapes", there, here, folder)
    for name, tensor in wanted.items():
        tensor.copy_(tensors[name])


def resize(tree: nn.Module, checkpoint: Checkpoint) -> None:
    """Give folded functions the shapes that they have in a checkpoint, where folding decides them by values."""
    for path, module in tree.named_modules() if checkpoint.folded else ():
        if isinstance(module, Function):
            start = f"{path}."
            module.resize({n.removeprefix(start): s for n, s in checkpoint.shapes.items() if n.startswith(start)})


def check_fits(checkpoint: Checkpoint, adaptation_map: dict[str, str], shapes: dict[str, tuple[int, ...]]) -> None:
    """Refuse a checkpoint whose slot map or shapes are not what the technique gives on this model.

    Raises:
        CheckpointError: with the differences.
    """
    refuse_differences("slots", checkpoint.slot_map, adaptation_map, checkpoint.name)
    saved = {name: str(tuple(shape)) for name, shape in checkpoint.shapes.items()}
    refuse_differences("shapes", saved, {name: str(tuple(shape)) for name, shape in shapes.items()}, checkpoint.name)
