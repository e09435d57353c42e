"""Modules at some positions equal a sum at these tokens alone, whatever the padding, the prompt and the cache."""

import copy
from typing import Any

import engine_models as em
import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor

import refarch
from refarch import Gate, Option, Positions
from refarch.engine.bindings.call_context import StackCall, StackHooks
from refarch.engine.bindings.module import ModuleBinding
from refarch.errors import CompositionError, SpecError
from refarch.testing.case import randomise
from refarch.testing.checks.generation import ahead_reason

ENDS = [(2, 0), (0, 2), (1, 1), (3, 3), (9, 0)]
"""First and last; the fourth overlap in a row of four tokens, the last one has more than there are."""


def _spec(first: int, last: int, integration: str = "direct addition", **fields: Any) -> Any:
    values = {"form": "mlp", "insertion": "sequential", "positions": Positions(first=first, last=last), **fields}
    return em.technique(em.module("Mlp", integration, values.pop("slots", ("layer",)), **values), name="some")


def _chosen(mask: Tensor, first: int, last: int) -> Tensor:
    """[b, t]: the first and last real tokens of each row, one by one."""
    found = torch.zeros_like(mask, dtype=torch.bool)
    for row in range(len(mask)):
        real = [i for i in range(mask.shape[1]) if mask[row, i]]
        for i in (*real[:first], *(real[-last:] if last else ())):
            found[row, i] = True
    return found


def _attach(model: Any, spec: Any, **choice: Any) -> refarch.Adaptation:
    adaptation = refarch.attach(model, spec, **choice)
    randomise(adaptation, scale=0.3)
    return adaptation


def _padded(name: str, side: str) -> dict[str, Tensor]:
    values = em.batch(name)
    values = em.left_padded(values) if side == "left" else {key: values[key] for key in ("input_ids", "attention_mask")}
    if side == "none":
        values["attention_mask"] = torch.ones_like(values["attention_mask"])
    return values


# which tokens --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ends", ENDS)
@pytest.mark.parametrize("side", ["none", "right", "left"])
@pytest.mark.parametrize("name", ["bert", "gpt2", "llama"])
def test_the_contribution_is_added_at_the_chosen_tokens_alone(name: str, side: str, ends: tuple[int, int]) -> None:
    model, values = em.tiny(name, "AutoModelForMaskedLM" if name == "bert" else None), _padded(name, side)
    plain = copy.deepcopy(model)
    ((_, function),) = _attach(model, _spec(*ends), layers=[0]).functions()
    where = _chosen(values["attention_mask"], *ends)[..., None]
    em.add_edit(plain, em.PATHS[name]["layer"][0].format(0), None, lambda x, y: torch.where(where, y + function(y), y))
    torch.testing.assert_close(model(**values).logits, plain(**values).logits, rtol=1e-5, atol=1e-5)
    if side == "none":  # and with no mask at all
        found = model(input_ids=values["input_ids"]).logits
        torch.testing.assert_close(found, plain(input_ids=values["input_ids"]).logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("form", ["scaled", "low rank", "gated convex", "by example", "flat"])
def test_every_additive_form_leaves_the_other_tokens_alone(form: str) -> None:
    """A closed-form sum for each; OPT's feed-forward layers have the tokens of all examples in one row."""
    name = "opt" if form == "flat" else "gpt2"
    gate = Gate(by="example" if form == "by example" else "token", convex=form == "gated convex", initial=0.4)
    if form == "low rank":
        technique = em.technique(
            em.module("Narrow", "scaled addition", "ffn.down", form="linear", positions=Positions(first=1, last=2))
        )
    else:
        plain_sum = form in ("scaled", "flat")
        gated = {} if plain_sum else {"gate": gate}
        technique = _spec(1, 2, "scaled addition" if plain_sum else "gated addition", slots=("ffn.down",), **gated)
    model, values = em.tiny(name), _padded(name, "left")
    plain = copy.deepcopy(model)
    (insertion,) = _attach(model, technique, layers=[1]).insertions
    where, real = _chosen(values["attention_mask"], 1, 2)[..., None], values["attention_mask"].bool()

    def edit(x: Tensor, y: Tensor) -> Tensor:
        read = x if form == "low rank" else y
        out = insertion.function(read)
        if insertion.gate is None:
            new = y + insertion.function.scale * out
        else:
            g = torch.sigmoid(read @ insertion.gate.weight + insertion.gate.bias)
            if form == "by example":  # over all real tokens, not over those that are changed
                g = torch.stack([row[own].mean() for row, own in zip(g, real, strict=True)])[:, None].expand_as(g)
            new = (1 - g[..., None] if form == "gated convex" else 1) * y + g[..., None] * out
        return torch.where(where.flatten(0, 1) if form == "flat" else where, new, y)

    em.add_edit(plain, {"opt": "model.decoder.layers.1.fc2", "gpt2": "transformer.h.1.mlp.c_proj"}[name], None, edit)
    torch.testing.assert_close(model(**values).logits, plain(**values).logits, rtol=1e-5, atol=1e-5)


ROWS = st.lists(st.lists(st.integers(0, 1), min_size=6, max_size=6), min_size=1, max_size=3)


@settings(max_examples=40, deadline=None)
@given(ROWS, st.integers(0, 4), st.integers(0, 4), st.booleans())
def test_holes_in_a_mask_count_as_padding(rows: list[list[int]], first: int, last: int, flat: bool) -> None:
    (binding,) = POSITIONED.bindings
    assert isinstance(binding, ModuleBinding) and binding.tokens is not None
    mask, x = torch.tensor(rows), torch.zeros(len(rows), 6, 4)
    context = StackHooks(binding.tokens.stack)  # in the place of the one that attaching has put there
    context.call = StackCall(mask.bool(), None, 0, (len(rows), 6))
    found = binding.tokens.present(x.flatten(0, 1) if flat else x, first, last)
    assert torch.equal(found[..., 0].reshape(mask.shape), _chosen(mask, first, last))


POSITIONED = refarch.attach(em.tiny("gpt2"), _spec(1, 0), layers=[0])


# prompts, stacks, caches ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", em.FAMILIES)
def test_tokens_put_in_front_are_the_first(name: str) -> None:
    """With a prompt of three tokens, five first ones reach two of the text's own; in either order of attaching."""
    prompt = em.technique(em.module("Tokens", "concatenation", "inputs"), name="prompt")
    values, found = em.batch(name), []
    where = {"layers": {"indices": [0], "stacks": ["decoder" if name in ("gpt2", "llama") else "encoder"]}}
    for order in ((0, 1), (1, 0)):
        model = em.tiny(name, "AutoModelForMaskedLM" if name == "bert" else None)
        plain = copy.deepcopy(model)
        made = [_attach(model, (prompt, _spec(5, 0))[i], **({} if i == 0 else where)) for i in order]
        values = {key: value for key, value in values.items() if key != "labels" or name == "t5"}
        found.append(model(**values).logits)
    assert torch.equal(*found)
    _, function = next(made[0].functions())
    _attach(plain, prompt)
    chosen = torch.zeros(2, 9, 1, dtype=torch.bool)
    chosen[:, :5] = True
    path = "encoder.block.0" if name == "t5" else em.PATHS[name]["layer"][0].format(0)
    em.add_edit(plain, path, None, lambda x, y: torch.where(chosen, y + function(y), y))
    torch.testing.assert_close(found[0], plain(**values).logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", em.GENERATIVE)
def test_first_tokens_generate_with_a_cache_as_without(name: str) -> None:
    """Six first tokens: more than the prompt of the second row has, so that generated ones are among them."""
    model = em.tiny(name)
    values = em.batch(name) if name == "t5" else em.left_padded(em.batch(name))
    before = em.scores(model, values)
    _attach(model, _spec(6, 0))
    (tokens, scores), (others, full) = em.scores(model, values), em.scores(model, values, use_cache=False)
    assert torch.equal(tokens, others)
    torch.testing.assert_close(scores, full, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(scores, before[1], atol=1e-3)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_last_tokens_are_the_prompts_when_a_cache_goes_on(name: str) -> None:
    """Generation with a cache equals steps of the plain model from a cache that the changed prompt has left."""
    model, values = em.tiny(name), em.left_padded(em.batch(name))
    plain = copy.deepcopy(model)
    adaptation = _attach(model, _spec(0, 1))
    _, scores = em.scores(model, values, max_new_tokens=3, min_new_tokens=3)
    mask = values["attention_mask"]
    with torch.no_grad():
        out = model(**values, position_ids=(mask.cumsum(-1) - 1).clamp(min=0), use_cache=True)
        for step in range(3):
            logits = out.logits[:, -1].where(scores[step] > -1e4, -1e4)  # the end of a text is kept from coming
            torch.testing.assert_close(scores[step], logits, rtol=1e-4, atol=1e-4)
            token, mask = logits.argmax(-1, keepdim=True), torch.cat([mask, mask.new_ones(2, 1)], dim=1)
            at = mask.sum(-1, keepdim=True) - 1
            out = plain(input_ids=token, attention_mask=mask, position_ids=at, past_key_values=out.past_key_values)
    assert ahead_reason(adaptation.insertions[0].spec, adaptation.insertions[0].site)
    assert not ahead_reason(_attach(model, _spec(1, 0), name="first").insertions[0].spec, adaptation.insertions[0].site)


def test_a_mask_that_leaves_out_cached_tokens_is_refused() -> None:
    model, values = em.tiny("gpt2"), _padded("gpt2", "none")
    _attach(model, _spec(1, 0))
    cache = model(**values, use_cache=True).past_key_values
    with pytest.raises(CompositionError, match="does not belong"):
        model(input_ids=torch.tensor([[5], [6]]), attention_mask=torch.ones(2, 1), past_key_values=cache)


# the spec ------------------------------------------------------------------------------------------------------------


def test_options_decide_the_positions() -> None:
    options = (
        Option(name="begin", type="integer", default=2, minimum=0, help="of the beginning"),
        Option(name="end", type="integer", default=0, minimum=0, help="of the end"),
    )
    places = Positions(first="$begin", last="$end")
    module = em.module("Mlp", "direct addition", "layer", form="mlp", insertion="sequential", positions=places)
    spec = em.technique(module, options=options)
    assert spec.configure({}).decided(spec.modules[0]).positions == Positions(first=2, last=0)
    assert spec.configure({"end": 3}).decided(spec.modules[0]).positions == Positions(first=2, last=3)
    with pytest.raises(SpecError, match="would work at no token"):
        spec.configure({"begin": 0}).decided(spec.modules[0])
    with pytest.raises(SpecError, match="has no option"):
        refarch.TechniqueSpec.parse({**spec.model_dump(), "options": ()})


def test_a_module_at_some_tokens_does_not_merge() -> None:
    model = em.tiny("gpt2")
    module = em.module("Narrow", "scaled addition", "ffn.down", positions=Positions(first=1))
    adaptation = refarch.attach(model, em.technique(module))
    assert all("some tokens only" in reason for reason in adaptation.merge_reasons())
    with pytest.raises(CompositionError, match="some tokens only"):
        adaptation.merge()


@pytest.mark.parametrize("name", em.FAMILIES)
def test_gradients_checkpointing_and_detaching(name: str) -> None:
    model, values = em.tiny(name, **({"dropout_rate": 0.0} if name == "t5" else {})), em.batch(name)
    expected = model(**values).logits
    adaptation = _attach(model, _spec(1, 1, slots=("layer", "attention.output")))
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    found: list[list[Tensor]] = []
    for again in (False, True):
        if again:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.zero_grad()
        model.train()
        model(**values, **({} if name == "bert" else {"use_cache": False})).loss.backward()
        found.append([p.grad.clone() for p in adaptation.parameters()])
    for one, two in zip(*found, strict=True):
        assert one.abs().max() > 0
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-6)
    model.gradient_checkpointing_disable()
    model.eval()
    adaptation.detach()
    assert torch.equal(model(**values).logits, expected)
    assert not [path for path, each in model.named_modules() if any("refarch" in key for key in vars(each))]
