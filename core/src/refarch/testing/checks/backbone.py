"""Checks of a backbone family: its table, its attention, its inputs, and every integration form on it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface
from transformers.modeling_utils import AttentionInterface

from refarch.architecture import SLOTS, Layers, parse_slot
from refarch.engine import Resolver
from refarch.engine.adaptation.attach import attach
from refarch.engine.bindings.attention import seam as attention
from refarch.testing import probes
from refarch.testing.case import Case, Check, NotApplicable, Snapshot, collect, expect_equal, randomise, unchanged
from refarch.testing.checks import CHECKS, table
from refarch.testing.checks.table import Backbone
from refarch.testing.models import outputs

SPY = "refarch_testing_spy"
PARTS = ("query", "key", "value")
PROBED = (
    "predicted_count",
    "gradients_reach_all_parameters",
    "disabled_equals_base",
    "detach_restores_the_model",
    "merge_equals_attached",
    "runs_in_bfloat16",
    "padding_changes_nothing",
    "gradient_checkpointing_changes_nothing",
    "cached_generation_equals_uncached",
    "beam_search_equals_uncached",
)
"""The technique checks that tell something about a family."""


def key_value_is_where_attention_happens(case: Backbone) -> None:
    """The modules at attention.key_value are exactly those that call the attention function."""
    model = case.tiny.model()
    available = Resolver(model, case.family).available()
    declared = {
        site.end.module: site.address
        for name, sites in available.items()
        if SLOTS[name].kind == "key_value"
        for site in sites
    }
    paths = {module: path for path, module in model.named_modules()}
    batch = case.tiny.batch(model, (5, 7))
    before = outputs(model, batch)
    called = _spy(model)
    expect_equal(
        outputs(model, batch), before, "with an attention function of one's own the output is another one", 1e-6
    )
    silent = [address for module, address in declared.items() if module not in called]
    assert not silent, (
        f"{', '.join(silent)}: the module there does not call the attention function; name the one that does"
    )
    unnamed = [paths[module] for module in called if module not in declared]
    assert not unnamed, f"{', '.join(unnamed)} calls the attention function, but no key_value slot names it"
    for name, sites in available.items():
        for site in sites if SLOTS[name].kind == "key_value" else ():
            key = called[site.end.module]["key"]
            width = key.shape[1] * key.shape[3]
            assert width == site.shape.d_out, (
                f"{site.address}: keys are {width} wide, the table says {site.shape.d_out}"
            )


def projections_play_their_own_part(case: Backbone) -> None:
    """A module at the query slot changes only the queries that attention gets; at key and value likewise.

    Where a module serves several depths it is the first call that tells, because the later ones read what it changed.
    """
    resolver = Resolver(case.tiny.model(), case.family)
    for kind in ("attention", "cross_attention"):
        if f"{kind}.key_value" not in resolver.available():
            continue
        for part in PARTS:
            model = case.tiny.model()
            sites = Resolver(model, case.family).available()
            called, batch = _spy(model), case.tiny.batch(model)
            where = sites[f"{kind}.key_value"][0].end.module
            outputs(model, batch)
            before = dict(called[where])
            called.clear()
            stack = sites[f"{kind}.{part}"][0].stack
            layers = Layers(first=1, stacks=(stack.name,) if stack else None)
            slots = [f"{kind}.{part}"]
            randomise(attach(model, probes.LINE, family=case.family, slots=slots, layers=layers))
            outputs(model, batch)
            changed = [name for name in PARTS if not torch.equal(called[where][name], before[name])]
            assert changed == [part], (
                f"{kind}.{part} ({sites[f'{kind}.{part}'][0].end.path}): a module there changes {changed or 'nothing'}"
                " of what attention gets; does the table name the right projection, or the right part of a fused one?"
            )


def attention_seam_changes_nothing(case: Backbone) -> None:
    """The engine's attention seam with nothing attached leaves outputs bit for bit; taken away, nothing is left."""
    model = case.tiny.model()
    if all("attention.key_value" not in stack.slots for stack in case.family.stacks):
        raise NotApplicable("the table has no attention.key_value; another check says whether it could")
    batch, snapshot = case.tiny.batch(model, (5, 7)), Snapshot(model)
    before = outputs(model, batch)
    attention.install(model)
    expect_equal(outputs(model, batch), before, "the attention seam alone changes the output")
    attention.uninstall(model)
    unchanged(snapshot, model, "after the attention seam was taken away the model is not as it was")


def inputs_take_embeddings(case: Backbone) -> None:
    """The stack's module gives the same for embedded tokens as for their ids, with the embedding of the table.

    Compared are tokens that are no padding: where positions are counted after padding, padding has none from ids.
    """
    model = case.tiny.model()
    resolver = Resolver(model, case.family)
    (site,) = resolver.available()["inputs"]
    assert site.entry is not None
    embedding, lengths, called = site.entry.module, (5, 7), []
    batch = case.tiny.batch(model, lengths)
    before = outputs(model, batch)

    def embed(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        called.append(True)
        ids = kwargs.get("input_ids", args[0] if args else None)
        return (), {**kwargs, "input_ids": None, "inputs_embeds": embedding(ids)}

    handle = site.end.module.register_forward_pre_hook(embed, with_kwargs=True)
    after = outputs(model, batch)
    handle.remove()
    assert called, f"stack {site.address}: the module {site.end.path!r} was not called in a forward pass"
    for row in range(len(lengths)):
        expect_equal(
            case.tiny.real(after, lengths, row),
            case.tiny.real(before, lengths, row),
            f"given embeddings by {site.entry.path}, {site.end.path or 'the base'} computes otherwise",
        )


def _probe(spec: Any) -> Callable[[Backbone], None]:
    """A check that runs the technique checks with a probe."""

    def check(case: Backbone) -> None:
        on = _reachable(Case(spec, case.tiny))
        assert not on.refusal, f"{spec.summary}: cannot be attached: {on.refusal}"
        for name in PROBED:
            try:
                CHECKS[name].function(on)
            except NotApplicable:
                continue
            except AssertionError as error:
                raise AssertionError(f"{spec.summary} [{name}]: {error}") from error

    check.__name__ = f"{spec.name.replace('-', '_')}_works"
    check.__doc__ = f"{spec.summary}: the technique checks that depend on the family pass."
    return check


def _reachable(on: Case) -> Case:
    """The probe without the slots that the table says cannot be reached, which attaching must refuse with its reason.

    Raises:
        NotApplicable: no slot is left.
    """
    (spec,) = on.spec.modules
    stacks = on.tiny.family.stacks
    seam = ("attention.key_value",) if spec.form == "attention" else ()  # where it learns what tokens see

    def obstacle(text: str) -> str:
        names = (parse_slot(text).slot.name, *seam)
        return next((reason for name in names for stack in stacks if (reason := stack.obstacle(name))), "")

    reasons = {text: obstacle(text) for text in spec.workspace}
    told = [reason for reason in reasons.values() if reason]
    if not told:
        return on
    assert all(reason in on.refusal for reason in told), (
        f"{on.spec.summary}: the table says {told[0]!r}, but attaching says {on.refusal!r}"
    )
    left = [text for text, reason in reasons.items() if not reason]
    if not left:
        raise NotApplicable(on.refusal)
    return dataclasses.replace(on, options={**on.options, "slots": left})


def _spy(model: PreTrainedModel) -> dict[nn.Module, dict[str, Tensor]]:
    """By module, the query, key and value of its first call of the attention function in the next forward pass."""
    called: dict[nn.Module, dict[str, Tensor]] = {}
    own = str(model.config._attn_implementation)

    def attend(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Any:
        called.setdefault(module, {"query": query, "key": key, "value": value})
        return attention.attention_function(own, module)(module, query, key, value, *args, **kwargs)

    AttentionInterface.register(SPY, attend)
    AttentionMaskInterface.register(SPY, ALL_MASK_ATTENTION_FUNCTIONS[own])
    model.set_attn_implementation(SPY)
    return called


PROBE_CHECKS: dict[str, Check[Backbone]] = collect(*(_probe(spec) for spec in probes.PROBES))
"""Those that run an integration form on the family."""
BACKBONE_CHECKS: dict[str, Check[Backbone]] = {
    **table.ONCE,
    **table.CHECKS,
    **collect(
        inputs_take_embeddings,
        key_value_is_where_attention_happens,
        projections_play_their_own_part,
        attention_seam_changes_nothing,
    ),
    **PROBE_CHECKS,
}
"""Every check of a family, by name."""
