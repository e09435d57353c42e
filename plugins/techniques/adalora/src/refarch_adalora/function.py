"""AdaLoRA's function.

Equation    W0 x + (alpha / r) P L Q x; to the loss, (||P'P - I|| + ||Q Q' - I||) / 2 in Frobenius norms, weighted
Symbols     P = ``left`` [d_out, r], the diagonal of L = ``values`` [r], Q = ``right`` [r, d_in]. A triplet is an entry
            of L with its column of P and its row of Q
Slots       every linear slot of a layer
Start       P and Q normal with a deviation of 0.02, L = 0, so the update is zero
Parameters  r (d_in + d_out + 1) a matrix while training; what is saved has the triplets that are left

The paper squares the norms. Its authors' code (QingruZhang/AdaLoRA) and peft take the norms themselves and their mean
over all factors of the model; so does this.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from refarch import Function, SlotShape


class Importance(nn.Module):
    """The smoothed sensitivity of each entry of a parameter, and how much it varies.

    Args:
        parameter: any shape.
    """

    sensitivity: Tensor
    uncertainty: Tensor

    def __init__(self, parameter: Tensor) -> None:
        super().__init__()
        self.register_buffer("sensitivity", torch.zeros_like(parameter, requires_grad=False))
        self.register_buffer("uncertainty", torch.zeros_like(parameter, requires_grad=False))

    def update(self, parameter: Tensor, beta1: float, beta2: float) -> None:
        """I = |w dw|; sensitivity = mean of I by ``beta1``; uncertainty = mean of |I - sensitivity| by ``beta2``."""
        gradient = parameter.grad
        now = torch.zeros_like(parameter) if gradient is None else (parameter * gradient).abs()
        self.sensitivity.mul_(beta1).add_(now, alpha=1 - beta1)
        self.uncertainty.mul_(beta2).add_((now - self.sensitivity).abs(), alpha=1 - beta2)

    def score(self) -> Tensor:
        """The product, in the parameter's shape."""
        return self.sensitivity * self.uncertainty


class Triplets(Function):
    """x -> P L Q dropout(x).

    Args:
        shape: of the linear layer.
        rank: r.
        alpha: numerator of the scale.
        dropout: probability, while training.
        orthogonality: weight of the term in the loss.
        budget: options of :class:`~refarch_adalora.schedule.Budget`.

    Attributes:
        importance: of the three factors, in their order; None once folded.
        kept: [r], 1 for each triplet that the last allocation has kept, else 0; None once folded.
    """

    kept: Tensor | None

    def __init__(
        self, shape: SlotShape, rank: int, alpha: float, dropout: float, orthogonality: float, **budget: Any
    ) -> None:
        if rank > min(shape.d_in, shape.d_out):
            raise ValueError(
                f"rank {rank} exceeds the matrix's own, {min(shape.d_in, shape.d_out)}; choose a smaller one"
            )
        super().__init__()
        self.left = nn.Parameter(torch.randn(shape.d_out, rank) * 0.02)
        self.values = nn.Parameter(torch.zeros(rank))
        self.right = nn.Parameter(torch.randn(rank, shape.d_in) * 0.02)
        self.scale, self.orthogonality = alpha / rank, orthogonality
        self.dropout = nn.Dropout(dropout)
        self.importance: nn.ModuleList | None = nn.ModuleList(Importance(p) for p in self.factors().values())
        self.register_buffer("kept", torch.ones(rank))

    def factors(self) -> dict[str, nn.Parameter]:
        """The three factors by name."""
        return {"left": self.left, "values": self.values, "right": self.right}

    def delta(self) -> Tensor:
        """[d_out, d_in]"""
        return (self.left * self.values) @ self.right

    def forward(self, x: Tensor) -> Tensor:
        """x: [..., d_in] -> [..., d_out]."""
        h = nn.functional.linear(self.dropout(x), self.right) * self.values  # ... r
        return nn.functional.linear(h, self.left)

    def penalty(self) -> Tensor | None:
        """How far singular vectors are from orthogonal and of length one, weighted."""
        if not self.orthogonality:
            return None
        wide = torch.promote_types(self.left.dtype, torch.float32)
        left, right = self.left.to(wide), self.right.to(wide)
        gaps = [gram - torch.eye(len(gram)).to(gram) for gram in (left.T @ left, right @ right.T)]  # r r
        return self.orthogonality * (gaps[0].norm() + gaps[1].norm()) / 2

    def account(self, beta1: float, beta2: float) -> None:
        """Take the gradients that are there into account."""
        for importance, factor in zip(self._importance(), self.factors().values(), strict=True):
            importance.update(factor, beta1, beta2)

    def scores(self) -> Tensor:
        """Each triplet's importance: that of its singular value, and the means over its vectors, [r]."""
        left, values, right = (importance.score() for importance in self._importance())
        return values + left.mean(dim=0) + right.mean(dim=1)

    def keep(self, chosen: Tensor) -> None:
        """chosen: [r], 1 or 0; the other singular values become zero."""
        assert self.kept is not None
        self.kept.copy_(chosen)
        self.values.mul_(self.kept)

    def _importance(self) -> list[Importance]:
        return [part for part in self.importance or () if isinstance(part, Importance)]

    @torch.no_grad()
    def fold(self) -> None:
        """Keep the triplets that are left, and no account of their importance."""
        if self.kept is None:
            return
        there = (self.kept > 0) | (self.values != 0)  # on the meta device no values say that any is not
        self._take(torch.arange(len(there), device="meta") if there.is_meta else there.nonzero().flatten())

    @torch.no_grad()
    def resize(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """As many triplets as were left."""
        self._take(torch.arange(min([len(self.values), *shapes.get("values", ())]), device=self.values.device))

    def _take(self, chosen: Tensor) -> None:
        for name, factor in self.factors().items():
            own = factor.detach().index_select(1 if name == "left" else 0, chosen)
            setattr(self, name, nn.Parameter(own, requires_grad=factor.requires_grad))
        self.importance = self.kept = None
