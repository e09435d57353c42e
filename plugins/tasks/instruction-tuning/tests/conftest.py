"""Tokenizers, chat templates and conversations for the tests."""

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

SPECIAL = ["<pad>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"]
TEXT = ["user\nWhat is 2 + 2?", "assistant\nIt is 4. Anything else?", "system\nYou are a helpful AI assistant"] * 3


def trained(bos: bool = False, metaspace: bool = False, **special: str) -> PreTrainedTokenizerFast:
    """A byte-level BPE like GPT-2's, or one with a space before each text as Llama's; ChatML's marks are tokens."""
    core = Tokenizer(models.BPE(unk_token="<pad>") if metaspace else models.BPE())
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    if metaspace:
        lines = pre_tokenizers.Split("\n", "isolated")
        words = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
        core.pre_tokenizer, core.decoder = pre_tokenizers.Sequence([lines, words]), decoders.Metaspace()
        alphabet = sorted(set("".join(TEXT)) | set("abcdefghijklmnopqrstuvwxyzABCDEFGH0123456789.:!?'\n"))
    else:
        core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    core.train_from_iterator(TEXT, trainer)
    if bos:
        core.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
        special["bos_token"] = "<s>"
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        **{"eos_token": "</s>", "pad_token": "<pad>", **special},
        extra_special_tokens=["<|im_start|>", "<|im_end|>"],
    )
    tokenizer.model_max_length = 512
    return tokenizer


@pytest.fixture(scope="session", params=["gpt2", "llama"])
def tokenizer(request):
    return trained() if request.param == "gpt2" else trained(bos=True, metaspace=True)


@pytest.fixture(scope="session")
def gpt2():
    return trained()


@pytest.fixture
def dialogue():
    return [
        {"role": "user", "content": "What is 2 + 2?"},
        {"role": "assistant", "content": "It is 4."},
        {"role": "user", "content": "And 3 + 3?"},
        {"role": "assistant", "content": "It is 6. Anything else?"},
    ]


@pytest.fixture
def jsonl(tmp_path):
    """Writes rows, one object a line, and gives the file's name."""

    def write(rows, name: str = "train.jsonl") -> str:
        path = Path(tmp_path) / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return str(path)

    return write
