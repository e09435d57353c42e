"""The standard components in torch, each once: resolve slots, bind, integrate, merge, save."""

from refarch.architecture.fingerprint import Fingerprint
from refarch.engine.adaptation.adaptation import Adaptation
from refarch.engine.adaptation.attach import attach
from refarch.engine.adaptation.load import load
from refarch.engine.checkpoints.format import Source
from refarch.engine.functions.block_rotation import BlockRotation
from refarch.engine.functions.function import Attend, Function, SlotShape
from refarch.engine.functions.low_rank import LowRank
from refarch.engine.functions.schedule import Schedule
from refarch.engine.host.container import adaptations
from refarch.engine.slots.resolver import Resolver
from refarch.engine.slots.site import Site

__all__ = [
    "Adaptation",
    "Attend",
    "BlockRotation",
    "Fingerprint",
    "Function",
    "LowRank",
    "Resolver",
    "Schedule",
    "Site",
    "SlotShape",
    "Source",
    "adaptations",
    "attach",
    "load",
]
