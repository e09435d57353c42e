"""Prompt learning: one tensor of peft's, ``prompt_embeddings``, holds tokens, or the keys and values of all layers."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.models.auto import modeling_auto as auto

from refarch import Adaptation
from refarch.errors import CheckpointError, CompositionError
from refarch_interchange.codec import Codec, Written, fold_all
from refarch_interchange.files import PeftFiles
from refarch_interchange.mapping.rules import PROMPT_PREFIX, own_tensors
from refarch_interchange.notes import tell
from refarch_interchange.places import Places

NAME = "prompt_embeddings"
TASKS = {
    "CAUSAL_LM": auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    "SEQ_2_SEQ_LM": auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    "SEQ_CLS": auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
    "TOKEN_CLS": auto.MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES,
    "QUESTION_ANS": auto.MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES,
}
"""peft's types of task and the model classes that they are for; with the others it only takes states."""
STATES = "FEATURE_EXTRACTION"
WITH_HEAD = ("SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS")
"""Those for which peft expects the head in the file."""


def task_type(model: PreTrainedModel) -> str:
    """Peft's type of task of a model's class."""
    name = type(model).__name__
    return next((task for task, classes in TASKS.items() if name in classes.values()), STATES)


class Prompt(Codec):
    """Tokens before the embedded input; what has made them while training is in neither's files."""

    def prepare(self, files: PeftFiles, adaptation: Adaptation, places: Places) -> None:
        """Only the tokens stay."""
        _refuse_first_state(adaptation)
        fold_all(adaptation)

    def read(self, files: PeftFiles, adaptation: Adaptation, places: Places) -> None:
        """The first tokens; peft itself leaves those of a second stack aside."""
        tokens, (insertion,) = files.take(NAME), adaptation.insertions
        own = own_tensors(insertion)["tokens"]
        stacks = int(files.settings.get("num_transformer_submodules") or 1)
        _expect(tokens, (stacks * len(own), own.shape[1]))
        if stacks > 1:
            tell(f"of {len(tokens)} tokens, peft uses the first {len(own)}, and these alone are read")
        own.copy_(tokens[: len(own)])

    def write(self, adaptation: Adaptation, places: Places, written: Written) -> None:
        """The tokens, and what peft makes its table of."""
        _refuse_first_state(adaptation)
        (insertion,) = adaptation.insertions
        tokens: Tensor = insertion.function().detach()
        written.tensors[NAME] = tokens
        written.settings.update(virtual(adaptation.model, tokens.shape[1]))
        _with_head(adaptation, places, written)


class Prefix(Codec):
    """Keys and values before those of each layer, side by side in one tensor: [l, layers * 2 * d_kv].

    peft's prefix is a cache, after which the model counts positions on; refarch's stands outside of all positions. So
    both compute the same at positions that are as many later here.
    """

    step = 1
    """Which of the tensor's layers the next layer of a model uses."""

    def choices(self, files: PeftFiles | None, places: Places) -> dict[str, Any]:
        """Nothing to choose; refuses where the cache does more than that.

        Raises:
            CompositionError: the backbone has two stacks, or takes no cache.
        """
        _refuse_other_caches(places)
        return {}

    def prepare(self, files: PeftFiles, adaptation: Adaptation, places: Places) -> None:
        """Only keys and values stay."""
        fold_all(adaptation)

    def read(self, files: PeftFiles, adaptation: Adaptation, places: Places) -> None:
        """Two columns of blocks a layer."""
        table = files.take(NAME)
        own = [own_tensors(insertion) for insertion in adaptation.insertions]
        width = 2 * own[0]["keys"].shape[1]
        count = max(table.shape[-1] // width, len(own)) if self.step > 1 else len(own)
        _expect(table, (len(own[0]["keys"]), count * width))
        theirs = _pairs(table, count)
        for index, layer in enumerate(own):
            keys, values = theirs[index * self.step % count]
            layer["keys"].copy_(keys)
            layer["values"].copy_(values)
        self._tell(len(table))

    def write(self, adaptation: Adaptation, places: Places, written: Written) -> None:
        """The keys and values of all layers, which must all have them."""
        self.choices(None, places)
        layers = adaptation.insertions[0].site.shape.layers
        slots = {str(insertion.site.ref) for insertion in adaptation.insertions}
        if len(adaptation.insertions) != layers or slots != {"attention.key_value"}:
            raise CompositionError(
                f"peft's PREFIX_TUNING works at the self-attention of all {layers} layers; here it is at"
                f" {len(adaptation.insertions)} places"
            )
        own = [[block.detach() for block in insertion.function()] for insertion in adaptation.insertions]
        blocks = [block for layer in own for block in layer * self.step]
        written.tensors[NAME] = torch.cat(blocks, dim=1)
        written.settings.update(virtual(adaptation.model, blocks[0].shape[1], keys=True))
        if written.settings["task_type"] in WITH_HEAD and not _takes(adaptation.model, "past_key_values"):
            written.settings["task_type"] = STATES  # for the others, peft refuses to give such a model a cache
        written.settings["prefix_projection"] = False
        _with_head(adaptation, places, written)
        self._tell(len(blocks[0]))

    def _tell(self, length: int) -> None:
        tell(
            f"peft counts positions on after the prefix's {length}, refarch counts tokens alone: the outputs are equal"
            f" with position_ids that are {length} larger here"
        )


class CountedPrefix(Prefix):
    """The same in an encoder-decoder whose position biases count the prefix: before the decoder's self-attention.

    peft puts the tensor's layers twice in a row, and of these takes every second pair of keys and values for the
    decoder's self-attention (what lies between is for the attention to the encoder, and is dropped): layer i has that
    of layer 2 i modulo their number. So it is written for twice as many layers, each of the decoder's two times.
    """

    step = 2

    def choices(self, files: PeftFiles | None, places: Places) -> dict[str, Any]:
        """The decoder alone.

        Raises:
            CompositionError: the decoder has no position biases, or the backbone has one stack.
        """
        stacks = {site.stack.name: site for site in places.available["attention.key_value"] if site.stack}
        if len(stacks) == 1 or stacks["decoder"].position_bias is None:
            raise CompositionError(
                "peft's PREFIX_TUNING of an encoder-decoder is a cache, after which the model counts positions on; in"
                f" {type(places.model).__name__} these are not biases of the attention, where a prefix is at work",
                "use prompt tuning, which both compute alike everywhere",
            )
        return {"layers": {"stacks": ["decoder"]}}

    def write(self, adaptation: Adaptation, places: Places, written: Written) -> None:
        """The keys and values of all of the decoder's layers."""
        stacks = {site.stack.name for site in (insertion.site for insertion in adaptation.insertions) if site.stack}
        if stacks != {"decoder"}:
            raise CompositionError(
                "peft's PREFIX_TUNING of an encoder-decoder works at the decoder's self-attention; here it is at"
                f" that of {' and '.join(sorted(stacks))}",
                'choose layers={"stacks": ["decoder"]}',
            )
        super().write(adaptation, places, written)
        layers = self.step * len(adaptation.insertions)
        written.settings.update(num_transformer_submodules=2, num_layers=layers)

    def _tell(self, length: int) -> None:
        """Nothing: both count alike."""


def _pairs(table: Tensor, layers: int) -> list[tuple[Tensor, Tensor]]:
    """[l, layers * 2 * d] -> keys and values of each layer, each [l, d]."""
    return [(pair[:, 0], pair[:, 1]) for pair in table.unflatten(1, (layers, 2, -1)).unbind(1)]


def virtual(model: PreTrainedModel, width: int, keys: bool = False) -> dict[str, Any]:
    """The settings that peft shapes its table by."""
    config = model.config.get_text_config()
    heads = int(config.num_attention_heads)
    return {
        "task_type": task_type(model),
        "token_dim": width,
        "num_layers": int(config.num_hidden_layers),
        "num_attention_heads": int(getattr(config, "num_key_value_heads", None) or heads) if keys else heads,
        "num_transformer_submodules": 1,
    }


def _expect(tensor: Tensor, shape: tuple[int, ...]) -> None:
    if tuple(tensor.shape) != shape:
        raise CheckpointError(
            f"{NAME} has shape {tuple(tensor.shape)}, where the settings and the model ask for {shape}",
            "is it for another base?",
        )


def _refuse_first_state(adaptation: Adaptation) -> None:
    if adaptation.family.kind == "encoder" and task_type(adaptation.model) == "SEQ_CLS":
        raise CompositionError(
            "with peft's prompts, an encoder's classifier reads the state of the first prompt token, with refarch's"
            " that of the first token of the text; there is no conversion between them",
            "use prefix tuning, or a head that reads all tokens",
        )


def _takes(model: nn.Module, *names: str) -> bool:
    """Whether a model's forward pass names one of these arguments."""
    return bool(set(names) & inspect.signature(type(model).forward).parameters.keys())


def _refuse_other_caches(places: Places) -> None:
    if len({site.stack.name for site in places.available["layer"] if site.stack}) > 1:
        raise CompositionError(
            "peft's PREFIX_TUNING in an encoder-decoder is a cache whose tokens the decoder's position biases or"
            " embeddings count, which this prefix is not",
            'attach prefix-tuning with preset "counted" and layers={"stacks": ["decoder"]} where they are biases (T5),'
            " or use prompt tuning, which both compute alike everywhere",
        )
    model, layers = places.model, len(places.available["layer"])
    if not _takes(model.base_model, "cache", "past_key_values") or layers != virtual(model, 1)["num_layers"]:
        raise CompositionError(
            f"peft's PREFIX_TUNING is a cache with a prefix for each layer, and {type(model.base_model).__name__} takes"
            " no cache, or has layers that share their modules",
            "use prompt tuning, or another backbone",
        )


def _with_head(adaptation: Adaptation, places: Places, written: Written) -> None:
    """Where peft expects a head in the file, the base's own, if none was trained."""
    if written.settings["task_type"] not in WITH_HEAD or adaptation.train_head:
        return
    for path, parameter in adaptation.model.named_parameters():
        if places.in_head(path):
            written.tensors[f"{PROMPT_PREFIX}{path}"] = parameter
    written.settings["modules_to_save"] = list(places.head)
    tell("the head, which did not train, is written too: peft expects one for this task")
