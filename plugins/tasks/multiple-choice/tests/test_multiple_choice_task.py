"""The task as a whole: likelihoods and heads against plain slow computations, batches, cuts, and runs of each kind."""

import json
import pickle
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from refarch_multiple_choice import SPEC
from refarch_multiple_choice.task import MultipleChoice
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMultipleChoice, AutoModelForSeq2SeqLM

from refarch import PipelineSpec, run
from refarch.architecture import TrainingSpec
from refarch.errors import DataError, RunError, UsageError
from refarch.testing import tiny_tokenizer

COMMONSENSE = Path(__file__).resolve().parents[5] / "shared" / "data" / "commonsense"
ROWS = [
    {"question": "what barks?", "choices": ["a cat", "a dog", "an old cow"], "answer": 1},
    {"question": "who has fur and purrs?", "choices": ["a cat", "it"], "answer": 0},
    {"question": "which moos", "choices": ["i do", "the cow", "a very big dog", "sun"], "answer": 1},
    {"question": "where?", "choices": ["here now", "at no place"], "answer": 1},
]
KINDS = {
    "generative": ("gpt2", AutoModelForCausalLM),
    "text-to-text": ("t5", AutoModelForSeq2SeqLM),
    "choosing": ("bert", AutoModelForMultipleChoice),
}
CONFIGS = {
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128},
    "t5": {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "decoder_start_token_id": 0},
    "bert": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64},
}
ways = pytest.mark.parametrize("way", sorted(KINDS))
written_ways = pytest.mark.parametrize("way", ["generative", "text-to-text"])


def written(path, rows=ROWS):
    path.write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")
    return str(path)


def ready(tmp_path, way, rows=ROWS, **options):
    path = written(tmp_path / "a.jsonl", rows)
    given = {"train": path, "test": path, "validation_size": 0, "max_length": 96, "max_choice": 24, **options}
    task = MultipleChoice(**given)
    task.formulation = way
    task.read(0)
    return task


def built(way, tokenizer, spread=0.2):
    family, auto = KINDS[way]
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, vocab_size=len(tokenizer), pad_token_id=0, **CONFIGS[family])
    model = auto.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=spread)
    return model


def test_the_plugin_needs_no_torch_until_it_is_used():
    code = """
import sys, refarch_multiple_choice as m
m.refarch_tasks()
print([n for n in ("torch", "transformers", "datasets", "numpy") if n in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert TrainingSpec.parse(SPEC.training)


@pytest.mark.parametrize(
    "way, spread, alike", [("generative", 0.2, True), ("generative", 0, False), ("text-to-text", 0.2, False)]
)
@torch.no_grad()
def test_likelihoods_are_those_of_a_plain_slow_computation(tmp_path, way, spread, alike):
    task, tokenizer = ready(tmp_path, way), tiny_tokenizer(128)
    model, data = built(way, tokenizer, spread), task.encode(tokenizer)
    totals, sizes, loss, count = [], [], 0.0, 0
    for row in ROWS:
        values = []
        for number, choice in enumerate(row["choices"]):
            words = tokenizer(choice, add_special_tokens=False)["input_ids"]
            total = 0.0
            for place, token in enumerate(words):  # one token after the other, each from all that stands before it
                if way == "generative":
                    prompt = tokenizer(f"Question: {row['question']}\nAnswer:")["input_ids"][:-1]  # without [SEP]
                    logits = model(torch.tensor([prompt + words[:place]])).logits[0, -1]
                else:
                    prompt = tokenizer(f"question: {row['question']}")["input_ids"]
                    before = torch.tensor([[0, 2, *words[:place]]])  # the start token, then the tokenizer's own [CLS]
                    logits = model(input_ids=torch.tensor([prompt]), decoder_input_ids=before).logits[0, -1]
                total += float(logits.log_softmax(-1)[token])
            if way == "text-to-text":
                first = model(input_ids=torch.tensor([prompt]), decoder_input_ids=torch.tensor([[0]])).logits[0, -1]
                total += float(first.log_softmax(-1)[2])
            values.append(total)
            if number == row["answer"]:
                loss, count = loss - total, count + len(words) + (way == "text-to-text")
        totals.append(values)
        sizes.append([len(choice) for choice in row["choices"]])
    found = task.scores(model, tokenizer, data.test, 3)
    best = [max(range(len(own)), key=own.__getitem__) for own in totals]
    norm = [
        max(range(len(own)), key=lambda i, own=own, size=size: own[i] / size[i])
        for own, size in zip(totals, sizes, strict=True)
    ]
    answers = [row["answer"] for row in ROWS]
    assert found["loss"] == pytest.approx(loss / count, rel=1e-4)
    assert found["accuracy"] == sum(a == b for a, b in zip(best, answers, strict=True)) / 4
    assert found["acc_norm"] == sum(a == b for a, b in zip(norm, answers, strict=True)) / 4
    assert (best == norm) is alike  # long choices are less likely, and the division makes up for it


@written_ways
def test_what_is_trained_is_the_right_choice_and_nothing_else(tmp_path, way):
    task, tokenizer = ready(tmp_path, way), tiny_tokenizer(128)
    data = task.encode(tokenizer)
    for row, item in zip(data.train.rows, ROWS, strict=True):
        right = tokenizer(item["choices"][item["answer"]], add_special_tokens=False)["input_ids"]
        if way == "generative":
            prompt = tokenizer(f"Question: {item['question']}\nAnswer:")["input_ids"][:-1]
            assert row["input_ids"] == prompt + right and row["labels"] == [-100] * len(prompt) + right
        else:
            assert row["labels"] == [2, *right]
            assert row["input_ids"] == tokenizer(f"question: {item['question']}")["input_ids"]
    assert [len(pairs) for pairs in data.test.pairs] == [3, 2, 4, 2]
    assert all(len({tuple(pair.prompt) for pair in pairs}) == 1 for pairs in data.test.pairs)


@torch.no_grad()
def test_a_heads_answers_are_those_of_each_choice_alone(tmp_path):
    task, tokenizer = ready(tmp_path, "choosing"), tiny_tokenizer(128)
    model, data = built("choosing", tokenizer), task.encode(tokenizer)
    right, loss = 0, 0.0
    for row in ROWS:
        values = []
        for choice in row["choices"]:
            pair = tokenizer(row["question"], choice, return_tensors="pt")
            values.append(float(model(**{name: value[:, None] for name, value in pair.items()}).logits[0, 0]))
        right += max(range(len(values)), key=values.__getitem__) == row["answer"]
        loss -= float(torch.tensor(values).log_softmax(-1)[row["answer"]])
    for size in (1, 3, 4):
        found = task.scores(model, tokenizer, data.test, size)
        assert found == {"accuracy": right / 4, "loss": pytest.approx(loss / 4, rel=1e-4)}


def test_batches_have_a_sequence_for_each_choice(tmp_path):
    task, tokenizer = ready(tmp_path, "choosing"), tiny_tokenizer(128)
    tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]  # as BERT's
    rows = task.encode(tokenizer).train.rows
    batch = pickle.loads(pickle.dumps(task.collator(tokenizer)))(rows)
    longest = max(len(ids) for row in rows for ids in row["input_ids"])
    assert {tuple(batch[name].shape) for name in ("input_ids", "attention_mask", "token_type_ids")} == {(4, 4, longest)}
    assert batch["labels"].tolist() == [1, 0, 1, 1]
    for number, (row, item) in enumerate(zip(rows, ROWS, strict=True)):
        for place, choice in enumerate(item["choices"]):
            mask = batch["attention_mask"][number, place].bool()
            ids, kinds = (batch[name][number, place] for name in ("input_ids", "token_type_ids"))
            own = tokenizer(item["question"], choice)
            assert ids[mask].tolist() == own["input_ids"] == row["input_ids"][place]
            assert kinds[mask].tolist() == own["token_type_ids"] and not ids[~mask].any()
        wrong = 0 if item["answer"] else 1
        for place in range(len(item["choices"]), 4):  # what is added repeats a wrong choice
            assert torch.equal(batch["input_ids"][number, place], batch["input_ids"][number, wrong])


LONG = [
    {"question": "what is it?", "context": "many words " * 30, "choices": ["so much " * 9, "b"], "answer": 0},
    {"question": "and this?", "context": "", "choices": ["a", "b"], "answer": 1},
]


@ways
def test_a_long_context_loses_its_end_and_a_long_choice_too(tmp_path, way, caplog):
    task, tokenizer = ready(tmp_path, way, LONG, context_column="context"), tiny_tokenizer(512)
    with caplog.at_level("INFO"):
        data = task.encode(tokenizer)
    assert "a.jsonl: of 1 of 2 rows the end of context was cut" in caplog.text and "prompts were cut" not in caplog.text
    row = data.test.rows[0]
    ids = row["input_ids"][0] if way == "choosing" else row["input_ids"]
    text = tokenizer.decode(ids, skip_special_tokens=True).replace(" ##", "")
    assert 80 < len(ids) <= 96 and "what is it ?" in text and "many words many words" in text
    choice = text.rpartition("?" if way == "choosing" else "answer :")[2] if way != "text-to-text" else ""
    assert way == "text-to-text" or len(choice.replace(" ", "")) == 24
    assert re.search(r"1 of 4 (targets|choices) were cut to fit 24 tokens", caplog.text)
    if way != "choosing":
        assert sum(label != -100 for label in row["labels"]) == 24
    with pytest.raises(UsageError, match="leave no room for a prompt"):
        ready(tmp_path, way).encode(tiny_tokenizer(2 if way == "text-to-text" else 25))


def test_a_long_question_keeps_its_end(tmp_path):
    rows = [{**row, "question": "once upon a time " * 9 + row["question"]} for row in ROWS]
    for way in ("generative", "text-to-text"):
        data = ready(tmp_path, way, rows, max_length=64).encode(tiny_tokenizer(512))
        for item, pairs in zip(ROWS, data.test.pairs, strict=True):
            text = (
                tiny_tokenizer().decode(pairs[0].prompt, skip_special_tokens=True).replace(" ##", "").replace(" ", "")
            )
            assert item["question"].replace(" ", "") in text


def test_a_choice_without_tokens_is_refused(tmp_path):
    rows = [*ROWS, {"question": "x", "choices": ["a", "\u200b"], "answer": 0}]
    for way in ("generative", "text-to-text"):
        task = ready(tmp_path, way, rows)
        if way == "generative":
            with pytest.raises(DataError, match=r"a\.jsonl, line 5: the tokenizer finds nothing in the choice"):
                task.encode(tiny_tokenizer(128))


def test_baselines_and_metrics(tmp_path):
    task = ready(tmp_path, "generative")
    assert task.baselines() == {
        "random": pytest.approx((1 / 3 + 1 / 2 + 1 / 4 + 1 / 2) / 4),
        "majority": 0.75,  # the second choice is right in three of four
    }
    assert task.metrics([[1.0, 2.0], [3.0, 2.0, 1.0]], [1, 1]) == {"accuracy": 0.5}


@ways
@torch.no_grad()
def test_outputs_that_are_not_finite_are_not_scored(tmp_path, way):
    task, tokenizer = ready(tmp_path, way), tiny_tokenizer(128)
    model = built(way, tokenizer)
    next(model.parameters()).fill_(float("nan"))
    with pytest.raises(RunError, match="not finite"):
        task.scores(model, tokenizer, task.encode(tokenizer).test, 2)


ANIMALS = {"barks": "dog", "purrs": "cat", "moos": "cow", "sings": "bird"}


def pipeline(folder, way, rows, technique, **training):
    tokenizer = tiny_tokenizer(128)
    tokenizer.save_pretrained(folder / "model")
    model = built(way, tokenizer)
    (model.base_model if way == "choosing" else model).save_pretrained(folder / "model")
    return PipelineSpec.parse(
        {
            "backbone": str(folder / "model"),
            "techniques": [technique],
            "task": {
                "name": "multiple-choice",
                "options": {"train": written(folder / "a.jsonl", rows), "max_length": 96, "max_choice": 16},
            },
            "training": {"batch_size": 8, "threads": 1, **training},
        }
    )


@ways
def test_a_run_on_each_kind_of_backbone(tmp_path, way):
    spec = pipeline(tmp_path, way, ROWS * 10 + [{**row, "question": f"{row['question']} now"} for row in ROWS], "lora")
    training = spec.training.model_copy(update={"max_steps": 3, "evaluate_every": 2})
    options = {**spec.task.options, "test_size": 0.3, "validation_size": 0.3}
    spec = spec.model_copy(update={"training": training, "task": spec.task.model_copy(update={"options": options})})
    record, folder = run(spec, tmp_path / "run")
    assert record.metric == "accuracy" and record.formulation == way
    assert set(record.baselines) == {"random", "majority"}
    expected = {"accuracy", "loss"} | ({"acc_norm"} if way != "choosing" else set())
    assert set(record.metrics) >= expected
    assert (record.trainable_parameters > record.module_parameters) is (way == "choosing")  # with the new head
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert {line["split"] for line in lines} == {"train", "validation", "test"}


@ways
def test_it_learns(tmp_path, way):
    """Which animal makes which sound."""
    rows = [
        {"question": sound, "choices": [animal, other][:: 1 if number % 2 else -1], "answer": 1 - number % 2}
        for sound, animal in ANIMALS.items()
        for number, other in enumerate(ANIMALS.values())
        if other != animal
    ]
    spec = pipeline(tmp_path, way, rows, "full", epochs=45, learning_rate=1e-2, save_every=1000)
    options = {**spec.task.options, "test": spec.task.options["train"], "validation_size": 0}
    record, _ = run(
        spec.model_copy(update={"task": spec.task.model_copy(update={"options": options})}), tmp_path / "run"
    )
    assert record.score > 0.9 > 0.6 > max(record.baselines.values())


@pytest.mark.skipif(not COMMONSENSE.is_dir(), reason="needs ../shared/data/commonsense")
@ways
@torch.no_grad()
def test_a_slice_of_arc_is_asked_in_every_way(way):
    options = {"question_column": "instruction", "instructions": True, "train_limit": 20, "test_limit": 12}
    files = {split: str(COMMONSENSE / f"ARC-Easy.{split}.json") for split in ("train", "test")}
    task = MultipleChoice(**files, **options, max_length=128)
    task.formulation = way
    task.read(0)
    tokenizer = tiny_tokenizer(128)
    data = task.encode(tokenizer)
    assert (len(data.train), len(data.test)) == (20, 12)
    found = task.scores(built(way, tokenizer), tokenizer, data.test, 8)
    assert 0 <= found["accuracy"] <= 1 and found["loss"] > 0
