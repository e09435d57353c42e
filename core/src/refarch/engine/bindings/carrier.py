"""What is carried from one module of a layer to a later one, within one forward pass."""

from __future__ import annotations

from torch import Tensor, nn

from refarch.engine.bindings.owner import Owner
from refarch.engine.bindings.seam import Inner


class Carrier:
    """Hands what a sublayer reads from its first leaf to its last one, within one forward pass of the layer."""

    carrier = tokens = None
    """What bindings need and a carrier does not."""

    def __init__(self, owner: Owner) -> None:
        self.owner = owner
        self.held: Tensor | None = None
        self.group: object | None = None
        self.keeps = False
        """Whether what was noted may be taken several times; whoever sets it lets go of it after the last leaf."""

    @property
    def enabled(self) -> bool:
        """Whether the adaptation takes part."""
        return self.owner.enabled

    def __call__(self, inner: Inner, x: Tensor, leaf: nn.Module | None) -> Tensor:
        """Note x on its way through."""
        self.held = x
        return inner(x)

    def take(self) -> Tensor:
        """What was noted; a carrier holds nothing between forward passes."""
        held = self.held
        if not self.keeps:
            self.held = None
        assert held is not None, "the sublayer's last leaf ran before its first one"
        return held
