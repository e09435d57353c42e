"""A tiny model and task on local files, for tests that run whole pipelines."""

import random

import pytest

GOOD, BAD = ["good", "great", "fine", "lovely"], ["bad", "awful", "poor", "dull"]
FILLERS = ["a", "the", "film", "story", "very", "quite", "and"]


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """A tiny BERT with a word-level tokenizer, and a CSV file."""
    import torch  # not above: the process that only hands tests to workers reads this file, too
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    root = tmp_path_factory.mktemp("tiny")
    words = ["[PAD]", "[UNK]", *GOOD, *BAD, *FILLERS]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]")
    fast.save_pretrained(root / "model")
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=32,
        hidden_dropout_prob=0.1,  # the generators' states must come back too
    )
    BertForSequenceClassification(config).save_pretrained(root / "model")
    chance = random.Random(0)
    lines = ["text,label"]
    for i in range(320):
        words_here = [*chance.sample(FILLERS, chance.randint(1, 5)), chance.choice(GOOD if i % 2 else BAD)]
        lines.append(f"{' '.join(words_here)},{'pos' if i % 2 else 'neg'}")
    (root / "data.csv").write_text("\n".join(lines) + "\n")
    return root


@pytest.fixture
def pipeline():
    """Makes a pipeline's plain data from the folder and training fields."""

    def make(folder, **training):
        return {
            "backbone": str(folder / "model"),
            "techniques": [{"name": "lora", "options": {"rank": 2, "dropout": 0.1}}],
            "task": {"name": "text-classification", "options": {"train": str(folder / "data.csv")}},
            "training": {"epochs": 3, "batch_size": 8, "save_every": 5, "log_every": 1, "threads": 1, **training},
        }

    return make
