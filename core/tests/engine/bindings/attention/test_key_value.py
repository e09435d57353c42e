"""A prefix at key_value equals the model's own past keys and values, and attention computed by hand."""

import copy
from typing import Any

import engine_models as em
import pytest
import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import EncoderDecoderCache

import refarch
from refarch.errors import CompositionError, SlotError, SpecError

LENGTH = 3


def _attached(model: Any, slot: str = "attention.key_value", **choice: Any) -> refarch.Adaptation:
    return refarch.attach(model, em.technique(em.module("KeyValues", "concatenation", slot)), **choice)


def _cache(model: Any, adaptation: refarch.Adaptation, rows: int) -> DynamicCache:
    """A cache that holds the prefix, as [rows, key heads, length, width of a head]."""
    cache = DynamicCache(config=model.config)
    for layer, (_, function) in enumerate(adaptation.functions()):
        keys, values = (
            t.detach().view(LENGTH, -1, 8).transpose(0, 1)[None].expand(rows, -1, -1, -1) for t in function()
        )
        cache.update(keys.contiguous(), values.contiguous(), layer)
    return cache


def _prefilled(plain: Any, cache: DynamicCache, values: dict[str, Tensor]) -> Any:
    """The plain model after the cache, at positions that do not count the prefix."""
    mask = values["attention_mask"]
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    wide = torch.cat([mask.new_ones(len(mask), LENGTH), mask], dim=1)
    return plain(input_ids=values["input_ids"], attention_mask=wide, position_ids=positions, past_key_values=cache)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("padding", ["none", "right", "left"])
def test_equals_past_key_values(padding: str, implementation: str, name: str) -> None:
    model, values = em.tiny(name), em.batch(name)
    model.set_attn_implementation(implementation)
    plain = copy.deepcopy(model)
    if padding == "none":
        values["attention_mask"] = torch.ones_like(values["attention_mask"])
    if padding == "left":
        values = em.left_padded(values)
    adaptation = _attached(model)
    mask = values["attention_mask"]
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    found = model(input_ids=values["input_ids"], attention_mask=mask, position_ids=positions).logits
    wanted = _prefilled(plain, _cache(plain, adaptation, len(mask)), values).logits
    torch.testing.assert_close(found[mask.bool()], wanted[mask.bool()], rtol=1e-5, atol=1e-5)
    if padding == "none":  # a call without a mask relies on the kernel's own causal flag
        torch.testing.assert_close(model(input_ids=values["input_ids"]).logits, wanted, rtol=1e-5, atol=1e-5)
    step = torch.tensor([[7]] * len(mask))  # one more token after each cache
    one = model(input_ids=values["input_ids"], attention_mask=mask, position_ids=positions, use_cache=True)
    two = _prefilled(plain, _cache(plain, adaptation, len(mask)), values)
    assert one.past_key_values.get_seq_length() == two.past_key_values.get_seq_length() - LENGTH
    more = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
    wide = torch.cat([mask.new_ones(len(mask), LENGTH), more], dim=1)
    at = mask.sum(-1, keepdim=True)
    a = model(input_ids=step, attention_mask=more, position_ids=at, past_key_values=one.past_key_values).logits
    b = plain(input_ids=step, attention_mask=wide, position_ids=at, past_key_values=two.past_key_values).logits
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def _by_hand(
    query: Tensor, key: Tensor, value: Tensor, prefix: tuple[Tensor, Tensor], mask: Tensor, bias: Any, scale: float
) -> Tensor:
    """softmax(q [P; K]^T) [P; V], in plain loops over rows and heads; [b, t, d]."""
    out = torch.zeros_like(query)
    for row in range(query.shape[0]):
        for head in range(4):
            cut = slice(head * 8, head * 8 + 8)
            keys = torch.cat([prefix[0][:, cut], key[row][mask[row].bool()][:, cut]])
            values = torch.cat([prefix[1][:, cut], value[row][mask[row].bool()][:, cut]])
            scores = query[row][:, cut] @ keys.t() * scale
            if bias is not None:
                scores[:, LENGTH:] += bias[0, head][:, : scores.shape[1] - LENGTH]
            out[row][:, cut] = scores.softmax(-1) @ values
    return out


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_bert_equals_attention_by_hand(implementation: str) -> None:
    model, values = em.tiny("bert"), em.batch("bert")
    model.set_attn_implementation(implementation)
    plain = copy.deepcopy(model)
    adaptation = _attached(model, layers=[1])
    ((_, function),) = adaptation.functions()
    attention = plain.bert.encoder.layer[1].attention.self

    def attend(_: Any, args: Any, kwargs: Any, output: Any) -> Any:
        x = args[0] if args else kwargs["hidden_states"]
        new = _by_hand(
            attention.query(x),
            attention.key(x),
            attention.value(x),
            function(),
            values["attention_mask"],
            None,
            8**-0.5,
        )
        return (new, *output[1:])

    attention.register_forward_hook(attend, with_kwargs=True)
    torch.testing.assert_close(model(**values).logits, plain(**values).logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_t5_cross_attention_and_self_attention_by_hand(implementation: str) -> None:
    values = em.batch("t5")
    for slot in ("cross_attention.key_value", "attention.key_value"):
        model = em.tiny("t5")
        model.set_attn_implementation(implementation)
        plain = copy.deepcopy(model)
        stack = "decoder" if slot.startswith("cross") else "encoder"
        adaptation = _attached(model, slot, layers={"indices": [0], "stacks": [stack]})
        ((_, function),) = adaptation.functions()
        block = getattr(plain, stack).block[0]
        attention = block.layer[1].EncDecAttention if stack == "decoder" else block.layer[0].SelfAttention

        def attend(m: Any, args: Any, kwargs: Any, output: Any, stack: str = stack, f: Any = function) -> Any:
            x = args[0] if args else kwargs["hidden_states"]
            states = x if stack == "encoder" else kwargs["key_value_states"]
            bias = m.compute_bias(x.shape[1], x.shape[1]) if stack == "encoder" else None
            new = m.o(_by_hand(m.q(x), m.k(states), m.v(states), f(), values["attention_mask"], bias, 1.0))
            return (new, *output[1:])

        attention.register_forward_hook(attend, with_kwargs=True)
        found, wanted = model(**values), plain(**values)
        torch.testing.assert_close(found.logits, wanted.logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", em.FAMILIES)
def test_an_attention_implementation_changed_afterwards_is_an_error(name: str) -> None:
    model, values = em.tiny(name), em.batch(name)
    adaptation = _attached(model)
    model.set_attn_implementation("eager")
    with pytest.raises(CompositionError, match="was changed to 'eager'"):
        model(**values)
    adaptation.detach()
    assert model.config._attn_implementation == "eager"
    model(**values)


def test_an_implementation_without_masks_is_refused_and_nothing_changes() -> None:
    model = em.tiny("llama")
    before = em.snapshot(model)
    model.config._attn_implementation_internal = "flash_attention_2"
    with pytest.raises(SlotError, match="sdpa, eager"):
        _attached(model)
    model.config._attn_implementation_internal = "sdpa"
    em.assert_restored(before, model)


def test_other_models_of_the_process_keep_their_attention() -> None:
    one, other = em.tiny("bert"), em.tiny("bert")
    values = em.batch("bert")
    expected = other(**values).logits
    _attached(one)
    assert other.config._attn_implementation == "sdpa"
    assert torch.equal(other(**values).logits, expected)


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_counted_tokens_equal_past_key_values_of_a_model_with_position_biases(implementation: str) -> None:
    model, values = em.tiny("t5"), em.batch("t5")
    model.set_attn_implementation(implementation)
    plain = copy.deepcopy(model)
    counted = em.technique(em.module("KeyValues", "concatenation", "attention.key_value", counted=True))
    adaptation = refarch.attach(model, counted, layers={"stacks": ["decoder"]})
    rows = len(values["input_ids"])

    def past() -> EncoderDecoderCache:
        own = _cache(plain, adaptation, rows)
        return EncoderDecoderCache(own, DynamicCache())

    found, wanted = model(**values).logits, plain(**values, past_key_values=past()).logits
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    adaptation.detach()
    outside = refarch.attach(model, em.technique(em.module("KeyValues", "concatenation", "attention.key_value")))
    assert not torch.allclose(model(**values).logits, wanted, atol=1e-3)
    outside.detach()
    again = refarch.attach(model, counted, layers={"stacks": ["decoder"]})
    for (_, function), (_, trained) in zip(again.functions(), adaptation.functions(), strict=True):
        function.load_state_dict(trained.state_dict())
    read = {name: values[name] for name in ("input_ids", "attention_mask")}
    options: dict[str, Any] = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False}
    written = [
        model.generate(**read, **options, num_beams=beams, use_cache=cached)
        for beams in (1, 3)
        for cached in (True, False)
    ]
    assert torch.equal(written[0], written[1]) and torch.equal(written[2], written[3])


def test_counted_tokens_stand_before_the_sequence_of_a_model_that_counts() -> None:
    counted = em.module("KeyValues", "concatenation", "attention.key_value", counted=True)
    with pytest.raises(SlotError, match="names no position biases"):
        refarch.attach(em.tiny("llama"), em.technique(counted))
    with pytest.raises((SpecError, ValueError), match="position biases count tokens"):
        em.module("KeyValues", "concatenation", "cross_attention.key_value", counted=True)


def test_counted_tokens_in_an_operator_that_asks_for_its_map_twice() -> None:
    """Cached generation equals that without a cache, where a part around the tokens has its terms ask them again."""
    model, values = em.tiny("t5"), em.batch("t5")
    counted = em.technique(em.module("KeyValues", "concatenation", "attention.key_value", counted=True))
    for name in ("one", "two", "three"):
        refarch.attach(model, counted, name=name, layers={"stacks": ["decoder"]})
    refarch.compose(model, "stack(one, sum(two: 0.5, three: 0.7))")
    read = {name: values[name] for name in ("input_ids", "attention_mask")}
    options: dict[str, Any] = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False, "output_logits": True}
    found = [
        model.generate(**read, **options, use_cache=cached, return_dict_in_generate=True).logits
        for cached in (True, False)
    ]
    torch.testing.assert_close(torch.stack(found[0]), torch.stack(found[1]), rtol=1e-4, atol=1e-5)
