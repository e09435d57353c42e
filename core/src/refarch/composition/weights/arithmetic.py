"""Arithmetic of tensors that belong together: sums, TIES, DARE, and the best low-rank approximation."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from refarch.architecture.expression import Average, Dare, Operator, Ties


def weights_of(operator: Operator) -> list[float]:
    """w, one for each term."""
    count = len(operator.terms)
    return [1 / count] * count if isinstance(operator, Average) else [term.weight for term in operator.terms]


def combined(operator: Operator, tensors: Sequence[Tensor], weights: Sequence[float], salt: int) -> Tensor:
    """What an operator makes of one tensor of each term, all of one shape.

    Args:
        operator: of weights.
        tensors: one for each term.
        weights: w.
        salt: tells apart tensors of one expression, where numbers are random.
    """
    if isinstance(operator, Ties):
        return ties(tensors, weights, operator.density)
    if isinstance(operator, Dare):
        generator = torch.Generator().manual_seed(operator.seed * 1_000_003 + salt)
        tensors = [dropped(tensor, operator.density, generator) for tensor in tensors]
    return torch.stack([w * tensor for w, tensor in zip(weights, tensors, strict=True)]).sum(dim=0)


def ties(tensors: Sequence[Tensor], weights: Sequence[float], density: float) -> Tensor:
    """Trim, elect a sign, and average those that agree (Yadav et al. 2023, arXiv 2306.01708, algorithm 1).

    Args:
        tensors: all of one shape.
        weights: w.
        density: the fraction of each tensor's values that is kept.
    """
    kept = torch.stack([w * trimmed(tensor, density) for w, tensor in zip(weights, tensors, strict=True)])
    sign = torch.where(kept.sum(dim=0) >= 0, 1.0, -1.0).to(kept.dtype)
    agree = (kept.sign() == sign).to(kept.dtype)
    return (kept * agree).sum(dim=0) / agree.sum(dim=0).clamp(min=1)


def trimmed(tensor: Tensor, density: float) -> Tensor:
    """The values of largest magnitude, zero elsewhere."""
    count = max(1, int(density * tensor.numel()))
    chosen = tensor.abs().flatten().topk(count).indices
    mask = torch.zeros(tensor.numel(), dtype=torch.bool, device=tensor.device)
    mask[chosen] = True
    return tensor * mask.view_as(tensor)


def dropped(tensor: Tensor, density: float, generator: torch.Generator) -> Tensor:
    """Values dropped at random, the rest divided by the fraction that is kept."""
    keep = torch.rand(tensor.shape, generator=generator) < density
    return tensor * keep.to(tensor) / density


def truncated(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Up [d_out, r] and down [r, d_in], whose product is nearest to a matrix; each has the singular values' roots."""
    u, s, v = torch.linalg.svd(matrix.float(), full_matrices=False)
    rank = min(rank, len(s))
    root = s[:rank].sqrt()
    return u[:, :rank] * root, root[:, None] * v[:rank]


def truncated_product(up: Tensor, down: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The same of a product [d_out, n] x [n, d_in], at the cost of its own rank."""
    if up.shape[1] <= rank:
        return up, down
    left, right = torch.linalg.qr(up.float()), torch.linalg.qr(down.float().t())
    u, v = truncated(left.R @ right.R.t(), rank)
    return left.Q @ u, v @ right.Q.t()
