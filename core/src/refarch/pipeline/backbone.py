"""From a backbone's name to what exists: its kind, model and tokenizer, and the device that they go to."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from refarch.architecture import BackboneChoice, BackboneKind
from refarch.errors import UsageError, did_you_mean
from refarch.plugins import Registry
from refarch.plugins.lookup import locate


def backbone_kind(choice: BackboneChoice, registry: Registry) -> BackboneKind:
    """Whether a backbone is an encoder, a decoder or both, from its configuration and its family's table.

    Raises:
        UsageError: neither a model plugin, a folder, nor a hub id that can be reached.
        UnknownNameError: no installed family serves its model type.
    """
    common = {"trust_remote_code": choice.trust_remote_code, "revision": choice.revision or "main"}
    with quiet_transformers(), _explained(choice, registry):
        config = AutoConfig.from_pretrained(locate(choice, registry), **common)
    return registry.family_for(str(config.model_type)).kind


def load_backbone(
    choice: BackboneChoice, auto_class: str, arguments: dict[str, Any], registry: Registry, seed: int
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Model with the task's head, and tokenizer, whose limit is at most the model's own. A new head's values depend on
    ``seed`` alone.

    Raises:
        UsageError: neither a model plugin, a folder, nor a hub id that can be reached.
    """
    source = locate(choice, registry)
    common: dict[str, Any] = {"trust_remote_code": choice.trust_remote_code, "revision": choice.revision or "main"}
    with quiet_transformers(), _explained(choice, registry):
        tokenizer = AutoTokenizer.from_pretrained(source, **common)
        torch.manual_seed(seed)
        try:
            model = getattr(transformers, auto_class).from_pretrained(
                source, dtype=choice.dtype or "auto", **common, **choice.config, **arguments
            )
        except RuntimeError as error:  # transformers' own, where a saved head has another number of labels
            if "mismatched" not in str(error):
                raise
            raise UsageError(
                f"the backbone {choice.name!r} has weights of other sizes than this task's model",
                "it may have the head of another task: save the model without it (model.base_model.save_pretrained)",
            ) from error
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    if model.config.pad_token_id is None:
        model.config.pad_token_id = tokenizer.pad_token_id
    limit = position_limit(model)
    if limit is not None:
        tokenizer.model_max_length = min(tokenizer.model_max_length, limit)
    return model, tokenizer


def position_limit(model: PreTrainedModel) -> int | None:
    """How many tokens a model with a table of positions can read, which not every tokenizer says; None without one.

    The table is the embedding, not of tokens, that has as many rows as the configuration has positions, beside those
    that some models leave out: the first ``offset`` ones, or those up to its padding.
    """
    wanted = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    words = model.get_input_embeddings().weight
    found = []
    for module in model.modules():
        if isinstance(module, torch.nn.Embedding) and module.weight is not words:
            rows = module.num_embeddings - getattr(module, "offset", 0)
            if rows == wanted:
                found.append(rows if module.padding_idx is None else rows - module.padding_idx - 1)
    return min(found, default=None)


def device(wanted: str | torch.device | None = None) -> torch.device:
    """The device of this name; the accelerator where there is one, or else the CPU, when left out.

    Raises:
        UsageError: it cannot be used here.
    """
    if wanted is None:
        found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        return found or torch.device("cpu")
    try:
        return torch.empty(0, device=wanted).device
    except (RuntimeError, AssertionError) as error:  # a build without that device asserts
        raise UsageError(
            f"the device {str(wanted)!r} cannot be used: {str(error).splitlines()[0]}", "use --device cpu"
        ) from None


@contextlib.contextmanager
def _explained(choice: BackboneChoice, registry: Registry) -> Iterator[None]:
    """Say in plain words that a backbone cannot be loaded."""
    try:
        yield
    except (OSError, ValueError) as error:
        names = [spec.name for spec in registry.models()]
        raise UsageError(
            f"the backbone {choice.name!r} cannot be loaded: {str(error).splitlines()[0]}",
            f"give a local folder, a hub id that can be reached from here, or an installed model;"
            f" {did_you_mean(choice.name, names)}",
        ) from error


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep transformers from reporting what a run expects: a head that is new, weights being read."""
    from transformers.utils import logging as hf

    level, bars = hf.get_verbosity(), hf.is_progress_bar_enabled()
    hf.set_verbosity(logging.ERROR)
    hf.disable_progress_bar()
    try:
        yield
    finally:
        hf.set_verbosity(level)
        if bars:
            hf.enable_progress_bar()


quiet = quiet_transformers
"""Its name until every plugin has learnt the longer one."""
