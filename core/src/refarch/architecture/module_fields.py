"""The fields of a module spec: where one module works, how it is inserted and integrated, which function it runs."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StringConstraints

from refarch.architecture.properties import (
    Adapted,
    FunctionalForm,
    Gating,
    InputType,
    InsertionForm,
    IntegrationForm,
    Inter,
    Intra,
    Provenance,
    Routing,
    Sharing,
)
from refarch.architecture.slots import Layers, SlotName, SlotRef, parse_slot
from refarch.architecture.spec import PlainData, Spec

ImportPath = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_][\w.]*$")]
"""``package.module:Name``; resolved only when it is built."""
Scale = Annotated[float, Field(gt=0)] | Annotated[str, StringConstraints(pattern=r"^\$[a-z][a-z0-9_]*$")]
"""A positive number, or ``"$name"`` for the value of the option of that name."""
AtLeastOne = Annotated[int, Field(ge=1)] | Annotated[str, StringConstraints(pattern=r"^\$[a-z][a-z0-9_]*$")]
"""A positive whole number, or ``"$name"`` for the value of the option of that name."""
Identifier = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*$")]


class Gate(Spec):
    """The gate of a gated addition, or of keys and values, a standard component of the engine.

    The gate is g = activation(a) for a learned scalar, or g = activation(w.x + b) from what the module reads, for each
    token; or the mean of that over an example's tokens, without padding. In a decoder later tokens change that mean,
    and with it what earlier ones were computed with; while generating with a cache it is over the new tokens alone. So
    an ``example`` gate suits models that read an example at once. At ``*.key_value`` it reads what the attention reads.
    """

    by: Gating = "learned"
    """``learned``: one free number; ``token`` or ``example``: computed from the input."""
    activation: Annotated[str, StringConstraints(pattern="^(sigmoid|tanh|identity)$")] = "sigmoid"
    initial: float = 0.0
    """The value of a (and b) at the start, before the activation."""
    convex: bool = False
    """(1 - g) y + g M(.) instead of y + g M(.)."""


Count = Annotated[int, Field(ge=0)] | Annotated[str, StringConstraints(pattern=r"^\$[a-z][a-z0-9_]*$")]
"""A number, or ``"$name"`` for the value of the option of that name."""


class Positions(Spec):
    """The tokens of a sequence at which a module works: those at its beginning, those at its end, or both.

    Padding does not count, tokens put in front of the inputs do. A sequence's end is that of what a model gets before
    it generates: tokens that come after a cached beginning are not among the ``last``, so a cached generation is one
    from a prompt that was changed. ``first`` counts from the beginning, whatever is cached.
    """

    first: Count = 0
    """How many at the beginning."""
    last: Count = 0
    """How many at the end."""


class Router(Spec):
    """The mixture of a routed module, a standard component of the engine.

    The module has several functions of its class at each insertion, its experts, and computes sum_e w_e M_e. With
    p = softmax(W x) over the experts, from what the module reads at each token, w is p (soft routing), or p at the
    ``top`` largest and zero elsewhere (hard). In fixed routing p = softmax(a) with free numbers a.
    """

    experts: AtLeastOne
    """How many functions are mixed."""
    top: AtLeastOne | None = None
    """Of hard routing: how many experts act on an input."""
    renormalise: bool = True
    """Of hard routing: whether the weights of the chosen experts are divided by their sum."""


class ModuleFields(Spec):
    """The fields of a module spec, each valid by itself; whether they combine is for the rules to say."""

    name: Identifier
    """Unique within the technique; the first part of the names of its parameters."""
    workspace: tuple[SlotName, ...] = Field(min_length=1)
    """The slots where the module works unless the user chooses others."""
    layers: Layers = Layers()
    """The layers where it works unless the user chooses others."""
    insertion: InsertionForm
    integration: IntegrationForm
    input_type: InputType
    adapted: Adapted
    intra: Intra
    inter: Inter
    form: FunctionalForm
    function: ImportPath | None = None
    """The function's import path; none for a selection."""
    arguments: PlainData = {}
    """The function's keyword arguments; ``"$name"`` stands for the option of that name. Left empty, the function gets
    all of the technique's options under their own names, but those that say something about the router."""
    parameters: tuple[str, ...] = ()
    """Of a selection: which parameters of the modules at the slots (``weight``, ``bias``, ``*``)."""
    sharing: Sharing = "none"
    shared: tuple[str, ...] = ()
    """The parameters of the function that are shared as far as ``sharing`` says."""
    frozen: tuple[str, ...] = ()
    """Parameters of the function that keep their initial values."""
    learning_rate_scale: dict[str, Scale] = {}
    """Parameters of the function that train at a multiple of the learning rate, and that multiple."""
    projected: bool = False
    """Of tokens at ``*.key_value``: they are hidden states, which the layer's own projections make keys and values."""
    counted: bool = False
    """Of tokens at ``attention.key_value``: whether the model's position biases count them, as tokens before the first
    of the sequence; otherwise they stand outside of all positions, where the bias is zero."""
    train_only: tuple[str, ...] = ()
    """Parts of the function that are needed only while training and are dropped by saving."""
    schedule: ImportPath | None = None
    """The import path of what changes all of this module's functions together after each optimizer step; built with
    the same arguments as they are."""
    routing: Routing = "none"
    router: Router | None = None
    """Of a routed module: how many experts, and by what they are mixed."""
    gate: Gate | None = None
    positions: Positions | None = None
    """The tokens at which it works; all when left out."""
    identity_at_start: bool = True
    """Whether a freshly attached module leaves the model's output as it was."""
    provenance: dict[str, Provenance] = {}
    """Per property: where its value comes from; ``assigned`` where nothing is said."""

    @property
    def asks_for_tokens(self) -> bool:
        """Whether it has to know which of the tokens that it gets are real."""
        return self.positions is not None or (self.gate is not None and self.gate.by == "example")

    def slot_refs(self) -> tuple[SlotRef, ...]:
        """The workspace, parsed."""
        return tuple(parse_slot(text) for text in self.workspace)
