"""Embeddings narrower than the layers."""

import pytest
import torch
from transformers import ElectraConfig, ElectraForSequenceClassification

import refarch
from refarch.plugins import default_registry

TINY = default_registry().backbone("electra").tiny.config


@pytest.mark.parametrize("width", [24, 32])
def test_tokens_at_the_inputs_have_the_embeddings_width_and_a_prefix_the_layers(width: int) -> None:
    model = ElectraForSequenceClassification(ElectraConfig(**{**TINY, "embedding_size": width})).eval()
    assert hasattr(model.electra, "embeddings_project") == (width != 32)
    prompt = refarch.attach(model, "prompt-tuning", length=3)
    prefix = refarch.attach(model, "prefix-tuning", length=3, hidden=4)
    assert [tuple(parameter.shape) for parameter in prompt.parameters()] == [(3, width)]
    assert {tuple(part.shape) for _, function in prefix.functions() for part in function()} == {(3, 32)}
    model(input_ids=torch.tensor([[5, 6, 7]])).logits.sum().backward()
    assert all(parameter.grad is not None for parameter in prompt.parameters())
