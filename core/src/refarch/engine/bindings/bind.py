"""Which kind of binding an insertion needs."""

from __future__ import annotations

from refarch.architecture import ModuleSpec
from refarch.engine.bindings.attention.key_value import KeyValueBinding
from refarch.engine.bindings.attention.self_attention import SelfAttentionBinding
from refarch.engine.bindings.binding import Binding
from refarch.engine.bindings.inputs import InputsBinding
from refarch.engine.bindings.module import ModuleBinding
from refarch.engine.bindings.owner import Owner
from refarch.engine.functions.function import Function
from refarch.engine.functions.gate import GateModule
from refarch.engine.slots.site import Site


def bind(owner: Owner, spec: ModuleSpec, site: Site, function: Function, gate: GateModule | None) -> Binding:
    """A built function joined to its site, for :meth:`Binding.attach` to put on the model.

    Args:
        owner: what it belongs to.
        spec: the module spec.
        site: where.
        function: built for the site's shape.
        gate: of a gated addition.
    """
    kind: type[Binding] = ModuleBinding
    if site.ref.slot.kind == "inputs":
        kind = InputsBinding
    elif site.ref.slot.kind == "key_value":
        kind = KeyValueBinding
    elif spec.form == "attention":
        kind = SelfAttentionBinding
    return kind(owner, spec, site, function, gate)
