"""A slot of one layer, found on a model."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from refarch.architecture import SlotRef, StackTable
from refarch.architecture.family import FusedPart
from refarch.engine.functions.function import SlotShape


@dataclass
class Place:
    """A module found at a table entry."""

    path: str
    module: nn.Module
    part: FusedPart | None = None


@dataclass
class InputStack:
    """What belongs to a stack whose inputs tokens are put before.

    Attributes:
        embedding: the token embedding.
        decoder: the stack that attends to this one's output, if any.
        body: the module inside the stack whose output the stack reads on, if any.
        first: the position of a sequence's first token.
        causal: whether its tokens see earlier ones alone.
    """

    embedding: nn.Module
    decoder: nn.Module | None
    body: nn.Module | None
    first: int
    causal: bool


@dataclass
class Site:
    """One insertion: a slot of one layer, found on a model.

    Attributes:
        address: ``encoder.0.attention.query``; unique on the model.
        ref: the slot and side.
        end: where the module's output joins.
        entry: for a sublayer that the table names no module for, the leaf whose input it reads; for keys and values,
            the query projection, which reads what the attention does.
        projections: for keys and values, the modules that make them.
        attends: for a function of form attention, the module that calls the attention function.
        position_bias: for keys and values, the module that computes the stack's position biases.
        shape: what the function is built for.
        stack: the stack's table, or None for a slot of the model.
        stack_module: the module that runs the stack and takes its mask and cache; None for a slot of the model.
        inputs: at ``inputs``, what belongs to the stack.
    """

    address: str
    ref: SlotRef
    end: Place
    shape: SlotShape
    entry: Place | None = None
    stack: StackTable | None = None
    projections: tuple[Place, ...] = ()
    attends: Place | None = None
    position_bias: nn.Module | None = None
    stack_module: nn.Module | None = None
    inputs: InputStack | None = None
