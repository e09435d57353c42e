"""The standard components in torch, each once: resolve slots, bind, integrate, merge, save."""

from refarch.architecture.fingerprint import Fingerprint
from refarch.engine.adaptation import Adaptation, Source
from refarch.engine.attach import attach, load
from refarch.engine.attached import adaptations
from refarch.engine.compose import (
    Composition,
    Judgement,
    combine,
    compose,
    compositions,
    export,
    judge,
    load_composition,
    to_low_rank,
)
from refarch.engine.function import Attend, Function, LowRank, SlotShape
from refarch.engine.rotation import BlockRotation
from refarch.engine.schedule import Schedule
from refarch.engine.sites import Resolver, Site

__all__ = [
    "Adaptation",
    "Attend",
    "BlockRotation",
    "Composition",
    "Fingerprint",
    "Function",
    "Judgement",
    "LowRank",
    "Resolver",
    "Schedule",
    "Site",
    "SlotShape",
    "Source",
    "adaptations",
    "attach",
    "combine",
    "compose",
    "compositions",
    "export",
    "judge",
    "load",
    "load_composition",
    "to_low_rank",
]
