"""A model without its weights, on which techniques are tried and counted before anything is loaded."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from transformers import PretrainedConfig, PreTrainedModel


def model_on_meta(
    config: PretrainedConfig, model_class: str | type[PreTrainedModel], **choices: Any
) -> PreTrainedModel:
    """The model of a configuration on torch's meta device, in evaluation mode: modules and shapes, no memory.

    Args:
        config: its configuration.
        model_class: the name of transformers' auto class, which decides the head; or a model's own class.
        choices: for the auto class.
    """
    with torch.device("meta"):
        if isinstance(model_class, str):
            model: PreTrainedModel = getattr(transformers, model_class).from_config(config, **choices)
        else:
            model = model_class(config)
    return model.eval()
