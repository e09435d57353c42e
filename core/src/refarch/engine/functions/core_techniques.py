"""The core's own techniques: what an operation on weights gives, where no technique of its parts has that shape.

They are ordinary specs, so what is made of them trains, saves and loads as anything does; and they hold for any
technique, because they say what the result computes and not where it comes from.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from refarch.architecture import ModuleSpec, Option, TechniqueSpec
from refarch.engine.functions.function import Function, SlotShape
from refarch.engine.functions.low_rank import LowRank

HERE = "refarch.engine.functions.core_techniques"


class PlainUpdate(LowRank):
    """A low-rank update of a weight, [d_out, d_in], added as it is.

    Args:
        shape: of the linear layer.
        rank: width of the narrow space.
    """

    def __init__(self, shape: SlotShape, rank: int) -> None:
        super().__init__(shape.d_in, shape.d_out, rank)


class PlainTokens(Function):
    """Tokens as they are, [l, d].

    Args:
        shape: of the slot.
        length: l.
    """

    def __init__(self, shape: SlotShape, length: int) -> None:
        super().__init__()
        self.tokens = nn.Parameter(torch.zeros(length, shape.d_out if shape.slot == "inputs" else shape.d_in))

    def forward(self) -> Tensor:
        """[l, d]"""
        return self.tokens


class PlainKeysAndValues(Function):
    """Keys and values as they are, [l, width] each.

    Args:
        shape: of the slot.
        length: l.
    """

    def __init__(self, shape: SlotShape, length: int) -> None:
        super().__init__()
        self.keys = nn.Parameter(torch.zeros(length, shape.d_out))
        self.values = nn.Parameter(torch.zeros(length, shape.d_out))

    def forward(self) -> tuple[Tensor, Tensor]:
        """[l, width], [l, width]"""
        return self.keys, self.values


LOW_RANK = TechniqueSpec(
    name="low-rank",
    summary="Low-rank updates of weights, computed from other adaptations",
    modules=(
        ModuleSpec(
            name="update",
            workspace=("attention.query", "attention.value"),
            insertion="parallel",
            integration="direct addition",
            input_type="hidden",
            adapted="reparameterisation",
            intra="dense",
            inter="fixed",
            form="linear",
            function=f"{HERE}:PlainUpdate",
        ),
    ),
    options=(Option(name="rank", type="integer", default=8, minimum=1, help="width of the narrow space", size=True),),
)
"""Any update of weights, as near as its rank allows."""

_TOKENS = ModuleSpec(
    name="tokens",
    workspace=("inputs",),
    insertion="parallel",
    integration="concatenation",
    input_type="data",
    adapted="addition",
    intra="none",
    inter="dynamic",
    form="tokens",
    function=f"{HERE}:PlainTokens",
    identity_at_start=False,
)
_LENGTH = Option(name="length", type="integer", default=1, minimum=1, help="number of tokens", size=True)
TOKENS = TechniqueSpec(
    name="given-tokens", summary="Tokens, computed from other adaptations", modules=(_TOKENS,), options=(_LENGTH,)
)
"""Tokens at the inputs; at keys and values, hidden states that the layer projects."""
KEYS_AND_VALUES = TechniqueSpec(
    name="given-keys-and-values",
    summary="Keys and values, computed from other adaptations",
    modules=(
        _TOKENS.model_copy(
            update={
                "workspace": ("attention.key_value",),
                "function": f"{HERE}:PlainKeysAndValues",
                "input_type": "data",
            }
        ),
    ),
    options=(_LENGTH,),
)
"""Keys and values before a layer's own."""

HEAD = ModuleSpec(
    name="head",
    workspace=("head",),
    insertion="sequential",
    integration="selection",
    input_type="weights",
    adapted="selection",
    intra="none",
    inter="fixed",
    form="linear",
    parameters=("*",),
)
"""The selection that ``train_head`` adds to any technique."""

CORE_TECHNIQUES = {spec.name: spec for spec in (LOW_RANK, TOKENS, KEYS_AND_VALUES)}
"""Specs that loading trusts without a plugin, because the core brings their functions."""
