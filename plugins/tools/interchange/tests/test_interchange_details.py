"""What goes along with a technique: heads, biases, patterns, layers, parts of fused projections; and refusals."""

import json
import warnings
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from refarch_interchange import Difference, load_peft, save_peft
from safetensors.torch import load_file

import refarch
from refarch.errors import CompositionError, RefarchError, SpecError
from refarch.testing import outputs, randomise

from .support import batch_of, changed, close, tiny_of, trained_by_peft, with_peft


def both_ways(family: str, config: Any, folder: Path, head: str = "LM") -> refarch.Adaptation:
    """peft -> refarch -> peft, with equal outputs; the adaptation in the middle."""
    tiny = tiny_of(family, head)
    batch = batch_of(tiny)
    trained_by_peft(tiny, config, folder / "theirs")
    before = outputs(with_peft(tiny, folder / "theirs"), batch)
    changed(before, tiny, batch)
    model = tiny.model()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Difference)
        adaptation = load_peft(model, folder / "theirs", trainable=True)
        save_peft(adaptation, folder / "ours")
    adaptation.save(folder / "own")
    own = tiny.model()
    refarch.load(own, folder / "own")
    for model_of_ours in (model, own):
        close(outputs(model_of_ours, batch), before)
    close(outputs(with_peft(tiny, folder / "ours"), batch), before)
    return adaptation


# settings ----------------------------------------------------------------------------------------------------------


def test_ranks_and_scales_by_pattern(tmp_path: Path) -> None:
    config = peft.LoraConfig(
        r=4, target_modules=["q_proj", "v_proj", "up_proj"], rank_pattern={"v_proj": 2, "layers.0.mlp.up_proj": 3},
        alpha_pattern={"v_proj": 5}, use_rslora=True,
    )  # fmt: skip
    adaptation = both_ways("llama", config, tmp_path)
    ranks = {address: len(function.down) for address, function in adaptation.functions()}
    assert sorted(set(ranks.values())) == [2, 3, 4]
    assert {rank for address, rank in ranks.items() if address.endswith("attention.value")} == {2}
    assert adaptation.technique.options["rank"] == 4 and adaptation.technique.options["rank_stabilised"] is True
    written = json.loads((tmp_path / "ours" / "adapter_config.json").read_text())
    assert written["r"] == 4 and set(written["rank_pattern"].values()) == {2, 3}
    assert written["target_modules"] == ["q_proj", "up_proj", "v_proj"]


@pytest.mark.parametrize(
    ("choice", "paths"),
    [
        ({"target_modules": ["q_proj"], "layers_to_transform": [1]}, {1}),
        ({"target_modules": ["q_proj"], "layers_to_transform": 0, "layers_pattern": "layers"}, {0}),
        ({"target_modules": r".*layers\.0\..*q_proj"}, {0}),
        ({"target_modules": ["q_proj"], "exclude_modules": ["layers.0.self_attn.q_proj"]}, {1}),
        ({"target_modules": "all-linear", "exclude_modules": r".*(mlp|[kvo]_proj).*"}, {0, 1}),
        ({"target_modules": "all-linear"}, {0, 1}),
    ],
)
def test_targets_in_every_form(choice: dict[str, Any], paths: set[int], tmp_path: Path) -> None:
    adaptation = both_ways("llama", peft.LoraConfig(r=2, **choice), tmp_path)
    assert {item.site.shape.layer for item in adaptation.insertions} == paths
    assert len(adaptation.technique.technique.modules) == 1
    slots = {item.site.ref.slot.name for item in adaptation.insertions}
    assert slots == {"attention.query"} or choice == {"target_modules": "all-linear"}


def test_stacks_and_layers_of_an_encoder_decoder(tmp_path: Path) -> None:
    tiny = tiny_of("t5")
    model, batch = tiny.model(), batch_of(tiny)
    choice = {"slots": ["attention.query", "cross_attention.value?"], "layers": {"last": 1, "stacks": ["decoder"]}}
    adaptation = refarch.attach(model, "lora", rank=2, **choice)
    randomise(adaptation)
    save_peft(adaptation, tmp_path)
    written = json.loads((tmp_path / "adapter_config.json").read_text())
    assert written["target_modules"] == ["EncDecAttention.v", "decoder.block.1.layer.0.SelfAttention.q"] or (
        len(written["target_modules"]) == 2
    )
    again = tiny.model()
    loaded = load_peft(again, tmp_path)
    assert loaded.slot_map == adaptation.slot_map
    close(outputs(again, batch), outputs(model, batch))
    close(outputs(with_peft(tiny, tmp_path), batch), outputs(model, batch))


OFT_BY_NUMBER = peft.OFTConfig(
    r=4, oft_block_size=0, target_modules=["q_proj", "down_proj"], use_cayley_neumann=False
)  # fmt: skip
DORA_STABILISED = peft.LoraConfig(
    r=4, lora_alpha=3, use_dora=True, use_rslora=True, target_modules=["q_proj", "v_proj"], rank_pattern={"v_proj": 2}
)
FOURIER_PATTERN = peft.FourierFTConfig(
    n_frequency=20, n_frequency_pattern={"value": 9}, target_modules=["query", "value"]
)  # fmt: skip


@pytest.mark.parametrize(
    ("config", "family"),
    [
        (peft.LoHaConfig(r=3, target_modules=["query", "value"], rank_pattern={"value": 2}, rank_dropout=0.1), "bert"),
        (peft.LoKrConfig(r=2, target_modules=["query", "value"], alpha_pattern={"value": 3}), "bert"),
        (OFT_BY_NUMBER, "llama"),
        (DORA_STABILISED, "llama"),
        (peft.BOFTConfig(boft_block_size=0, boft_block_num=8, target_modules=["q_proj", "down_proj"]), "llama"),
        (peft.FourierFTConfig(n_frequency=20, random_loc_seed=5, target_modules=["query"]), "bert"),
        (FOURIER_PATTERN, "bert"),
        (peft.VeraConfig(r=4, save_projection=False, projection_prng_key=7, target_modules=["query", "wi"]), "bert"),
    ],
    ids=["loha", "lokr", "oft-by-number", "dora-rslora", "boft-by-number", "fourierft", "fourierft-pattern", "vera"],
)  # fmt: skip
def test_further_settings(config: Any, family: str, tmp_path: Path) -> None:
    if config.peft_type == "VERA":
        config.target_modules = {"query", "intermediate.dense"}
    both_ways(family, config, tmp_path)


def test_settings_that_differ_where_peft_has_one_are_refused(tmp_path: Path) -> None:
    config = peft.HRAConfig(r=4, target_modules=["q_proj", "down_proj"])
    trained_by_peft(tiny_of("llama"), config, tmp_path)
    adaptation = load_peft(tiny_of("llama").model(), tmp_path)
    technique = adaptation.technique.technique
    (module,) = technique.modules
    other = module.model_copy(update={"name": "other", "workspace": ("attention.key",), "arguments": {"rank": 2}})
    spec = technique.model_copy(update={"modules": (module, other)})
    adaptation = refarch.attach(tiny_of("llama").model(), spec, rank=4)
    with pytest.raises(CompositionError, match=r"different values of r \(4, but 2 at model.layers.0.self_attn.k_proj"):
        save_peft(adaptation, tmp_path / "ours")


# beside the technique ----------------------------------------------------------------------------------------------


def test_a_head_that_trained_along(tmp_path: Path) -> None:
    config = peft.LoraConfig(r=2, target_modules=["query"], task_type="SEQ_CLS")
    adaptation = both_ways("bert", config, tmp_path, "SequenceClassification")
    assert adaptation.train_head and set(adaptation.copies) == {"classifier.weight", "classifier.bias"}
    assert json.loads((tmp_path / "ours" / "adapter_config.json").read_text())["modules_to_save"] == ["classifier"]


@pytest.mark.parametrize(("technique", "family"), [("lora", "bert"), ("ln-tuning", "bert"), ("prompt-tuning", "llama")])
@pytest.mark.parametrize("train_head", [False, True])
def test_a_classifier_from_refarch_to_peft_and_back(
    technique: str, family: str, train_head: bool, tmp_path: Path
) -> None:
    tiny = tiny_of(family, "SequenceClassification")
    model, batch = tiny.model(), batch_of(tiny)
    adaptation = refarch.attach(model, technique, train_head=train_head)
    randomise(adaptation)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Difference)
        save_peft(adaptation, tmp_path)
    wanted = outputs(model, batch)
    close(outputs(with_peft(tiny, tmp_path), batch), wanted)
    again = tiny.model()
    load_peft(again, tmp_path)
    close(outputs(again, batch), wanted)


@pytest.mark.parametrize("bias", ["all", "lora_only"])
def test_biases_that_trained_along(bias: str, tmp_path: Path) -> None:
    adaptation = both_ways("bert", peft.LoraConfig(r=2, target_modules=["query"], bias=bias), tmp_path)
    assert len(adaptation.copies) == (2 if bias == "lora_only" else 20)
    assert json.loads((tmp_path / "ours" / "adapter_config.json").read_text())["bias"] == bias


def test_modules_that_trained_along(tmp_path: Path) -> None:
    saved = ["lm_head", "layers.1.post_attention_layernorm", "layers.0.mlp.up_proj"]
    adaptation = both_ways("llama", peft.LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=saved), tmp_path)
    assert adaptation.train_head and len(adaptation.copies) == 3
    adaptation.detach()
    adaptation = both_ways("llama", peft.IA3Config(
        target_modules=["k_proj"], feedforward_modules=[], modules_to_save=["lm_head"]), tmp_path / "ia3")  # fmt: skip
    assert adaptation.train_head


def test_a_tied_head_is_refused_both_ways(tmp_path: Path) -> None:
    tiny = tiny_of("gpt2")
    config = peft.LoraConfig(r=2, target_modules=["c_fc"], modules_to_save=["lm_head"], fan_in_fan_out=True)
    trained_by_peft(tiny, config, tmp_path)
    with pytest.raises(CompositionError, match="tied"):
        load_peft(tiny.model(), tmp_path)
    adaptation = refarch.attach(tiny.model(), "lora", slots=["ffn.up"], train_head=True)
    with pytest.raises(CompositionError, match="shares"):
        save_peft(adaptation, tmp_path / "ours")


# parts of fused projections ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "config",
    [
        peft.LoraConfig(r=3, target_modules=["query_key_value"]),
        peft.LoraConfig(r=3, target_modules=["query_key_value"], use_dora=True),
        peft.AdaLoraConfig(init_r=3, total_step=9, target_modules=["query_key_value"]),
        peft.IA3Config(target_modules=["query_key_value", "dense_4h_to_h"], feedforward_modules=["dense_4h_to_h"]),
        peft.LoHaConfig(r=2, target_modules=["query_key_value"]),
        peft.OFTConfig(r=0, oft_block_size=8, target_modules=["query_key_value"], use_cayley_neumann=False),
        peft.BOFTConfig(boft_block_size=8, target_modules=["query_key_value"]),
        peft.HRAConfig(r=4, target_modules=["query_key_value"]),
        peft.BeftConfig(target_modules=["query_key_value"]),
    ],
    ids=lambda config: config.peft_type + ("-DORA" if getattr(config, "use_dora", False) else ""),
)
def test_a_fused_projection_of_linear_layers(config: Any, tmp_path: Path) -> None:
    """GPT-NeoX has queries, keys and values of each head side by side."""
    adaptation = both_ways("gpt-neox", config, tmp_path)
    theirs, ours = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("theirs", "ours"))
    assert theirs.keys() == ours.keys()
    assert {name: t.shape for name, t in theirs.items()} == {name: t.shape for name, t in ours.items()}
    slots = {str(item.site.ref) for item in adaptation.insertions} - {"ffn.down:input"}
    assert slots == ({"attention.query", "attention.key", "attention.value"} if adaptation.insertions else set())


@pytest.mark.parametrize("technique", ["lora", "dora", "adalora", "ia3"])
@pytest.mark.parametrize("family", ["gpt2", "gpt-neox"])
def test_parts_that_were_trained_apart_become_one_module(technique: str, family: str, tmp_path: Path) -> None:
    tiny = tiny_of(family)
    model, batch = tiny.model(), batch_of(tiny)
    options: dict[str, Any] = {} if technique == "ia3" else {"rank": 3, "slots": ["attention.key", "attention.value"]}
    adaptation = refarch.attach(model, technique, **options)
    randomise(adaptation)
    save_peft(adaptation, tmp_path / "one")
    wanted = outputs(model, batch)
    close(outputs(with_peft(tiny, tmp_path / "one"), batch), wanted)
    again = tiny.model()
    with pytest.warns(Difference, match="trained apart"):
        loaded = load_peft(again, tmp_path / "one")
    close(outputs(again, batch), wanted)
    save_peft(loaded, tmp_path / "two")  # which has the same A at all parts, so the rank does not grow again
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_what_cannot_be_taken_apart_is_refused(tmp_path: Path) -> None:
    tiny = tiny_of("gpt-neox")
    trained_by_peft(tiny, peft.LoKrConfig(r=2, target_modules=["query_key_value"]), tmp_path)
    with pytest.raises(SpecError, match=r"LOKR at gpt_neox\.layers\.0\.attention\.query_key_value"):
        load_peft(tiny.model(), tmp_path)
    for technique, options in (("oft", {"slots": ["attention.query"]}), ("fourierft", {"coefficients": 9})):
        adaptation = refarch.attach(tiny.model(), technique, **options)
        with pytest.raises(CompositionError, match="one projection for 3 slots"):
            save_peft(adaptation, tmp_path / technique)
    adaptation = refarch.attach(tiny.model(), "hra", slots=["attention.query", "attention.key", "attention.value"])
    randomise(adaptation)
    with pytest.raises(CompositionError, match="one module"):
        save_peft(adaptation, tmp_path / "hra")


# techniques' own ---------------------------------------------------------------------------------------------------


def test_adalora_with_the_triplets_that_are_left(tmp_path: Path) -> None:
    tiny = tiny_of("bert")
    model, batch = tiny.model(), batch_of(tiny)
    adaptation = refarch.attach(model, "adalora", rank=4, target_rank=2)
    randomise(adaptation)
    with torch.no_grad():
        for number, (_, function) in enumerate(adaptation.functions()):
            function.keep(torch.tensor([float(place <= number % 5 - 1) for place in range(4)]))
    wanted = outputs(model, batch)
    save_peft(adaptation, tmp_path)
    ranks = {len(t) for name, t in load_file(tmp_path / "adapter_model.safetensors").items() if name.endswith("lora_E")}
    assert ranks == {0, 1, 2, 3, 4}
    close(outputs(with_peft(tiny, tmp_path), batch), wanted)
    again = tiny.model()
    loaded = load_peft(again, tmp_path)
    close(outputs(again, batch), wanted)
    loaded.save(tmp_path / "own")
    once_more = tiny.model()
    refarch.load(once_more, tmp_path / "own")
    close(outputs(once_more, batch), wanted)


def test_adalora_pruned_by_peft(tmp_path: Path) -> None:
    tiny = tiny_of("bert")
    batch = batch_of(tiny)
    config = peft.AdaLoraConfig(init_r=4, target_r=2, total_step=8, tfinal=2, target_modules=["query", "value"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wrapped = peft.get_peft_model(tiny.model(), config)
        with torch.no_grad():  # the first layer matters more: it keeps values that the others lose
            for name, values in wrapped.named_parameters():
                if "layer.0." in name and "lora_E" in name:
                    values.mul_(100)
        optimizer = torch.optim.Adam([p for p in wrapped.parameters() if p.requires_grad], lr=1e-2)
        for step in range(1, 9):
            tiny.loss(wrapped.base_model, batch).backward()
            optimizer.step()
            wrapped.base_model.update_and_allocate(step)
            optimizer.zero_grad()
        wrapped.save_pretrained(str(tmp_path))
    before = outputs(with_peft(tiny, tmp_path), batch)
    model = tiny.model()
    adaptation = load_peft(model, tmp_path)
    assert len({len(function.values) for _, function in adaptation.functions()}) > 1
    close(outputs(model, batch), before)


def test_the_series_of_pefts_oft_is_measured_and_told(tmp_path: Path) -> None:
    tiny = tiny_of("llama")
    trained_by_peft(tiny, peft.OFTConfig(r=0, oft_block_size=4, target_modules=["q_proj"]), tmp_path)
    with pytest.warns(Difference, match=r"series of 5 terms.*differ by up to") as told:
        load_peft(tiny.model(), tmp_path)
    error = float(str(told[0].message).rsplit(" ", 1)[1])
    weights = load_file(tmp_path / "adapter_model.safetensors")
    worst = 0.0
    for angles in weights.values():
        row, column = torch.triu_indices(4, 4, 1)
        skew = torch.zeros(len(angles), 4, 4)
        skew[:, row, column] = angles
        skew = skew - skew.mT
        eye = torch.eye(4)
        exact = (eye - skew) @ torch.linalg.inv(eye + skew)
        module = peft.tuners.oft.layer.OFTRotationModule(len(angles), 6, 4, 32)
        series = module._cayley_batch(angles, 4)
        worst = max(worst, float((series.mT - exact).abs().max()))
    assert error == pytest.approx(worst, rel=0.06)


def test_matrices_of_vera_that_are_no_corners_are_refused(tmp_path: Path) -> None:
    adaptation = refarch.attach(tiny_of("bert").model(), "vera", rank=4, slots=["ffn.up", "ffn.down"])
    with pytest.raises(CompositionError, match="one frozen pair"):
        save_peft(adaptation, tmp_path)


def test_entries_that_no_seed_gives_are_refused(tmp_path: Path) -> None:
    adaptation = refarch.attach(tiny_of("bert").model(), "fourierft", coefficients=9)
    function = next(function for _, function in adaptation.functions())
    function.entries.data.copy_(torch.arange(9))
    with pytest.raises(CompositionError, match="entry_seed=2024"):
        save_peft(adaptation, tmp_path)


@pytest.mark.parametrize(
    ("technique", "options", "named"),
    [
        ("adapter", {}, "technique 'adapter'"),
        ("molora", {"experts": 2}, "technique 'molora'"),
        ("head-only", {}, "technique 'head-only'"),
        ("bitfit", {}, "a bias of a LayerNorm"),
        ("prefix-tuning", {"layers": [0]}, "all 2 layers"),
        ("adaption-prompt", {"layers": [0]}, "topmost layers"),
        ("prompt-tuning", {}, "the state of the first prompt token"),
        ("p-tuning", {}, "the state of the first prompt token"),
        ("bitfit", {"slots": ["attention.output", "attention.norm"]}, "a bias of a LayerNorm"),
    ],
)
def test_what_peft_has_not_is_refused(technique: str, options: dict[str, Any], named: str, tmp_path: Path) -> None:
    adaptation = refarch.attach(tiny_of("bert", "SequenceClassification").model(), technique, **options)
    with pytest.raises(RefarchError, match=named):
        save_peft(adaptation, tmp_path)
    assert not list(tmp_path.iterdir())


def test_options_without_a_word_in_pefts_files_are_told(tmp_path: Path) -> None:
    adaptation = refarch.attach(tiny_of("llama").model(), "lora", preset="lora+", rank=2)
    with pytest.warns(Difference, match="learning_rate_ratio=16"):
        save_peft(adaptation, tmp_path)
