"""Routing: several functions of one class at one insertion, mixed by weights that a router gives.

    sum_e w_e M_e(x)        of contributions that are added (the engine adds it as it would add one M(x))
    sum_e w_e l_e           of factors that multiply

    soft    w = softmax(W x)
    hard    w_e = softmax(W x)_e for the ``top`` largest, divided by their sum if the spec says so; 0 for the others
    fixed   w = softmax(a)

with x what the module reads. A function knows nothing of it: any function that is added, position by position, or that
multiplies can be an expert. What a spec says about the function's parameters (shared, frozen, at another learning rate,
only for training) holds for each expert.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from refarch.architecture import ModuleSpec, Router
from refarch.engine.functions.function import Function
from refarch.engine.functions.low_rank import LowRank

SPREAD = 0.02
"""Standard deviation of a router's initial values, those of Zadouri et al.'s code (2023, arXiv 2309.05444)."""


class RouterModule(nn.Module):
    """What gives each expert its weight.

    Args:
        spec: with numbers in place of options.
        fixed: whether the weights do not depend on the input.
        width: width of what the module reads.

    Attributes:
        weight: W [experts, width], or the free numbers a [experts] where the routing is fixed.
    """

    def __init__(self, spec: Router, fixed: bool, width: int) -> None:
        super().__init__()
        assert isinstance(spec.experts, int) and not isinstance(spec.top, str)
        self.fixed, self.top, self.renormalise = fixed, spec.top, spec.renormalise
        self.weight = nn.Parameter(torch.zeros(spec.experts) if fixed else torch.empty(spec.experts, width))
        if not fixed:
            nn.init.normal_(self.weight, std=SPREAD)

    def forward(self, x: Tensor | None) -> Tensor:
        """x: [..., width], or nothing where the routing is fixed -> w, [..., experts] or [experts]."""
        scores: Tensor = self.weight
        if not self.fixed:
            assert x is not None
            scores = F.linear(x, self.weight)  # ... n
        p = scores.float().softmax(dim=-1)
        if self.top is not None:
            p = largest(p, self.top)
            if self.renormalise:
                p = p / p.sum(dim=-1, keepdim=True)
        return p.to(scores.dtype)


def largest(scores: Tensor, count: int, rest: float = 0.0) -> Tensor:
    """scores: [..., n], of which the ``count`` largest stay; the others become ``rest``."""
    found = scores.topk(count, dim=-1)
    return torch.full_like(scores, rest).scatter(-1, found.indices, found.values)


class Routed(Function):
    """Experts in the place of one function.

    Args:
        experts: the functions, of one class, at one insertion.
        router: gives their weights.
        spec: the module spec.

    Attributes:
        experts: the functions.
        router: the router.
    """

    def __init__(self, experts: list[Function], router: RouterModule, spec: ModuleSpec) -> None:
        super().__init__()
        self.experts, self.router = nn.ModuleList(experts), router
        self.factors, self.scaled = spec.integration == "rescaling", spec.integration == "scaled addition"

    def forward(self, x: Tensor | None = None) -> Tensor:
        """x: [..., d_in], or nothing where the routing is fixed -> [..., d_out]."""
        w = self.router(x)  # ... n
        if self.factors:
            # The weights sum to one; written so, factors of one stay exactly one.
            return 1 + w @ (torch.stack([expert() for expert in self.experts]) - 1)
        assert x is not None
        if self._stacks():
            return self._stacked(x, w)
        return torch.stack([self._scaled(expert(x), expert) * w[..., e, None] for e, expert in self._each()]).sum(dim=0)

    def delta(self) -> Tensor:
        """Of fixed routing: the matrix of the mixture, [d_out, d_in]."""
        w = self.router(None)
        return torch.stack([self._scaled(expert.delta(), expert) * w[e] for e, expert in self._each()]).sum(dim=0)

    def members(self) -> list[tuple[str, Function]]:
        """The experts."""
        return [(f"experts.{e}.", expert) for e, expert in self._each()]

    def _each(self) -> Iterator[tuple[int, Function]]:
        return enumerate(self.experts)  # type: ignore[arg-type]

    def _scaled(self, out: Tensor, expert: Function) -> Tensor:
        """Experts may differ in a scale that trains, so it is applied here; the scale of the mixture is 1."""
        return out * expert.scale if self.scaled else out

    def _stacks(self) -> bool:
        """Whether all experts are B A x and nothing else, so that two products do for all of them."""
        return all(
            isinstance(expert, LowRank)
            and type(expert).forward is LowRank.forward
            and not expert.drops
            and isinstance(expert.scale, (int, float))
            for expert in self.experts
        )

    def _stacked(self, x: Tensor, w: Tensor) -> Tensor:
        """sum_e w_e s_e B_e A_e x."""
        lines = [expert for _, expert in self._each() if isinstance(expert, LowRank)]
        h = F.linear(x, torch.cat([line.down for line in lines]))  # ... n*r
        if self.scaled:
            w = w * w.new_tensor([line.scale for line in lines])
        h = (h.unflatten(-1, (len(lines), -1)) * w.unsqueeze(-1)).flatten(-2)  # ... n*r
        return h @ torch.cat([line.up.t() for line in lines])  # ... d_out


def mixture(spec: ModuleSpec, router: Router, width: int, new: Callable[[], Function]) -> Routed:
    """As many new functions as the router says, each with random numbers of its own, and what mixes them."""
    assert isinstance(router.experts, int)
    experts = [new() for _ in range(router.experts)]
    return Routed(experts, RouterModule(router, spec.routing == "fixed", width), spec)
