"""From what the user typed to a configuration, and from a configuration to models without weights."""

from __future__ import annotations

from typing import Any

import transformers
from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel
from transformers.models.auto import modeling_auto as auto
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from refarch import FamilySpec, Registry
from refarch.errors import UnknownNameError, UsageError, did_you_mean
from refarch.pipeline import model_on_meta
from refarch_inspect.names import meant

AUTO_CLASSES = {
    "AutoModelForSeq2SeqLM": auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    "AutoModelForCausalLM": auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    "AutoModelForMaskedLM": auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    "AutoModelForSequenceClassification": auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
    "AutoModelForTokenClassification": auto.MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES,
    "AutoModelForQuestionAnswering": auto.MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES,
}
"""transformers' auto classes whose heads a table names, and the model types that each knows."""


def find_config(name: str | None, model_type: str | None, registry: Registry) -> PretrainedConfig:
    """The configuration of a model plugin, a folder, a configuration file, a hub id, a family or a model type.

    Raises:
        UsageError: there is no such model; the message says what was tried.
    """
    if model_type is not None:
        if model_type not in CONFIG_MAPPING:
            raise UnknownNameError(
                f"transformers knows no model type {model_type!r}", did_you_mean(model_type, CONFIG_MAPPING)
            )
        return AutoConfig.for_model(model_type)
    assert name is not None
    source = meant(name, registry)
    if isinstance(source, FamilySpec):
        return AutoConfig.for_model(source.model_types[0])
    try:
        return AutoConfig.from_pretrained(source, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        if name in CONFIG_MAPPING:
            return AutoConfig.for_model(name)
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UsageError(
            f"the configuration of {name!r} cannot be read: {reason}",
            "give a model plugin's name, a folder with a config.json, that file, a hub id (with access to the hub), or"
            " --model-type TYPE for a type's default configuration; code that comes with a model is never run",
        ) from None


def heads(config: PretrainedConfig) -> list[str]:
    """The auto classes that serve this model type."""
    return [name for name, types in AUTO_CLASSES.items() if config.model_type in types]


def tested_with(config: PretrainedConfig, kind: str) -> tuple[str, ...]:
    """The auto classes that a family of this kind is best tested with."""
    wanted = {
        "encoder": ("AutoModelForSequenceClassification", "AutoModelForMaskedLM"),
        "decoder": ("AutoModelForCausalLM", "AutoModelForSequenceClassification"),
        "encoder-decoder": ("AutoModelForSeq2SeqLM",),
    }[kind]
    there = heads(config)
    return tuple(name for name in wanted if name in there) or tuple(there[:1]) or ("AutoModel",)


def without_weights(config: PretrainedConfig, auto_class: str = "AutoModel") -> PreTrainedModel:
    """The model on the meta device: modules and shapes, no memory.

    Raises:
        UsageError: transformers cannot build it.
    """
    try:
        return model_on_meta(config, auto_class)
    except (ValueError, TypeError, AttributeError, RuntimeError, ImportError) as error:
        raise UsageError(f"transformers cannot build a {config.model_type!r} model: {error}") from error


def with_head(config: PretrainedConfig) -> PreTrainedModel:
    """The model under the class that its configuration names, or the first head that its type has; on meta."""
    for name in getattr(config, "architectures", None) or ():
        cls: Any = getattr(transformers, name, None)
        if isinstance(cls, type) and issubclass(cls, PreTrainedModel):
            return model_on_meta(config, cls)
    there = heads(config)
    if "AutoModelForMaskedLM" in there and not config.is_encoder_decoder:
        there = ["AutoModelForMaskedLM"]
    return without_weights(config, next(iter(there), "AutoModel"))


def build(config: PretrainedConfig, auto_class: str = "AutoModel") -> PreTrainedModel:
    """A model with random weights, in evaluation mode."""
    cls: Any = AutoModel if auto_class == "AutoModel" else getattr(transformers, auto_class)
    return cls.from_config(config).eval()
