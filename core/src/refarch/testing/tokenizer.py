"""A tokenizer that needs no files: for tests of tasks."""

from __future__ import annotations

import string

from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

SPECIAL = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}
CHARACTERS = string.ascii_lowercase + string.digits + string.punctuation


def tiny_tokenizer(max_length: int = 48) -> PreTrainedTokenizerFast:
    """A tokenizer of single characters, with the usual special tokens; padding is token 0.

    Different texts have different tokens, and ordinary texts are long enough to be truncated.

    Args:
        max_length: its ``model_max_length``.
    """
    pieces = [
        *SPECIAL.values(),
        *CHARACTERS,
        *(f"##{character}" for character in string.ascii_lowercase + string.digits),
    ]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    tokenizer = Tokenizer(WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = BertNormalizer()
    tokenizer.pre_tokenizer = BertPreTokenizer()
    ends = [(token, vocabulary[token]) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = TemplateProcessing("[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1", ends)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=max_length, **SPECIAL)
