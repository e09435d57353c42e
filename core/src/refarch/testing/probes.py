"""Probes: the plainest technique of each integration form, to try a backbone family with."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from refarch.architecture import ModuleSpec, TechniqueSpec
from refarch.engine import Attend, Function, LowRank, SlotShape

RANK = 2
TOKENS = 3


class Line(LowRank):
    """x -> B A x."""

    def __init__(self, shape: SlotShape) -> None:
        super().__init__(shape.d_in, shape.d_out, RANK)


class Bottleneck(Function):
    """x -> U relu(D x)."""

    def __init__(self, shape: SlotShape) -> None:
        super().__init__()
        self.down = nn.Linear(shape.d_in, RANK)
        self.up = nn.Linear(RANK, shape.d_out)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: Tensor) -> Tensor:
        """x: [..., d_in] -> [..., d_out]"""
        return self.up(torch.tanh(self.down(x)))  # unlike a rectifier, never off for a whole batch


class Look(Function):
    """x -> U attention(Q x, K x, V x), with one narrow head."""

    def __init__(self, shape: SlotShape) -> None:
        super().__init__()
        self.down = nn.Linear(shape.d_in, 3 * RANK)
        self.up = nn.Linear(RANK, shape.d_out)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: Tensor, attend: Attend) -> Tensor:
        """x: [b, t, d_in] -> [b, t, d_out]"""
        q, k, v = self.down(x).unsqueeze(2).chunk(3, dim=-1)  # b t 1 rank
        return self.up(attend(q, k, v).squeeze(2))


class Factors(Function):
    """One factor a unit, [d_out]."""

    def __init__(self, shape: SlotShape) -> None:
        super().__init__()
        self.factors = nn.Parameter(torch.ones(shape.d_out))

    def forward(self) -> Tensor:
        """[d_out]"""
        return self.factors


class Prompt(Function):
    """Free tokens, [l, d_out]."""

    def __init__(self, shape: SlotShape) -> None:
        super().__init__()
        self.tokens = nn.Parameter(torch.randn(TOKENS, shape.d_out))

    def forward(self) -> Tensor:
        """[l, d_out]"""
        return self.tokens


class Prefix(Function):
    """Free keys and values, [l, d_out] each."""

    def __init__(self, shape: SlotShape) -> None:
        super().__init__()
        self.keys = nn.Parameter(torch.randn(TOKENS, shape.d_out))
        self.values = nn.Parameter(torch.randn(TOKENS, shape.d_out))

    def forward(self) -> tuple[Tensor, Tensor]:
        """([l, d_out], [l, d_out])"""
        return self.keys, self.values


def _probe(name: str, summary: str, **module: object) -> TechniqueSpec:
    fields = {"name": "probe", "inter": "fixed", "function": f"{__name__}:{module.pop('cls')}", **module}
    return TechniqueSpec(name=f"probe-{name}", summary=summary, modules=(ModuleSpec.parse(fields),))


_HIDDEN = {"input_type": "hidden", "intra": "dense"}
_TOKENS = {
    "insertion": "parallel",
    "integration": "concatenation",
    "input_type": "data",
    "adapted": "addition",
    "intra": "none",
    "form": "tokens",
    "inter": "dynamic",
    "identity_at_start": False,
}
LINE = _probe(
    "line",
    "A linear map beside linear slots",
    cls="Line",
    workspace=("attention.query", "attention.value"),
    insertion="parallel",
    integration="direct addition",
    adapted="reparameterisation",
    form="linear",
    **_HIDDEN,
)
ADAPTER = _probe(
    "adapter",
    "A nonlinear map after the sublayers' last projections",
    cls="Bottleneck",
    workspace=("attention.output", "ffn.down"),
    insertion="sequential",
    integration="direct addition",
    adapted="addition",
    form="mlp",
    **_HIDDEN,
)
PARALLEL = _probe(
    "parallel",
    "A nonlinear map beside the feed-forward sublayer",
    cls="Bottleneck",
    workspace=("ffn",),
    insertion="parallel",
    integration="direct addition",
    adapted="addition",
    form="mlp",
    **_HIDDEN,
)
LAYER = _probe(
    "layer",
    "A nonlinear map after whole layers",
    cls="Bottleneck",
    workspace=("layer",),
    insertion="sequential",
    integration="direct addition",
    adapted="addition",
    form="mlp",
    **_HIDDEN,
)
LOOK = _probe(
    "look",
    "Attention of its own beside the self-attention sublayer",
    cls="Look",
    workspace=("attention",),
    insertion="parallel",
    integration="direct addition",
    adapted="addition",
    form="attention",
    inter="dynamic",
    **_HIDDEN,
)
RESCALING = _probe(
    "rescaling",
    "Factors at keys, values and the hidden units",
    cls="Factors",
    workspace=("attention.key", "attention.value", "ffn.hidden"),
    insertion="sequential",
    integration="rescaling",
    input_type="hidden",
    adapted="reparameterisation",
    intra="diagonal",
    form="vector",
)
PROMPT = _probe("prompt", "Tokens before the inputs", cls="Prompt", workspace=("inputs",), **_TOKENS)
PREFIX = _probe(
    "prefix", "Keys and values before the base's", cls="Prefix", workspace=("attention.key_value",), **_TOKENS
)
PROBES = (LINE, ADAPTER, PARALLEL, LAYER, LOOK, RESCALING, PROMPT, PREFIX)
"""One of each form."""
