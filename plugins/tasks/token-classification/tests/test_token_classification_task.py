"""The task as a whole: tags put together from windows, seqeval's figures, and runs on each kind of backbone."""

import itertools
import json
import pickle
import random
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from refarch_token_classification import SPEC
from refarch_token_classification.task import TokenClassification
from seqeval import metrics as seqeval
from seqeval.scheme import IOB2
from transformers import AutoConfig, AutoModel, AutoModelForTokenClassification

from refarch import PipelineSpec, run
from refarch.architecture import TrainingSpec
from refarch.errors import RunError, UsageError
from refarch.testing import tiny_tokenizer

WNUT = Path(__file__).resolve().parents[5] / "shared" / "data" / "wnut17"
PEOPLE, PLACES, PARTS, OTHERS = (
    ["ann", "bob", "cy"],
    ["oslo", "rome"],
    ["bay", "port"],
    ["went", "to", "a", "the", "film", "."],
)


def sentences(count, seed=0, longest=9):
    chance = random.Random(seed)
    made = []
    for _ in range(count):
        row = [(chance.choice(PEOPLE), "B-per")]
        row += [(chance.choice(OTHERS), "O") for _ in range(chance.randint(1, longest))]
        made.append([*row, (chance.choice(PLACES), "B-loc"), (chance.choice(PARTS), "I-loc"), (".", "O")])
    return made


def numbered(rows):
    """The same tags on words that occur once each, so that no two windows read the same."""
    count = itertools.count()
    return [[(f"w{next(count)}", tag) for _, tag in row] for row in rows]


def written(path, rows):
    path.write_text("\n\n".join("\n".join("\t".join(pair) for pair in row) for row in rows) + "\n", encoding="utf-8")
    return str(path)


def ready(tmp_path, rows, **options):
    path = written(tmp_path / "a.conll", rows)
    task = TokenClassification(train=path, test=path, validation_size=0, **options)
    task.read(0)
    return task


def test_the_plugin_needs_no_torch_until_it_is_used():
    code = """
import sys, refarch_token_classification as m
m.refarch_tasks()
print([n for n in ("torch", "transformers", "seqeval", "sklearn", "datasets", "numpy") if n in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert TrainingSpec.parse(SPEC.training)


# From seqeval's README: its example of classification_report, and of strict mode with scheme IOB2.
TRUE = [["O", "O", "O", "B-MISC", "I-MISC", "I-MISC", "O"], ["B-PER", "I-PER", "O"]]
PREDICTED = [["O", "O", "B-MISC", "I-MISC", "I-MISC", "I-MISC", "O"], ["B-PER", "I-PER", "O"]]
LENIENT_TRUE, LENIENT = [["B-NP", "I-NP", "O"]], [["I-NP", "I-NP", "O"]]


def test_metrics_on_seqevals_published_examples():
    got = TokenClassification().metrics(PREDICTED, TRUE)
    assert got == pytest.approx({"f1": 0.5, "precision": 0.5, "recall": 0.5, "accuracy": 0.8})
    assert TokenClassification().metrics(LENIENT, LENIENT_TRUE)["f1"] == 1
    assert TokenClassification(strict=True).metrics(LENIENT, LENIENT_TRUE)["f1"] == 0


@pytest.mark.parametrize("strict", [False, True])
def test_metrics_as_a_plain_count_of_entities(strict):
    chance = random.Random(1)
    tags = ["O", "B-a", "I-a", "B-b", "I-b"]
    true, guess = ([[chance.choice(tags) for _ in range(12)] for _ in range(30)] for _ in range(2))

    def entities(rows):
        found = set()
        for number, row in enumerate(rows):
            start = None
            for place, tag in enumerate([*row, "O"]):
                goes_on = start is not None and tag == f"I-{row[start][2:]}"
                if start is not None and not goes_on:
                    found.add((number, start, place, row[start][2:]))
                    start = None
                if tag[0] == "B" or (tag[0] == "I" and start is None and not strict):
                    start = place
        return found

    a, b = entities(true), entities(guess)
    precision, recall = len(a & b) / len(b), len(a & b) / len(a)
    got = TokenClassification(strict=strict).metrics(guess, true)
    assert got["precision"] == pytest.approx(precision)
    assert got["recall"] == pytest.approx(recall)
    assert got["f1"] == pytest.approx(2 * precision * recall / (precision + recall))
    how = {"mode": "strict", "scheme": IOB2} if strict else {}
    assert got["f1"] == pytest.approx(seqeval.f1_score(true, guess, **how))


def test_no_entity_found_is_a_score_of_zero():
    assert TokenClassification().metrics([["O", "O"]], [["B-a", "O"]])["f1"] == 0.0


class Oracle:
    """Answers every first piece rightly and everything else wrongly, whatever the batch's order and padding."""

    device = torch.device("cpu")
    config = SimpleNamespace()

    def __init__(self, rows, count, fault=None):
        self.known = {tuple(row["input_ids"]): row["labels"] for row in rows}
        self.count, self.fault = count, fault

    def __call__(self, input_ids, attention_mask):
        logits = torch.zeros(*input_ids.shape, self.count)
        for row, (ids, mask) in enumerate(zip(input_ids, attention_mask, strict=True)):
            labels = self.known[tuple(ids[: int(mask.sum())].tolist())]
            for place in range(input_ids.shape[1]):
                label = labels[place] if place < len(labels) else -100
                logits[row, place, label if label >= 0 else self.count - 1] = 9.0
        return {"logits": logits if self.fault is None else logits * self.fault}


@pytest.mark.parametrize("max_length, overlap", [(80, 0), (16, 0), (16, 3), (12, 8)])
def test_whole_sentences_are_scored_from_their_windows(tmp_path, max_length, overlap):
    rows = numbered(sentences(12))
    task = ready(tmp_path, rows, max_length=max_length, overlap=overlap)
    tokenizer = tiny_tokenizer(512)
    data = task.encode(tokenizer)
    assert (len(data.test) > len(rows)) == (max_length < 80)
    right = task.scores(Oracle(data.test, len(task.names)), tokenizer, data.test, 5)
    assert right == {"f1": 1.0, "precision": 1.0, "recall": 1.0, "accuracy": 1.0}
    # one word of one sentence wrong: exactly that word's tag is
    changed = [dict(data.test[index]) for index in range(len(data.test))]
    place = next(place for place, word in enumerate(changed[-1]["words"]) if word >= 0)
    changed[-1]["labels"] = list(changed[-1]["labels"])
    changed[-1]["labels"][place] = (changed[-1]["labels"][place] + 1) % len(task.names)
    wrong = task.scores(Oracle(changed, len(task.names)), tokenizer, data.test, 5)
    total = sum(len(row) for row in rows)
    assert wrong["accuracy"] == pytest.approx((total - 1) / total)


def test_words_without_pieces_are_scored_as_outside(tmp_path):
    task = ready(tmp_path, [[("ann", "B-per"), ("\u200b", "O"), ("x", "O")], [("\u200b", "B-per")], [("x", "O")]])
    tokenizer = tiny_tokenizer()
    data = task.encode(tokenizer)
    got = task.scores(Oracle(data.test, len(task.names)), tokenizer, data.test, 2)
    assert got["recall"] == 0.5 and got["precision"] == 1.0 and got["accuracy"] == pytest.approx(4 / 5)


def test_outputs_that_are_not_finite_are_not_scored(tmp_path):
    task, tokenizer = ready(tmp_path, sentences(3)), tiny_tokenizer(512)
    data = task.encode(tokenizer)
    with pytest.raises(RunError, match="not finite"):
        task.scores(Oracle(data.test, len(task.names), float("nan")), tokenizer, data.test, 2)


def test_the_baseline_gives_each_word_its_usual_tag(tmp_path):
    train = written(tmp_path / "a.conll", [[("Ann", "B-per")], [("Ann", "B-per"), ("Lee", "I-per")], [("Ann", "O")]])
    test = written(tmp_path / "t.conll", [[("Ann", "B-per"), ("Lee", "I-per")], [("Bo", "B-per")]])
    task = TokenClassification(train=train, test=test, validation_size=0)
    task.read(0)
    assert task.baselines() == {"lookup": pytest.approx(2 / 3)}  # one of one found, of two that there are


def test_batches_are_padded_and_can_be_made_by_a_worker(tmp_path):
    task, tokenizer = ready(tmp_path, sentences(3)), tiny_tokenizer(512)
    rows = task.encode(tokenizer).train
    batch = pickle.loads(pickle.dumps(task.collator(tokenizer)))([rows[0], rows[1]])
    longest = max(len(rows[0]["input_ids"]), len(rows[1]["input_ids"]))
    assert batch["input_ids"].shape == batch["labels"].shape == batch["attention_mask"].shape == (2, longest)
    for number in (0, 1):
        kept = batch["labels"][number][batch["labels"][number] != -100].tolist()
        assert kept == [label for label in rows[number]["labels"] if label != -100]


CONFIGS = {
    "bert": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64},
    "t5": {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "decoder_start_token_id": 0},
}


def saved(folder, family):
    tokenizer = tiny_tokenizer(64)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, vocab_size=len(tokenizer), pad_token_id=0, **CONFIGS[family])
    AutoModel.from_config(config).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("family", sorted(CONFIGS))
def test_a_run_on_each_kind_of_backbone(tmp_path, family):
    pipeline = PipelineSpec.parse(
        {
            "backbone": saved(tmp_path / "model", family),
            "techniques": ["lora"],
            "task": {
                "name": "token-classification",
                "options": {"train": written(tmp_path / "a.conll", sentences(60)), "max_length": 24, "overlap": 2},
            },
            "training": {"max_steps": 6, "batch_size": 8, "threads": 1, "evaluate_every": 3},
        }
    )
    record, folder = run(pipeline, tmp_path / "run")
    assert record.metric == "f1" and record.formulation == "tagging"
    assert set(record.metrics) >= {"f1", "precision", "recall", "accuracy"}
    assert record.baselines["lookup"] > 0.9
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert {line["split"] for line in lines} == {"train", "validation", "test"}


def test_it_learns(tmp_path):
    """Tags that follow from the words, by a tiny encoder whose head and LoRA are trained."""
    pipeline = PipelineSpec.parse(
        {
            "backbone": saved(tmp_path / "model", "bert"),
            "techniques": [{"name": "lora", "options": {"rank": 8}}],
            "task": {
                "name": "token-classification",
                "options": {"train": written(tmp_path / "a.conll", sentences(150))},
            },
            "training": {"epochs": 8, "batch_size": 8, "threads": 1, "learning_rate": 1e-2},
        }
    )
    record, _ = run(pipeline, tmp_path / "run")
    assert record.score > 0.9


def test_a_backbone_with_another_tasks_head_is_refused(tmp_path):
    folder = saved(tmp_path / "model", "bert")
    config = AutoConfig.from_pretrained(folder, num_labels=3)
    AutoModelForTokenClassification.from_config(config).save_pretrained(folder)
    pipeline = {"backbone": folder, "techniques": ["lora"], "training": {"max_steps": 1}}
    task = {"name": "token-classification", "options": {"train": written(tmp_path / "a.conll", sentences(20))}}
    with pytest.raises(UsageError, match=r"weights of other sizes[\s\S]*head of another task"):
        run(PipelineSpec.parse({**pipeline, "task": task}), tmp_path / "run")


def test_a_backbone_without_such_a_head_is_refused(tmp_path):
    from transformers import OPTConfig

    tiny_tokenizer().save_pretrained(tmp_path / "model")
    OPTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2).save_pretrained(tmp_path / "model")
    pipeline = PipelineSpec.parse(
        {
            "backbone": str(tmp_path / "model"),
            "techniques": ["lora"],
            "task": {
                "name": "token-classification",
                "options": {"train": written(tmp_path / "a.conll", sentences(20))},
            },
        }
    )
    with pytest.raises(UsageError, match="OPTConfig"):
        run(pipeline, tmp_path / "run")


@pytest.mark.skipif(not WNUT.is_dir(), reason="needs ../shared/data/wnut17")
def test_wnut17s_windows_hold_every_word_of_the_real_text():
    options = {"train_limit": 300, "test_limit": 300, "max_length": 48, "overlap": 6}
    task = TokenClassification(train=str(WNUT / "train.conll"), test=str(WNUT / "test.conll"), **options)
    task.read(0)
    tokenizer = tiny_tokenizer(512)
    data = task.encode(tokenizer)
    assert len(data.test) > 300
    got = task.scores(Oracle(data.test, len(task.names)), tokenizer, data.test, 32)
    assert got["f1"] > 0.99  # a word of signs that the tokenizer drops is scored as O
    assert 0 < task.baselines()["lookup"] < 0.5
