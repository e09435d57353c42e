"""Porting: each tensor stands where a plain reading of its name says; what does not fit is refused with the reason."""

import json

import pytest
import torch
from refarch_library import adding
from refarch_library.finding import find
from refarch_library.transfer.matching import by_depth
from refarch_library.transfer.porting import port, sample
from refarch_library.transfer.scoring import score_saved
from transformers import AutoModel, AutoModelForSequenceClassification

import refarch as platform
from refarch import PipelineSpec, Pool, RunRecord, default_registry
from refarch.errors import CheckpointError
from refarch.files import read_json
from refarch.pipeline import assemble
from refarch.testing import Snapshot, outputs, randomise

REGISTRY = default_registry()
TECHNIQUES = [
    "lora",
    "adapter",
    "ia3",
    "prefix-tuning",
    "prompt-tuning",
    "compacter",
    "vera",
    "bitfit",
    "ln-tuning",
    "mam",
]


def tiny(layers, auto="AutoModelForSequenceClassification", family="bert", **changes):
    from refarch.testing import Tiny

    spec = REGISTRY.backbone(family)
    one = Tiny(spec, auto)
    names = {"gpt2": "n_layer"}
    torch.manual_seed(1)
    model = one.build(one.config(**{names.get(family, "num_hidden_layers"): layers}, **changes)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
    return one, model


def saved(tmp_path, technique, layers=4, **options):
    _, model = tiny(layers)
    adaptation = platform.attach(model, technique, train_head=True, **options)
    randomise(adaptation)
    adaptation.save(tmp_path / "saved")
    return adaptation


def test_layers_are_matched_by_depth():
    assert by_depth(range(6), range(3)) == {0: 0, 1: 3, 2: 5}
    assert by_depth(range(3), range(6)) == {0: 0, 1: 0, 2: 1, 3: 1, 4: 2, 5: 2}
    assert by_depth(range(4), range(4)) == {n: n for n in range(4)}
    assert by_depth([2, 3], [0, 1, 2]) == {0: 2, 1: 3, 2: 3}
    assert by_depth(range(4), [0]) == {0: 0} and by_depth(range(4), [5]) == {5: 3}


@pytest.mark.parametrize("technique", TECHNIQUES)
def test_porting_to_the_same_backbone_is_the_module_itself(technique, tmp_path):
    one, model = tiny(3)
    adaptation = platform.attach(model, technique, train_head=True)
    randomise(adaptation)
    batch = one.batch(model)
    expected = outputs(model, batch)
    adaptation.save(tmp_path)
    _, other = tiny(3)
    ported, match = port(tmp_path, other, REGISTRY)
    assert not match.new
    torch.testing.assert_close(outputs(other, batch), expected, rtol=1e-6, atol=1e-6)
    ported.save(tmp_path / "again")
    _, third = tiny(3)
    platform.load(third, tmp_path / "again")
    torch.testing.assert_close(outputs(third, batch), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("there", [2, 6])
@pytest.mark.parametrize("technique", TECHNIQUES)
def test_each_tensor_comes_from_the_layer_of_like_depth(technique, there, tmp_path):
    source = saved(tmp_path, technique)
    _, model = tiny(there)
    before = Snapshot(model)
    adaptation, match = port(tmp_path / "saved", model, REGISTRY)
    layers = by_depth(range(4), range(there))
    values = {}  # by a plain reading of the names in the file, in which what several places share stands once
    from safetensors.torch import load_file

    for name, tensor in load_file(next((tmp_path / "saved").glob("*.safetensors"))).items():
        values[name] = tensor
    for name, tensor in adaptation.state_dict().items():
        words = name.replace("encoder.layer.", "encoder.").split(".")
        numbers = [i for i, word in enumerate(words) if word.isdigit() and words[i - 1] == "encoder"]
        for i in numbers:
            words[i] = str(layers[int(words[i])])
        own = ".".join(words)
        plain = {key.replace("encoder.layer.", "encoder."): value for key, value in values.items()}
        assert torch.equal(tensor, plain[own]), name
    assert set(match.tensors) == set(adaptation.state_dict()) and source.name == adaptation.name
    adaptation.detach()
    assert before.differences(model) == []


def test_a_choice_of_layers_and_of_other_stacks(tmp_path):
    source = saved(tmp_path, "lora", layers=4)
    _, model = tiny(3)
    adaptation, match = port(tmp_path / "saved", model, REGISTRY, layers={"last": 2})
    assert match.layers == {"encoder": {1: 0, 2: 3}}
    own, there = adaptation.state_dict(), source.state_dict()
    assert torch.equal(own["low_rank.encoder.2.attention.query.down"], there["low_rank.encoder.3.attention.query.down"])


FAMILIES = [("roberta", "encoder", {}), ("gpt2", "decoder", {"n_embd": 32, "n_inner": 48})]


@pytest.mark.parametrize(("family", "stack", "size"), FAMILIES)
def test_slots_are_the_same_in_other_families(family, stack, size, tmp_path):
    _, model = tiny(3)
    source = platform.attach(model, "lora", slots=["attention.query", "ffn.down"])
    randomise(source)
    source.save(tmp_path)
    _, other = tiny(2, family=family, auto="AutoModelForSequenceClassification", **size)
    adaptation, match = port(tmp_path, other, REGISTRY)
    assert match.layers == {stack: {0: 0, 1: 2}}
    own, there = adaptation.state_dict(), source.state_dict()
    for slot in ("attention.query", "ffn.down"):
        for leaf in ("up", "down"):
            for here, layer in ((0, 0), (1, 2)):
                name = f"low_rank.encoder.{layer}.{slot}.{leaf}"
                assert torch.equal(own[f"low_rank.{stack}.{here}.{slot}.{leaf}"], there[name])


REFUSED = {
    "other widths": (lambda: tiny(2, hidden_size=64)[1], "low_rank.encoder.0.attention.query.down is (8, 64) here"),
    "another kind": (lambda: tiny(2, family="gpt2", auto="AutoModel")[1], "no head to train"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused_with_the_difference(case, tmp_path):
    make, reason = REFUSED[case]
    saved(tmp_path, "lora")
    model = make()
    before = Snapshot(model)
    with pytest.raises(CheckpointError) as caught:
        port(tmp_path / "saved", model, REGISTRY)
    assert reason in str(caught.value), str(caught.value)
    assert before.differences(model) == []


def test_layers_that_are_not_there_are_refused(tmp_path):
    _, source = tiny(4)
    adaptation = platform.attach(source, "lora", layers=[3])
    adaptation.save(tmp_path)
    _, model = tiny(2)
    with pytest.raises(CheckpointError, match=r"does not fit BertForSequenceClassification: .*out of range"):
        port(tmp_path, model, REGISTRY)


def test_a_head_of_other_labels_is_new(tmp_path):
    saved(tmp_path, "lora")
    _, model = tiny(2, num_labels=5)
    own = {n: p.clone() for n, p in model.named_parameters() if "classifier" in n}
    adaptation, match = port(tmp_path / "saved", model, REGISTRY)
    assert sorted(match.new) == ["base:classifier.bias", "base:classifier.weight"]
    assert torch.equal(adaptation.state_dict()["base:classifier.weight"], own["classifier.weight"])


def test_sampled_parameters_have_the_moments_of_each_tensor(tmp_path):
    saved(tmp_path, "vera", rank=64)
    _, model = tiny(2)
    adaptation, match = port(tmp_path / "saved", model, REGISTRY)
    before = {name: tensor.clone() for name, tensor in adaptation.state_dict().items()}
    fresh = platform.attach(tiny(2)[1], "vera", rank=64, train_head=True)
    sample(adaptation, match, 0)
    after = adaptation.state_dict()
    frozen = {name for name in after if torch.equal(before[name], after[name])}
    assert frozen == set(after) - {name for name, p in fresh.named_parameters() if p.requires_grad}
    for name in after.keys() - frozen:
        if before[name].numel() >= 64:
            spread = before[name].std()
            assert abs(after[name].mean() - before[name].mean()) < 4 * spread / before[name].numel() ** 0.5 + 1e-6
            assert 0.5 * spread < after[name].std() < 2 * spread
    first = {name: tensor.clone() for name, tensor in after.items()}
    for seed, same in ((0, True), (1, False)):
        adaptation.load_state_dict(before)
        sample(adaptation, match, seed)
        assert all(torch.equal(first[name], tensor) for name, tensor in adaptation.state_dict().items()) == same


def test_what_training_needs_must_be_there_to_start_from(make_run, root, tmp_path):
    model = AutoModelForSequenceClassification.from_pretrained(root / "bert", num_labels=2)
    adaptation = platform.attach(model, "prefix-tuning", hidden=8)
    pipeline = PipelineSpec.parse(read_json(make_run("polarity") / "pipeline.json"))
    for whole in (True, False):
        folder = adaptation.save(tmp_path / str(whole), for_training=whole)
        choice = {"name": "prefix-tuning", "options": {"hidden": 8}, "start": str(folder)}
        changed = PipelineSpec.parse({**pipeline.model_dump(), "techniques": [choice]})
        if whole:
            assert assemble(changed).adaptations[0].count(head=False) == adaptation.count()
        else:
            with pytest.raises(CheckpointError, match="without what only training needs"):
                assemble(changed)


@pytest.fixture(scope="module")
def deeper(root, make_backbone):
    """A backbone of the same width with other weights and more layers."""
    make_backbone(root / "deeper", "bert", AutoModel, num_hidden_layers=3)
    return root / "deeper"


def test_a_run_starts_from_a_saved_module(make_run, root):
    run = make_run("polarity")
    pipeline = PipelineSpec.parse(read_json(run / "pipeline.json"))
    start = pipeline.techniques[0].model_copy(update={"start": str(run / "adaptations" / "lora")})
    parts = assemble(pipeline.model_copy(update={"techniques": (start,), "seed": 5}))
    model = AutoModelForSequenceClassification.from_pretrained(root / "bert", num_labels=2).eval()
    platform.load(model, run / "adaptations" / "lora")
    encoded = parts.tokenizer(["good k", "bad"], padding=True, return_tensors="pt")
    parts.model.eval()
    assert torch.equal(parts.model(**encoded).logits, model(**encoded).logits)
    assert parts.adaptations[0].count() == read_json(run / "record.json")["trainable_parameters"]
    wrong = pipeline.techniques[0].model_copy(
        update={"start": str(run / "adaptations" / "lora"), "options": {"rank": 2}}
    )
    with pytest.raises(CheckpointError, match="shapes do not match"):
        assemble(pipeline.model_copy(update={"techniques": (wrong,)}))


def test_what_a_run_has_saved_scores_as_the_run_did(make_run):
    for task, technique, more in (("polarity", "lora", {}), ("names", "adapter", {"max_steps": 30})):
        run = make_run(task, technique, **more)
        record = RunRecord.parse(read_json(run / "record.json"))
        folders = [run / name for name in record.adaptations]
        assert score_saved(record.pipeline, folders, REGISTRY, Pool()) == pytest.approx(record.score, abs=1e-9)


def test_the_command_ports_and_compares(make_run, deeper, library, refarch, tmp_path):
    entry = adding.add(library, make_run("polarity"), name="polarity")
    code, out, err = refarch(
        "library", "port", "polarity", "--to", deeper, "--out", tmp_path / "out", "--steps", 2, "--seeds", 2, "--json"
    )
    assert code == 0, err
    found = json.loads(out)
    assert found["layers"] == [{"encoder": {"0": 0, "1": 1, "2": 1}}] and found["new"] == [[]]
    assert [row["start"] for row in found["starts"]] == ["ported", "sampled", "head", "scratch"]
    assert all(len(row["zero_shot"]) == len(row["trained"]) == 2 and not row["error"] for row in found["starts"])
    model = AutoModelForSequenceClassification.from_pretrained(deeper, num_labels=2).eval()
    (adaptation,) = (platform.load(model, folder) for folder in found["folders"])
    there = find("polarity", library)
    alone = platform.load(
        AutoModelForSequenceClassification.from_pretrained(deeper), tmp_path / "out" / "head" / "lora"
    )
    for name, tensor in alone.state_dict().items():  # LoRA starts with zeros, and nothing but the head is the entry's
        ported_too = torch.equal(tensor, adaptation.state_dict()[name])
        assert ported_too == name.startswith("base:classifier") and (ported_too or "up" not in name or not tensor.any())
    from refarch.engine import read

    tensors = read(there.folder / entry.parts[0].folder)[1]
    own = adaptation.state_dict()
    assert torch.equal(own["low_rank.encoder.2.attention.value.up"], tensors["low_rank.encoder.1.attention.value.up"])
    code, out, _ = refarch("library", "port", "polarity", "--to", deeper, "--out", tmp_path / "out", "--steps", 2)
    assert code == 0 and "encoder layers: 0 from 0, 1 from 1, 2 from 1" in out and "AFTER TRAINING" in out
    code, out, _ = refarch("library", "port", "polarity", "--to", deeper, "--out", tmp_path / "o", "--only")
    assert code == 0 and "tensors ported" in out and "ZERO-SHOT" not in out
    code, _, err = refarch("library", "port", "polarity", "--to", tmp_path / "none")
    assert code == 2 and "there is no folder" in err
