"""The properties in which techniques differ, after PEFT-Ref (Sabry & Belz 2023, arXiv 2304.12410).

Property names follow the paper; the extensions that execution and algebra need are marked as such in the docs.
Which values combine, and why others do not, is data in :mod:`~refarch.architecture.rules`.
"""

from __future__ import annotations

from typing import Any, Literal

from refarch.architecture.spec import Spec

InsertionForm = Literal["sequential", "parallel"]
IntegrationForm = Literal[
    "direct addition",
    "scaled addition",
    "gated addition",
    "rescaling",
    "concatenation",
    "transformation",
    "selection",
]
InputType = Literal["hidden", "data", "weights"]
Adapted = Literal["addition", "reparameterisation", "selection"]
Intra = Literal["dense", "structured", "diagonal", "none"]
Inter = Literal["fixed", "dynamic"]
Sharing = Literal["none", "within layer", "across layers", "across model"]
FunctionalForm = Literal["linear", "mlp", "attention", "vector", "tokens"]
Routing = Literal["none", "fixed", "soft", "hard"]
Gating = Literal["learned", "token", "example"]

ADDITIVE: tuple[IntegrationForm, ...] = ("direct addition", "scaled addition", "gated addition")

PROPERTIES: dict[str, str] = {
    "insertion": "insertion form",
    "integration": "integration form",
    "input_type": "input type",
    "adapted": "parameters adapted",
    "intra": "intra-connectivity",
    "inter": "inter-connectivity",
    "sharing": "sharing",
    "form": "functional form",
    "routing": "routing",
}
"""The fields of a module spec that are properties, and their names in the field."""

MEANING: dict[str, dict[str, str]] = {
    "insertion": {
        "sequential": "reads what the base computes at the slot",
        "parallel": "reads what the base reads at the slot",
    },
    "integration": {
        "direct addition": "y + M(.)",
        "scaled addition": "y + s M(.)",
        "gated addition": "y + g M(.), or (1 - g) y + g M(.); at key_value M(.) is attention over M's tokens",
        "rescaling": "y * M() at an output, F(x * M()) at an input",
        "concatenation": "[M(); tokens]; at key_value also [g M(); tokens]",
        "transformation": "F with the weight M(W)",
        "selection": "a trainable copy of named parameters takes the place of the base's own",
    },
    "input_type": {
        "hidden": "hidden states",
        "data": "the input itself, or nothing: free parameters beside the input",
        "weights": "base weights",
    },
    "adapted": {
        "addition": "new parameters",
        "reparameterisation": "an update of existing weights expressed by few parameters",
        "selection": "some existing weights, trained in a copy",
    },
    "intra": {
        "dense": "full matrices",
        "structured": "Kronecker, block or circulant matrices",
        "diagonal": "one factor per unit",
        "none": "free vectors",
    },
    "inter": {
        "fixed": "which positions, layers or modules talk to each other does not depend on the input",
        "dynamic": "it does: attention, gates, routers",
    },
    "sharing": {
        "none": "each insertion has its own parameters",
        "within layer": "insertions of one layer share",
        "across layers": "insertions at one slot share over the layers",
        "across model": "all insertions share",
    },
    "routing": {
        "none": "one function, for every input",
        "fixed": "several, mixed in learned proportions that are the same for every input",
        "soft": "several, all mixed in proportions that a router computes from the input",
        "hard": "several, of which a router chooses few by the input",
    },
    "form": {
        "linear": "linear in what it reads; offers its weight delta",
        "mlp": "a nonlinear network on each position",
        "attention": "positions attend to each other, as far as the base's own attention lets them see each other",
        "vector": "a vector of factors",
        "tokens": "free vectors that act as tokens, or as keys and values",
    },
}
"""What each value means, in words; ``refarch show`` and the docs print these."""


class Provenance(Spec):
    """Where an assigned property value comes from."""

    source: Literal["assigned", "paper"] = "assigned"
    """``assigned`` by the technique's author, or read in a ``paper``."""
    reference: str = ""
    """The paper and the place in it."""


def describe(name: str, value: Any) -> str:
    """The meaning of a property's value in words, or an empty string."""
    return MEANING.get(name, {}).get(str(value), "")
