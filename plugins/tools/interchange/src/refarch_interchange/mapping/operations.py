"""How a tensor of refarch's becomes one of the other library's, and back; each by a name that a mapping uses."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from refarch.plugins import resolve


class Operation(Protocol):
    """Both directions of one conversion."""

    def read(self, theirs: Tensor, like: Tensor) -> Tensor:
        """Their tensor in the form of ours, whose shape ``like`` has where it is not a part's."""

    def write(self, own: Tensor, side: str) -> Tensor:
        """Ours in their form; ``side`` is that of the slot, ``input`` or ``output``."""


class Same:
    """As it is."""

    def read(self, theirs: Tensor, like: Tensor) -> Tensor:
        """[...] -> [...]"""
        return theirs

    def write(self, own: Tensor, side: str) -> Tensor:
        """[...] -> [...]"""
        return own


class Transposed:
    """A matrix the other way round."""

    def read(self, theirs: Tensor, like: Tensor) -> Tensor:
        """[a, b] -> [b, a]"""
        return theirs.t()

    def write(self, own: Tensor, side: str) -> Tensor:
        """[b, a] -> [a, b]"""
        return own.t()


class Negated:
    """With the other sign."""

    def read(self, theirs: Tensor, like: Tensor) -> Tensor:
        """[...] -> [...]"""
        return -theirs

    def write(self, own: Tensor, side: str) -> Tensor:
        """[...] -> [...]"""
        return -own


class Column:
    """A vector that they keep as a matrix of one column; at an input, of one row."""

    def read(self, theirs: Tensor, like: Tensor) -> Tensor:
        """[n, 1] or [1, n] -> [n]"""
        return theirs.flatten() if 1 in theirs.shape and theirs.ndim == 2 else theirs

    def write(self, own: Tensor, side: str) -> Tensor:
        """[n] -> [n, 1], or [1, n] at an input."""
        return own[None] if side == "input" else own[:, None]


class Leading:
    """With a first axis of length one."""

    def read(self, theirs: Tensor, like: Tensor) -> Tensor:
        """[1, ...] -> [...]"""
        return theirs.squeeze(0)

    def write(self, own: Tensor, side: str) -> Tensor:
        """[...] -> [1, ...]"""
        return own[None]


class Skew:
    """The angles above the diagonal of skew-symmetric blocks, which they make of whole blocks B as (B - B^T) / 2; their
    Cayley map has the other sign.
    """

    def read(self, theirs: Tensor, like: Tensor) -> Tensor:
        """[n, b, b] -> [n, b (b - 1) / 2]"""
        row, column = torch.triu_indices(theirs.shape[-1], theirs.shape[-1], 1)
        skew = (theirs.mT - theirs) / 2
        return skew[:, row, column]

    def write(self, own: Tensor, side: str) -> Tensor:
        """[n, b (b - 1) / 2] -> [n, b, b], skew-symmetric."""
        size = round((1 + (1 + 8 * own.shape[-1]) ** 0.5) / 2)
        row, column = torch.triu_indices(size, size, 1)
        upper = own.new_zeros(len(own), size, size)
        upper[:, row, column] = own
        return upper.mT - upper


OPERATIONS: dict[str, Operation] = {
    "same": Same(),
    "transposed": Transposed(),
    "negated": Negated(),
    "column": Column(),
    "leading": Leading(),
    "skew": Skew(),
}


def operation(name: str) -> Operation:
    """The operation of a name, or of an import path.

    Raises:
        PluginError: there is none.
    """
    found: Operation = OPERATIONS[name] if name in OPERATIONS else resolve(name)
    return found
