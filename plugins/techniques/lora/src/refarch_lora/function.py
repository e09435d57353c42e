"""LoRA's function.

Equation    h = W0 x + (alpha / r) B A x                                     (paper, eq. 3)
Symbols     A = ``down`` [r, d_in], B = ``up`` [d_out, r], alpha / r = ``scale``
Slots       query and value; any linear slot
Start       A random, B = 0, so the update is zero; from the weight, B A - B0 A0 = 0
Parameters  r (d_in + d_out) a matrix; r d_out with A frozen (LoRA-FA, Zhang et al. 2023, arXiv 2308.03303)
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from refarch import LowRank, SlotShape


class LoRA(LowRank):
    """x -> B A dropout(x), scaled by alpha / r, or by alpha / sqrt(r) when rank-stabilised.

    Args:
        shape: of the linear layer.
        rank: r.
        alpha: numerator of the scale.
        dropout: probability, while training.
        rank_stabilised: divide by sqrt(r) instead of r (Kalajdzievski 2023, arXiv 2312.03732).
        init: of A: ``kaiming`` (uniform, as the authors' code), ``gaussian`` (N(0, 1/r), as their paper) or
            ``orthogonal`` (orthonormal rows).
        learning_rate_ratio: of B to A (LoRA+, Hayou et al. 2024, arXiv 2402.12354); the spec hands it to the optimizer.
    """

    inits: tuple[str, ...] = ("kaiming", "gaussian", "orthogonal")

    def __init__(
        self,
        shape: SlotShape,
        rank: int,
        alpha: float,
        dropout: float,
        rank_stabilised: bool,
        init: str,
        learning_rate_ratio: float,
    ) -> None:
        if init not in self.inits:
            raise ValueError(f"init {init!r} goes with the preset of its name; here it is one of {self.inits}")
        if rank > min(shape.d_in, shape.d_out):
            raise ValueError(
                f"rank {rank} exceeds the matrix's own, {min(shape.d_in, shape.d_out)}; choose a smaller one"
            )
        super().__init__(shape.d_in, shape.d_out, rank, dropout)
        self.scale = alpha / (rank**0.5 if rank_stabilised else rank)
        with torch.no_grad():
            if init == "gaussian":
                nn.init.normal_(self.down, std=1 / rank)
            elif init == "orthogonal":
                nn.init.orthogonal_(self.down)


class FromWeight(LoRA):
    """x -> B A dropout(x) - B0 A0 x: factors of the base weight train, and what they start as is taken out of it.

    The papers write W_res = W0 - s B0 A0 into the base and train s B A beside it. The sum is the same, and the base
    stays as it is.

    ``pissa``: s B0 A0 is the best approximation of W0 of rank r, from its singular vectors (Meng et al. 2024, arXiv
    2404.02948, eq. 2 to 4). ``olora``: B0 is the first r columns of Q and A0 the first r rows of R in W0 = Q R
    (Buyukakyuz 2024, arXiv 2406.01775).

    Attributes:
        down_0: A0 [r, d_in], frozen.
        up_0: B0 [d_out, r], frozen.
    """

    inits = ("pissa", "olora")

    def __init__(self, shape: SlotShape, **options: Any) -> None:
        super().__init__(shape, **options)
        assert isinstance(self.scale, float)
        if self.scale <= 0:
            raise ValueError("to start from the weight, alpha must be positive")
        weight, rank = shape.weight(), options["rank"]
        with torch.no_grad():
            if options["init"] == "pissa":
                u, s, v = torch.linalg.svd(weight, full_matrices=False)
                root = (s[:rank] / self.scale).sqrt()
                up, down = u[:, :rank] * root, root[:, None] * v[:rank]
            else:
                q, r = torch.linalg.qr(weight)
                up, down = q[:, :rank], r[:rank]
            self.up.copy_(up)
            self.down.copy_(down)
        self.down_0, self.up_0 = nn.Parameter(self.down.detach().clone()), nn.Parameter(self.up.detach().clone())

    def delta(self) -> Tensor:
        """[d_out, d_in]"""
        return self.up @ self.down - self.up_0 @ self.down_0

    def forward(self, x: Tensor, into: Tensor | None = None, base: Any = None) -> Tensor:
        """x: [..., d_in] -> [..., d_out]."""
        # The same operations as for B A, so that the difference is zero at the start to the last bit.
        return super().forward(x) - linear(x, self.down_0) @ self.up_0.t().contiguous()
