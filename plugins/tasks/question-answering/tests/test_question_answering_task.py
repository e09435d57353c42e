"""The task as a whole: asked with spans and with text, prompts and loss, and runs on each kind of backbone."""

import json
import pickle
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from refarch_question_answering import SPEC
from refarch_question_answering.task import QuestionAnswering
from refarch_question_answering.written import answer
from transformers import AutoConfig

from refarch import PipelineSpec, run
from refarch.architecture import TrainingSpec
from refarch.errors import RunError
from refarch.testing import tiny_tokenizer

XQUAD = Path(__file__).resolve().parents[5] / "shared" / "data" / "xquad_en" / "xquad.en.json"
COLOURS, NAMES = ["red", "blue", "green", "black"], ["ann", "bob", "cy"]


def rows(count=60, seed=0, unanswered=0):
    """Questions whose answer is the colour in the text; some ask where there is none."""
    chance = random.Random(seed)
    made = []
    for i in range(count):
        name, colour = chance.choice(NAMES), chance.choice(COLOURS)
        none = i < unanswered
        context = f"no {i}. " + ("it is old." if none else f"the car of {name} is {colour}. it is old.")
        answers = (
            {"text": [], "answer_start": []} if none else {"text": [colour], "answer_start": [context.index(colour)]}
        )
        made.append({"id": str(i), "question": f"which colour has {name}?", "context": context, "answers": answers})
    return made


def written(path, data):
    path.write_text("\n".join(map(json.dumps, data)), encoding="utf-8")
    return str(path)


def ready(tmp_path, data, formulation="extractive", **options):
    path = written(tmp_path / "a.jsonl", data)
    task = QuestionAnswering(train=path, test=path, validation_size=0, **options)
    task.formulation = formulation
    task.read(0)
    return task


def writer():
    tokenizer = tiny_tokenizer(256)
    tokenizer.eos_token = "[SEP]"
    return tokenizer


def test_the_plugin_needs_no_torch_until_it_is_used():
    code = """
import sys, refarch_question_answering as m
m.refarch_tasks()
print([n for n in ("torch", "transformers", "datasets", "numpy") if n in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert TrainingSpec.parse(SPEC.training)


def test_the_formulation_follows_from_the_backbone():
    assert [SPEC.formulation(kind).name for kind in ("encoder", "decoder", "encoder-decoder")] == [
        "extractive",
        "generative",
        "text-to-text",
    ]
    assert SPEC.formulation("decoder", "extractive").auto_class == "AutoModelForQuestionAnswering"


class Oracle:
    """Knows where the answer of each window starts and ends, whatever the batch's order and padding."""

    device = torch.device("cpu")

    def __init__(self, rows, value=9.0):
        self.known = {tuple(row["input_ids"].tolist()): row for row in rows}
        self.value = value

    def __call__(self, input_ids, attention_mask):
        logits = {name: torch.zeros(input_ids.shape) for name in ("start_logits", "end_logits")}
        for number, (ids, mask) in enumerate(zip(input_ids, attention_mask, strict=True)):
            row = self.known[tuple(ids[: int(mask.sum())].tolist())]
            logits["start_logits"][number, row["start_positions"]] = self.value
            logits["end_logits"][number, row["end_positions"]] = self.value
        for name in logits:  # what stands in the padding must not count
            logits[name][attention_mask == 0] = 99.0
        return logits


@pytest.mark.parametrize("max_length, stride", [(200, 0), (36, 8), (40, 12)])
def test_right_places_give_right_answers(tmp_path, max_length, stride):
    task = ready(tmp_path, rows(20), max_length=max_length, stride=stride, max_question=12, max_answer=8)
    tokenizer = tiny_tokenizer(512)
    data = task.encode(tokenizer)
    assert (len(data.test) > 20) == (max_length < 200)
    got = task.scores(Oracle(data.test.rows), tokenizer, data.test, 7)
    assert got == {"f1": 100.0, "exact_match": 100.0}


def test_no_answer_is_given_by_the_threshold(tmp_path):
    data = rows(12, unanswered=4)
    tokenizer = tiny_tokenizer(512)
    for threshold, unanswered, answered in ((0.0, 100.0, 100.0), (30.0, 0.0, 100.0), (-30.0, 100.0, 0.0)):
        task = ready(tmp_path, data, threshold=threshold)
        encoded = task.encode(tokenizer)
        got = task.scores(Oracle(encoded.test.rows), tokenizer, encoded.test, 5)
        assert (got["unanswerable_f1"], got["answerable_f1"]) == (unanswered, answered)
    task = ready(tmp_path, data, unanswerable=False)
    encoded = task.encode(tokenizer)
    assert set(task.scores(Oracle(encoded.test.rows), tokenizer, encoded.test, 5)) == {"f1", "exact_match"}


def test_outputs_that_are_not_finite_are_not_scored(tmp_path):
    task, tokenizer = ready(tmp_path, rows(3)), tiny_tokenizer(512)
    data = task.encode(tokenizer)
    with pytest.raises(RunError, match="not finite"):
        task.scores(Oracle(data.test.rows, float("nan")), tokenizer, data.test, 2)


def test_batches_of_windows_are_padded_and_can_be_made_by_a_worker(tmp_path):
    task, tokenizer = ready(tmp_path, rows(3), max_length=40, stride=4, max_question=12), tiny_tokenizer(512)
    windows = task.encode(tokenizer).train
    chosen = [windows[0], windows[len(windows) - 1]]
    batch = pickle.loads(pickle.dumps(task.collator(tokenizer)))(chosen)
    longest = max(len(row["input_ids"]) for row in chosen)
    assert batch["input_ids"].shape == batch["attention_mask"].shape == (2, longest)
    assert batch["attention_mask"].sum(1).tolist() == [len(row["input_ids"]) for row in chosen]
    for name in ("start_positions", "end_positions"):
        assert batch[name].tolist() == [row[name] for row in chosen]


def test_prompts_and_targets_of_each_kind(tmp_path):
    tokenizer = writer()
    data = [
        {"question": "who?", "context": "ann ran.", "answers": ["ann"]},
        {"question": "who?", "context": "it ran.", "answers": []},
    ]
    plain = {
        name: tokenizer(text, add_special_tokens=False)["input_ids"] for name, text in (("ann", "ann"), ("no", "none"))
    }
    task = ready(tmp_path, data, "generative", no_answer="none")
    for row, target, context in zip(
        task.encode(tokenizer).test.rows, ("ann", "no"), ("ann ran.", "it ran."), strict=True
    ):
        prompt = tokenizer(f"Context: {context}\nQuestion: who?\nAnswer:")["input_ids"][:-1]  # without [SEP]
        assert row["input_ids"] == [*prompt, *plain[target], tokenizer.eos_token_id]
        assert row["labels"] == [-100] * len(prompt) + [*plain[target], tokenizer.eos_token_id]
    task = ready(tmp_path, data, "text-to-text", no_answer="none")
    row = task.encode(tokenizer).test.rows[0]
    assert row["input_ids"] == tokenizer("question: who? context: ann ran.")["input_ids"]
    assert row["labels"] == tokenizer("ann")["input_ids"]
    task = ready(tmp_path, data, "text-to-text", prompt="{context} {{?}} {question}")
    assert task.encode(tokenizer).test.rows[0]["input_ids"] == tokenizer("ann ran. {?} who?")["input_ids"]


def test_a_long_context_is_cut_where_text_is_written(tmp_path, caplog):
    data = [{"question": "who is it?", "context": "ann " * 60, "answers": ["ann"]}]
    tokenizer = writer()
    with caplog.at_level("INFO"):
        task = ready(tmp_path, data, "generative", max_length=80, max_answer=6)
        row = task.encode(tokenizer).test.rows[0]
    assert "of 1 of 1 rows the end of context was cut to fit" in caplog.text
    text = tokenizer.decode(row["input_ids"]).replace(" ##", "")
    assert 74 <= len(row["input_ids"]) <= 80
    assert "who is it ?" in text and text.index("ann") < text.index("question")


@pytest.mark.parametrize(
    "text, expected",
    [
        ("ann", "ann"),
        (" ann \nQuestion: x", "ann"),
        ("\n\nann", "ann"),
        ("", ""),
        ("Unanswerable.", ""),
        ("none", "none"),
    ],
)
def test_what_a_written_text_answers(text, expected):
    assert answer(text, "unanswerable") == expected
    assert answer("unanswerable", None) == "unanswerable"


def test_written_answers_are_scored(tmp_path, monkeypatch):
    """The model is asked the prompts alone, in the questions' order."""
    import refarch_question_answering.task as module

    data = rows(6, unanswered=2)
    asked = []

    def generate(model, tokenizer, prompts, batch_size, **settings):
        asked.extend(prompts)
        assert settings == {"max_new_tokens": 8}
        return [row["answers"]["text"][0] if row["answers"]["text"] else "unanswerable" for row in data]

    monkeypatch.setattr(module, "generate", generate)
    task, tokenizer = ready(tmp_path, data, "generative", max_answer=8), writer()
    encoded = task.encode(tokenizer)
    got = task.scores(None, tokenizer, encoded.test, 4)
    assert got["f1"] == got["exact_match"] == got["unanswerable_f1"] == 100.0
    for prompt, row in zip(asked, encoded.test.rows, strict=True):
        assert row["labels"][: len(prompt)] == [-100] * len(prompt)
        assert row["labels"][len(prompt)] != -100
        assert row["input_ids"][: len(prompt)] == prompt


def test_baselines_by_hand(tmp_path):
    data = [
        {"question": "where is ann?", "context": "Bob ran. Ann is in Oslo! He ran.", "answers": ["in Oslo"]},
        {"question": "where is it?", "context": "Bob ran.", "answers": []},
    ]
    # "Ann is in Oslo!" shares two of four words with "in Oslo": p 2/4, r 2/2, F1 2/3; the second is wrong
    got = ready(tmp_path, data).baselines()
    assert got == {"sentence": pytest.approx(100 / 3), "nothing": 50.0}
    assert set(ready(tmp_path, data[:1]).baselines()) == {"sentence"}


CONFIGS = {
    "bert": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 192, "bos_token_id": 2, "eos_token_id": 3},
    "t5": {
        **{"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4},
        **{"decoder_start_token_id": 0, "eos_token_id": 3},
    },
}


def saved(folder, family, head=""):
    tokenizer = tiny_tokenizer(192)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, vocab_size=len(tokenizer), pad_token_id=0, **CONFIGS[family])
    getattr(transformers, f"AutoModel{head}").from_config(config).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize(
    "family, head, formulation",
    [
        ("bert", "", "extractive"),
        ("gpt2", "ForCausalLM", "generative"),
        ("t5", "ForSeq2SeqLM", "text-to-text"),
        ("gpt2", "ForCausalLM", "extractive"),
    ],
)
def test_a_run_on_each_kind_of_backbone(tmp_path, family, head, formulation):
    options = {"train": written(tmp_path / "a.jsonl", rows(40)), "max_length": 96, "stride": 16, "max_answer": 6}
    pipeline = PipelineSpec.parse(
        {
            "backbone": saved(tmp_path / "model", family, head),
            "techniques": ["lora"],
            "task": {"name": "question-answering", "options": options, "formulation": formulation},
            "training": {"max_steps": 4, "batch_size": 8, "threads": 1, "evaluate_every": 2},
        }
    )
    record, folder = run(pipeline, tmp_path / "run")
    assert record.metric == "f1" and record.formulation == formulation
    assert set(record.metrics) >= {"f1", "exact_match"}
    assert set(record.baselines) == {"sentence"}
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert {line["split"] for line in lines} == {"train", "validation", "test"}


def test_it_learns_where_answers_are(tmp_path):
    """Colours among other words, by a tiny encoder whose head and LoRA are trained."""
    chance, data = random.Random(0), []
    for i in range(160):
        words = [str(i), *chance.choices(["car", "old", "new"], k=chance.randint(0, 3)), chance.choice(COLOURS), "one"]
        data.append({"question": "colour?", "context": " ".join(words), "answers": [words[-2]]})
    pipeline = PipelineSpec.parse(
        {
            "backbone": saved(tmp_path / "model", "bert"),
            "techniques": [{"name": "lora", "options": {"rank": 8}}],
            "task": {"name": "question-answering", "options": {"train": written(tmp_path / "a.jsonl", data)}},
            "training": {"epochs": 8, "batch_size": 8, "threads": 1, "learning_rate": 1e-2},
        }
    )
    record, _ = run(pipeline, tmp_path / "run")
    assert record.score > 80 > 60 > record.baselines["sentence"]


@pytest.mark.skipif(not XQUAD.is_file(), reason="needs ../shared/data/xquad_en")
@pytest.mark.parametrize("max_length, stride", [(512, 128), (256, 64)])
def test_xquads_answers_come_back_from_their_windows(max_length, stride):
    """Every answer of the real data that fits is found again, by the places that the windows give it."""
    task = QuestionAnswering(
        train=str(XQUAD), test_limit=150, train_limit=2, max_length=max_length, stride=stride, max_answer=200
    )
    task.read(0)
    tokenizer = tiny_tokenizer(2048)
    data = task.encode(tokenizer)
    assert len(data.test) > 150
    assert np.mean([row["start_positions"] > 0 for row in data.test.rows]) > 0.2
    got = task.scores(Oracle(data.test.rows), tokenizer, data.test, 32)
    assert got["exact_match"] > 99
