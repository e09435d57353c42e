"""Three parts at one leaf, and plain models whose leaf computes what an expression means."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from engine_models import logits, module, technique
from torch import Tensor, nn
from transformers import PreTrainedModel

import refarch

Map = Callable[[Tensor], Tensor]


def parts(model: PreTrainedModel, text: str = "(a, b, c") -> dict[str, refarch.Adaptation]:
    """Three parts at one leaf: beside it and linear, after it and not linear, on its input; off if not in the text."""
    specs = {
        "a": module("Narrow", "scaled addition", "ffn.down"),
        "b": module("Mlp", "direct addition", "ffn.down", insertion="sequential", form="mlp"),
        "c": module("Factors", "rescaling", "ffn.down:input"),
    }
    found = {
        name: refarch.attach(model, technique(spec), name=name, seed=i) for i, (name, spec) in enumerate(specs.items())
    }
    for name, part in found.items():
        part.enabled = f"({name}" in text or f" {name}" in text
    return found


def maps(found: dict[str, refarch.Adaptation], layer: int) -> dict[str, Callable[[Map], Map]]:
    """F -> e(F) of each part at one layer, from its function alone."""
    a, b, c = (found[name].insertions[layer].function for name in "abc")
    return {
        "a": lambda f: lambda x: f(x) + 0.6 * (x @ a.down.T @ a.up.T),
        "b": lambda f: lambda x: f(x) + b.up(torch.tanh(b.down(f(x)))),
        "c": lambda f: lambda x: f(x * c.factors),
    }


def layers(found: dict[str, refarch.Adaptation]) -> list[tuple[int, str]]:
    """The index and path of each insertion."""
    return list(enumerate(item.site.end.path for item in found["a"].insertions))


def expected(plain: PreTrainedModel, found: dict[str, refarch.Adaptation], values: Any, define: Any) -> Tensor:
    """The plain model's logits with every leaf computing what ``define(a, b, c, f)`` says."""
    return expected_at(plain, found, values, lambda path, a, b, c, f: define(a, b, c, f))


def expected_at(plain: PreTrainedModel, found: dict[str, refarch.Adaptation], values: Any, define: Any) -> Tensor:
    """The same, where what is said depends on the leaf's path."""
    clone = copy.deepcopy(plain)
    for layer, path in layers(found):
        leaf = clone.base_model.get_submodule(path)
        own = maps(found, layer)
        base = type(leaf).forward

        def forward(x: Tensor, leaf: nn.Module = leaf, own: Any = own, base: Any = base, path: str = path) -> Tensor:
            return define(path, own["a"], own["b"], own["c"], lambda x: base(leaf, x))(x)

        leaf.forward = forward
    return logits(clone, values)
