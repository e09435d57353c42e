"""The harness on adapted models, offline: tasks and data on local files, tiny models, plain computations beside it."""

import importlib.util
import json
import math
import random
import shutil

import pytest

pytest.importorskip("lm_eval", reason="heavy, so apart: pip install -e './dev[all]'", exc_type=ImportError)

import lm_eval.evaluator
import torch
from click.testing import CliRunner
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from refarch_lm_eval.adapted import find
from refarch_lm_eval.command import command
from refarch_lm_eval.harness import AdaptedLM, evaluate
from refarch_lm_eval.tasks import Settings, load_tasks
from tokenizers.processors import TemplateProcessing
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

from refarch import Gate, PipelineSpec, attach, default_registry, load, run
from refarch.errors import CheckpointError, DataError, PluginError, RunError, UnknownNameError, UsageError
from refarch.tasks import log_likelihoods
from refarch.testing import expect_light, spread, tiny_tokenizer

CONFIGS = {
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64},
    "t5": {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "decoder_start_token_id": 0},
}
CHOICE = """
task: sums_choice
dataset_path: json
dataset_kwargs:
  data_files: {{test: {data}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: choices
doc_to_target: answer
metric_list:
  - metric: acc
  - metric: acc_norm
"""
WRITTEN = """
task: sums_written
dataset_path: json
dataset_kwargs:
  data_files: {{test: {data}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{choices[answer]}}}}"
generation_kwargs:
  until: ["1"]
  max_gen_toks: 6
metric_list:
  - metric: exact_match
"""
ROLLING = """
task: sums_rolling
dataset_path: json
dataset_kwargs:
  data_files: {{test: {data}}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{{{question}}}}"
metric_list:
  - metric: word_perplexity
"""


@pytest.fixture(autouse=True)
def without_environment(monkeypatch):
    """The harness lists all installed packages at each evaluation, by a process of its own."""
    monkeypatch.setattr(lm_eval.evaluator, "add_env_info", lambda _: None)


def tokenizer():
    """One that begins texts with a token and ends none, as most decoders' do."""
    made = tiny_tokenizer(64)
    made.backend_tokenizer.post_processor = TemplateProcessing("[CLS] $A", special_tokens=[("[CLS]", 2)])
    made.bos_token, made.eos_token = "[CLS]", "[SEP]"
    return made


@pytest.fixture(scope="module")
def rows():
    chance = random.Random(0)
    found = []
    for _ in range(12):
        a, b = chance.randint(0, 9), chance.randint(0, 9)
        choices = [str(a + b), str(a + b + 3), "none"]
        answer = chance.randrange(3)
        choices[0], choices[answer] = choices[answer], choices[0]
        found.append({"question": f"{a} plus {b}", "choices": choices, "answer": answer})
    return found


@pytest.fixture(scope="module")
def tasks(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("tasks")
    data = folder / "data" / "test.jsonl"
    data.parent.mkdir()
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for text in (CHOICE, WRITTEN, ROLLING):
        written = text.format(data=data)
        (folder / f"{written.split()[1]}.yaml").write_text(written)
    (folder / "group.yaml").write_text("group: sums_all\ntask: [sums_choice, sums_rolling]\n")
    return folder


def model_of(family):
    made = tokenizer()
    torch.manual_seed(0)
    ends = {"eos_token_id": made.sep_token_id, "bos_token_id": made.cls_token_id}
    config = AutoConfig.for_model(family, vocab_size=len(made), pad_token_id=0, **ends, **CONFIGS[family])
    model = (AutoModelForSeq2SeqLM if family == "t5" else AutoModelForCausalLM).from_config(config)
    spread(model, seed=1)
    return model.eval()


def adapted(family, technique="lora", **options):
    """A language model of the harness, with an adaptation whose values are not those at its start."""
    model = model_of(family)
    lm = AdaptedLM(model, tokenizer(), batch_size=5)
    spread(attach(model, technique, **options).tree, seed=2)
    return lm, model.eval()


def gated_by_example():
    """LoRA whose gate is a mean over an example's tokens: padding would change it."""
    spec = default_registry().technique("lora")
    gated = {"integration": "gated addition", "gate": Gate(by="example", initial=0.5)}
    return spec.model_copy(update={"modules": tuple(module.model_copy(update=gated) for module in spec.modules)})


def by_hand(made, row):
    """The tokens of a question and of each choice."""
    asked = [made.cls_token_id, *made(row["question"], add_special_tokens=False)["input_ids"]]
    return [(asked, made(f" {choice}", add_special_tokens=False)["input_ids"]) for choice in row["choices"]]


@pytest.mark.parametrize("family", ["gpt2", "t5"])
def test_choices_are_compared_by_refarchs_own_likelihoods(tasks, rows, family):
    lm, model = adapted(family)
    found = {value.metric: value for value in evaluate(lm, load_tasks(["sums_choice"], [tasks]), Settings())}
    right, normed = [], []
    for row in rows:
        asked = by_hand(lm.tokenizer, row)
        with torch.no_grad():
            totals = [each.total for each in log_likelihoods(model, asked, 1, 0)]
        norms = [total / len(choice) for total, choice in zip(totals, row["choices"], strict=True)]
        right.append(totals.index(max(totals)) == row["answer"])
        normed.append(norms.index(max(norms)) == row["answer"])
    assert found["acc"].value == pytest.approx(sum(right) / 12)
    assert found["acc_norm"].value == pytest.approx(sum(normed) / 12)
    assert (found["acc"].examples, found["acc"].few_shot, found["acc"].higher_is_better) == (12, 0, True)
    assert found["acc"].error is not None and found["acc"].filter == "none"


@pytest.mark.parametrize("family", ["gpt2", "t5"])
def test_every_answer_is_that_of_the_harness_s_own_interface(rows, family):
    """Likelihoods, rolling ones over windows, and texts; with LoRA, which padding does not touch."""
    lm, model = adapted(family)
    own = HFLM(pretrained=model, tokenizer=lm.tokenizer, backend=lm.backend, batch_size=5)
    asked = [requested("loglikelihood", (row["question"], f" {choice}")) for row in rows for choice in row["choices"]]
    asked += [requested("loglikelihood", ("", "a plus b")), requested("loglikelihood", ("x" * 90, " a plus b"))]
    for (total, greedy), (expected, likeliest) in zip(lm.loglikelihood(asked), own.loglikelihood(asked), strict=True):
        assert total == pytest.approx(expected, abs=1e-4) and greedy == likeliest
    long = [requested("loglikelihood_rolling", (text,)) for text in ("a plus b", "x" * 150, "3")]
    assert lm.loglikelihood_rolling(long) == pytest.approx(own.loglikelihood_rolling(long), abs=1e-3)
    written = [requested("generate_until", (row["question"], {"until": ["3"], "max_gen_toks": 6})) for row in rows]
    assert lm.generate_until(written) == own.generate_until(written)


def requested(kind, arguments):
    return Instance(request_type=kind, doc={}, arguments=arguments, idx=0, metadata=("t", 0, 1))


def test_what_depends_on_all_of_an_examples_tokens_does_not_see_padding(rows):
    lm, model = adapted("gpt2", gated_by_example())
    own = HFLM(pretrained=model, tokenizer=lm.tokenizer, backend="causal", batch_size=len(rows) * 3)
    lm.batch_size_per_gpu = len(rows) * 3
    asked = [requested("loglikelihood", (row["question"], f" {choice}")) for row in rows for choice in row["choices"]]
    alone = [pair for row in rows for pair in by_hand(lm.tokenizer, row)]
    with torch.no_grad():
        expected = [log_likelihoods(model, [pair], 1, 0)[0].total for pair in alone]
    assert [total for total, _ in lm.loglikelihood(asked)] == pytest.approx(expected, abs=1e-4)
    padded = [total for total, _ in own.loglikelihood(asked)]
    assert max(abs(one - other) for one, other in zip(padded, expected, strict=True)) > 5e-3


def test_a_continuation_that_no_window_holds_is_refused():
    lm, _ = adapted("gpt2")
    with pytest.raises(UsageError, match=r"continuation of 70 tokens[\s\S]*max-length"):
        lm.loglikelihood([requested("loglikelihood", ("a", "x" * 70))])


def test_groups_texts_and_limits(tasks):
    lm, _ = adapted("gpt2")
    found = evaluate(lm, load_tasks(["sums_all", "sums_written"], [tasks]), Settings(limit=3))
    assert {(value.task, value.metric) for value in found} >= {
        ("sums_choice", "acc"),
        ("sums_rolling", "word_perplexity"),
        ("sums_written", "exact_match"),
    }
    assert {value.examples for value in found if value.task != "sums_all"} == {3}


def test_tasks_can_be_run_again_and_with_examples_in_the_prompt(tasks):
    lm, _ = adapted("gpt2")
    chosen = load_tasks(["sums_choice"], [tasks])
    first = evaluate(lm, chosen, Settings(few_shot=2, limit=2))
    assert evaluate(lm, chosen, Settings(few_shot=2, limit=2)) == first
    assert {value.few_shot for value in first} == {2}


def test_unknown_tasks_and_data_that_cannot_be_loaded(tasks, tmp_path, monkeypatch):
    monkeypatch.setattr(lm_eval.tasks, "TaskManager", local_manager)  # the index of all tasks takes a while
    with pytest.raises(UnknownNameError, match=r"no task 'sums_choise'[\s\S]*did you mean 'sums_choice'"):
        load_tasks(["sums_choise"], [tasks])
    with pytest.raises(UsageError, match="is no folder"):
        load_tasks(["sums_choice"], [tasks / "nowhere"])
    (tmp_path / "gone.yaml").write_text(CHOICE.format(data=tmp_path / "gone.jsonl"))
    with pytest.raises(DataError, match=r"tasks sums_choice cannot be loaded: FileNotFoundError[\s\S]*include-path"):
        load_tasks(["sums_choice"], [tmp_path])
    (tmp_path / "gone.yaml").write_text(CHOICE.format(data=tasks / "data" / "test.jsonl").replace("acc_norm", "accc"))
    with pytest.raises(DataError, match="cannot be loaded"):
        load_tasks(["sums_choice"], [tmp_path])


def test_a_failure_of_the_harness_is_a_failed_run(tasks, monkeypatch):
    lm, model = adapted("gpt2")
    monkeypatch.setattr(model, "forward", lambda *_, **__: 1 / 0)
    with pytest.raises(RunError, match=r"harness failed: ZeroDivisionError[\s\S]*max-length"):
        evaluate(lm, load_tasks(["sums_choice"], [tasks]), Settings(limit=2))


def local_manager(**given):
    return TaskManager(**{**given, "include_defaults": False})


# the command ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of a tiny decoder that learns to write."""
    folder = tmp_path_factory.mktemp("run")
    model_of("gpt2").save_pretrained(folder / "model")
    tokenizer().save_pretrained(folder / "model")
    rows = [{"prompt": f"{n} plus 1", "completion": str(n + 1)} for n in range(20)]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pipeline = PipelineSpec.parse(
        {
            "backbone": str(folder / "model"),
            "techniques": [{"name": "lora", "label": "one"}, {"name": "ia3", "label": "two"}],
            "task": {"name": "instruction-tuning", "options": {"train": str(folder / "train.jsonl")}},
            "training": {"max_steps": 4, "batch_size": 4, "threads": 1, "learning_rate": 0.05},
        }
    )
    run(pipeline, folder / "run")
    return folder


def invoked(*arguments):
    result = CliRunner().invoke(command, [str(argument) for argument in arguments], catch_exceptions=True)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_a_run_is_evaluated_with_and_without_what_it_has_trained(finished, tasks, rows, tmp_path):
    out = tmp_path / "results" / "a.json"
    common = (finished / "run", "--tasks", "sums_choice,sums_rolling", "--include-path", tasks)
    found = json.loads(invoked(*common, "--base", "--json", "--out", out, "--device", "cpu").stdout)
    assert json.loads(out.read_text()) == found
    assert found["adaptations"] == ["one", "two"] and found["backbone"] == str(finished / "model")
    one, base = ({(v["task"], v["metric"]): v["value"] for v in found[part]} for part in ("results", "base"))
    assert one["sums_rolling", "word_perplexity"] != base["sums_rolling", "word_perplexity"]
    model = AutoModelForCausalLM.from_pretrained(finished / "model").eval()
    for expected, adaptations in ((base, ()), (one, ("one", "two"))):
        for name in adaptations:
            load(model, finished / "run" / "adaptations" / name)
        # the harness predicts the first token too, from one of its own
        asked = [([2], tokenizer()(row["question"])["input_ids"]) for row in rows]
        with torch.no_grad():
            total = sum(each.total for each in log_likelihoods(model, asked, 4, 0))
        words = sum(len(row["question"].split()) for row in rows)
        assert expected["sums_rolling", "word_perplexity"] == pytest.approx(math.exp(-total / words), rel=1e-4)
    text = invoked(*common, "--base").stdout
    assert "one + two on" in text and "without" in text and "sums_choice" in text and " ± " in text


def test_one_adaptation_of_a_run_or_apart_from_it(finished, tasks, tmp_path):
    options = ("--tasks", "sums_rolling", "--include-path", tasks, "--json")
    inside = json.loads(invoked(finished / "run" / "adaptations" / "one", *options).stdout)
    assert inside["adaptations"] == ["one"]
    shutil.copytree(finished / "run" / "adaptations" / "one", tmp_path / "one")
    with pytest.raises(UsageError, match=r"does not say which model[\s\S]*--backbone"):
        invoked(tmp_path / "one", *options)
    apart = json.loads(invoked(tmp_path / "one", "--backbone", finished / "model", *options).stdout)
    assert apart["results"] == inside["results"]
    other = model_of("gpt2")
    spread(other, seed=5)
    other.save_pretrained(tmp_path / "other")
    tokenizer().save_pretrained(tmp_path / "other")
    with pytest.raises(CheckpointError, match="other weights"):
        invoked(tmp_path / "one", "--backbone", tmp_path / "other", *options)


def test_folders_that_hold_nothing_to_evaluate(finished, tmp_path):
    registry = default_registry()
    with pytest.raises(UsageError, match="is no folder"):
        find(tmp_path / "nowhere", None, registry)
    with pytest.raises(UsageError, match="holds neither a run nor an adaptation"):
        find(tmp_path, None, registry)
    shutil.copytree(finished / "run", tmp_path / "open")
    (tmp_path / "open" / "record.json").unlink()
    with pytest.raises(UsageError, match=r"is not finished[\s\S]*refarch run"):
        find(tmp_path / "open", None, registry)
    assert [folder.name for folder in find(finished / "run", None, registry).folders] == ["one", "two"]


def test_a_run_with_another_head_and_an_encoder_are_refused(finished, tasks, tmp_path):
    shutil.copytree(finished / "run", tmp_path / "run")
    path = tmp_path / "run" / "pipeline.json"
    changed = json.loads(path.read_text())
    changed["task"] = {"name": "text-classification", "options": {"train": "train.csv"}}
    path.write_text(json.dumps(changed))
    with pytest.raises(UsageError, match="AutoModelForSequenceClassification, which writes no text"):
        find(tmp_path / "run", None, default_registry())
    tiny_tokenizer().save_pretrained(tmp_path / "bert")
    AutoConfig.for_model("bert", vocab_size=99, hidden_size=8, num_attention_heads=2).save_pretrained(tmp_path / "bert")
    alone = tmp_path / "one"
    shutil.copytree(finished / "run" / "adaptations" / "one", alone)
    with pytest.raises(UsageError, match="kind encoder; the harness asks language models"):
        invoked(alone, "--backbone", tmp_path / "bert", "--tasks", "sums_choice", "--include-path", tasks)


def test_wrong_options(finished, tasks):
    options = ("--include-path", tasks)
    with pytest.raises(UsageError, match="no task is named"):
        invoked(finished / "run", "--tasks", ",", *options)
    with pytest.raises(UsageError, match="has no chat template"):
        invoked(finished / "run", "--tasks", "sums_choice", "--chat", *options)
    with pytest.raises(UsageError, match="the device 'nonsense' cannot be used"):
        invoked(finished / "run", "--tasks", "sums_choice", "--device", "nonsense", *options)


def test_a_missing_harness_is_named_with_the_command_that_installs_it(finished, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(PluginError, match=r"which is not installed here\n  hint: pip install \"lm-eval>=0.4.13,<0.5\""):
        invoked(finished / "run", "--tasks", "sums_choice")


def test_importing_the_plugin_is_light():
    expect_light("command", "evaluate")
