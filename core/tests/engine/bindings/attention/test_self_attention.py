"""Functions of form attention: what they see, what their cache holds, and what is left of them."""

import copy
from typing import Any

import engine_models as em
import pytest
import torch
import transformers
from torch import Tensor
from transformers import DynamicCache

import refarch
from refarch.engine.bindings.attention.own_cache import OwnLayer
from refarch.errors import CompositionError, SlotError
from refarch.testing.case import randomise

WINDOW = 4


def _looking(insertion: str = "parallel", **fields: Any) -> Any:
    values: dict[str, Any] = {"form": "attention", "inter": "dynamic", "insertion": insertion, **fields}
    return em.technique(em.module("Looking", values.pop("integration", "scaled addition"), "attention", **values))


def _prefix() -> Any:
    return em.technique(em.module("KeyValues", "concatenation", "attention.key_value"), name="prefix")


def _model(name: str) -> Any:
    """One with a sliding window at some layers or at all where the family knows it."""
    if name == "mistral":
        config = transformers.AutoConfig.for_model(name, **em.family("llama").tiny.config, sliding_window=WINDOW)
        torch.manual_seed(1)
        return transformers.AutoModelForCausalLM.from_config(config).eval()
    return em.tiny(name, **({"sliding_window": WINDOW} if name == "gemma2" else {}))


def _values(name: str) -> dict[str, Tensor]:
    """A batch with padding: left of a decoder's tokens, right of others'."""
    values = em.batch(name, length=8)
    return values if name in ("bert", "t5") else em.left_padded(values)


# what it sees -------------------------------------------------------------------------------------------------------

PATHS = {**em.PATHS, "gemma2": em.PATHS["llama"], "mistral": em.PATHS["llama"]}


def _visible(model: Any, name: str, values: dict[str, Tensor], layer: int) -> Tensor:
    """[b, t, s]: which token sees which, from what the family is."""
    if name == "t5":  # the decoder's
        rows, tokens = values["labels"].shape
        return torch.ones(rows, tokens, tokens, dtype=torch.bool).tril()
    mask = values["attention_mask"].bool()
    seen = mask[:, None].expand(-1, mask.shape[1], -1).clone()
    if name == "bert":
        return seen
    types = getattr(model.config, "layer_types", None) or ["sliding_attention" if name == "mistral" else "full"] * 9
    seen &= torch.ones_like(seen).tril()
    return seen & torch.ones_like(seen).triu(1 - WINDOW) if types[layer] == "sliding_attention" else seen


def _by_hand(function: Any, x: Tensor, visible: Tensor) -> Tensor:
    """The function token by token and head by head, [b, t, d]."""
    q, k, v = (torch.stack([x @ function.maps[n, h].t() for h in range(2)], 2) for n in range(3))
    found = torch.zeros_like(q)
    for row, t, head in ((b, t, h) for b in range(len(x)) for t in range(x.shape[1]) for h in range(2)):
        seen = visible[row, t]
        if seen.any():  # padding before a causal sequence sees nothing
            weights = (k[row, seen, head] @ q[row, t, head] / 3**0.5).softmax(0)
            found[row, t, head] = weights @ v[row, seen, head]
    return found.flatten(-2) @ function.up.t()


def _with_hooks(model: Any, name: str, adaptation: Any, insertion: str, values: dict[str, Tensor]) -> Any:
    plain = copy.deepcopy(model)
    for address, function in adaptation.functions():
        layer, read = int(address.split(".")[2]), []
        query, output = (
            plain.get_submodule(PATHS[name][f"attention.{e}"][0].format(layer)) for e in ("query", "output")
        )
        query.register_forward_pre_hook(lambda _, args, read=read: read.append(args[0]))
        visible = _visible(model, name, values, layer)

        def add(
            _: Any, __: Any, y: Tensor, read: Any = read, function: Any = function, seen: Tensor = visible
        ) -> Tensor:
            x = read.pop()
            return y + 1.7 * _by_hand(function, x if insertion == "parallel" else y, seen)

        output.register_forward_hook(add)
    return plain


@pytest.mark.parametrize("insertion", ["parallel", "sequential"])
@pytest.mark.parametrize(
    ("name", "implementation"),
    [
        *((name, how) for name in ("bert", "gpt2", "llama", "t5", "mistral") for how in ("sdpa", "eager")),
        ("gemma2", ""),
    ],
)
def test_equals_attention_by_hand_in_values_and_gradients(name: str, implementation: str, insertion: str) -> None:
    model, values = _model(name), _values(name)
    if implementation:
        model.set_attn_implementation(implementation)
    base = copy.deepcopy(model)
    layers = {"stacks": ["decoder"]} if name == "t5" else None
    adaptation = refarch.attach(model, _looking(insertion), **({"layers": layers} if layers else {}))
    plain = _with_hooks(base, name, adaptation, insertion, values)
    found, wanted = em.logits(model, values), em.logits(plain, values)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=2e-5)
    assert (found - em.logits(base, values)).abs().max() > 1e-2
    parameters = list(adaptation.parameters())
    weights = torch.randn(found.shape, generator=torch.Generator().manual_seed(2))
    pairs = zip(*(torch.autograd.grad((each * weights).sum(), parameters) for each in (found, wanted)), strict=True)
    for one, other in pairs:
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4 * float(other.abs().max()))


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2"])
def test_without_a_mask_a_causal_model_stays_causal(name: str) -> None:
    model = _model(name)
    refarch.attach(model, _looking())
    ids = em.batch(name, length=8)["input_ids"]
    before = model(input_ids=ids).logits
    ids[:, -1] = 50
    after = model(input_ids=ids).logits
    torch.testing.assert_close(after[:, :-1], before[:, :-1])
    assert not torch.allclose(after[:, -1], before[:, -1])


@pytest.mark.parametrize("name", ["bert", "gpt2"])
def test_a_float_mask_of_ones_own_counts(name: str) -> None:
    """One that is added to the scores, of four dimensions; a mask of another value for each head is refused."""
    model = em.tiny(name)
    refarch.attach(model, _looking())
    ids = em.batch(name)["input_ids"]
    alone = torch.zeros(2, 1, 6, 6).masked_fill(~torch.eye(6, dtype=torch.bool), torch.finfo(torch.float32).min)
    before = model(input_ids=ids, attention_mask=alone, output_hidden_states=True).hidden_states[-1]
    ids[:, 2] = 50
    after = model(input_ids=ids, attention_mask=alone, output_hidden_states=True).hidden_states[-1]
    assert torch.equal(after[:, 3:], before[:, 3:]) and not torch.equal(after[:, 2], before[:, 2])
    with pytest.raises(CompositionError, match="differs between the base's 4 heads"):
        model(input_ids=ids, attention_mask=alone.expand(-1, 4, -1, -1))


def test_dropout_of_attention_weights_is_random_in_training_alone() -> None:
    model, values = em.tiny("bert", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0), em.batch("bert")
    refarch.attach(model, _looking(arguments={"dropout": 0.5}))
    assert torch.equal(em.logits(model, values), em.logits(model, values))
    model.train()
    assert not torch.equal(em.logits(model, values), em.logits(model, values))


# generation ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("name", ["gpt2", "llama", "t5", "gemma2", "mistral"])
def test_cached_equals_uncached_beyond_a_sliding_window(name: str, beams: int) -> None:
    model, values = _model(name), _values(name)
    refarch.attach(model, _looking("sequential"))
    refarch.attach(model, _looking("parallel"), name="second")
    found, scores = em.scores(model, values, num_beams=beams)
    wanted, reference = em.scores(model, values, num_beams=beams, use_cache=False)
    assert torch.equal(found, wanted)
    if beams == 1:
        torch.testing.assert_close(scores, reference, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["gpt2", "gemma2"])
@pytest.mark.parametrize("configured", [True, False])
@torch.no_grad()
def test_several_tokens_at_a_time_and_a_cropped_cache(name: str, configured: bool) -> None:
    """A cache that makes its layers as they are used keeps the base's where they belong."""
    model = _model(name)
    refarch.attach(model, _looking())
    ids = em.batch(name, length=10)["input_ids"]
    wanted = model(input_ids=ids).logits
    cache = DynamicCache(config=model.config) if configured and name == "gpt2" else DynamicCache()
    model(input_ids=ids[:, :3], past_key_values=cache)
    assert [type(layer) is OwnLayer for layer in cache.layers] == [False, False, True, True]
    model(input_ids=ids[:1, 3:4].expand(2, -1), past_key_values=cache)
    cache.crop(-1)
    more = model(input_ids=ids[:, 3:8], past_key_values=copy.deepcopy(cache)).logits
    torch.testing.assert_close(more, wanted[:, 3:8], rtol=1e-4, atol=1e-5)
    again = model(input_ids=ids[:, 3:], past_key_values=cache).logits
    torch.testing.assert_close(again, wanted[:, 3:], rtol=1e-4, atol=1e-5)


def test_assisted_generation_gives_what_plain_generation_gives() -> None:
    """The assistant's guesses are put into the cache and taken out again."""
    model, values = em.tiny("llama"), em.batch("llama", rows=1)
    assistant = em.tiny("llama", seed=4)
    refarch.attach(model, _looking())
    inputs: dict[str, Any] = {"input_ids": values["input_ids"], "attention_mask": torch.ones(1, 6).long()}
    settings: dict[str, Any] = {"max_new_tokens": 10, "min_new_tokens": 10, "do_sample": False}
    wanted = model.generate(**inputs, **settings, use_cache=False)  # type: ignore[operator]
    assert torch.equal(model.generate(**inputs, **settings, assistant_model=assistant), wanted)  # type: ignore[operator]


def test_a_static_cache_is_refused() -> None:
    model, values = em.tiny("llama"), em.left_padded(em.batch("llama"))
    adaptation = refarch.attach(model, _looking())
    with pytest.raises(CompositionError, match="fixed size") as caught:
        model.generate(**values, max_new_tokens=3, cache_implementation="static")  # type: ignore[operator]
    assert "dynamic cache" in caught.value.hint
    adaptation.detach()
    model.generate(**values, max_new_tokens=3, cache_implementation="static")  # type: ignore[operator]


@pytest.mark.parametrize("name", ["llama", "mistral"])
def test_a_cache_with_tokens_that_it_has_not_seen_is_refused(name: str) -> None:
    model = _model(name)
    ids = em.batch(name, length=9)["input_ids"]
    plain = model(input_ids=ids[:, :6], use_cache=True).past_key_values
    adaptation = refarch.attach(model, _looking(), name="late")
    with pytest.raises(CompositionError, match=r"holds 7 tokens, of which late\.part\S+ has seen 1"):
        model(input_ids=ids[:, 6:7], past_key_values=plain)
    cache = model(input_ids=ids[:, :6], use_cache=True).past_key_values
    with adaptation.disabled():
        model(input_ids=ids[:, 6:7], past_key_values=cache)
    with pytest.raises(CompositionError, match=r"holds 8 tokens, of which late\.part\S+ has seen 7"):
        model(input_ids=ids[:, 7:8], past_key_values=cache)


# beside others ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", em.FAMILIES)
def test_a_prefix_is_not_seen_and_does_not_matter_to_what_is(name: str) -> None:
    """With both attached, in either order, the function works on the prefix's model as on a plain one."""
    values, logits = _values(name), []
    for order in ((_looking(), _prefix()), (_prefix(), _looking())):
        model = em.tiny(name)
        for technique in order:
            refarch.attach(model, technique)
        logits.append(em.logits(model, values))
    torch.testing.assert_close(*logits, rtol=1e-5, atol=1e-5)
    if name == "t5":
        return
    base = em.tiny(name)
    refarch.attach(base, _prefix())
    plain = _with_hooks(base, name, refarch.attach(em.tiny(name), _looking()), "parallel", values)
    torch.testing.assert_close(logits[0], em.logits(plain, values), rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("name", ["gpt2", "t5"])
def test_generates_with_a_prefix_and_a_prompt_as_without_a_cache(name: str) -> None:
    model, values = em.tiny(name), _values(name)
    prompt = em.technique(em.module("Tokens", "concatenation", "inputs"), name="prompt")
    for technique in (_looking(), _prefix(), prompt):
        refarch.attach(model, technique)
    (found, scores), (wanted, reference) = (em.scores(model, values, use_cache=cached) for cached in (True, False))
    assert torch.equal(found, wanted)
    torch.testing.assert_close(scores, reference, rtol=1e-4, atol=1e-4)


def test_low_rank_updates_around_it_merge_to_the_same() -> None:
    model, values = em.tiny("bert"), em.batch("bert")
    line = refarch.attach(model, em.technique(em.module("Narrow", "scaled addition", ("attention.query",))))
    over = refarch.attach(model, em.technique(em.module("Narrow", "scaled addition", ("attention.output",))), name="o")
    attending = refarch.attach(model, _looking("sequential"), name="looking")
    expected = em.logits(model, values)
    line.merge()
    over.merge()
    torch.testing.assert_close(em.logits(model, values), expected, rtol=1e-5, atol=1e-5)
    assert all("no weight (functional form: attention)" in reason for reason in attending.merge_reasons())
    with pytest.raises(CompositionError, match="does not merge"):
        attending.merge()


@pytest.mark.parametrize("by", ["learned", "token"])
def test_a_gated_addition(by: str) -> None:
    model, values = em.tiny("bert"), em.batch("bert")
    refarch.attach(model, _looking(integration="gated addition", gate={"by": by, "initial": 20.0, "convex": True}))
    other = em.tiny("bert")
    refarch.attach(other, _looking(integration="direct addition"))
    for module in other.modules():  # an open convex gate leaves the contribution alone
        if type(module).__name__ == "BertSelfOutput":
            torch.nn.init.zeros_(module.dense.weight)
            torch.nn.init.zeros_(module.dense.bias)
    torch.testing.assert_close(em.logits(model, values), em.logits(other, values), rtol=1e-5, atol=1e-5)


# a model's life -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", em.FAMILIES)
def test_nothing_is_left_of_it(name: str) -> None:
    model, values = em.tiny(name), _values(name)
    if name != "t5":
        values.pop("labels", None)  # transformers notes their kind in the configuration
    before = em.snapshot(model)
    first, second = refarch.attach(model, _looking()), refarch.attach(model, _prefix())
    alone = em.tiny(name)
    refarch.attach(alone, _prefix())
    if name in em.GENERATIVE:
        em.scores(model, values)
    first.detach()  # the seam is still needed
    torch.testing.assert_close(em.logits(model, values), em.logits(alone, values))
    second.detach()
    em.assert_restored(before, model)


def test_nothing_is_held_between_calls() -> None:
    model, values = em.tiny("gpt2"), em.batch("gpt2")
    adaptation = refarch.attach(model, _looking())
    model(**values, use_cache=True)
    assert all(binding.seen is None and binding.cache is None for binding in adaptation.bindings)  # type: ignore[union-attr]


def test_another_attention_implementation_is_refused() -> None:
    model, values = em.tiny("gpt2"), em.batch("gpt2")
    refarch.attach(model, _looking())
    model.set_attn_implementation("eager")
    with pytest.raises(CompositionError, match="was changed to 'eager'"):
        model(**values)


def test_a_model_whose_attention_is_out_of_reach_is_refused_with_the_reason() -> None:
    model = em.tiny("deberta-v2")
    before = em.snapshot(model)
    with pytest.raises(SlotError, match=r"key_value' cannot be reached: transformers computes disentangled"):
        refarch.attach(model, _looking())
    em.assert_restored(before, model)
    model = em.tiny("bert")
    model.config._attn_implementation = "flex_attention"
    with pytest.raises(SlotError, match="nothing can join attention under the implementation 'flex_attention'"):
        refarch.attach(model, _looking())
    assert not refarch.adaptations(model)
    assert not any("_refarch_dispatcher" in module.__dict__ for module in model.modules())


def test_chosen_layers_alone_attend() -> None:
    model, values = em.tiny("gpt2"), em.left_padded(em.batch("gpt2"))
    adaptation = refarch.attach(model, _looking(), layers=[1])
    randomise(adaptation)
    assert [address for address, _ in adaptation.functions()] == ["part.decoder.1.attention"]
    (found, scores), (wanted, reference) = (em.scores(model, values, use_cache=cached) for cached in (True, False))
    assert torch.equal(found, wanted)
    torch.testing.assert_close(scores, reference, rtol=1e-4, atol=1e-4)
