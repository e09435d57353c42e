"""One adaptation on one model: the standard components in torch, each once. The rooms, in the order of reading:

- ``adaptation``: a technique bound to one model; begin with ``attach.py``; all is planned before it changes
- ``slots``: from a family's table to the sites of one model, all or an error
- ``layers``: the backbone's own layers as matrices, whatever class, fusion or quantisation they have
- ``functions``: what a technique's author writes, and the standard parts: low rank, experts, gates, schedules
- ``bindings``: a function joined to the model at one site; ``bind.py`` chooses, ``module.py`` has the integration forms
- ``bindings/attention``: the same where attention attends: tokens beside keys and values, attention of one's own
- ``host``: what one model carries, once for all that is on it: copies, merged weights, its fingerprint
- ``checkpoints``: an adaptation's files, plain data and tensors, of which nothing is believed
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from refarch._lazy import lazy, names

if TYPE_CHECKING:
    from refarch.architecture import Fingerprint as Fingerprint
    from refarch.engine.adaptation.adaptation import Adaptation as Adaptation, adaptations as adaptations
    from refarch.engine.adaptation.attach import attach as attach
    from refarch.engine.adaptation.load import load as load, trusted_technique as trusted_technique
    from refarch.engine.adaptation.plan import Insertion as Insertion
    from refarch.engine.checkpoints.description import read_description as read_description
    from refarch.engine.checkpoints.format import (
        ADAPTATION_FILE as ADAPTATION_FILE,
        Checkpoint as Checkpoint,
        Source as Source,
        migrated as migrated,
    )
    from refarch.engine.checkpoints.provenance import labels as labels
    from refarch.engine.checkpoints.reading import read as read
    from refarch.engine.functions.block_rotation import BlockRotation as BlockRotation
    from refarch.engine.functions.function import (
        Attend as Attend,
        Function as Function,
        SlotShape as SlotShape,
        fold as fold,
        own_parameters as own_parameters,
    )
    from refarch.engine.functions.low_rank import FusedLowRank as FusedLowRank, LowRank as LowRank
    from refarch.engine.functions.schedule import Schedule as Schedule
    from refarch.engine.host.selection import selected as selected
    from refarch.engine.layers.linear import (
        matrix as matrix,
        put_part as put_part,
        take_part as take_part,
        widths as widths,
    )
    from refarch.engine.layers.quantised import keep_order as keep_order
    from refarch.engine.slots.resolver import (
        Resolver as Resolver,
        find as find,
        layer_paths as layer_paths,
        submodule as submodule,
    )
    from refarch.engine.slots.site import Site as Site

_FROM = {
    "refarch.architecture": "Fingerprint",
    "refarch.engine.adaptation.adaptation": "Adaptation adaptations",
    "refarch.engine.adaptation.attach": "attach",
    "refarch.engine.adaptation.load": "load trusted_technique",
    "refarch.engine.adaptation.plan": "Insertion",
    "refarch.engine.checkpoints.format": "ADAPTATION_FILE Checkpoint Source migrated",
    "refarch.engine.checkpoints.provenance": "labels",
    "refarch.engine.checkpoints.description": "read_description",
    "refarch.engine.checkpoints.reading": "read",
    "refarch.engine.functions.block_rotation": "BlockRotation",
    "refarch.engine.functions.function": "Attend Function SlotShape fold own_parameters",
    "refarch.engine.functions.low_rank": "FusedLowRank LowRank",
    "refarch.engine.functions.schedule": "Schedule",
    "refarch.engine.host.selection": "selected",
    "refarch.engine.layers.linear": "matrix put_part take_part widths",
    "refarch.engine.layers.quantised": "keep_order",
    "refarch.engine.slots.resolver": "Resolver find layer_paths submodule",
    "refarch.engine.slots.site": "Site",
}
__all__ = names(_FROM)  # pyright: ignore[reportUnsupportedDunderAll]


if not TYPE_CHECKING:  # a type checker would take any name from a module with __getattr__

    def __getattr__(name: str) -> Any:
        return lazy(__name__, name, _FROM)
