"""What one training step is made of, where it is measured and where it is only counted: its inputs and its loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel


def inputs_of(model: PreTrainedModel, ids: Callable[[], Tensor]) -> dict[str, Tensor]:
    """A model's inputs without padding; an encoder-decoder writes as many tokens as it reads.

    Args:
        model: one of text.
        ids: makes token ids, [b, t].
    """
    inputs = {"input_ids": ids()}
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    if model.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = ids()
    return inputs


def loss_of(output: Any) -> Tensor:
    """A cross entropy over the output in float32, as transformers' losses are. A scalar."""
    values = next(value for value in output.values() if isinstance(value, Tensor))
    scores = values.float().flatten(0, -2)  # n classes
    return F.cross_entropy(scores, torch.zeros(len(scores), dtype=torch.long, device=scores.device))
