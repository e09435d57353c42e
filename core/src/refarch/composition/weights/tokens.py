"""Prompts and prefixes side by side: one part's tokens after another's."""

from __future__ import annotations

import torch
from torch import Tensor

from refarch.architecture import ModuleSpec
from refarch.architecture.expression import Operator, to_text
from refarch.composition.weights.arithmetic import weights_of
from refarch.composition.weights.result import WeightResult
from refarch.engine.adaptation.adaptation import Adaptation
from refarch.engine.bindings.attention.key_value import KeyValueBinding
from refarch.engine.bindings.inputs import InputsBinding
from refarch.engine.functions.core_techniques import KEYS_AND_VALUES, TOKENS
from refarch.errors import CompositionError


def of_tokens(operator: Operator, parts: list[Adaptation]) -> WeightResult:
    """The parts' tokens, one part's after another's.

    Raises:
        CompositionError: some part has others, or something else.
    """
    weights = weights_of(operator)
    specs = {_token_spec(part) for part in parts}
    if len(specs) > 1 or any(w != 1 for w in weights):
        raise CompositionError(
            f"{to_text(operator)}: tokens stand side by side where all parts are prompts, or all prefixes of one kind,"
            " each with weight 1",
            "combine others by linear(...), or in each forward pass by stack(...) or sum(...)",
        )
    at_inputs, projected, counted = specs.pop()
    values: dict[str, Tensor] = {}
    lengths = set()
    slots: list[str] = []
    for binding in parts[0].bindings:
        address = binding.site.address
        own = [next(b for b in part.bindings if b.site.address == address).function() for part in parts]
        slots.append(str(binding.site.ref.slot.name))
        if at_inputs or projected:
            tokens = torch.cat(own)
            values[f"tokens.{address}.tokens"] = tokens
        else:
            tokens = torch.cat([pair[0] for pair in own])
            values[f"tokens.{address}.keys"], values[f"tokens.{address}.values"] = (
                tokens,
                torch.cat([pair[1] for pair in own]),
            )
        lengths.add(len(tokens))
    if len(lengths) > 1:
        raise CompositionError(f"{to_text(operator)}: the parts have other lengths at other slots", "use stack(...)")
    spec = TOKENS if at_inputs or projected else KEYS_AND_VALUES
    if projected or counted:
        changes = {"projected": projected, "counted": counted}
        modules = tuple(module.model_copy(update=changes) for module in spec.modules)
        spec = spec.model_copy(update={"modules": modules})
    first: ModuleSpec = parts[0].modules()[0]
    choice = {"length": lengths.pop(), "slots": list(dict.fromkeys(slots)), "layers": first.layers}
    return WeightResult(spec.configure(choice), values, error=None)


def _token_spec(part: Adaptation) -> tuple[bool, bool, bool]:
    """Whether a part's tokens stand at the inputs, whether layers project them, and whether position biases count them.

    Raises:
        CompositionError: it does something else.
    """
    kinds = {
        (isinstance(binding, InputsBinding), binding.spec.projected, binding.spec.counted) for binding in part.bindings
    }
    plain = all(
        isinstance(binding, InputsBinding)
        or (
            isinstance(binding, KeyValueBinding)
            and binding.gate is None
            and binding.spec.integration == "concatenation"
        )
        for binding in part.bindings
    )
    if not plain or len(kinds) != 1 or part.copies:
        where = next((b.site.address for b in part.bindings), next(iter(part.copies), "its parameters"))
        raise CompositionError(
            f"concat: part {part.name!r} at {where} has nothing to put side by side: neither tokens without a gate nor"
            " products of matrices alone",
            "combine it by linear(...) or svd(..., rank=)",
        )
    return kinds.pop()
