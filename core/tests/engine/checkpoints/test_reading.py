"""Checkpoints that were made to do harm, and checkpoints of older formats."""

import hashlib
import json
import math
import os
import pickle
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import engine_models as em
import pytest
import torch
from safetensors.torch import load_file, save_file

import refarch
from refarch.engine.checkpoints import description, format as checkpoint
from refarch.errors import CheckpointError, RefarchError
from refarch.testing.case import Snapshot, randomise

FIXTURE = Path(__file__).parent / "fixtures" / "format-1"


class _Bomb:
    def __reduce__(self) -> Any:
        return exec, ("import sys; sys.modules['refarch_bomb'] = sys",)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    adaptation = refarch.attach(em.tiny("bert"), "lora", rank=3)
    randomise(adaptation)
    return adaptation.save(tmp_path_factory.mktemp("made"))


@pytest.fixture
def saved(made: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "saved"
    folder.mkdir()
    for file in made.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def _tensors(folder: Path) -> Path:
    return next(folder.glob("*.safetensors"))


def _json(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    path = folder / "adaptation.json"
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def _module(folder: Path, **fields: Any) -> None:
    _json(folder, lambda d: d["technique"]["technique"]["modules"][0].update(fields))


def _bytes(folder: Path, data: bytes) -> None:
    """Other bytes, with the right digest."""
    _tensors(folder).write_bytes(data)
    _json(folder, lambda d: d.update(sha256=hashlib.sha256(data).hexdigest()))


def _zip(folder: Path) -> None:
    torch.save({"x": _Bomb()}, folder / "x")
    _bytes(folder, (folder / "x").read_bytes())


def _retyped(folder: Path, dtype: torch.dtype, value: float = 0.0) -> None:
    tensors = {
        name: torch.full(tensor.shape, value, dtype=torch.float64).to(dtype)
        for name, tensor in load_file(_tensors(folder)).items()
    }
    save_file(tensors, folder / "x")
    _bytes(folder, (folder / "x").read_bytes())


def _sparse(folder: Path) -> None:
    with open(_tensors(folder), "ab") as file:
        file.truncate(2**38)


def _link(folder: Path, name: str) -> None:
    path = next(folder.glob(name))
    other = folder.parent / "elsewhere"
    path.rename(other)
    path.symlink_to(other)


def _pipe(folder: Path, name: str) -> None:
    path = next(folder.glob(name))
    path.unlink()
    os.mkfifo(path)


def _device(folder: Path) -> None:
    (folder / "adaptation.json").unlink()
    (folder / "adaptation.json").symlink_to("/dev/zero")


def _replace(folder: Path, old: str, new: str) -> None:
    path = folder / "adaptation.json"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def _deep(levels: int) -> str:
    return '{"a": ' * levels + "1" + "}" * levels


HOSTILE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "pickle": (lambda f: _bytes(f, pickle.dumps(_Bomb())), "no valid safetensors file: it is a pickle"),
    "old pickle": (lambda f: _bytes(f, pickle.dumps(_Bomb(), protocol=0)), "no valid safetensors"),
    "torch.save": (_zip, "it is a zip archive, as torch.save writes"),
    "header longer than the file": (lambda f: _bytes(f, struct.pack("<Q", 2**24 - 8) + b"{}"), "no valid safetensors"),
    "header bomb": (lambda f: _bytes(f, struct.pack("<Q", 2**62) + b"{}"), "header would be 4,611,686"),
    "header nested too deeply": (lambda f: _bytes(f, struct.pack("<Q", 10**6) + b"[" * 10**6), "no valid safetensors"),
    "huge sparse file": (_sparse, "bytes long, and what it should hold"),
    "link to other tensors": (lambda f: _link(f, "*.safetensors"), "a link that leads out of the folder"),
    "link to other json": (lambda f: _link(f, "*.json"), "a link that leads out of the folder"),
    "endless device": (_device, "holds no adaptation.json"),
    "pipe for json": (lambda f: _pipe(f, "*.json"), "holds no adaptation.json"),
    "pipe for tensors": (lambda f: _pipe(f, "*.safetensors"), "no ordinary file"),
    "name with a zero byte": (lambda f: _json(f, lambda d: d.update(tensors="a\0b")), "leads out of the folder"),
    "name with half a character": (lambda f: _json(f, lambda d: d.update(tensors="\ud800")), "leads out of the folder"),
    "name of a folder": (lambda f: _json(f, lambda d: d.update(tensors="..")), "leads out of the folder"),
    "nested in an option": (lambda f: _replace(f, '"rank": 3', f'"rank": {_deep(500)}'), "nested more than 64 deep"),
    "huge whole number": (lambda f: _replace(f, '"rank": 3', f'"rank": {10**400}'), "out of range"),
    "absurdly long number": (lambda f: _replace(f, '"rank": 3', f'"rank": {"9" * 100_000}'), "not valid JSON"),
    "NaN in json": (lambda f: _replace(f, '"rank": 3', '"rank": NaN'), "out of range"),
    "number that overflows": (lambda f: _replace(f, '"rank": 3', '"rank": 1e999'), "out of range"),
    "seed beyond torch's": (lambda f: _json(f, lambda d: d.update(seed=-(2**63) - 1)), "cannot be built"),
    "more memory than there is": (lambda f: _json(f, lambda d: d["technique"]["options"].update(rank=10**9)), "rank"),
    "a function's argument of another kind": (lambda f: _module(f, arguments={"rank": [1]}), "cannot be built"),
    "code by way of a schedule": (lambda f: _module(f, schedule="evil_module:Payload"), "evil_module:Payload, which"),
    "no format": (lambda f: _json(f, lambda d: d.pop("format")), "no checkpoint format that there was: None"),
    "format of another kind": (lambda f: _json(f, lambda d: d.update(format=[1])), "no checkpoint format"),
    "format before the first": (lambda f: _json(f, lambda d: d.update(format=0)), "no checkpoint format"),
    "eight bits": (lambda f: _retyped(f, torch.float8_e4m3fn), "of a kind that no adaptation has"),
    "finite only in double precision": (lambda f: _retyped(f, torch.float64, 1e300), "not finite"),
    "negative shapes": (lambda f: _json(f, lambda d: d["shapes"].update(x=[-1, 5])), "only saved: x"),
}  # fmt: skip


@pytest.mark.parametrize("kind", HOSTILE)
def test_harm_is_refused_and_leaves_the_model_untouched(
    kind: str, saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "evil_module.py").write_text("raise SystemExit('imported')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    damage, reason = HOSTILE[kind]
    damage(saved)
    model = em.tiny("bert")
    before, began = Snapshot(model), time.perf_counter()
    with pytest.raises(RefarchError, match=reason) as caught:
        refarch.load(model, saved)
    assert before.differences(model) == []
    assert time.perf_counter() - began < 10 and len(str(caught.value)) < 1_000
    assert "refarch_bomb" not in sys.modules and "evil_module" not in sys.modules


def test_options_that_ask_for_all_memory_are_refused_before_any_is_taken(tmp_path: Path) -> None:
    refarch.attach(em.tiny("bert"), "adapter").save(tmp_path)
    model = em.tiny("bert")
    before = Snapshot(model)
    for width, numbers in ((10**9, "130,000,000,064"), (2_000, "260,064")):
        _json(tmp_path, lambda d, width=width: d["technique"]["options"].update(bottleneck=width))
        with pytest.raises(CheckpointError, match=f"would take {numbers} numbers in its first layer"):
            refarch.load(model, tmp_path)
        assert before.differences(model) == []


@pytest.mark.parametrize("family", ["t5", "llama"])
def test_slots_that_a_backbone_does_not_have_are_no_reason_to_refuse(family: str, tmp_path: Path) -> None:
    adaptation = refarch.attach(em.tiny(family), "ln-tuning")  # its first slot is not there
    adaptation.save(tmp_path)
    assert refarch.load(em.tiny(family), tmp_path).slot_map == adaptation.slot_map


def test_a_link_inside_the_folder_is_followed(saved: Path) -> None:
    path = _tensors(saved)
    path.rename(saved / "blob")
    path.symlink_to("blob")
    refarch.load(em.tiny("bert"), saved)


def _plain(model: Any) -> Any:
    """Values that are exact on every machine: whole numbers divided by a power of two."""
    with torch.no_grad():
        for number, (name, parameter) in enumerate(model.named_parameters()):
            values = (torch.arange(parameter.numel()) * 7919 + number * 104729) % 2001 - 1000
            parameter.copy_((values / 4096.0 + ("LayerNorm.weight" in name)).reshape(parameter.shape))
    return model


def test_format_1_still_loads_to_the_same_logits(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    assert json.loads((FIXTURE / "adaptation.json").read_text())["format"] == 1 < checkpoint.FORMAT
    model, base = _plain(em.tiny("bert")), _plain(em.tiny("bert"))
    with caplog.at_level("INFO", logger="refarch"):
        adaptation = refarch.load(model, FIXTURE)
    assert "format 1 is read as 2: it does not say with which head" in caplog.text
    ids = torch.tensor([[2, 5, 7, 11, 3], [2, 17, 23, 3, 0]])
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 1, 0]])
    expected = torch.tensor(json.loads((FIXTURE / "logits.json").read_text()))
    torch.testing.assert_close(model(input_ids=ids, attention_mask=mask).logits, expected, rtol=1e-5, atol=1e-5)
    assert (base(input_ids=ids, attention_mask=mask).logits - expected).abs().max() > 0.1
    adaptation.save(tmp_path)  # and is saved in today's format
    again = description.read_description(tmp_path)
    assert again.format == checkpoint.FORMAT and again.auto_class == "AutoModelForSequenceClassification"


@pytest.mark.parametrize(
    ("family", "auto", "labels"),
    [
        ("bert", "AutoModelForTokenClassification", {0: "LABEL_0", 1: "LABEL_1"}),
        ("gpt2", "AutoModelForCausalLM", {}),
        ("t5", "AutoModelForSeq2SeqLM", {}),
    ],
)
def test_a_checkpoint_says_how_its_base_is_loaded_and_what_made_it(
    family: str, auto: str, labels: dict[int, str], tmp_path: Path
) -> None:
    refarch.attach(em.tiny(family, auto), "mam").save(tmp_path)
    found = description.read_description(tmp_path)
    assert found.auto_class == auto and found.labels == labels
    assert {"refarch", "refarch-mam", f"refarch-{family}", "refarch-adapter", "torch", "transformers"} <= set(
        found.versions
    )
    assert all(found.versions.values()) and math.prod(found.shapes[min(found.shapes)]) > 0


def test_a_newer_format_is_refused(saved: Path) -> None:
    _json(saved, lambda d: d.update(format=checkpoint.FORMAT + 1))
    with pytest.raises(CheckpointError, match="reads up to"):
        refarch.load(em.tiny("bert"), saved)
