"""Prompts and targets as features, for tasks that have a decoder or an encoder-decoder write its answer.

The loss is on the target alone, its end token included. A decoder reads ``prompt target end`` as one sequence, whose
prompt has the label -100; an encoder-decoder reads the prompt and writes the target. A prompt's tokens are the same
with a target and without one, so that a model is asked what it was trained on. What does not fit is cut, and said so.
"""

from __future__ import annotations

import logging
import re
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from refarch.errors import DataError, UsageError
from refarch.tasks.evaluation import padded

logger = logging.getLogger(__name__)

TextKind = Literal["decoder", "encoder-decoder"]
"""The kinds of backbone that write."""
TEXT_KINDS: dict[str, TextKind] = {"generative": "decoder", "text-to-text": "encoder-decoder"}
"""The kind of backbone by the name of each of :data:`refarch.TEXT_FORMULATIONS`."""
Features = dict[str, list[int]]
IGNORED = -100
"""The label of a token that the loss leaves out."""
_FILL = {"attention_mask": 0, "labels": IGNORED, "token_type_ids": 0, "position_ids": 0}


class Pair(NamedTuple):
    """A prompt and a target as token ids."""

    prompt: list[int]
    target: list[int]


class Frame(NamedTuple):
    """The special tokens around a text."""

    before: list[int]
    after: list[int]

    def around(self, ids: Sequence[int]) -> list[int]:
        """The text's tokens with these around them."""
        return [*self.before, *ids, *self.after]

    @property
    def size(self) -> int:
        """How many they are."""
        return len(self.before) + len(self.after)


def encode_pairs(
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    targets: Sequence[str],
    kind: TextKind,
    max_length: int,
    max_target: int | None = None,
    *,
    cut: Literal["left", "right"] | None = None,
    special: bool = True,
    end: bool = True,
    source: str = "",
) -> list[Features]:
    """Prompts and targets as ``input_ids``, ``attention_mask`` and ``labels``; not padded.

    Args:
        tokenizer: the backbone's.
        prompts: what the model reads. For a decoder, spaces at a prompt's end are put before its target, because
            tokenizers join a space to the word that follows.
        targets: what it should write.
        kind: of the backbone.
        max_length: tokens of a decoder's whole sequence, or of an encoder-decoder's prompt; never more than the
            tokenizer's own limit.
        max_target: tokens of a target, special ones included; a longer one loses its end, but keeps its end token. A
            decoder's prompt then gets the rest of ``max_length`` whatever its own target is, so that it is the same
            in training and asking.
        cut: the side on which a prompt that is too long loses tokens; when left out, the left for a decoder and the
            right for an encoder-decoder.
        special: whether prompts get the tokenizer's special tokens; False where a chat template has written them.
        end: whether targets get their end token; False where only the likelihood of the words counts.
        source: where the pairs are from, for the log's line on how many were cut.

    Raises:
        DataError: the tokenizer has no token that ends a text.
        UsageError: the lengths leave no room for a prompt.
    """
    if kind == "decoder":
        outer = frame(tokenizer).before if special else []
        frames = (Frame(outer, []), Frame([], [end_token(tokenizer)] if end else []))
        pairs = _continued(tokenizer, prompts, targets, empty=not outer)
    else:
        own = frame(tokenizer, target=True)
        frames = (frame(tokenizer) if special else Frame([], []), own if end else own._replace(after=[]))
        pairs = [
            Pair(*both)
            for both in zip(_plain(tokenizer, prompts), _plain(tokenizer, targets, target=True), strict=True)
        ]
    longest = min(max_length, tokenizer.model_max_length)
    side = cut or ("left" if kind == "decoder" else "right")
    fitted = [_fit(pair, frames, kind, longest, max_target, side) for pair in pairs]
    for part, limit in (("prompt", longest), ("target", max_target)):
        shorter = sum(len(getattr(a, part)) < len(getattr(b, part)) for a, b in zip(fitted, pairs, strict=True))
        if shorter:
            logger.info("%s: %d of %d %ss were cut to fit %s tokens", source, shorter, len(pairs), part, limit)
    return [_features(Pair(frames[0].around(p), frames[1].around(t)), kind) for p, t in fitted]


def check_template(template: str, needed: Sequence[str], allowed: Sequence[str] = ()) -> None:
    """Refuse what :func:`fill` could not fill.

    Args:
        template: with the names of fields in braces.
        needed: fields that it must have.
        allowed: fields that it may have too.

    Raises:
        UsageError: a brace stands alone, a field is unknown, or one is missing.
    """
    fields = " and ".join(f"{{{name}}}" for name in needed)
    hint = f"write {fields} where it belongs, and other braces twice: {{{{ }}}}"
    try:
        found = [(name, spec, how) for _, name, spec, how in string.Formatter().parse(template) if name is not None]
    except ValueError as error:
        raise UsageError(f"the prompt {template!r} is no template: {error}", hint) from None
    names = {name for name, _, _ in found}
    if any(spec or how for _, spec, how in found) or not set(needed) <= names <= {*needed, *allowed}:
        others = f", and may have {', '.join(f'{{{name}}}' for name in allowed)}" if allowed else ""
        raise UsageError(f"the prompt {template!r} should have {fields}{others}", hint)


def fill(
    tokenizer: PreTrainedTokenizerBase,
    template: str,
    rows: Sequence[Mapping[str, str]],
    room: int,
    *,
    shorten: str,
    source: str = "",
) -> list[str]:
    """A template with the fields of each row filled in, one of them cut at its end where the whole would be too long.

    Args:
        tokenizer: counts.
        template: with the names of fields in braces.
        rows: the fields of each.
        room: tokens, special ones left out; see :func:`prompt_room`.
        shorten: the field that may be cut.
        source: where the rows are from, for the log's line on how many were cut.

    Returns:
        The texts. Where the rest alone is too long, the field is empty, and :func:`encode_pairs` cuts the text.
    """
    texts = [template.format(**row) for row in rows]
    cut = 0
    for index, ids in enumerate(_plain(tokenizer, texts)):
        over = len(ids) - room
        if over > 0:
            cut += 1
            texts[index] = _shortened(tokenizer, template, rows[index], room, over, shorten)
    if cut:
        logger.info(
            "%s: of %d of %d rows the end of %s was cut to fit %d tokens", source, cut, len(rows), shorten, room
        )
    return texts


def prompt_room(tokenizer: PreTrainedTokenizerBase, kind: TextKind, max_length: int, max_target: int) -> int:
    """Tokens that a prompt may have beside its special ones, with lengths as :func:`encode_pairs` takes them."""
    around, longest = frame(tokenizer), min(max_length, tokenizer.model_max_length)
    return longest - len(around.before) - max_target if kind == "decoder" else longest - around.size


def pair_of(features: Mapping[str, Any], kind: TextKind) -> Pair:
    """The prompt and the target, special tokens included, that :func:`encode_pairs` made features of."""
    ids, labels = list(features["input_ids"]), list(features["labels"])
    if kind == "encoder-decoder":
        return Pair(ids, labels)
    start = next((place for place, label in enumerate(labels) if label != IGNORED), len(labels))
    return Pair(ids[:start], ids[start:])


def end_token(tokenizer: PreTrainedTokenizerBase) -> int:
    """The token that ends a text: the end-of-text token, or the separator of a tokenizer without one.

    Raises:
        DataError: it has neither.
    """
    for token in (tokenizer.eos_token_id, tokenizer.sep_token_id):
        if token is not None:
            return int(token)
    raise DataError(
        "this model's tokenizer has no end-of-text token, so that nothing could tell the model to stop",
        "set eos_token in its tokenizer_config.json",
    )


@dataclass(frozen=True)
class PairCollator:
    """Pads features of either kind to the longest of their batch; what is no sequence of tokens is left out.

    A decoder's labels have the length of its inputs, so that both are padded alike.

    Attributes:
        pad: the pad token.
        left: whether to pad on the left.
    """

    pad: int
    left: bool = False

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """``input_ids``, ``attention_mask``, ``labels``, and ``position_ids`` where rows have them; each [b, t]."""
        batch: dict[str, Tensor] = {}
        for name, fill in {"input_ids": self.pad, **_FILL}.items():
            if name in rows[0]:
                batch[name], mask = padded([row[name] for row in rows], fill, self.left)
                if name == "input_ids" and "attention_mask" not in rows[0]:
                    batch["attention_mask"] = mask
        return batch


def pair_collator(tokenizer: PreTrainedTokenizerBase, left: bool = False) -> PairCollator:
    """The collator for a tokenizer's features; one without a pad token fills with its end token.

    Raises:
        DataError: the tokenizer has neither.
    """
    pad = tokenizer.pad_token_id
    return PairCollator(end_token(tokenizer) if pad is None else int(pad), left)


def frame(tokenizer: PreTrainedTokenizerBase, target: bool = False) -> Frame:
    """The special tokens that a tokenizer puts around a text, or around a target."""
    encoded = tokenizer(**{"text_target" if target else "text": "a"}, return_special_tokens_mask=True)
    ids, special = list(encoded["input_ids"]), list(encoded["special_tokens_mask"])
    if 0 not in special:
        return Frame(ids, [])
    after = special[::-1].index(0)
    return Frame(ids[: special.index(0)], ids[len(ids) - after :])


def _plain(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], target: bool = False) -> list[list[int]]:
    """The tokens of texts without special ones."""
    if not texts:
        return []
    given = {"text_target" if target else "text": list(texts)}
    return [list(ids) for ids in tokenizer(**given, add_special_tokens=False, verbose=False)["input_ids"]]


def _shortened(
    tokenizer: PreTrainedTokenizerBase, template: str, row: Mapping[str, str], room: int, over: int, name: str
) -> str:
    ends = [match.end() for match in re.finditer(r"\S+", row[name])]  # a cut is at the end of a word
    words, per_token = len(ends), len(ends) / max(1, len(_plain(tokenizer, [row[name]])[0]))
    text = template.format(**{**row, name: ""})
    while words > 0 and over > 0:
        words -= max(1, round(over * per_token))
        text = template.format(**{**row, name: row[name][: ends[words - 1]] if words > 0 else ""})
        over = len(_plain(tokenizer, [text])[0]) - room
    return text


def _continued(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], targets: Sequence[str], empty: bool
) -> list[Pair]:
    """Prompts, and the tokens by which their targets continue them.

    Where the tokenizer would join the end of a prompt and the beginning of its target into one token, each keeps its
    own: the prompt's tokens are those that it has alone.
    """
    heads = [prompt.rstrip(" ") for prompt in prompts]
    tails = [prompt[len(head) :] + target for prompt, head, target in zip(prompts, heads, targets, strict=True)]
    before = _plain(tokenizer, heads)
    whole = _plain(tokenizer, [head + tail for head, tail in zip(heads, tails, strict=True)])
    alone = _plain(tokenizer, tails)
    pairs = []
    for prompt, both, target in zip(before, whole, alone, strict=True):
        after = both[len(prompt) :] if both[: len(prompt)] == prompt else target
        # a decoder predicts nothing without a token to start from
        pairs.append(Pair(prompt or ([end_token(tokenizer)] if empty else []), after))
    return pairs


def _fit(
    pair: Pair, frames: tuple[Frame, Frame], kind: TextKind, longest: int, max_target: int | None, side: str
) -> Pair:
    target = pair.target if max_target is None else pair.target[: max(0, max_target - frames[1].size)]
    room = longest - frames[0].size
    if kind == "decoder":
        room -= len(target) + frames[1].size if max_target is None else max_target
    if room < 1:
        raise UsageError(
            f"{longest} tokens leave no room for a prompt"
            + (f" beside a target of {max_target or len(target) + frames[1].size}" if kind == "decoder" else ""),
            "raise max_length, or allow fewer tokens for the target",
        )
    over = len(pair.prompt) - room
    if over <= 0:
        return Pair(pair.prompt, target)
    return Pair(pair.prompt[over:] if side == "left" else pair.prompt[:room], target)


def _features(pair: Pair, kind: TextKind) -> Features:
    if kind == "encoder-decoder":
        return {"input_ids": pair.prompt, "attention_mask": [1] * len(pair.prompt), "labels": pair.target}
    ids = [*pair.prompt, *pair.target]
    return {
        "input_ids": ids,
        "attention_mask": [1] * len(ids),
        "labels": [IGNORED] * len(pair.prompt) + pair.target,
    }
