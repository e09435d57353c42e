"""Write what an adaptation trains of the base: its head, biases, whole modules."""

from __future__ import annotations

from torch import nn

from refarch import Adaptation, InterchangeSpec, ModuleSpec
from refarch.errors import CompositionError
from refarch_interchange.codec import Written
from refarch_interchange.mapping.rules import PREFIX, prefix
from refarch_interchange.places import Places


def is_extra(adaptation: Adaptation, module: ModuleSpec) -> bool:
    """Whether a module spec is a selection beside the technique's own modules, which run functions."""
    return module.integration == "selection" and not selects(adaptation)


def selects(adaptation: Adaptation) -> bool:
    """Whether the technique itself is a selection: none of its modules runs a function."""
    return not any(module.function for module in adaptation.technique.technique.modules)


def write(
    adaptation: Adaptation, mapping: InterchangeSpec, targets: list[str], places: Places, written: Written
) -> None:
    """Add the copies of base parameters that an adaptation trains, and the settings that name them.

    Raises:
        CompositionError: peft has no word for some of them.
    """
    copies = dict(adaptation.copies)
    head = {path: copy for path, copy in copies.items() if places.in_head(path)}
    if adaptation.train_head:
        _add(written, head, prefix(mapping))
        written.settings["modules_to_save"] = list(places.head)
        outside = [path for path in copies if path not in head and _belongs_to_head(adaptation, path, places)]
        if outside:
            raise CompositionError(
                f"the head shares {outside[0]} with the backbone; peft's modules_to_save would take it apart",
                "untie the embeddings, or leave the head out",
            )
        copies = {path: copy for path, copy in copies.items() if path not in head}
    if selects(adaptation) or not copies:
        return
    biases = {path for path, _ in _base_parameters(adaptation) if path.split(".")[-1] == "bias"}
    if copies.keys() == biases - head.keys() or copies.keys() == biases:
        _biases(written, copies, targets, "all")
    elif all(path.endswith(".bias") and path.removesuffix(".bias") in targets for path in copies):
        _biases(written, copies, targets, f"{mapping.kind.lower()}_only")
    else:
        _whole_modules(adaptation, copies, places, written, prefix(mapping))


def _base_parameters(adaptation: Adaptation) -> list[tuple[str, nn.Parameter]]:
    return [item for item in adaptation.model.named_parameters() if not item[0].startswith("refarch.")]


def _belongs_to_head(adaptation: Adaptation, path: str, places: Places) -> bool:
    """Whether a copied parameter stands, by another name, in the head."""
    copy = adaptation.copies[path]
    every = adaptation.model.named_parameters(remove_duplicate=False)
    return any(value is copy and places.in_head(name) for name, value in every)


def _add(written: Written, copies: dict[str, nn.Parameter], before: str) -> None:
    written.tensors.update({f"{before}{path}": copy for path, copy in copies.items()})


def _biases(written: Written, copies: dict[str, nn.Parameter], targets: list[str], setting: str) -> None:
    written.settings["bias"] = setting
    for path, copy in copies.items():
        module = path.removesuffix(".bias")
        written.tensors[f"{PREFIX}{module}.base_layer.bias" if module in targets else f"{PREFIX}{path}"] = copy


def _whole_modules(
    adaptation: Adaptation, copies: dict[str, nn.Parameter], places: Places, written: Written, before: str
) -> None:
    modules = sorted({path.rpartition(".")[0] for path in copies})
    every = {f"{module}.{name}" for module in modules for name, _ in places.modules[module].named_parameters()}
    missing = sorted(every - copies.keys())
    if missing:
        raise CompositionError(
            f"adaptation {adaptation.name!r} trains some parameters of {missing[0].rpartition('.')[0]} and not"
            f" {missing[0]}; peft has no word for that"
        )
    _add(written, copies, before)
    written.settings["modules_to_save"] = [*written.settings.get("modules_to_save", ()), *modules]
