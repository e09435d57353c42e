"""The reference architecture as typed specs. Nothing here imports torch."""

from refarch.architecture.expression import WEIGHT, parts, read_expression
from refarch.architecture.family import BackboneKind, FamilySpec, ModelSpec, StackTable, TinyModel, parse_entry
from refarch.architecture.fingerprint import Fingerprint
from refarch.architecture.interchange import InterchangeSpec, TensorRule
from refarch.architecture.module import ModuleSpec
from refarch.architecture.module_fields import Gate, Positions, Router
from refarch.architecture.pipeline import (
    BackboneChoice,
    PipelineSpec,
    RunRecord,
    Seeds,
    TaskChoice,
    TechniqueChoice,
    Times,
    TrainingSpec,
)
from refarch.architecture.properties import MEANING, PROPERTIES, Provenance, describe
from refarch.architecture.rules import RULES
from refarch.architecture.slots import ALIASES, SLOTS, Layers, Slot, SlotRef, parse_slot
from refarch.architecture.spec import CONTRACT, Spec, explain
from refarch.architecture.task import SOURCE_OPTIONS, SPLIT_OPTIONS, TEXT_FORMULATIONS, Formulation, TaskSpec
from refarch.architecture.technique import ConfiguredTechnique, Option, TechniqueSpec, validate_options

__all__ = [
    "ALIASES",
    "CONTRACT",
    "MEANING",
    "PROPERTIES",
    "RULES",
    "SLOTS",
    "SOURCE_OPTIONS",
    "SPLIT_OPTIONS",
    "TEXT_FORMULATIONS",
    "WEIGHT",
    "BackboneChoice",
    "BackboneKind",
    "ConfiguredTechnique",
    "FamilySpec",
    "Fingerprint",
    "Formulation",
    "Gate",
    "InterchangeSpec",
    "Layers",
    "ModelSpec",
    "ModuleSpec",
    "Option",
    "PipelineSpec",
    "Positions",
    "Provenance",
    "Router",
    "RunRecord",
    "Seeds",
    "Slot",
    "SlotRef",
    "Spec",
    "StackTable",
    "TaskChoice",
    "TaskSpec",
    "TechniqueChoice",
    "TechniqueSpec",
    "TensorRule",
    "Times",
    "TinyModel",
    "TrainingSpec",
    "describe",
    "explain",
    "parse_entry",
    "parse_slot",
    "parts",
    "read_expression",
    "validate_options",
]
