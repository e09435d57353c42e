"""AdaLoRA's budget: which triplets of all matrices are kept, by importance, after each step."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from refarch import Function, Schedule
from refarch.errors import SpecError, UsageError
from refarch_adalora.function import Triplets


class Budget(Schedule):
    """Lowers the number of triplets of all matrices together from r to the target, and sets the singular values of all
    but the most important ones to zero.

    A triplet's importance is that of its singular value plus the means over its vectors. The number is r for each
    matrix for ``tinit`` steps, then falls by a cubic law, and is the target for the last ``tfinal`` steps. Until
    these, a value that was set to zero goes on training and may come back; from then on the choice stands.

    Args:
        functions: all matrices' triplets, by address.
        rank: r.
        target_rank: mean of a matrix at the end; two thirds of r if None.
        tinit: steps before the number falls.
        tfinal: steps after it has fallen.
        delta_t: steps between allocations.
        beta1: of the running mean of sensitivity.
        beta2: of the running mean of its uncertainty.
        others: options of the functions.
    """

    def __init__(
        self,
        functions: Mapping[str, Function],
        rank: int,
        target_rank: int | None,
        tinit: int,
        tfinal: int,
        delta_t: int,
        beta1: float,
        beta2: float,
        **others: Any,
    ) -> None:
        super().__init__(functions)
        target = max(1, round(rank * 2 / 3)) if target_rank is None else target_rank
        if target > rank:
            raise ValueError(f"target_rank {target} exceeds rank {rank}, from which ranks fall")
        self.start, self.target = rank * len(functions), target * len(functions)
        self.tinit, self.tfinal, self.delta_t = tinit, tfinal, delta_t
        self.betas = beta1, beta2

    def number(self, step: int, total: int) -> int:
        """How many triplets are kept at a step."""
        if step <= self.tinit:
            return self.start
        left = max(0.0, 1 - (step - self.tinit) / (total - self.tfinal - self.tinit))
        return int((self.start - self.target) * left**3 + self.target)

    def after_step(self, step: int, total: int) -> None:
        """Account for the step's gradients; allocate where it is time to.

        Raises:
            SpecError: the options leave no steps in which ranks fall.
            UsageError: there are no gradients.
        """
        matrices = [f for f in self.functions.values() if isinstance(f, Triplets) and f.kept is not None]
        if not matrices:  # folded: the choice was made
            return
        last = total - self.tfinal
        if self.tinit >= last:
            raise SpecError(
                f"tinit {self.tinit} and tfinal {self.tfinal} leave none of {total} steps for ranks to fall in",
                "lower them, or train for more steps",
            )
        kept = torch.cat([matrix.kept.to(matrices[0].values) for matrix in matrices if matrix.kept is not None])
        if step < last:
            self._account(matrices)
        if step == last or (step > last and kept.float().sum() > self.target):  # the last step may have been skipped
            self._allocate(matrices, self.target)
        elif self.tinit < step < last and step % self.delta_t == 0:
            self._allocate(matrices, self.number(step, total))
        elif step > last:
            _keep(matrices, kept)

    def _account(self, matrices: list[Triplets]) -> None:
        if all(parameter.grad is None for matrix in matrices for parameter in matrix.parameters()):
            raise UsageError(
                "importance is read off gradients, and there are none",
                "call after_step() after optimizer.step() and before optimizer.zero_grad()",
            )
        for matrix in matrices:
            matrix.account(*self.betas)

    def _allocate(self, matrices: list[Triplets], number: int) -> None:
        """Keep the ``number`` most important triplets; of equal ones, the first."""
        scores = torch.cat([matrix.scores().to(matrices[0].values.device) for matrix in matrices])
        chosen = torch.zeros_like(scores)
        chosen[scores.argsort(descending=True, stable=True)[:number]] = 1
        _keep(matrices, chosen)


def _keep(matrices: list[Triplets], chosen: Tensor) -> None:
    """chosen: [all triplets]"""
    for matrix, own in zip(matrices, chosen.split([len(matrix.values) for matrix in matrices]), strict=True):
        matrix.keep(own)
