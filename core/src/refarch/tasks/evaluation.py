"""Ways of asking a model, for tasks that define :meth:`refarch.Task.scores`: outputs of every row, mean loss, generated
text, log-likelihoods of continuations.

All of them batch rows of like length together and give their results in the rows' own order. The model is used as it
is: in evaluation mode and without gradients, which the pipeline sees to.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from refarch.tasks.task import Rows

Collator = Callable[[Sequence[Mapping[str, Any]]], dict[str, Any]]
Hear = Callable[[Sequence[int], int], None]
_hearers: ContextVar[tuple[Hear, ...]] = ContextVar("hearers", default=())


@contextlib.contextmanager
def hear_batches(hear: Hear) -> Iterator[None]:
    """While inside, tell somebody of each batch before the model sees it: for rows that are computed each in its way.

    Args:
        hear: gets the indices of the batch's rows, and how many rows there are in all.
    """
    token = _hearers.set((*_hearers.get(), hear))
    try:
        yield
    finally:
        _hearers.reset(token)


def batches(
    rows: Rows, collator: Collator, batch_size: int, device: torch.device
) -> Iterator[tuple[list[int], dict[str, Any]]]:
    """All rows in batches of like length, the longest first: their indices and the collated tensors on ``device``."""
    for chosen in in_order([tokens(rows[index]) for index in range(len(rows))], batch_size):
        batch = collator([rows[index] for index in chosen])
        yield chosen, {name: v.to(device) if isinstance(v, Tensor) else v for name, v in batch.items()}


def in_order(lengths: Sequence[int], batch_size: int) -> Iterator[list[int]]:
    """The indices of rows in batches of like length, the longest first; whoever hears of batches is told of each."""
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        for hear in _hearers.get():
            hear(chosen, len(order))
        yield chosen


def tokens(row: Mapping[str, Any]) -> int:
    """How long a row is; of one that has a sequence for each of several choices, the longest."""
    ids = row["input_ids"]
    return max(map(len, ids)) if len(ids) and isinstance(ids[0], Sequence) else len(ids)


def collect(
    model: PreTrainedModel, rows: Rows, collator: Collator, batch_size: int, names: Sequence[str]
) -> dict[str, list[Tensor]]:
    """The model's outputs for every row, on the CPU and in float32.

    Args:
        model: any.
        rows: encoded examples.
        collator: makes batches; labels in them are left out.
        batch_size: rows at a time.
        names: of the outputs: ``logits``, ``start_logits`` ...

    Returns:
        By name, one tensor a row without the batch axis; where it has a token axis, padded as its batch was.
    """
    found: dict[str, list[Tensor]] = {name: [torch.empty(0)] * len(rows) for name in names}
    for chosen, batch in batches(rows, collator, batch_size, model.device):
        inputs = {key: v for key, v in batch.items() if key not in ("labels", "start_positions", "end_positions")}
        output = model(**inputs)
        for name in names:
            for row, value in zip(chosen, output[name].float().cpu(), strict=True):
                found[name][row] = value
    return found


def mean_loss(model: PreTrainedModel, rows: Rows, collator: Collator, batch_size: int) -> float:
    """The model's own loss, averaged over the tokens that have a label (or the rows, where labels are of rows).

    A decoder predicts a token from those before it, so a label at the first position is none.
    """
    total, count = 0.0, 0
    for chosen, batch in batches(rows, collator, batch_size, model.device):
        labels = batch["labels"]
        weight = len(chosen)
        if labels.ndim > 1:
            counted = labels if model.config.is_encoder_decoder or not _shifts(model) else labels[:, 1:]
            weight = int((counted != -100).sum())
        if weight:
            total, count = total + float(model(**batch).loss) * weight, count + weight
    return total / count if count else float("nan")


def _shifts(model: PreTrainedModel) -> bool:
    """Whether the model's loss predicts the next token."""
    return type(model).__name__.endswith(("ForCausalLM", "LMHeadModel"))


def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    batch_size: int,
    **settings: Any,
) -> list[str]:
    """What a decoder or an encoder-decoder writes, greedily unless ``settings`` say otherwise.

    Args:
        model: with a language modelling head.
        tokenizer: decodes; its pad token fills batches, on the left for a decoder.
        prompts: token ids; for an encoder-decoder the encoder's input.
        batch_size: prompts at a time.
        settings: of transformers' ``GenerationConfig``: ``max_new_tokens``, ``num_beams`` ...

    Returns:
        The new text of each prompt, without special tokens.
    """
    texts = [""] * len(prompts)
    decoder = not model.config.is_encoder_decoder
    config = GenerationConfig(
        **{
            "do_sample": False,
            "pad_token_id": tokenizer.pad_token_id,
            "eos_token_id": _ends(model, tokenizer),
            "bos_token_id": tokenizer.bos_token_id,
            "decoder_start_token_id": getattr(model.config, "decoder_start_token_id", None),
            **settings,
        }
    )
    for chosen in in_order([len(prompt) for prompt in prompts], batch_size):
        ids, mask = padded([prompts[i] for i in chosen], int(tokenizer.pad_token_id or 0), left=decoder)
        written: Tensor = model.generate(  # type: ignore[operator]
            input_ids=ids.to(model.device), attention_mask=mask.to(model.device), generation_config=config
        )
        new = written[:, ids.shape[1] :] if decoder else written
        for row, text in zip(chosen, tokenizer.batch_decode(new, skip_special_tokens=True), strict=True):
            texts[row] = text.strip()
    return texts


def _ends(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int] | None:
    """What ends a text: the model's own tokens, and the one that targets are trained to end with."""
    own = model.generation_config.eos_token_id if model.generation_config is not None else None
    ends = [] if own is None else [own] if isinstance(own, int) else list(own)
    trained = tokenizer.sep_token_id if tokenizer.eos_token_id is None else tokenizer.eos_token_id
    if trained is not None and trained not in ends:
        ends.append(int(trained))
    return ends or None


class Likelihood(NamedTuple):
    """How likely a continuation is."""

    total: float
    """The sum of its tokens' log-probabilities, in nats."""
    tokens: int
    greedy: bool = False
    """Whether each of its tokens is the likeliest in its place."""


def log_likelihoods(
    model: PreTrainedModel, pairs: Sequence[tuple[Sequence[int], Sequence[int]]], batch_size: int, pad: int
) -> list[Likelihood]:
    """Log p(continuation | context) by a decoder or an encoder-decoder.

    Args:
        model: with a language modelling head.
        pairs: token ids of context and continuation; for a decoder, a context of one token at least. Both are used
            whole: cutting is the caller's.
        batch_size: pairs at a time.
        pad: the pad token.

    Raises:
        ValueError: an empty continuation, or for a decoder an empty context.
    """
    decoder = not model.config.is_encoder_decoder
    for context, continuation in pairs:
        if not len(continuation) or (decoder and not len(context)):
            raise ValueError("a likelihood needs a continuation of one token at least, and a decoder a context")
    found = [Likelihood(0.0, 0)] * len(pairs)
    for chosen in in_order([len(context) + len(continuation) for context, continuation in pairs], batch_size):
        if decoder:
            # the last token is not read: nothing is predicted from it
            ids, mask = padded([[*pairs[i][0], *pairs[i][1]][:-1] for i in chosen], pad, left=False)
            labels, _ = padded([[-100] * (len(pairs[i][0]) - 1) + list(pairs[i][1]) for i in chosen], -100, left=False)
            labels = labels.to(model.device)  # b t
            logits = model(input_ids=ids.to(model.device), attention_mask=mask.to(model.device)).logits
        else:
            ids, mask = padded([list(pairs[i][0]) for i in chosen], pad, left=False)
            labels, _ = padded([list(pairs[i][1]) for i in chosen], -100, left=False)
            labels = labels.to(model.device)
            logits = model(
                input_ids=ids.to(model.device), attention_mask=mask.to(model.device), labels=labels
            ).logits  # b t v
        counted = labels != -100
        own = logits.float().log_softmax(dim=-1).gather(-1, labels.clamp(min=0)[..., None])[..., 0]  # b t
        sums, counts = (own * counted).sum(dim=-1).tolist(), counted.sum(dim=-1).tolist()
        greedy = ((logits.argmax(dim=-1) == labels) | ~counted).all(dim=-1).tolist()
        for row, *values in zip(chosen, sums, counts, greedy, strict=True):
            found[row] = Likelihood(*values)
    return found


def padded(sequences: Sequence[Sequence[int]], pad: int, left: bool) -> tuple[Tensor, Tensor]:
    """Sequences of token ids as one tensor and its mask, both [b, t]."""
    longest = max(map(len, sequences))
    ids = torch.full((len(sequences), longest), pad)
    mask = torch.zeros_like(ids)
    for row, sequence in enumerate(sequences):
        where = slice(longest - len(sequence), None) if left else slice(0, len(sequence))
        ids[row, where] = torch.from_numpy(np.array(sequence, dtype=np.int64))  # a list, or an array of any width
        mask[row, where] = 1
    return ids, mask
