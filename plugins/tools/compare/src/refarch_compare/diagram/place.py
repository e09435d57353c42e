"""Where the modules of a technique stand in a layer: everything is read off the spec's slots and forms."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

from refarch_inspect.diagram import Drawing, drawings
from refarch_inspect.looked import Row, Stack

from refarch import ConfiguredTechnique, FamilySpec
from refarch.architecture import SLOTS, ModuleSpec
from refarch_compare.attached import attached

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

    from refarch import Registry

How = Literal["before", "beside", "after", "weight", "tokens", "trained"]
"""In the flow before what the base computes or after it, beside it, in place of its weight, as more tokens, or the
base's own parameters in a copy."""
PLAIN = ("query", "key", "value", "key_value", "output", "norm", "up", "down")
"""The leaves of a layer without a backbone; others are drawn where a technique works there."""


class Joint(NamedTuple):
    """A module at a slot."""

    module: ModuleSpec
    how: How


class Layer(NamedTuple):
    """What is drawn of a backbone."""

    name: str
    stacks: list[Drawing]
    model: PreTrainedModel | None = None
    """On the meta device."""
    family: FamilySpec | None = None


def of_backbone(config: PretrainedConfig, registry: Registry) -> Layer:
    """A layer of each stack of a model, from its configuration.

    Raises:
        UsageError: no family serves it, and none can be proposed.
    """
    from refarch_inspect.slots import look
    from refarch_inspect.source import with_head

    looked = look(config, registry)
    return Layer(looked.model, drawings(looked.rows, looked.stacks), with_head(config), looked.family)


def of_vocabulary(techniques: Sequence[ConfiguredTechnique]) -> Layer:
    """A layer of no model: the vocabulary's own slots, as far as they are common or a technique works there."""
    named = {
        ref.slot.name
        for item in techniques
        for m in item.technique.modules
        for ref in m.slot_refs()
        if not ref.optional
    }
    crossed = any(name.startswith("cross_attention") for name in named)
    rows = []
    for name, slot in SLOTS.items():
        if slot.kind in ("sublayer", "layer", "model", "inputs") or (name.startswith("cross") and not crossed):
            continue
        leaf = name.rpartition(".")[2]
        if name in named or leaf in PLAIN or name in ("final_norm", "head", "embedding"):
            rows.append(Row("layers" if "." in name or slot.per == "stack" else "", name, slot.kind, "", "any"))
    return Layer("", drawings(rows, [Stack("layers", "", 0, {}, False, ())]))


def joints(technique: ConfiguredTechnique, row: Row) -> Iterator[Joint]:
    """The modules that work at a slot, or train what is there."""
    for module in technique.technique.modules:
        for ref in module.slot_refs():
            if module.layers.stacks and row.stack in ("encoder", "decoder") and row.stack not in module.layers.stacks:
                continue
            if ref.slot.name == row.slot or (ref.slot.kind == "model" and _has(row, module.parameters)):
                yield Joint(module, _how(module, ref.side))


def _has(row: Row, parameters: Sequence[str]) -> bool:
    """Whether there are such parameters at a slot: sequences have none, a table of embeddings no bias."""
    return row.kind in ("linear", "norm", "head") or (row.kind == "embedding" and set(parameters) != {"bias"})


def _how(module: ModuleSpec, side: str) -> How:
    if module.integration == "selection":
        return "trained"
    if module.integration == "transformation":
        return "weight"
    if module.integration == "concatenation":
        return "tokens"
    if module.insertion == "parallel":
        return "beside"
    return "before" if side == "input" else "after"


def refusal(technique: ConfiguredTechnique, layer: Layer, registry: Registry) -> str:
    """Why a technique does not exist on the backbone; empty if it does."""
    if layer.model is None:
        return ""
    from refarch.errors import SlotError

    try:
        with attached(layer.model, technique, family=layer.family, registry=registry):
            return ""
    except SlotError as error:
        return error.message


def words(module: ModuleSpec) -> str:
    """A module's properties in one line."""
    parts = [module.insertion, module.integration, f"form: {module.form}"]
    if module.integration == "selection":
        parts = ["selection", "trains " + ", ".join("all" if name == "*" else name for name in module.parameters)]
    if module.routing != "none":
        parts.append(f"routing: {module.routing}")
    if module.sharing != "none":
        parts.append(f"shared {module.sharing}")
    if module.positions is not None:
        where = module.positions.model_dump()
        parts.append("at " + " and ".join(f"the {side} {count}" for side, count in where.items() if count) + " tokens")
    for way, value in module.layers.model_dump(exclude={"stacks"}).items():
        if value is not None:
            parts.append(f"layers: {way} {value}")
    return f"{module.name}: {', '.join(parts)}"
