"""The base model of a checkpoint, for the commands: which one, of which class, with how many labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import transformers
from transformers import AutoConfig, PreTrainedModel

from refarch import Registry
from refarch.architecture import BackboneChoice
from refarch.errors import UsageError
from refarch.pipeline import quiet
from refarch.plugins import locate
from refarch_interchange.files import require_base

CLASSES = {
    "CAUSAL_LM": "AutoModelForCausalLM",
    "SEQ_2_SEQ_LM": "AutoModelForSeq2SeqLM",
    "SEQ_CLS": "AutoModelForSequenceClassification",
    "TOKEN_CLS": "AutoModelForTokenClassification",
    "QUESTION_ANS": "AutoModelForQuestionAnswering",
}
"""transformers' class for each of peft's types of task."""


def class_of_peft(settings: Mapping[str, Any]) -> str | None:
    """The class that a peft configuration tells of, if it does."""
    task = settings.get("task_type")
    return CLASSES.get(str(task)) or (settings.get("auto_mapping") or {}).get("base_model_class")


def labels_of(shapes: Mapping[str, tuple[int, ...]]) -> int | None:
    """The number of labels that a trained head has: the rows of its last matrix."""
    rows = [shape[0] for name, shape in sorted(shapes.items()) if name.endswith(".weight") and len(shape) == 2]
    return rows[-1] if rows else None


def load_base(name: str | None, class_name: str | None, labels: int | None, registry: Registry) -> PreTrainedModel:
    """A base model in evaluation mode.

    Args:
        name: an installed model, a folder or a hub id.
        class_name: of transformers; what the base's own configuration says when left out.
        labels: of a classifier's head.
        registry: where installed models are looked up.

    Raises:
        UsageError: no base or class is named, or it cannot be loaded.
    """
    require_base(name, registry)
    assert name is not None
    source = locate(BackboneChoice(name=name), registry)
    common: dict[str, Any] = {}
    try:
        with quiet():
            if class_name is None:
                class_name = next(iter(AutoConfig.from_pretrained(source, **common).architectures or ()), "AutoModel")
            found = getattr(transformers, class_name, None)
            if found is None:
                raise UsageError(f"transformers has no class {class_name!r}", "name one with --class")
            if labels is not None and class_name.endswith(("SequenceClassification", "TokenClassification")):
                common["num_labels"] = labels
            model: PreTrainedModel = found.from_pretrained(source, dtype="auto", **common)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"the base {name!r} cannot be loaded: {str(error).splitlines()[0]}", "name another with --model"
        ) from None
    return model.eval()
