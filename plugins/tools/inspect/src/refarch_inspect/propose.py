"""Propose a family's table for a model that no installed table serves."""

from __future__ import annotations

import inspect
import itertools
import re
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from refarch import FamilySpec, StackTable, TinyModel
from refarch.architecture import SLOTS
from refarch.engine import find, layer_paths, submodule
from refarch.errors import UsageError
from refarch_inspect import source
from refarch_inspect.classify import Finding, Layer
from refarch_inspect.tiny import shrink, tiny_config
from refarch_inspect.trace import TOKENS, Trace, is_linear, is_norm, spread, trace

NEEDED = {
    *(f"attention.{part}" for part in ("query", "key", "value", "output", "key_value", "norm")),
    *(f"ffn.{part}" for part in ("up", "down", "norm")),
}
"""Slots whose absence is reported; the others exist only in some families."""


@dataclass
class Proposal:
    """A proposed table, with the reason for every entry.

    Attributes:
        family: the table.
        findings: every slot that was found or looked for, in the vocabulary's order.
        notes: what a person should know before using it.
        placed: by stack, the norms' slots that stand ``before`` or ``after`` their sublayer.
        parallel: the stacks whose sublayers run side by side.
    """

    family: FamilySpec
    findings: list[Finding]
    notes: list[str] = field(default_factory=list)
    placed: dict[str, dict[str, str]] = field(default_factory=dict)
    parallel: set[str] = field(default_factory=set)

    @property
    def unresolved(self) -> list[Finding]:
        """What was not found."""
        return [finding for finding in self.findings if finding.entry is None]


def propose(config: PretrainedConfig, name: str | None = None) -> Proposal:
    """A table for a configuration's architecture, from its structure and one traced forward pass of a tiny copy.

    Raises:
        UsageError: no repeated layers were found, or no small copy of the model could be run.
    """
    values, flow, norms, model = _run(config)
    lists = _stacks(model, flow)
    if not lists:
        raise UsageError(
            f"{type(model).__name__} has no list of layers in which linear layers run",
            "refarch inspect knows transformers built as nn.ModuleList of layers; write the table by hand",
        )
    causal = _is_causal(model)
    names = ["encoder", "decoder"] if len(lists) == 2 else ["decoder" if causal else "encoder"]
    findings: list[Finding] = []
    notes: list[str] = []
    placed, parallel, stacks = {}, set(), []
    for stack, path in zip(names, lists, strict=True):
        paths = layer_paths(model, StackTable.parse({"name": stack, "layers": path, "slots": {}}))
        layer = Layer(stack, paths[-1], flow, norms, model.config)
        found = layer.classify()
        slots = {}
        experts = stacked_weights(submodule(model, paths[-1]) or model)
        if experts and not _has(found, "ffn.down"):
            why = f"the experts' weights are stacked in {', '.join(experts)}; no module is one projection"
            found |= {name: Finding(stack, name, None, "none", why) for name in ("ffn.up", "ffn.down")}
            whole = f"{paths[-1]}.{experts[0].partition('.')[0]}"
            if whole in norms.ran and _same_shape(*norms.ran[whole][1:]):
                layer.whole_ffn(whole)
        for slot in _in_order(found):
            finding = found[slot]
            if finding.entry is not None:
                finding, entry = _at_all_layers(model, paths, finding)
                slots[slot] = entry
            findings.append(finding)
        findings += [
            Finding(stack, slot, None, "none", "nothing in the layer plays this part")
            for slot in SLOTS
            if slot in NEEDED and slot not in found
        ]
        final = _final_norm(norms, path, paths[-1])
        if final:
            findings.append(Finding(stack, "final_norm", final, "high", "it reads what the last layer returns"))
        module = _taker(model, path, len(lists))
        table: dict[str, Any] = {"name": stack, "module": module, "layers": path, "slots": slots, "final_norm": final}
        if len(lists) == 1 and _is_pooled(model, flow, path):
            table["body"] = path.partition(".{}")[0].rpartition(".")[0] or None
        if _skips_padding(model):
            table["positions"] = "after padding"
        table["unreachable"] = {
            slot: finding.reason
            for slot, finding in found.items()
            if not finding.entry and (slot.endswith(".key_value") or (experts and slot in ("ffn.up", "ffn.down")))
        }
        stacks.append(StackTable(**table))
        placed[stack] = layer.placed
        if layer.parallel:
            parallel.add(stack)
        if layer.prefix.removesuffix(".") in flow.repeated:
            notes.append(f"the {stack}'s layers run more than once a pass: what joins one joins all of its turns")
    embedding, embedding_norm = _embedding(model, flow, norms, lists[0])
    kind = "encoder-decoder" if len(lists) == 2 else names[0]
    head, where = _head(config)
    family = FamilySpec(
        name=name or config.model_type.replace("_", "-"),
        summary=f"{type(model).__name__.removesuffix('Model')}: {kind}, proposed by refarch inspect",
        model_types=(config.model_type,),
        stacks=tuple(stacks),
        embedding=embedding,
        embedding_norm=embedding_norm,
        head=head,
        tiny=TinyModel(model_type=config.model_type, config=values, auto_classes=source.tested_with(config, kind)),
    )
    findings[:0] = [Finding("", "embedding", embedding, "high", "it is given the token ids")]
    if embedding_norm:
        findings.insert(1, Finding("", "embedding_norm", embedding_norm, "high", "it runs before the first layer"))
    findings.append(Finding("", "head", head, "high" if where else "none", where or "no auto class has a head for it"))
    return Proposal(family, findings, notes, placed, parallel)


def _run(config: PretrainedConfig) -> tuple[dict[str, Any], Trace, Trace, PreTrainedModel]:
    """A tiny configuration that runs, its traces, and its model."""
    problems = []
    for depth, widths in ((True, True), (False, True), (True, False)):
        values = shrink(config, depth, widths)
        try:
            model = source.build(tiny_config(config.model_type, values))
            spread(model)
            return values, trace(model), trace(model, norms=True), model
        except Exception as error:  # a model's own code may raise anything on sizes that it does not expect
            problems.append(f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}")
    raise UsageError(
        f"no small copy of a {config.model_type!r} model could be run: {problems[0]}",
        "the table must be written by hand; refarch inspect without --propose lists the layer's modules",
    )


def _stacks(model: nn.Module, flow: Trace) -> list[str]:
    """Paths of the outermost lists of layers in which linear layers ran, in the order of running; at most two."""
    found: list[tuple[int, str]] = []
    for path, module in model.named_modules():
        if not isinstance(module, nn.ModuleList) or any(path.startswith(f"{other}.") for _, other in found):
            continue
        first = flow.ran.get(f"{path}.0")
        inside = [p for p in flow.nodes if p.startswith(f"{path}.0.")]
        if first is not None and len(inside) >= 3:
            found.append((first[0], path))
    return [_nested(model, path, flow) for _, path in sorted(found)][:2]


def _nested(model: nn.Module, path: str, flow: Trace) -> str:
    """A layer's path: within a list, or within a list in each item of a list that holds all that the item runs."""
    inside = [p for p in flow.nodes if p.startswith(f"{path}.0.")]
    for name, module in submodule(model, f"{path}.0").named_modules():  # type: ignore[union-attr]
        inner = f"{path}.0.{name}."
        if isinstance(module, nn.ModuleList) and all(p.startswith(inner) for p in inside):
            whole = [sum(p.startswith(f"{inner}{i}.") for p in inside) for i in range(len(module))]
            if min(whole) >= 4:
                return f"{path}.{{}}.{name}.{{}}"
    return f"{path}.{{}}"


def _is_causal(model: PreTrainedModel) -> bool:
    """Whether what comes out at a token is the same whatever the last token is."""
    ids = torch.arange(3, 3 + TOKENS)[None]
    other = ids.clone()
    other[0, -1] += 1
    extra = {"decoder_input_ids": ids} if getattr(model.config, "is_encoder_decoder", False) else {}
    with torch.no_grad():
        first, second = (model(input_ids=x, **extra)[0] for x in (ids, other))
    return bool(torch.allclose(first[:, :-1], second[:, :-1], atol=1e-6)) if first.ndim == 3 else False


def _at_all_layers(model: nn.Module, paths: list[str], finding: Finding) -> tuple[Finding, str]:
    """Mark an entry optional that some layer lacks."""
    entry = finding.entry or ""
    missing = [i for i, path in enumerate(paths) if find(model, path, entry) is None]
    if not missing:
        return finding, entry
    reason = f"{finding.reason}; layer {', '.join(map(str, missing))} has none, so it is optional"
    return replace(finding, entry=f"{entry}?", confidence="medium", reason=reason), f"{entry}?"


def _final_norm(norms: Trace, path: str, last: str) -> str | None:
    lists = path.partition(".{}")[0]
    outside = [node for p, node in norms.nodes.items() if is_norm(node.module) and not p.startswith(f"{lists}.")]
    for node in sorted(outside, key=lambda node: node.order):
        if any(p.startswith(f"{last}.") for p in norms.sources(node.read)):
            return node.path if not re.search(r"\.\d+\.", node.path) else None
    return None


def _taker(model: PreTrainedModel, path: str, stacks: int) -> str:
    """The module that takes embeddings and the mask: the base model, or in an encoder-decoder the stack's own."""
    parts = path.split(".")
    prefixes = [".".join(parts[:i]) for i in range(len(parts))]
    for prefix in prefixes[1:] if stacks == 2 else prefixes:
        module = submodule(model, prefix)
        assert module is not None
        if {"inputs_embeds", "attention_mask"} <= set(inspect.signature(module.forward).parameters):
            return prefix
    return ""


def _is_pooled(model: nn.Module, flow: Trace, path: str) -> bool:
    """Whether a child of the base turns the whole last hidden state [b, t, d] into [b, d]."""
    for name, _ in model.named_children():
        if name in flow.ran and not path.startswith(f"{name}."):
            _, read, written = flow.ran[name]
            if isinstance(read, Tensor) and isinstance(written, Tensor) and (read.ndim, written.ndim) == (3, 2):
                return True
    return False


def _skips_padding(model: PreTrainedModel) -> bool:
    """Whether positions are counted from ``pad_token_id + 1`` over the tokens that are no padding."""
    pad = getattr(model.config, "pad_token_id", None)
    if pad is None or getattr(model.config, "is_encoder_decoder", False):
        return False
    ids = torch.tensor([[pad, pad, 5, 6, 7, 8]])
    real = ids != pad
    expected, seen = real.cumsum(dim=1) * real + pad, []
    tables = [module for module in model.modules() if isinstance(module, nn.Embedding)]
    handles = [table.register_forward_pre_hook(lambda module, args: seen.append(args[0])) for table in tables]
    with torch.no_grad():
        model(input_ids=ids, attention_mask=real.long())
    for handle in handles:
        handle.remove()
    return any(at.shape[-1:] == expected.shape[-1:] and bool((at == expected).all()) for at in seen)


def _embedding(model: PreTrainedModel, flow: Trace, norms: Trace, path: str) -> tuple[str, str | None]:
    size = int(model.config.vocab_size)
    tables = [
        (flow.ran[p][0], p)
        for p, module in model.named_modules()
        if isinstance(module, nn.Embedding) and module.num_embeddings == size and p in flow.ran
    ]
    if not tables:
        raise UsageError("no embedding of the vocabulary's size ran", "write the table by hand")
    embedding = min(tables)[1]
    before = [
        n for n in norms.nodes.values() if is_norm(n.module) and not n.path.startswith(f"{path.partition('.{}')[0]}.")
    ]
    lists = path.partition(".{}")[0]
    start = norms.ran[f"{lists}.0"][0]
    early = sorted((n.order, n.path) for n in before if n.order < start)
    return embedding, early[0][1] if early else None


def _head(config: PretrainedConfig) -> tuple[str, str]:
    """The entry of the heads of all auto classes, and where they are from."""
    found: dict[str, list[str]] = {}
    base = {name for name, _ in source.without_weights(config).named_children()}
    for name in source.heads(config):
        try:
            model = source.without_weights(config, name)
        except UsageError:
            continue
        own = [
            child
            for child, module in model.named_children()
            if child not in base | {model.base_model_prefix} and any(True for _ in module.parameters())
        ]
        if own:
            found.setdefault(" + ".join(own), []).append(name.removeprefix("AutoModelFor"))
    if not found:
        return "lm_head", ""
    entries = sorted(found, key=lambda entry: -entry.count("+"))  # the first whose modules all exist is taken
    return " | ".join(entries), "; ".join(f"{head}: {', '.join(found[head])}" for head in entries)


def _same_shape(read: Any, written: Any) -> bool:
    return isinstance(read, Tensor) and isinstance(written, Tensor) and read.shape == written.shape


def _has(found: dict[str, Finding], slot: str) -> bool:
    return slot in found and found[slot].entry is not None


def _in_order(found: dict[str, Finding]) -> list[str]:
    order = list(SLOTS)
    return sorted(found, key=order.index)


def uncovered(model: PreTrainedModel, family: FamilySpec) -> dict[str, list[str]]:
    """By stack, the linear layers, norms and stacked expert weights of a layer that no slot names."""
    left: dict[str, list[str]] = {}
    for stack in family.stacks:
        paths = layer_paths(model.base_model, stack)
        if not paths:
            continue
        prefix = paths[-1]
        layer = submodule(model.base_model, prefix)
        assert layer is not None
        named = {place.module for entry in stack.slots.values() if (place := find(model.base_model, prefix, entry))}
        here = []
        for path, module in itertools.islice(layer.named_modules(), 1, None):
            if (is_linear(module) or is_norm(module)) and module not in named:
                here.append(f"{path} {module.__class__.__name__}")
            for name, parameter in module.named_parameters(recurse=False):
                if parameter.ndim >= 3:
                    here.append(f"{path}.{name} {list(parameter.shape)}")
        if here:
            left[stack.name] = here
    return left


def stacked_weights(layer: nn.Module) -> list[str]:
    """Parameters of a layer that hold several matrices at once: a mixture's experts, which are no modules."""
    return [name for name, parameter in layer.named_parameters() if parameter.ndim >= 3 and "conv" not in name]
