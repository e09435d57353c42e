"""The task from end to end: answers that are written and compared, baselines, runs on both kinds of backbone."""

import json
import math
import pickle
import random
from decimal import Decimal
from pathlib import Path

import pytest
import torch
from refarch_instruction_tuning.answers import number, same
from refarch_instruction_tuning.task import InstructionTuning
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

from refarch import PipelineSpec, run
from refarch.errors import DataError, RunError, UsageError
from refarch.testing import tiny_tokenizer

DATA = Path(__file__).resolve().parents[4].parent / "shared"


def sums(count, seed=0):
    chance = random.Random(seed)
    pairs = [(chance.randint(0, 4), chance.randint(0, 4)) for _ in range(count)]
    return [{"prompt": f"{a}+{b}", "completion": f"#### {a + b}"} for a, b in pairs]


def test_final_numbers():
    for text, expected in (
        ("He has 3 * 4 = <<3*4=12>>12.\n#### 12", 12),
        ("#### 1,234", 1234),
        ("#### $5.50 in all, of 7", Decimal("5.5")),
        ("#### -3", -3),
        ("so 7 apples and 8 pears make 15.", 15),
        ("a 2,000,000.", 2000000),
        ("from 3 to 4, 5", 5),
        ("the answer is .5", Decimal("0.5")),
        ("#### none, though 3", 3),
        ("none", None),
        ("3 #### none", None),
        ("", None),
    ):
        assert number(text) == expected, text
    assert same("#### 12.0", "#### 12", "number") and not same("none", "none", "number")
    assert same(" a  b\n", "a b", "text") and not same("a", "b", "text")


def test_answers_are_written_after_what_asks_for_the_last_one_and_compared(jsonl, monkeypatch):
    from refarch_instruction_tuning import task as module

    asked = {}

    def generate(model, tokenizer, prompts, batch_size, **settings):
        asked.update(prompts=prompts, **settings)
        return ["so #### 3", "8"]

    rows = [{"prompt": "1+2", "completion": "#### 3"}, {"prompt": "3+4", "completion": "#### 7"}]
    task = InstructionTuning(train=jsonl(sums(9)), test=jsonl(rows, "test.jsonl"), match="number", max_answer=9)
    task.read(0)
    tokenizer = tiny_tokenizer()
    data = task.encode(tokenizer)
    monkeypatch.setattr(module, "generate", generate)
    monkeypatch.setattr(module, "mean_loss", lambda *_: 2.0)
    model = tiny_model("gpt2", tokenizer)
    assert task.scores(model, tokenizer, data.test, 2) == {
        "loss": 2.0,
        "perplexity": pytest.approx(math.exp(2)),
        "exact_match": 0.5,
    }
    assert asked["max_new_tokens"] == 9 and tokenizer.sep_token_id in asked["eos_token_id"]
    written = [tokenizer.decode(prompt).replace(" ", "").replace("##", "") for prompt in asked["prompts"]]
    assert written == ["[CLS]user:1+2assistant:", "[CLS]user:3+4assistant:"]
    tested = list(asked["prompts"])
    unread = InstructionTuning(train="not read", max_answer=9)  # new texts are asked as those of the test split are
    assert unread.ask(model, tokenizer, ["1+2", "3+4"], 2) == [{"text": "so #### 3"}, {"text": "8"}]
    assert asked["prompts"] == tested and tokenizer.sep_token_id in asked["eos_token_id"]
    with pytest.raises(DataError, match="not with a pair"):
        unread.ask(model, tokenizer, [("1", "2")], 2)


def test_a_loss_that_is_not_finite_is_no_score(jsonl, monkeypatch):
    from refarch_instruction_tuning import task as module

    task = InstructionTuning(train=jsonl(sums(9)))
    task.read(0)
    data = task.encode(tiny_tokenizer())
    for loss in (math.nan, math.inf):
        monkeypatch.setattr(module, "mean_loss", lambda *_, loss=loss: loss)
        with pytest.raises(RunError, match="not finite"):
            task.scores(None, tiny_tokenizer(), data.test, 2)
    monkeypatch.setattr(module, "mean_loss", lambda *_: 1e4)
    assert task.scores(None, tiny_tokenizer(), data.test, 2)["perplexity"] == math.inf


def test_baselines(jsonl):
    tokenizer = tiny_tokenizer()
    rows = [{"prompt": f"q{n}", "completion": text} for n, text in enumerate(["a", "a", "a", "b"])]
    test = [{"prompt": "x", "completion": "ab"}]
    task = InstructionTuning(train=jsonl(rows), test=jsonl(test, "test.jsonl"), validation_size=0, match="text")
    task.options["max_answer"] = 9
    task.read(0)
    task.encode(tokenizer)
    total = 4 * 2 + len(tokenizer)  # a letter and an end of each answer, and one more of every token
    expected = -(math.log(4 / total) + math.log(1 / total) + math.log(5 / total)) / 3  # "a", "##b" and the end
    assert task.baselines() == {"unigram": pytest.approx(expected)}
    task.metric = "exact_match"
    assert task.baselines() == {"usual": 0.0}
    task.splits["test"].messages[0][1]["content"] = " a "
    task.encode(tokenizer)
    assert task.baselines() == {"usual": 1.0}


def test_what_was_encoded_is_no_part_of_what_was_read(jsonl):
    task = InstructionTuning(train=jsonl(sums(20)), packing=True)
    task.read(0)
    before = pickle.dumps(task)
    task.encode(tiny_tokenizer())
    assert pickle.dumps(task) == before


CONFIGS = {
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "resid_pdrop": 0.0, "embd_pdrop": 0.0},
    "t5": {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "decoder_start_token_id": 0},
    "bert": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64},
}


def tiny_model(family, tokenizer):
    torch.manual_seed(0)
    ends = {"eos_token_id": tokenizer.sep_token_id, "bos_token_id": tokenizer.cls_token_id}
    config = AutoConfig.for_model(family, vocab_size=len(tokenizer), pad_token_id=0, **ends, **CONFIGS[family])
    return (AutoModelForSeq2SeqLM if family == "t5" else AutoModelForCausalLM).from_config(config)


def saved(folder, family):
    tokenizer = tiny_tokenizer(64)
    tokenizer.save_pretrained(folder)
    tiny_model(family, tokenizer).save_pretrained(folder)
    return str(folder)


def pipeline(folder, family, options, techniques=("lora",), **training):
    return PipelineSpec.parse(
        {
            "backbone": saved(folder / "model", family),
            "techniques": list(techniques),
            "task": {"name": "instruction-tuning", "options": options},
            "training": {"max_steps": 6, "batch_size": 8, "threads": 1, "evaluate_every": 3, **training},
        }
    )


@pytest.mark.parametrize(
    ("family", "way", "packing"),
    [("gpt2", "generative", False), ("gpt2", "generative", True), ("t5", "text-to-text", False)],
)
def test_a_run_on_each_kind_of_backbone(tmp_path, jsonl, family, way, packing):
    options = {"train": jsonl(sums(60)), "match": "number", "max_answer": 12, "packing": packing}
    record, folder = run(pipeline(tmp_path, family, options), tmp_path / "run")
    assert (record.metric, record.formulation, record.greater_is_better) == ("loss", way, False)
    assert set(record.metrics) >= {"loss", "perplexity", "exact_match"}
    assert record.metrics["perplexity"] == pytest.approx(math.exp(record.score))
    assert set(record.baselines) == {"unigram"}
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert {line["split"] for line in lines} == {"train", "validation", "test"}
    if packing:
        assert record.examples["train"] < 40 * 0.6


def test_it_learns_what_to_answer(tmp_path, jsonl):
    """From packed rows; the answer depends on what is asked."""
    rows = [{"prompt": "yyyy" if n % 2 else "nnnn", "completion": "1" if n % 2 else "0"} for n in range(48)]
    options = {"train": jsonl(rows), "test": jsonl(rows[:2], "test.jsonl"), "match": "text", "max_answer": 8}
    options |= {"packing": True, "validation_size": 0}
    training = {"max_steps": 60, "learning_rate": 1e-2, "batch_size": 4, "evaluate_every": None}
    record, _ = run(pipeline(tmp_path, "gpt2", options, ["full"], **training), tmp_path / "run")
    assert record.score < 0.05 < 1 < record.baselines["unigram"]
    assert record.metrics["exact_match"] == 1.0


def test_an_encoder_and_a_technique_that_cannot_be_packed_are_refused(tmp_path, jsonl):
    with pytest.raises(UsageError, match="cannot be put to a backbone of kind encoder"):
        spec = pipeline(tmp_path / "a", "gpt2", {"train": jsonl(sums(20))})
        tokenizer = tiny_tokenizer(64)
        tokenizer.save_pretrained(tmp_path / "bert")
        AutoConfig.for_model("bert", vocab_size=len(tokenizer), **CONFIGS["bert"]).save_pretrained(tmp_path / "bert")
        run(spec.model_copy(update={"backbone": spec.backbone.model_copy(update={"name": str(tmp_path / "bert")})}))
    spec = pipeline(tmp_path / "b", "gpt2", {"train": jsonl(sums(20)), "packing": True}, ["prompt-tuning"])
    with pytest.raises(UsageError, match="cannot keep examples of one row apart"):
        run(spec, tmp_path / "run")


@pytest.mark.skipif(not (DATA / "models" / "stories260k").is_dir(), reason="needs ../shared/models/stories260k")
@pytest.mark.skipif(not (DATA / "data" / "gsm8k").is_dir(), reason="needs ../shared/data/gsm8k")
def test_gsm8k_on_a_real_model():
    """Loss on real answers, by transformers' own loss over text that is put together by hand."""
    source = DATA / "models" / "stories260k"
    tokenizer, model = AutoTokenizer.from_pretrained(source), AutoModelForCausalLM.from_pretrained(source).eval()
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    files = {name: str(DATA / "data" / "gsm8k" / f"{name}.jsonl") for name in ("train", "test")}
    columns = {"prompt_column": "question", "answer_column": "answer"}
    task = InstructionTuning(**files, **columns, train_limit=8, test_limit=4, max_length=400)
    task.read(0)
    data = task.encode(tokenizer)
    total, count = 0.0, 0
    for (asked, answered), row in zip(task.splits["test"].messages, data.test.rows, strict=True):
        head = f"User:\n{asked['content']}\n\nAssistant:\n"
        ids = tokenizer(head + answered["content"] + tokenizer.eos_token)["input_ids"]
        start = len(tokenizer(head)["input_ids"])
        assert row["input_ids"] == ids[:400]
        with torch.no_grad():
            logits = model(torch.tensor([ids[:400]])).logits[0].log_softmax(dim=-1)
        for place in range(start, min(len(ids), 400)):
            total, count = total - float(logits[place - 1, ids[place]]), count + 1
    with torch.no_grad():
        assert task.scores(model, tokenizer, data.test, 3)["loss"] == pytest.approx(total / count, abs=1e-4)
