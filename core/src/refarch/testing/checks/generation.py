"""Generation: what the cache holds must be what a full pass computes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from refarch.architecture import ModuleSpec
from refarch.engine.bindings.call_context import reads_encoder
from refarch.engine.slots.site import Site
from refarch.testing.case import Case, NotApplicable, collect, expect_equal
from refarch.testing.models import PAD

NEW_TOKENS = 6


def cached_generation_equals_uncached(case: Case) -> None:
    """Greedy generation with a cache gives the same tokens as without, in a padded batch."""
    _compare(case, num_beams=1)


def beam_search_equals_uncached(case: Case) -> None:
    """Beam search runs, and gives the same tokens with a cache as without."""
    _compare(case, num_beams=3)


def _compare(case: Case, **choices: Any) -> None:
    if case.tiny.kind == "encoder" or not case.model().can_generate():
        raise NotApplicable(f"{case.tiny.auto_class} of {case.tiny.family.name} generates no text")
    model, adaptation, _ = case.attached()
    reasons = [ahead_reason(insertion.spec, insertion.site) for insertion in adaptation.insertions]
    if any(reasons):
        raise NotApplicable(f"a cache cannot hold what it does: {next(filter(None, reasons))}")
    cached = _generate(case, model, use_cache=True, **choices)
    full = _generate(case, model, use_cache=False, **choices)
    what = (
        f"{case.spec.name!r} generates otherwise with a cache than without ({choices}). A function may not depend on"
        " how many tokens it gets at a time"
    )
    for name, values in full.items():
        expect_equal(cached[name], values, f"{what} [{name}]", 0.0 if name == "tokens" else 1e-4)


@torch.no_grad()
def _generate(case: Case, model: PreTrainedModel, **choices: Any) -> dict[str, Tensor]:
    """The tokens and what they were chosen by: every step's logits, or the beams' scores."""
    batch = case.batch(model, 3, 5)
    model.eval()
    config: Any = model.generation_config
    config.eos_token_id = None  # so that every row has its full length
    result: Any = model.generate(  # type: ignore[operator]
        input_ids=batch["input_ids"],
        attention_mask=batch["attention_mask"],
        max_new_tokens=NEW_TOKENS,
        do_sample=False,
        pad_token_id=PAD,
        return_dict_in_generate=True,
        output_logits=True,
        output_scores=True,
        **choices,
    )
    found = {"tokens": result.sequences}
    if choices["num_beams"] > 1:
        found["scores"] = result.sequences_scores
    else:
        found["logits"] = torch.stack(result.logits)
    return found


CHECKS = collect(cached_generation_equals_uncached, beam_search_equals_uncached)


def ahead_reason(spec: ModuleSpec, site: Site) -> str:
    """Why what a module does at a token depends on later ones, so that no cache holds it; empty if it does not."""
    if site.stack is None or site.stack.name != "decoder" or reads_encoder(site):
        return ""
    if spec.gate is not None and spec.gate.by == "example":
        return f"{site.address}: the gate by example is a mean over tokens, so later ones change it for earlier ones"
    if spec.positions is not None and spec.positions.last:
        return f"{site.address}: it works at the last tokens, which are others when more have come"
    return ""
