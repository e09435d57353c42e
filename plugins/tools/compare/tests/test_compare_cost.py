"""What an estimate says before training, held against what attaching, saving and training do."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, strategies as st
from refarch_compare import naming
from refarch_compare.cost.backbone import Backbone, of_config
from refarch_compare.cost.budget import BudgetError, solve_budget
from refarch_compare.cost.estimate import Estimate, Estimator, Setting, largest_batch
from refarch_compare.evidence import peft_methods
from refarch_compare.evidence.peft_comparison import row_of
from transformers import AutoConfig, BertConfig, LlamaConfig, T5Config

import refarch
from refarch import default_registry
from refarch.cli import main
from refarch.errors import SlotError, UsageError
from refarch.pipeline import seeds
from refarch.testing import all_tiny, randomise

PUBLISHED = Path(__file__).resolve().parents[5] / "shared" / "evidence" / "peft-method-comparison" / "MetaMathQA"
REGISTRY = default_registry()
PRESETS = [item for item in naming.variants(REGISTRY, alike=True) if ":" in item.label or item.label == "lora"]
"""The conformance kit's predicted_count has every technique as it is by default, on every family."""
FAMILIES = {tiny.family.name: tiny for tiny in reversed(all_tiny())}
"""Each family under the first of its auto classes."""


def technique(text):
    return naming.parse(text, REGISTRY).technique


# parameters and bytes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_parameters_and_bytes_are_exact_for_every_preset(name, tmp_path, monkeypatch):
    monkeypatch.setattr("os.fsync", lambda file: None)  # what is written is read back at once
    tiny = FAMILIES[name]
    model = tiny.model()
    estimator = Estimator(Backbone(name, tiny.meta(), "float32"), Setting(run=False))
    seen = 0
    for label, chosen in PRESETS:
        predicted = estimator.try_estimate(chosen, label)
        try:
            adaptation = refarch.attach(model, chosen, seed=seeds(0).modules)
        except SlotError as error:
            assert not isinstance(predicted, Estimate) and predicted.refused == error.message
            continue
        randomise(adaptation)
        folder = adaptation.save(tmp_path / label.replace(":", "-"))
        assert isinstance(predicted, Estimate), f"{label} on {name}: {predicted}"
        counts = predicted.trainable_parameters, predicted.trainable_parameters + predicted.frozen_parameters
        assert counts == (adaptation.count(), adaptation.count(trainable=False)), label
        assert predicted.saved_bytes == sum(file.stat().st_size for file in folder.iterdir()), label
        adaptation.detach()
        seen += 1
    assert seen > len(PRESETS) / 3


def test_the_bytes_are_those_of_a_run(little, study, tmp_path, capsys):
    """With the task's head, and what a run writes beside the tensors."""
    entry = study(tasks=("first",))
    pipeline = {
        "backbone": entry["backbones"][0]["name"],
        "techniques": ["lora"],
        "task": {key: entry["tasks"][0][key] for key in ("name", "options")},
        "training": entry["training"],
    }
    (tmp_path / "pipeline.json").write_text(json.dumps(pipeline))
    assert main(["run", str(tmp_path / "pipeline.json"), "--out", str(tmp_path / "run")]) == 0
    record = json.loads((tmp_path / "run" / "record.json").read_text())
    capsys.readouterr()
    asked = ["--backbone", pipeline["backbone"], "--model-class", "AutoModelForSequenceClassification", "--train-head"]
    saved = json.loads((tmp_path / "run" / "adaptations" / "lora" / "adaptation.json").read_text())
    asked += ["--labels", ",".join(saved["labels"].values())]
    assert main(["estimate", *asked, "--technique", "lora", "--no-run", "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["estimates"]
    names = ("trainable_parameters", "module_parameters", "total_parameters", "saved_bytes")
    assert {name: found[name] for name in names} == {name: record[name] for name in names}
    file = str(Path(pipeline["backbone"]) / "config.json")
    assert main(["estimate", *asked, "--backbone", file, "--technique", "lora", "--no-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["estimates"][0]["saved_bytes"] == record["saved_bytes"]


# operations --------------------------------------------------------------------------------------------------------


def test_operations_are_those_of_the_equations():
    d, inner, layers, vocabulary, tokens, rank = 32, 64, 2, 50, 8, 4
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=d,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        architectures=["LlamaForCausalLM"],
    )
    estimator = Estimator(of_config(config), Setting(batch=3, tokens=tokens))
    found = estimator.estimate(technique(f"lora:rank={rank},slots=[attention.query, ffn.down]")).operations
    products = layers * (2 * d * (d + d // 2 + d // 2 + d) + 6 * d * inner) + 2 * d * vocabulary
    products += layers * 2 * 2 * tokens * d  # scores, and sums of values, each over all keys
    assert products < found.base < 1.4 * products, "the rest is element by element: norms, rotations, activations"
    low_rank = 2 * rank * (d + d) + 2 * rank * (inner + d)
    assert found.inference_extra == layers * low_rank, "scale and sum are part of the second product"
    assert 2 * products < found.training < 3 * products, "the backward pass of activations, and of few weights"


# memory ------------------------------------------------------------------------------------------------------------

SHAPES = {
    "bert": BertConfig(
        vocab_size=2000, hidden_size=128, intermediate_size=512, num_hidden_layers=3, num_attention_heads=4,
        architectures=["BertForMaskedLM"],
    ),
    "llama": LlamaConfig(
        vocab_size=2000, hidden_size=128, intermediate_size=344, num_hidden_layers=3, num_attention_heads=8,
        num_key_value_heads=2, architectures=["LlamaForCausalLM"],
    ),
    "t5": T5Config(
        vocab_size=2000, d_model=128, d_ff=256, d_kv=32, num_layers=2, num_heads=4,
        architectures=["T5ForConditionalGeneration"],
    ),
}  # fmt: skip
BATCH, TOKENS = 4, 96


@pytest.mark.parametrize("shape", SHAPES)
def test_memory_is_within_15_per_cent_of_what_a_step_on_a_cpu_holds(shape):
    empty = of_config(SHAPES[shape])
    estimator = Estimator(empty, Setting(batch=BATCH, tokens=TOKENS, device="cpu"))
    model = type(empty.model)(empty.model.config)
    for name in ("lora", "adapter", "ia3", "prefix-tuning", "full"):
        predicted = estimator.estimate(technique(name)).memory
        adaptation = refarch.attach(model, technique(name))
        state, activations, peak = _measured(model, adaptation)
        adaptation.detach()
        assert predicted.optimizer == state, name
        assert predicted.activations == pytest.approx(activations, rel=0.15), name
        beside = predicted.peak - predicted.base - predicted.modules
        assert beside == pytest.approx(peak, rel=0.15), name


def _measured(model, adaptation):
    """Bytes of a second step: the optimizer's state, what autograd keeps, and the most that the allocator has given."""
    model.train()
    trained = [parameter for parameter in adaptation.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-3)
    ids = torch.randint(3, 2000, (BATCH, TOKENS))
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if model.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = ids
    own = [*model.parameters(), *model.buffers(), *adaptation.parameters(), *inputs.values()]
    own = {tensor.untyped_storage().data_ptr() for tensor in own}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    def step():
        logits = model(**inputs, use_cache=False).logits
        return F.cross_entropy(logits.float().flatten(0, -2), torch.zeros(ids.numel(), dtype=torch.long))

    step().backward()
    optimizer.step()
    optimizer.zero_grad()
    state = sum(tensor.numel() * tensor.element_size() for s in optimizer.state.values() for tensor in s.values())
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = step()
    del loss
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        step().backward()
        optimizer.step()
        optimizer.zero_grad()
    events = profile.profiler.kineto_results.events()
    changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    return state, sum(kept.values()), state + max(itertools.accumulate(size for _, size in changes))


def test_checkpointing_keeps_less_and_computes_more():
    plain = Estimator(of_config(SHAPES["llama"])).estimate(technique("lora"))
    again = Estimator(of_config(SHAPES["llama"]), Setting(checkpointing=True)).estimate(technique("lora"))
    assert again.memory.activations < plain.memory.activations / 2 and again.memory.peak < plain.memory.peak
    assert again.operations.training > 1.2 * plain.operations.training


@given(first=st.integers(1, 1000), slope=st.integers(1, 300), bend=st.floats(0, 2), limit=st.integers(0, 10**6))
def test_the_largest_batch_is_the_last_that_fits(first, slope, bend, limit):
    tried = []

    def peak(batch):
        tried.append(batch)
        return int(first + slope * batch + bend * batch * math.log2(batch + 1))

    found = largest_batch(peak, limit)
    assert (found == 0 or peak(found) <= limit) and peak(found + 1) > limit
    assert len(tried) < 30


# published counts --------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not PUBLISHED.is_dir(), reason="needs shared/evidence/peft-method-comparison beside the repository")
def test_published_counts_are_reproduced_from_the_published_configurations(capsys):
    shape = peft_methods.MODELS["meta-llama/Llama-3.2-3B"]
    config = AutoConfig.for_model(**shape.config)
    estimator = Estimator(of_config(config, "llama-3.2-3B", "bfloat16", "AutoModelForCausalLM"), Setting(run=False))
    assert estimator.backbone.parameters == shape.parameters
    same, unmapped = {}, {}
    for file in sorted(PUBLISHED.glob("*.json")):
        row, _ = row_of(json.loads(file.read_text()), file)
        if row.technique not in REGISTRY.names("technique"):
            unmapped[file.stem] = row.technique
            continue
        found = estimator.estimate(REGISTRY.technique(row.technique).configure(row.options))
        assert _as_peft_counts(found, estimator.backbone.model) == row.trainable_parameters, file.stem
        same.setdefault(row.technique, []).append(file.stem)
    with capsys.disabled():
        print(f"\npublished counts reproduced: {sum(map(len, same.values()))} of {', '.join(same)}")
        print(f"with no technique here: {len(unmapped)}: {', '.join(sorted(set(unmapped.values())))}")
    assert {"adalora", "boft", "ia3", "lora", "prefix-tuning", "prompt-tuning", "vera"} <= same.keys()


def _as_peft_counts(found, model):
    """The trainable parameters; two techniques of peft's have others, as the importer notes."""
    if found.spec.name == "prefix-tuning":  # peft trains what the network makes, which is what is saved
        adaptation = refarch.attach(model, found.spec)
        saved = sum(tensor.numel() for tensor in adaptation.saved_state()[0].values())
        adaptation.detach()
        return saved
    if found.spec.name == "boft":  # peft trains whole blocks [b, b], of which it uses the skew-symmetric part
        size = found.spec.options["block_size"]
        scales = 28 * (3072 + 1024)  # a factor for each output of query and value
        return scales + (found.trainable_parameters - scales) * 2 * size // (size - 1)
    return found.trainable_parameters


# budgets -----------------------------------------------------------------------------------------------------------


def test_a_budget_is_met_by_the_option_that_is_the_size():
    solved = solve_budget("lora", SHAPES["bert"], 50_000, options={"slots": ["attention.query"], "alpha": 3})
    assert solved.options == {"slots": ["attention.query"], "alpha": 3, "rank": 65}
    assert solved.parameters == 3 * 65 * (128 + 128)


@pytest.mark.parametrize(
    ("name", "budget", "said"),
    [
        ("lora", 10, "nearest to 10 is 1,536 .*at rank=1"),
        ("ia3", 9_000_000, "nearest to 9,000,000 is .*ia3 has no size"),
        ("oft", 60_000, "nearest to 60,000 is .*at block_size="),
    ],
)
def test_a_budget_that_cannot_be_met_says_the_nearest(name, budget, said):
    with pytest.raises(BudgetError, match=said):
        solve_budget(name, SHAPES["bert"], budget, tolerance=0.01)


def test_no_budget_and_no_backbone_are_refused():
    with pytest.raises(UsageError, match="nothing to train"):
        solve_budget("lora", SHAPES["bert"], 0)
    with pytest.raises(UsageError, match="nowhere"):
        solve_budget("lora", "nowhere/at-all", 1000)


# the command -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_model_of_70_billion_takes_no_weights(tmp_path, capsys):
    config = {
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 8192, "intermediate_size": 28672,
        "num_hidden_layers": 80, "num_attention_heads": 64, "num_key_value_heads": 8, "vocab_size": 128256,
        "dtype": "bfloat16", "tie_word_embeddings": False,
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    asked = ["estimate", "--backbone", str(tmp_path / "config.json"), "--batch", "1", "--length", "16", "--json"]
    assert main([*asked, "--technique", "lora:rank=16", "--technique", "compacter:oops=1"]) == 2
    assert "oops" in capsys.readouterr().err
    assert main([*asked, "--technique", "lora:rank=16"]) == 0
    data = json.loads(capsys.readouterr().out)
    (found,) = data["estimates"]
    assert data["backbone"]["parameters"] == 70_553_706_496
    assert found["trainable_parameters"] == 80 * 16 * (8192 + 8192 + 8192 + 1024)
    assert found["memory"]["base"] == pytest.approx(2 * 70_553_706_496, rel=1e-3)
    assert found["memory"]["optimizer"] == pytest.approx(8 * found["trainable_parameters"], rel=1e-3)
    assert found["merges"] and found["operations"]["inference_extra_merged"] == 0


def test_the_table_says_who_does_not_exist_here_and_who_does_not_merge(capsys):
    asked = ["estimate", "--backbone", "mixtral", "--model-class", "AutoModel", "--no-run"]
    assert main([*asked, "--technique", "lora:slots=[ffn.up]", "--technique", "prefix-tuning"]) == 0
    out = capsys.readouterr().out
    assert "lora:slots=[ffn.up]: family 'mixtral'" in out and "prefix-tuning: not merged: " in out
    assert (
        main(
            [
                "estimate",
                "--backbone",
                "minilm",
                "--technique",
                "lora",
                "--memory",
                "1GB",
                "--batch",
                "1",
                "--tokens",
                "16",
            ]
        )
        == 0
    )
    assert "batch in 1GB" in capsys.readouterr().out
    for wrong, said in (
        (["--memory", "24x"], "is no size"),
        (["--memory", "24", "--no-run"], "needs a step"),
        (["--backbone", "/nowhere/config.json"], "/nowhere/config.json"),
        (["--model-class", "AutoModelForPigs"], "AutoModelForPigs"),
    ):
        assert main(["estimate", "--backbone", "bert", "--technique", "lora", *wrong]) == 2
        assert said in capsys.readouterr().err
