"""What operators have parameters of their own for: the gate of a route, the attention of a fusion."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from refarch.architecture.expression import Route
from refarch.composition.running.nodes import Contributions, Node
from refarch.composition.running.rows import CallState
from refarch.engine.bindings.call_context import SiteTokens
from refarch.engine.bindings.carrier import Carrier
from refarch.engine.functions.experts import SPREAD, largest
from refarch.engine.layers.precision import cast_for
from refarch.errors import CompositionError

LITTLE = 1e-6
"""What stands beside the diagonal of a fusion's value matrix at the start, as in the paper's code."""


class RouteGate(nn.Module):
    """g(x), one weight for each term.

        learned   softmax(W x)                    by token, or from the mean over an example's real tokens
                  softmax(a_task)                 by task
        arrow     softmax(|v_i . x|), zero for terms without a prototype v_i here (arXiv 2405.11157)

    With ``top``, the largest alone are kept; learned, they are divided by their sum if the operator says so; by arrow,
    the softmax is over them.

    Args:
        spec: the operator.
        width: of x.

    Attributes:
        weight: W [terms, width], or a [tasks, terms]. A buffer of the v_i, [terms, width], for arrow.
    """

    weight: Tensor

    def __init__(self, spec: Route, width: int) -> None:
        super().__init__()
        self.spec, count = spec, len(spec.terms)
        if spec.gate == "arrow":
            self.register_buffer("weight", torch.zeros(count, width))
        elif spec.tasks is not None:
            self.weight = nn.Parameter(torch.zeros(spec.tasks, count))
        else:
            self.weight = nn.Parameter(torch.empty(count, width))
            nn.init.normal_(self.weight, std=SPREAD)

    def forward(self, x: Tensor) -> Tensor:
        """x: [..., width], or the tasks' numbers [...] -> g, [..., terms]."""
        if self.spec.tasks is not None:
            return self._chosen(self.weight[x].float().softmax(dim=-1))
        scores = F.linear(x, self.weight.to(x.dtype)).float()
        if self.spec.gate == "arrow":
            absent = ~self.weight.any(dim=-1)
            scores = scores.abs().masked_fill(absent, -torch.inf)
            if self.spec.top is not None:
                scores = largest(scores, self.spec.top, -torch.inf)
            return scores.softmax(dim=-1)
        return self._chosen(scores.softmax(dim=-1))

    def _chosen(self, p: Tensor) -> Tensor:
        if self.spec.top is None:
            return p
        p = largest(p, self.spec.top)
        return p / p.sum(dim=-1, keepdim=True) if self.spec.renormalise else p


class RouteNode(Contributions):
    """F + sum_i g_i(x) (e_i(F) - F).

    Args:
        terms: as of all operators.
        router: gives g.
        state: the composition's.
        carrier: at ``key_value``, carries what the attention reads; else the node reads what the module does.
        tokens: which tokens are real, for a router by example.
    """

    def __init__(
        self,
        terms: Sequence[tuple[int, Node]],
        router: RouteGate,
        state: CallState,
        carrier: Carrier | None,
        tokens: SiteTokens | None,
    ) -> None:
        super().__init__(terms)
        self.router, self.state, self.carrier, self.tokens = router, state, carrier, tokens

    def combined(self, x: Any, y: Tensor, changes: list[tuple[int, Tensor]]) -> Tensor:
        """The gated sum."""
        g = self._gates(x if self.carrier is None else self._carried(self.carrier), y).to(y.dtype)
        for index, change in changes:
            own = g[..., index]
            y = y + own.reshape(*own.shape, *(1,) * (y.ndim - own.ndim)) * change
        return y

    def carriers(self) -> list[Carrier]:
        """Its own, too."""
        return super().carriers() + ([] if self.carrier is None else [self.carrier])

    def _carried(self, carrier: Carrier) -> Tensor:
        """What was noted, for the rows that are computed now: outside any split it was noted for all."""
        held, rows = carrier.held, self.state.rows
        assert held is not None, "the attention ran before its query projection"
        if rows is None or len(rows.names) == rows.total:
            return held
        return held[rows.among(held.shape[0], held.device)]

    def _gates(self, x: Any, y: Tensor) -> Tensor:
        """[b, 1 or t, terms], or [b * t, terms]."""
        spec = self.router.spec
        if spec.by == "task":
            tasks = self._tasks(y.shape[0], y.device)
            return self.router(tasks if y.ndim == 2 else tasks.unsqueeze(1))  # type: ignore[no-any-return]
        read = cast_for(self.router, x)
        if self.tokens is not None:
            rows = self.state.rows
            if rows is not None and len(rows.names) < rows.total:
                self.tokens.rows = rows.among
            try:
                read = self.tokens.mean(read)
            finally:
                self.tokens.rows = None
        return self.router(read)  # type: ignore[no-any-return]

    def _tasks(self, size: int, device: torch.device) -> Tensor:
        tasks, rows = self.state.tasks, self.state.rows
        if tasks is None:
            raise CompositionError(
                "the composition routes by task, but nobody has said which rows are of which",
                "call the model inside `with composition.tasks([...])`, with one number for each row",
            )
        if rows is not None and len(rows.names) < rows.total:
            tasks = tuple(tasks[place] for place in rows.places)
        if size % len(tasks):
            raise CompositionError(f"the batch has {size} rows, but {len(tasks)} tasks were given")
        return torch.tensor(tasks, device=device).repeat_interleave(size // len(tasks))

    def weight_reason(self) -> str:
        """Why it is no weight."""
        return "a route's weights depend on the input"


class Fusion(nn.Module):
    """Attention over what the terms change, with the base's output as the query.

        a_i = softmax_i( (Q y + b) . (K c_i + b') ),   sum_i a_i V c_i

    V is the identity at the start, but for 1e-6 beside its diagonal; Q and K as of linear layers.

    Args:
        width: of y and the changes c_i.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, width)
        self.value = nn.Linear(width, width, bias=False)
        with torch.no_grad():
            self.value.weight.fill_(LITTLE).fill_diagonal_(1.0)

    def forward(self, y: Tensor, changes: Tensor) -> Tensor:
        """y: [..., width], changes: [n, ..., width] -> [..., width]."""
        scores = (self.query(y) * self.key(changes)).sum(dim=-1, keepdim=True)  # n ... 1
        return (scores.softmax(dim=0) * self.value(changes)).sum(dim=0)


class FuseNode(Contributions):
    """F + sum_i a_i V (e_i(F) - F).

    Args:
        terms: as of all operators.
        fusion: computes the sum.
    """

    def __init__(self, terms: Sequence[tuple[int, Node]], fusion: Fusion) -> None:
        super().__init__(terms)
        self.fusion = fusion

    def combined(self, x: Any, y: Tensor, changes: list[tuple[int, Tensor]]) -> Tensor:
        """The fused sum."""
        flat = cast_for(self.fusion, y.reshape(*y.shape[:2], -1) if y.ndim == 4 else y)  # b t h dim -> b t d
        stacked = torch.stack([change.reshape(flat.shape).to(flat.dtype) for _, change in changes])
        return y + self.fusion(flat, stacked).to(y.dtype).reshape(y.shape)

    def weight_reason(self) -> str:
        """Why it is no weight."""
        return "a fusion's weights depend on the input"
