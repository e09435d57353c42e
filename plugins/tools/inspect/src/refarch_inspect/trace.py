"""One forward pass of a tiny copy, cut open: what feeds what, found with gradients instead of names.

Every linear layer's output (and, in a second pass, every norm's) is replaced by a leaf of autograd's graph. The
gradient of what a module reads with respect to these leaves then reaches exactly the modules that feed it with none in
between, and for a fused projection exactly the columns that do.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, AttentionInterface
from transformers.pytorch_utils import Conv1D

TOKENS, DECODER_TOKENS = 7, 4
SPY = "inspect_spy"


@dataclass
class Node:
    """A module (or an attention call) that ran: what it read, and the leaf that stands for what it returned."""

    path: str
    module: nn.Module
    read: Tensor
    leaf: Tensor
    order: int


@dataclass
class Call:
    """One call of the attention function: query [b, h, t, dim], key and value [b, h, s, dim]."""

    path: str
    query: Tensor
    key: Tensor
    value: Tensor
    leaf: Tensor


@dataclass
class Trace:
    """What one forward pass showed."""

    nodes: dict[str, Node] = field(default_factory=dict)
    calls: list[Call] = field(default_factory=list)
    ran: dict[str, tuple[int, Any, Any]] = field(default_factory=dict)
    """Every module that ran: its turn, the first tensor that it read and the one that it returned."""
    repeated: set[str] = field(default_factory=set)
    """Modules that ran more than once: shared between layers."""
    done: bool = False
    """Whether the pass is over: what the model computes later is not noted."""

    def sources(self, target: Tensor) -> dict[str, Tensor]:
        """The nodes that feed ``target`` directly, with the gradient that reached each."""
        nodes = [node for node in self.nodes.values() if node.leaf.requires_grad]
        if not target.requires_grad:
            return {}
        found = torch.autograd.grad(
            target, [n.leaf for n in nodes], torch.randn_like(target), retain_graph=True, allow_unused=True
        )
        return {n.path: g for n, g in zip(nodes, found, strict=True) if g is not None and bool(g.any())}

    def reads_call(self, target: Tensor, call: Call) -> bool:
        """Whether ``target`` depends directly on what an attention call returned."""
        if not target.requires_grad:
            return False
        (found,) = torch.autograd.grad(
            target, [call.leaf], torch.randn_like(target), retain_graph=True, allow_unused=True
        )
        return found is not None and bool(found.any())


def is_linear(module: nn.Module) -> bool:
    """A linear layer, of torch or of transformers."""
    return isinstance(module, (nn.Linear, Conv1D))


def is_norm(module: nn.Module) -> bool:
    """A norm with a learned scale."""
    weight = module._parameters.get("weight")
    return isinstance(module, nn.LayerNorm) or (
        "norm" in type(module).__name__.lower() and weight is not None and weight.ndim == 1
    )


def trace(model: PreTrainedModel, norms: bool = False) -> Trace:
    """Run a base model once on random tokens.

    Args:
        model: a small model in evaluation mode, without head, all of whose weights are random (:func:`spread`).
        norms: cut at norms too.
    """
    _spy(model, found := Trace())
    handles = []
    for path, module in model.named_modules():
        node = is_linear(module) or (norms and is_norm(module))
        handles.append(module.register_forward_hook(_Watch(found, path, node), with_kwargs=True))
    try:
        with torch.enable_grad():
            model(**_batch(model))
    finally:
        found.done = True
        for handle in handles:
            handle.remove()
    return found


class _Watch:
    """A forward hook that notes a module's turn and cuts the graph at a node."""

    def __init__(self, found: Trace, path: str, node: bool) -> None:
        self.found, self.path, self.node = found, path, node

    def __call__(self, module: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> Any:
        read = next((value for value in [*args, *kwargs.values()] if isinstance(value, Tensor)), None)
        first = output[0] if isinstance(output, (tuple, list)) and output else output
        if hasattr(output, "last_hidden_state"):
            first = output.last_hidden_state
        if self.path in self.found.ran:
            self.found.repeated.add(self.path)
        turn = len(self.found.ran)
        self.found.ran[self.path] = (turn, read, first)
        if not self.node or not isinstance(output, Tensor) or read is None:
            return None
        leaf = output.detach().requires_grad_()
        self.found.nodes[self.path] = Node(self.path, module, read, leaf, turn)
        return leaf.clone()


def _spy(model: PreTrainedModel, found: Trace) -> None:
    """Let the attention function note what it gets; models that do not call it stay as they are."""
    paths = {module: path for path, module in model.named_modules()}
    own = str(model.config._attn_implementation)
    own = str(model.__dict__.setdefault("_inspect_own", own))  # the second trace finds the spy there

    def attend(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Any:
        if own == "sdpa":
            function = ALL_ATTENTION_FUNCTIONS["sdpa"]
        else:  # eager attention is each family's own function
            function = sys.modules[type(module).__module__].eager_attention_forward
        result, weights = function(module, query, key, value, *args, **kwargs)
        if found.done:
            return result, weights
        leaf = result.detach().requires_grad_()
        found.calls[:] = [call for call in found.calls if call.path != paths[module]]  # a shared layer's last turn
        found.calls.append(Call(paths[module], query, key, value, leaf))
        return leaf.clone(), weights

    AttentionInterface.register(SPY, attend)
    AttentionMaskInterface.register(SPY, ALL_MASK_ATTENTION_FUNCTIONS["sdpa" if own == "sdpa" else "eager"])
    try:
        model.set_attn_implementation(SPY)
    except (ValueError, ImportError, AttributeError):
        return


def _batch(model: PreTrainedModel) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)
    vocabulary = int(model.config.vocab_size)
    ids = torch.randint(3, vocabulary, (2, TOKENS), generator=generator)
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if getattr(model.config, "is_encoder_decoder", False):
        batch["decoder_input_ids"] = torch.randint(3, vocabulary, (2, DECODER_TOKENS), generator=generator)
    return batch


@torch.no_grad()
def spread(model: nn.Module) -> None:
    """Add noise to every parameter, so that no scale is one and no bias zero."""
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)
