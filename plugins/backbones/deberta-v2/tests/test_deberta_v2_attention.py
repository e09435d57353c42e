"""What disentangled attention means for a table: no keys and values to join, and projections that positions share."""

import pytest
import torch
from transformers import DebertaV2Config, DebertaV2ForMaskedLM, DebertaV2ForSequenceClassification

import refarch
from refarch.errors import SlotError
from refarch.plugins import default_registry
from refarch.testing import all_tiny, spread

TINY = default_registry().backbone("deberta-v2").tiny.config


def test_prefix_tuning_is_refused_with_the_reason() -> None:
    model = all_tiny(["deberta-v2"])[0].model()
    with pytest.raises(SlotError, match=r"attention\.key_value.*cannot be reached.*disentangled attention"):
        refarch.attach(model, "prefix-tuning")
    assert not refarch.adaptations(model)


@pytest.mark.parametrize(
    "changes",
    [
        {"share_att_key": False},  # positions have projections of their own, which no slot names
        {"relative_attention": False, "position_biased_input": True, "type_vocab_size": 2},
        {"conv_kernel_size": 3, "conv_act": "gelu"},  # the extra-large models
        {"embedding_size": 24},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_other_shapes_of_the_family(changes: dict[str, object]) -> None:
    torch.manual_seed(0)
    model = DebertaV2ForSequenceClassification(DebertaV2Config(**{**TINY, **changes})).eval()
    spread(model, seed=1)
    ids = torch.tensor([[5, 6, 7, 8]])
    before = model(input_ids=ids).logits
    for technique in ("lora", "ia3", "adapter", "prompt-tuning"):
        adaptation = refarch.attach(model, technique)
        with torch.no_grad():
            for parameter in adaptation.parameters():
                parameter.add_(torch.randn(parameter.shape) * 0.3)
        after = model(input_ids=ids).logits
        assert not torch.allclose(after, before, atol=1e-4)
        if not adaptation.merge_reasons():
            adaptation.merge()
            torch.testing.assert_close(model(input_ids=ids).logits, after, rtol=1e-4, atol=1e-4)
            adaptation.unmerge()
        adaptation.detach()
        assert torch.equal(model(input_ids=ids).logits, before)


def test_the_newer_language_model_head_is_found() -> None:
    model = DebertaV2ForMaskedLM(DebertaV2Config(**TINY, legacy=False))
    adaptation = refarch.attach(model, "lora", train_head=True)
    assert any(name.startswith("base:lm_predictions.") for name, _ in adaptation.named_parameters())
