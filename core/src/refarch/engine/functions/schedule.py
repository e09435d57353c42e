"""What an author may change between optimizer steps: a schedule over all functions of a module."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from refarch.engine.functions.function import Function


class Schedule:
    """Changes all functions of one module together after each optimizer step: shares a budget out among them, say.

    A module spec names it in ``schedule``. It keeps nothing itself: what it has to remember are buffers of the
    functions, so that they travel with the model and a checkpoint holds them; those that only training needs are named
    in the spec's ``train_only`` and dropped by the functions' ``fold``. What it decides may depend on these, on the
    parameters, on their gradients and on the step alone, so that a resumed run, and every process of a distributed
    one, decides the same.

    Args:
        functions: the module's functions on a model, by address, in the order of the slots.
        options: the keyword arguments with which these were built.
    """

    def __init__(self, functions: Mapping[str, Function], **options: Any) -> None:
        self.functions = dict(functions)

    def after_step(self, step: int, total: int) -> None:
        """Change the functions, without recording gradients.

        Args:
            step: how many optimizer steps have been made, from 1 to ``total``; the gradients are the last one's.
            total: how many there will be.
        """
        raise NotImplementedError(f"{type(self).__name__} defines no after_step()")
