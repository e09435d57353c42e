"""Where the functions of adaptations live on a model: in its child ``refarch``, at paths that spell slots."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from torch import nn

from refarch.architecture.fingerprint import Fingerprint
from refarch.engine.layers.quantised import free_order, keep_order
from refarch.errors import CompositionError, SpecError

if TYPE_CHECKING:
    from refarch.composition.composition import Composition
    from refarch.engine.adaptation.adaptation import Adaptation


class Tree(nn.Module):
    """A plain container whose attribute path spells a slot's address."""

    def put(self, path: str, module: nn.Module) -> None:
        """Place ``module`` at a dotted path below this one."""
        name, _, rest = path.partition(".")
        if name in RESERVED:
            raise SpecError(f"a module cannot be named {name!r}: torch's modules use that name themselves")
        if not rest:
            assert name not in self._modules, f"two functions at {path}"
            self.add_module(name, module)
            return
        if name not in self._modules:
            self.add_module(name, Tree())
        child = self._modules[name]
        assert isinstance(child, Tree), f"a function stands above {path}"
        child.put(rest, module)


class Attached(nn.Module):
    """All adaptations of one model, as its child ``refarch``: so its optimizer, device and mode are the model's."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.order: list[Adaptation] = []
        """In the order of attachment: the last one is outermost."""
        self.compositions: list[Composition] = []
        """In the order in which they were made."""
        self.trained: dict[str, bool] = {}
        """Which base parameters trained before; none do while something is attached."""
        for name, parameter in model.named_parameters():
            self.trained[name] = parameter.requires_grad
            parameter.requires_grad = False
        self.fingerprint: Fingerprint | None = None
        self.ordered: list[nn.Module] = []
        """Quantised layers that must not reorder their weights, because something trains through them."""

    def keep_order(self, model: nn.Module) -> None:
        """From now on something trains: see :func:`~refarch.engine.layers.quantised.keep_order`."""
        self.ordered += keep_order(model)

    def give_back(self, model: nn.Module) -> None:
        """The model's parameters train, and its layers order their weights, as before anything was attached."""
        free_order(self.ordered)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(self.trained.get(name, True))

    @classmethod
    def of(cls, model: nn.Module) -> Attached | None:
        """The container of a model, or None."""
        found = model._modules.get("refarch")
        return found if isinstance(found, cls) else None


RESERVED = {*dir(nn.Module()), *dir(Attached)} | {"order", "compositions", "trained", "fingerprint", "ordered"}
"""Names that neither an adaptation nor a module of it can have, because torch's modules and :class:`Attached` do."""


def adaptations(model: nn.Module) -> tuple[Adaptation, ...]:
    """The adaptations on a model, in the order of attachment."""
    container = Attached.of(model)
    return tuple(container.order) if container else ()


def taken_names(model: nn.Module) -> set[str]:
    """Names that nothing new on a model can have."""
    container = Attached.of(model)
    return {*RESERVED, *(container._modules if container else ())}


def unused_name(model: nn.Module, wanted: str) -> str:
    """``wanted``, or ``wanted-2`` and so on if the model has an adaptation of that name."""
    taken = taken_names(model)
    name, number = wanted, 2
    while name in taken:
        name, number = f"{wanted}-{number}", number + 1
    return name


def compositions_with(part: Adaptation) -> list[Composition]:
    """The compositions that an adaptation is a part of."""
    container = Attached.of(part.model)
    found = container.compositions if container else ()
    return [composition for composition in found if any(own is part for own in composition.parts.values())]


def refuse_part(part: Adaptation, what: str) -> None:
    """Let nobody take a part out of a composition.

    Raises:
        CompositionError: it is in one.
    """
    for composition in compositions_with(part):
        raise CompositionError(
            f"adaptation {part.name!r} is a part of composition {composition.name!r}; cannot {what} it alone",
            f"detach or {what} the composition, or disable the part",
        )


@contextlib.contextmanager
def quiet(model: nn.Module, but: Sequence[Adaptation] = ()) -> Iterator[None]:
    """While inside, no adaptations of a model take part but some, which do."""
    before = {part: part.enabled for part in adaptations(model) if part.state == "attached"}
    for part in before:
        part.enabled = part in but
    try:
        yield
    finally:
        for part, enabled in before.items():
            part.enabled = enabled
