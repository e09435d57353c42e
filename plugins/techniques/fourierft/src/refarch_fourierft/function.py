"""FourierFT's function.

Equation    W' = W + alpha Re(IDFT2(F)), F[E] = c and zero elsewhere         (paper, eq. 2 to 4)
Symbols     c = ``coefficients`` [n], E = ``entries`` [n] as row times d_in plus column, alpha = ``scale``
Slots       query and value; any linear slot
Start       c ~ N(0, 1) as in the paper, so the output is changed a little at once; E random, without repetition,
            frozen and the same in all layers, decided by a seed of its own as in the authors' code and in peft
Parameters  n a matrix
"""

import torch
from torch import Tensor, nn

from refarch import Function, SlotShape


def chosen_entries(places: int, count: int, seed: int | None) -> Tensor:
    """``count`` different numbers below ``places``, [count], decided by ``seed``."""
    if seed is None or torch.get_default_device().type == "meta":  # where there are no values
        return torch.randperm(places)[:count]
    return torch.randperm(places, generator=torch.Generator().manual_seed(seed))[:count]


class Spectral(Function):
    """x -> Re(IDFT2(F)) x.

    Args:
        shape: of the linear layer.
        coefficients: n.
        alpha: the scale.
        entry_seed: decides E alone; None, as in checkpoints from before there was one, for the modules' own seed.
    """

    def __init__(self, shape: SlotShape, coefficients: int, alpha: float, entry_seed: int | None = None) -> None:
        super().__init__()
        self.scale, self.shape = alpha, (shape.d_out, shape.d_in)
        places = shape.d_out * shape.d_in
        if coefficients > places:
            raise ValueError(f"{coefficients} coefficients exceed the matrix's own, {places}; choose fewer")
        self.coefficients = nn.Parameter(torch.randn(coefficients))
        self.entries = nn.Parameter(chosen_entries(places, coefficients, entry_seed), requires_grad=False)

    def delta(self) -> Tensor:
        """[d_out, d_in]"""
        c = self.coefficients
        precise = c.to(torch.promote_types(c.dtype, torch.float32))  # there is no transform in half precision
        spectrum = precise.new_zeros(self.shape).flatten().index_copy(0, self.entries, precise)  # d_out * d_in
        return torch.fft.ifft2(spectrum.view(self.shape)).real.to(c.dtype)

    def forward(self, x: Tensor) -> Tensor:
        """x: [..., d_in] -> [..., d_out]."""
        return nn.functional.linear(x, self.delta())
