"""Where the functions of adaptations live on a model: in its child ``refarch``, at paths that spell slots."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

from torch import nn

from refarch.architecture.fingerprint import Fingerprint
from refarch.engine.host.attachment import Attachment
from refarch.engine.host.merged_weights import Merged
from refarch.engine.host.selection import HOST, Selected
from refarch.engine.layers.quantised import free_order, keep_order
from refarch.errors import CompositionError, SpecError


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


class Host(nn.Module):
    """What one model carries, as its child ``refarch``: so its optimizer, device and mode are the model's.

    Attributes:
        order: the adaptations in the order of attachment: the last one is outermost.
        compositions: in the order in which they were made.
        trained: which base parameters trained before; none do while something is attached.
        fingerprint: of the base, once it was taken.
        ordered: quantised layers that must not reorder their weights, because something trains through them.
        selected_copies: the base parameters that copies stand in for, by path.
        merge_log: what was merged into weights, in order, with what stood there before.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.order: list[Attachment] = []
        self.compositions: list[Attachment] = []
        self.trained: dict[str, bool] = {}
        for name, parameter in model.named_parameters():
            self.trained[name] = parameter.requires_grad
            parameter.requires_grad = False
        self.fingerprint: Fingerprint | None = None
        self.ordered: list[nn.Module] = []
        self.selected_copies: dict[str, Selected] = {}
        self.merge_log: list[tuple[Attachment, Merged]] = []

    def keep_order(self, model: nn.Module) -> None:
        """From now on something trains: see :func:`~refarch.engine.layers.quantised.keep_order`."""
        self.ordered += keep_order(model)

    def give_back(self, model: nn.Module) -> None:
        """The model's parameters train, and its layers order their weights, as before anything was attached."""
        free_order(self.ordered)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(self.trained.get(name, True))

    @classmethod
    def of(cls, model: nn.Module) -> Host | None:
        """The host of a model, or None."""
        found = model._modules.get(HOST)
        return found if isinstance(found, cls) else None


RESERVED = {*dir(nn.Module()), *dir(Host)} | {
    *("order", "compositions", "trained", "fingerprint", "ordered", "selected_copies", "merge_log")
}
"""Names that neither an adaptation nor a module of it can have, because torch's modules and :class:`Host` do."""


def host_of(model: nn.Module) -> Host:
    """The host of a model, which has one."""
    host = Host.of(model)
    assert host is not None
    return host


def settle(model: nn.Module) -> Host:
    """The host of a model, put there if need be: from then on none of the base's own parameters train."""
    host = Host.of(model)
    if host is None:
        host = Host(model)
        model.add_module(HOST, host)
    return host


def forget(attachment: Attachment, new_base: bool = False) -> None:
    """Let an adaptation leave its model; with the last one the model is what it was.

    Args:
        attachment: the adaptation.
        new_base: whether the model's weights are from now on others than those it was loaded with.
    """
    model, host = attachment.model, host_of(attachment.model)
    host.order.remove(attachment)
    del host._modules[attachment.name]
    if new_base and not any(other.state == "merged" for other in host.order):
        host.fingerprint = None
    attachment.state = "detached"
    if not host.order:
        del model._modules[HOST]
        host.give_back(model)


def taken_names(model: nn.Module) -> set[str]:
    """Names that nothing new on a model can have."""
    container = Host.of(model)
    return {*RESERVED, *(container._modules if container else ())}


def unused_name(model: nn.Module, wanted: str) -> str:
    """``wanted``, or ``wanted-2`` and so on if the model has an adaptation of that name."""
    taken = taken_names(model)
    name, number = wanted, 2
    while name in taken:
        name, number = f"{wanted}-{number}", number + 1
    return name


def compositions_with(part: Attachment) -> list[Attachment]:
    """The compositions that an adaptation is a part of."""
    container = Host.of(part.model)
    found = container.compositions if container else ()
    return [composition for composition in found if any(own is part for own in composition.parts.values())]


def refuse_part(part: Attachment, what: str) -> None:
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
def only_active(model: nn.Module, chosen: Sequence[Attachment] = ()) -> Iterator[None]:
    """While inside, no adaptations of a model take part but some, which do."""
    host = Host.of(model)
    before = {part: part.enabled for part in host.order if part.state == "attached"} if host else {}
    for part in before:
        part.enabled = part in chosen
    try:
        yield
    finally:
        for part, enabled in before.items():
            part.enabled = enabled
