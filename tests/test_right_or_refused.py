"""What cannot be done as asked is refused in words, and what is done has the size that was asked for."""

from __future__ import annotations

import math
import re

import pytest
import torch
from torch import nn

import refarch
from refarch.errors import CompositionError, SlotError
from refarch.testing import Tiny, all_tiny, outputs, randomise

LAST = {"last": 1}


def tiny_of(family: str, auto: str = "") -> Tiny:
    return next(tiny for tiny in all_tiny([family]) if auto in tiny.auto_class)


# --- layers ---


@pytest.mark.parametrize(
    "technique", ["full", "bitfit", "ln-tuning", "prompt-tuning", "p-tuning", "lora", "ia3", "adapter", "mam"]
)
@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_layers_restrict_or_are_refused(technique: str, family: str) -> None:
    tiny = tiny_of(family)
    everywhere = refarch.attach(tiny.model(), technique).count()
    try:
        restricted = refarch.attach(tiny.model(), technique, layers=LAST).count()
    except SlotError as error:
        assert "of no layer" in error.message and "leave out layers" in str(error.hint)
    else:
        assert restricted < everywhere


def test_a_choice_of_stacks_alone_is_none_of_layers() -> None:
    model = tiny_of("t5").model()
    assert refarch.attach(model, "prompt-tuning", layers={"stacks": ["encoder"]}).count()


# --- parts ---


@pytest.mark.parametrize("expression", ["sum(a: 0.5, c: 0.5)", "split(a, c)", "stack(a, c)"])
def test_a_merged_part_is_not_composed(expression: str) -> None:
    model = tiny_of("llama").model()
    for name in "ac":
        randomise(refarch.attach(model, "lora", name=name))
    refarch.adaptations(model)[0].merge()
    with pytest.raises(CompositionError, match="'a' is merged") as caught:
        refarch.compose(model, expression)
    assert caught.value.hint == "unmerge 'a' first"
    refarch.adaptations(model)[0].unmerge()
    refarch.compose(model, expression)


# --- merging ---


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize(
    ("technique", "options"),
    [("lora", {}), ("bitfit", {}), ("ln-tuning", {}), ("full", {}), ("ia3", {}), ("lora", {"train_head": True})],
)
def test_what_is_not_finite_is_not_merged(technique: str, options: dict, value: float) -> None:
    model = tiny_of("bert", "SequenceClassification").model()
    adaptation = refarch.attach(model, technique, **options)
    chosen = [*adaptation.copies.values(), *adaptation.parameters()][0]
    with torch.no_grad():
        chosen.view(-1)[0] = value
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(CompositionError, match="not finite"):
        adaptation.merge()
    assert adaptation.state == "attached"
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor.nan_to_num(7), before[name].nan_to_num(7)), name


# --- sizes ---


@pytest.mark.parametrize("rank", [64, 1000])
def test_factors_are_not_made_larger_than_what_they_stand_for(rank: int) -> None:
    tiny = tiny_of("llama")
    model = tiny.model()
    lora = refarch.attach(model, "lora", rank=4)
    randomise(lora)
    batch = tiny.batch(model)
    want, size = outputs(model, batch), lora.count()
    result = refarch.to_low_rank(lora, rank)
    assert result.count() <= size
    torch.testing.assert_close(outputs(model, batch), want, rtol=1e-4, atol=1e-5)


def test_prompts_start_as_words_are_embedded() -> None:
    """Gemma 3 multiplies what it looks up; the words of the prompt are those that its layers see."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(
        "gemma3_text",
        vocab_size=64,
        hidden_size=256,
        num_hidden_layers=1,
        intermediate_size=64,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        pad_token_id=0,
    )
    model = AutoModelForCausalLM.from_config(config)
    table = model.get_input_embeddings()
    assert isinstance(table, nn.Embedding) and type(table).forward is not nn.Embedding.forward
    words = table(torch.arange(64)).detach()
    prompt = refarch.attach(model, "prompt-tuning", length=5).insertions[0].function().detach()
    assert all((words - row).norm(dim=-1).min() < 1e-4 for row in prompt), "each starts as a word"


def test_no_page_of_ours_names_a_package_index_by_its_host() -> None:
    from pathlib import Path

    root = Path(__file__).resolve().parents[1]
    pages = [*root.glob("*.md"), *root.glob("docs/*.md"), *root.glob("plugins/*/*/README.md")]
    pages += root.glob("core/src/refarch/templates/**/*.tmpl")
    host = re.compile(r"https?://[\w.-]*(pypi|pythonhosted|conda)[\w.-]*")
    assert len(pages) > 60
    assert [str(page) for page in pages if host.search(page.read_text(encoding="utf-8"))] == []
