"""peft's files: damaged, hostile and foreign ones are refused and leave the model alone; hub ids; what engines read."""

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from refarch_interchange import load_peft, save_peft
from safetensors.torch import load_file, save_file

import refarch
from refarch.errors import CheckpointError, RefarchError, SlotError, UsageError
from refarch.testing import all_tiny, outputs, randomise

from .support import batch_of, close, tiny_of, trained_by_peft


@pytest.fixture
def lora(tmp_path: Path) -> Path:
    config = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"])
    return trained_by_peft(tiny_of("llama"), config, tmp_path / "lora")


def _refused(folder: Path, named: str, kind: type[Exception] = CheckpointError) -> str:
    model = tiny_of("llama").model()
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    with pytest.raises(kind, match=named) as raised:
        load_peft(model, folder)
    assert refarch.adaptations(model) == ()
    after = dict(model.named_parameters())
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    return str(raised.value)


def _change(folder: Path, **tensors: torch.Tensor | None) -> None:
    path = folder / "adapter_model.safetensors"
    values = load_file(path) | tensors
    save_file({name: value for name, value in values.items() if value is not None}, path)


QUERY = "base_model.model.model.layers.0.self_attn.q_proj"


def test_a_pickle_is_refused_with_the_reason(lora: Path) -> None:
    torch.save(load_file(lora / "adapter_model.safetensors"), lora / "adapter_model.bin")
    (lora / "adapter_model.safetensors").unlink()
    assert "safetensors" in _refused(lora, "pickle")


def test_damaged_files_are_refused(lora: Path) -> None:
    path = lora / "adapter_model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    _refused(lora, "no valid safetensors")
    path.write_bytes(whole)
    _change(lora, **{f"{QUERY}.lora_A.weight": torch.full((2, 32), float("nan"))})
    _refused(lora, "not finite")


def test_a_pickle_in_disguise_and_a_bomb_are_refused(lora: Path) -> None:
    path = lora / "adapter_model.safetensors"
    whole = path.read_bytes()
    torch.save({"a": torch.ones(2)}, path)
    _refused(lora, "no valid safetensors")
    path.write_bytes(whole)
    (lora / "adapter_config.json").write_text("[" * 200_000 + "]" * 200_000)
    _refused(lora, "nested too deeply")
    (lora / "adapter_config.json").write_text('{"peft_type": "LORA", "r": "' + "9" * 2**24 + '"}')
    _refused(lora, "at most")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"target_modules": r"(.*)*(.*)*x"}, "very long"),
        ({"target_modules": ".*a" * 9}, "very long"),
        ({"target_modules": "("}, "no pattern"),
        ({"rank_pattern": {"(q+)+": 2}}, "very long"),
        ({"exclude_modules": "a" * 2000}, "very long"),
    ],
)
def test_patterns_that_could_take_forever_are_refused(lora: Path, changes: dict[str, Any], said: str) -> None:
    settings = json.loads((lora / "adapter_config.json").read_text())
    (lora / "adapter_config.json").write_text(json.dumps({**settings, **changes}))
    _refused(lora, said)


def test_tensors_that_are_missing_or_too_many_are_refused(lora: Path, tmp_path: Path) -> None:
    for number, (change, named) in enumerate(
        [
            ({f"{QUERY}.lora_B.weight": None}, "lora_B.weight is missing"),
            ({f"{QUERY}.lora_A.weight": None, f"{QUERY}.lora_B.weight": None}, "names model.layers.0.self_attn.q_proj"),
            ({f"{QUERY}.lora_A.weight": torch.ones(3, 32)}, r"shape \(3, 32\)"),
            ({f"{QUERY}.lora_A.weight": torch.ones(2, 31)}, r"shape \(2, 31\)"),
            ({f"{QUERY.replace('q_proj', 'k_proj')}.lora_A.weight": torch.ones(2, 32)}, "does not name model.layers.0"),
            ({"base_model.model.model.layers.0.unknown.weight": torch.ones(2)}, "to no parameter"),
            ({"something_else": torch.ones(2)}, "nothing is known of tensor 'something_else'"),
        ]
    ):
        folder = tmp_path / str(number)
        shutil.copytree(lora, folder)
        _change(folder, **change)
        _refused(folder, named)


def test_other_bases_and_places_are_refused(lora: Path, tmp_path: Path) -> None:
    with pytest.raises(RefarchError, match=r"model\.layers\.0\.self_attn\.q_proj"):
        load_peft(tiny_of("bert").model(), lora)
    head = peft.LoraConfig(r=2, target_modules=["lm_head"])
    _refused(trained_by_peft(tiny_of("llama"), head, tmp_path / "head"), "lm_head, which is no slot", SlotError)
    table = peft.LoraConfig(r=2, target_modules=["embed_tokens"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trained_by_peft(tiny_of("llama"), table, tmp_path / "table")
    _refused(tmp_path / "table", "embed_tokens", RefarchError)


def test_configurations_that_are_none_are_refused(lora: Path, tmp_path: Path) -> None:
    (lora / "adapter_config.json").write_text("[]")
    _refused(lora, "no peft_type")
    (lora / "adapter_config.json").write_text("{")
    _refused(lora, "not valid JSON")
    (lora / "adapter_config.json").unlink()
    _refused(lora, "adapter_config.json")


def test_a_hub_id_that_cannot_be_reached_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    _refused(Path("nobody/no-such-adapter"), "no hub repository", UsageError)
    _refused(Path("/no/such/folder/at/all"), "no folder", UsageError)


def test_a_hub_repository_is_fetched(lora: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {}

    def fetch(repository: str, **choices: Any) -> str:
        asked.update(choices, repository=repository)
        return str(lora)

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    adaptation = load_peft(tiny_of("llama").model(), "someone/lora", revision="v1")
    assert adaptation.technique.name == "lora"
    assert asked["repository"] == "someone/lora" and asked["revision"] == "v1"
    assert set(asked["allow_patterns"]) == {"adapter_config.json", "adapter_model.safetensors"}
    (lora / "adapter_model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"holds no adapter_model\.safetensors"):
        load_peft(tiny_of("llama").model(), "someone/lora")


def test_it_stands_beside_what_is_attached_already(lora: Path) -> None:
    tiny = tiny_of("llama")
    model, batch = tiny.model(), batch_of(tiny)
    first = load_peft(model, lora)
    alone = outputs(model, batch)
    second = refarch.attach(model, "ia3")
    randomise(second)
    third = load_peft(model, lora, name="again")
    assert [item.name for item in refarch.adaptations(model)] == ["lora", "ia3", "again"]
    third.detach()
    second.detach()
    close(outputs(model, batch), alone)
    first.merge()
    close(outputs(model, batch), alone)


def test_serving_engines_find_their_names(tmp_path: Path) -> None:
    """What vLLM and others read of a LoRA: names of tensors, a list of module names, rank and scale."""
    for tiny in all_tiny(["llama"])[:1]:
        adaptation = refarch.attach(tiny.model(), "lora", rank=2, alpha=6, slots=["attention.query", "ffn.up"])
        save_peft(adaptation, tmp_path, base="someone/base")
    written = json.loads((tmp_path / "adapter_config.json").read_text())
    assert written == {
        "alpha_pattern": {},
        "base_model_name_or_path": "someone/base",
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_alpha": 6,
        "lora_dropout": 0,
        "peft_type": "LORA",
        "r": 2,
        "rank_pattern": {},
        "target_modules": ["q_proj", "up_proj"],
        "task_type": None,
        "use_dora": False,
        "use_rslora": False,
    }
    names = load_file(tmp_path / "adapter_model.safetensors").keys()
    modules = [f"self_attn.q_proj.lora_{x}" for x in "AB"] + [f"mlp.up_proj.lora_{x}" for x in "AB"]
    assert names == {f"base_model.model.model.layers.{i}.{module}.weight" for i in range(2) for module in modules}
