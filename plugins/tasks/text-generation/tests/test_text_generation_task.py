"""The task as a whole: what is trained on and asked, the loss and the texts as plain slow computations, and runs."""

import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from refarch_text_generation import SPEC
from refarch_text_generation.task import TextGeneration
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, PreTrainedTokenizerFast

from refarch import PipelineSpec, run
from refarch.architecture import TrainingSpec
from refarch.errors import RunError, UsageError
from refarch.testing import tiny_tokenizer

E2E = Path(__file__).resolve().parents[5] / "shared" / "data" / "e2e_nlg"
WORDS = {"fish": "the sea", "bread": "a mill", "wine": "one hill", "rice": "wet fields"}
ROWS = [
    {"source": source, "target": [f"comes from {place}", f"{place} gives it"][: 1 + number % 2]}
    for number, (source, place) in enumerate(WORDS.items())
]
KINDS = {"generative": ("gpt2", AutoModelForCausalLM), "text-to-text": ("t5", AutoModelForSeq2SeqLM)}
CONFIGS = {
    "gpt2": {"n_embd": 48, "n_layer": 2, "n_head": 4, "n_positions": 96},
    "t5": {"d_model": 48, "d_kv": 12, "d_ff": 96, "num_layers": 2, "num_heads": 4, "decoder_start_token_id": 0},
}
ways = pytest.mark.parametrize("way", sorted(KINDS))


def written(path, rows=ROWS):
    path.write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")
    return str(path)


def ready(tmp_path, way, rows=ROWS, **options):
    path = written(tmp_path / "a.jsonl", rows)
    given = {"train": path, "test": path, "validation_size": 0, "max_length": 64, "max_target": 24, **options}
    task = TextGeneration(**given)
    task.formulation = way
    task.read(0)
    return task


def built(way, tokenizer):
    family, auto = KINDS[way]
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, vocab_size=len(tokenizer), pad_token_id=0, eos_token_id=3, **CONFIGS[family])
    model = auto.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return model


def test_the_plugin_needs_no_torch_until_it_is_used():
    code = """
import sys, refarch_text_generation as m
m.refarch_tasks()
heavy = ("torch", "transformers", "sacrebleu", "rouge_score", "nltk", "numpy", "datasets")
print([name for name in heavy if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert TrainingSpec.parse(SPEC.training)


@ways
def test_each_reference_is_trained_on_and_each_source_asked(tmp_path, way):
    task, tokenizer = ready(tmp_path, way, prompt="say {source}"), tiny_tokenizer(96)
    data = task.encode(tokenizer)
    expected = [(row["source"], text) for row in ROWS for text in row["target"]]
    assert len(data.train) == len(expected) == 6
    for row, (source, target) in zip(data.train, expected, strict=True):
        prompt, answer = tokenizer(f"say {source}")["input_ids"], tokenizer(target)["input_ids"]
        if way == "generative":
            # one text: its start token, the prompt, the target and the end token; the loss is on the last two
            assert row["input_ids"] == [*prompt[:-1], *answer[1:]]
            assert row["labels"] == [-100] * (len(prompt) - 1) + answer[1:]
        else:
            assert row["input_ids"] == prompt and row["labels"] == answer
    assert len(data.test) == 4
    assert [dict(data.test[i]) for i in range(4)] == [data.train[i] for i in (0, 1, 3, 4)]
    batch = pickle.loads(pickle.dumps(task.collator(tokenizer)))(data.train[:3])
    assert batch["input_ids"].shape == batch["attention_mask"].shape
    assert int((batch["labels"] != -100).sum()) == sum(sum(x != -100 for x in row["labels"]) for row in data.train[:3])


def test_a_decoders_source_at_the_end_of_the_prompt_is_followed_by_a_line_break(tmp_path):
    class Noting:
        """Passes texts on and keeps them."""

        def __init__(self):
            self.own, self.seen = tiny_tokenizer(96), []

        def __getattr__(self, name):
            return getattr(self.own, name)

        def __call__(self, *given, **named):
            texts = named.get("text", given[0] if given else [])
            self.seen += [texts] if isinstance(texts, str) else texts
            return self.own(*given, **named)

    for way, prompt, whole in (
        ("generative", "say {source}", "say fish\ncomes from the sea"),
        ("generative", "{source} means", "fish meanscomes from the sea"),
        ("text-to-text", "say {source}", "say fish"),
    ):
        tokenizer = Noting()
        ready(tmp_path, way, prompt=prompt).encode(tokenizer)
        assert whole in tokenizer.seen


@ways
@torch.no_grad()
def test_loss_and_texts_are_those_of_plain_slow_computations(tmp_path, way):
    task, tokenizer = ready(tmp_path, way), tiny_tokenizer(96)
    data, model = task.encode(tokenizer), built(way, tokenizer)
    total, count = 0.0, 0
    for row in data.train:  # every reference of the same rows
        labels = torch.tensor(row["labels"])
        if way == "generative":
            logits = model(torch.tensor([row["input_ids"]])).logits[0]
            places = [i for i, label in enumerate(row["labels"]) if label != -100]
            terms = [F.cross_entropy(logits[i - 1], labels[i]) for i in places]
        else:
            logits = model(input_ids=torch.tensor([row["input_ids"]]), labels=labels[None]).logits[0]
            terms = [F.cross_entropy(logits[i], label) for i, label in enumerate(labels)]
        total, count = total + float(sum(terms)), count + len(terms)
    texts = []
    for row in data.test.rows:
        new: list[int] = []
        while len(new) < task.options["max_target"] and new[-1:] != [3]:
            if way == "generative":
                prompt = [i for i, label in zip(row["input_ids"], row["labels"], strict=True) if label == -100]
                logits = model(torch.tensor([prompt + new])).logits[0, -1]
            else:
                given = torch.tensor([row["input_ids"]])
                logits = model(input_ids=given, decoder_input_ids=torch.tensor([[0, *new]])).logits[0, -1]
            new.append(int(logits.argmax()))
        texts.append(tokenizer.decode(new, skip_special_tokens=True).strip())
    found = task.scores(model, tokenizer, data.test, 3)
    assert any(texts)
    assert found["loss"] == pytest.approx(total / count, rel=1e-4)
    assert found == {**task.metrics(texts, [row["target"] for row in ROWS]), "loss": found["loss"]}
    beams = ready(tmp_path, way, beams=3, length_penalty=2.0, no_repeat_ngram=1, max_target=6)
    other = beams.scores(model, tokenizer, beams.encode(tokenizer).test, 3)
    assert other.keys() == found.keys() and other != found


@ways
def test_long_sources_and_targets_are_cut_and_the_log_says_so(tmp_path, way, caplog):
    rows = [{"source": "many words " * 20, "target": "so much " * 20}, {"source": "few", "target": "little"}]
    task, tokenizer = ready(tmp_path, way, rows, prompt="say {source} please: "), tiny_tokenizer(512)
    with caplog.at_level("INFO"):
        data = task.encode(tokenizer)
    assert "a.jsonl: of 1 of 2 rows the end of source was cut" in caplog.text
    assert "1 of 2 targets were cut to fit 24 tokens" in caplog.text and "prompts were cut" not in caplog.text
    row = data.train[0]
    assert len(row["input_ids"]) <= 64 and sum(label != -100 for label in row["labels"]) == 24
    prompt = row["input_ids"][: -24 if way == "generative" else None]
    text = tokenizer.decode(prompt, skip_special_tokens=True).replace(" ##", "")
    assert text.startswith("say many words many") and text.endswith("please :")
    with pytest.raises(UsageError, match="leave no room for a prompt"):
        ready(tmp_path, "generative", max_length=16, max_target=16).encode(tokenizer)


def test_the_baseline_copies_the_source(tmp_path):
    rows = [{"source": "the old mill serves fish", "target": ["the old mill serves fish", "fish at the mill"]}]
    task = ready(tmp_path, "generative", rows * 2)
    for metric in ("bleu", "rougeL", "rougeLsum", "chrf"):
        task.metric = metric
        assert task.baselines() == {"copy": pytest.approx(100)}
    long = ready(tmp_path, "generative", rows * 2, max_target=2)
    long.metric = "rouge1"
    assert long.baselines() == {"copy": pytest.approx(100 * 2 * (2 / 2) * (2 / 5) / (2 / 2 + 2 / 5))}


@ways
@torch.no_grad()
def test_outputs_that_are_not_finite_are_not_scored(tmp_path, way):
    task, tokenizer = ready(tmp_path, way), tiny_tokenizer(96)
    model = built(way, tokenizer)
    model.get_output_embeddings().weight.fill_(float("nan"))
    with pytest.raises(RunError, match="not finite"):
        task.scores(model, tokenizer, task.encode(tokenizer).test, 2)


def by_words():
    """A tokenizer whose tokens are the words of the rows, so that what is written can be read."""
    words = sorted({word for row in ROWS for text in [row["source"], *row["target"]] for word in text.split()})
    special = {"pad_token": "<pad>", "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    vocabulary = {word: number for number, word in enumerate([*special.values(), *words])}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.post_processor = processors.TemplateProcessing("$A </s>", special_tokens=[("</s>", vocabulary["</s>"])])
    return PreTrainedTokenizerFast(tokenizer_object=core, model_max_length=96, **special)


def saved(folder, way):
    tokenizer = by_words()
    tokenizer.save_pretrained(folder)
    built(way, tokenizer).save_pretrained(folder)
    return str(folder)


def pipeline(folder, way, path, technique, task, options, **training):
    return PipelineSpec.parse(
        {
            "backbone": saved(folder, way),
            "techniques": [technique],
            "task": {
                "name": task,
                "options": {"train": path, "test": path, "max_length": 48, "max_target": 8, **options},
            },
            "training": {"batch_size": 4, "threads": 1, "schedule": "constant", **training},
        }
    )


@ways
def test_a_run_with_an_adaptation(tmp_path, way):
    path = written(tmp_path / "a.jsonl", ROWS * 2)
    options = {"test": None, "test_size": 0.25, "validation_size": 0.25}
    spec = pipeline(tmp_path / "model", way, path, "lora", "data-to-text", options, max_steps=4, evaluate_every=2)
    record, folder = run(spec, tmp_path / "run")
    assert record.metric == "bleu" and record.formulation == way and "copy" in record.baselines
    assert set(record.metrics) >= {"rouge1", "rouge2", "rougeL", "rougeLsum", "bleu", "chrf", "loss"}
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert {line["split"] for line in lines} == {"train", "validation", "test"}
    assert record.examples["validation"] == record.examples["test"] == 1


@ways
def test_it_learns(tmp_path, way):
    """What each of four words is answered with, by a tiny model that is trained whole."""
    rows = [{"source": row["source"], "target": row["target"][0]} for row in ROWS]
    path = written(tmp_path / "a.jsonl", rows * 4)
    options = {"validation_size": 0}
    spec = pipeline(
        tmp_path / "model", way, path, "full", "translation", options, epochs=15, learning_rate=1e-2, save_every=1000
    )
    record, _ = run(spec, tmp_path / "run")
    assert record.score > 80 > 20 > record.baselines["copy"]
    assert record.metrics["loss"] < 0.5 and record.metrics["rougeL"] > 80


@pytest.mark.skipif(not E2E.is_dir(), reason="needs ../shared/data/e2e_nlg")
@ways
def test_a_slice_of_e2e_is_encoded_whole(way):
    columns = {"source_column": "mr", "target_column": "ref"}
    task = TextGeneration(
        train=str(E2E / "devset.csv"), test=str(E2E / "testset_w_refs.csv"), train_limit=40, test_limit=20, **columns
    )
    task.formulation = way
    task.read(0)
    tokenizer = tiny_tokenizer(768)
    data = task.encode(tokenizer)
    assert len(data.test) == 20 and len(data.test.pairs) == sum(map(len, data.test.references)) > 60
    for row, item in zip(data.test.rows, task.splits["test"].items, strict=True):
        target = [label for label in row["labels"] if label != -100]
        expected = tokenizer(item.references[0])["input_ids"][:128]
        assert target[:-1] == (expected[1:] if way == "generative" else expected)[: len(target) - 1]
