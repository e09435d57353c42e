"""Checkpoints: what was saved comes back; whatever is wrong is refused, said, and leaves the model untouched."""

import errno
import json
import os
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import engine_models as em
import pytest
import torch
from safetensors.torch import load_file, save_file

import refarch
from refarch.errors import CheckpointError, RefarchError, SaveError

ROUND_TRIP = {
    "lora": em.module("Narrow", "scaled addition", ("attention.query", "ffn.down"), frozen=("down",)),
    "shared": em.module(
        "Narrow", "scaled addition", ("attention.query", "ffn.down"), sharing="across layers", shared=("down",)
    ),
    "sublayer and its leaf": em.module("Mlp", "direct addition", ("ffn", "ffn.down", "attention"), form="mlp"),
    "inputs": em.module("Tokens", "concatenation", "inputs"),
    "selection": em.module(None, "selection", ("attention.norm",), insertion="sequential"),
}


def _train(adaptation: refarch.Adaptation) -> None:
    """Other values than the seed gives."""
    with torch.no_grad():
        for parameter in adaptation.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)


@pytest.mark.parametrize("name", em.FAMILIES)
@pytest.mark.parametrize("kind", ROUND_TRIP)
def test_round_trip(kind: str, name: str, tmp_path: Path) -> None:
    spec, values = em.technique(ROUND_TRIP[kind]), em.batch(name)
    model = em.tiny(name)
    plain = model(**values).logits
    choice = {} if kind == "inputs" else {"layers": [-1]}
    adaptation = refarch.attach(model, spec, seed=5, train_head=kind == "lora", **choice)
    _train(adaptation)
    expected = model(**values).logits
    assert adaptation.save(tmp_path / "a") == tmp_path / "a"
    adaptation.save(tmp_path / "a")  # over itself
    assert sorted(p.suffix for p in (tmp_path / "a").iterdir()) == [".json", ".safetensors"]
    fresh = em.tiny(name)
    before = em.snapshot(fresh)
    loaded = refarch.load(fresh, tmp_path / "a", technique=spec)
    assert torch.equal(fresh(**values).logits, expected) and loaded.count() == 0
    assert not torch.allclose(expected, plain, atol=1e-4)
    loaded.detach()
    assert before["values"].keys() == em.snapshot(fresh)["values"].keys()
    again = refarch.load(fresh, tmp_path / "a", technique=spec, trainable=True, name="other")
    assert (
        again.name == "other" and again.count() == adaptation.count() and again.count(False) == adaptation.count(False)
    )


def test_what_only_training_needs_is_dropped_and_kept_on_request(tmp_path: Path) -> None:
    spec = em.technique(em.module("Reparameterised", "concatenation", "attention.key_value", train_only=("network",)))
    values = em.batch("llama")
    model = em.tiny("llama")
    adaptation = refarch.attach(model, spec)
    expected = model(**values).logits
    adaptation.save(tmp_path / "small")
    adaptation.save(tmp_path / "whole", for_training=True)
    assert torch.equal(model(**values).logits, expected)  # saving changed nothing
    for folder, dropped in (("small", True), ("whole", False)):
        fresh = em.tiny("llama")
        loaded = refarch.load(fresh, tmp_path / folder, technique=spec)
        torch.testing.assert_close(fresh(**values).logits, expected, rtol=1e-6, atol=1e-6)
        assert dropped == (not any("network" in key for key, _ in loaded.named_parameters()))
        for training in (True, False):  # what was dropped stays dropped, and loads again
            loaded.save(tmp_path / "again", for_training=training)
            other = em.tiny("llama")
            refarch.load(other, tmp_path / "again", technique=spec)
            torch.testing.assert_close(other(**values).logits, expected, rtol=1e-6, atol=1e-6)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    adaptation = refarch.attach(em.tiny("bert"), "lora", rank=3)
    _train(adaptation)
    return adaptation.save(tmp_path / "saved")


def _tensors(folder: Path) -> Path:
    return next(folder.glob("*.safetensors"))


def _json(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    path = folder / "adaptation.json"
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def _rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any], *, honest_shapes: bool = False) -> None:
    """Change tensors and give the JSON the right digest: an error or a forger who is careful."""
    import hashlib

    tensors = load_file(_tensors(folder))
    change(tensors)
    save_file(tensors, _tensors(folder))
    digest = hashlib.sha256(_tensors(folder).read_bytes()).hexdigest()
    shapes = {key: list(tensor.shape) for key, tensor in tensors.items()}
    _json(folder, lambda d: d.update(sha256=digest, **({"shapes": shapes} if honest_shapes else {})))


def _flip(folder: Path) -> None:
    data = bytearray(_tensors(folder).read_bytes())
    data[-5] ^= 1
    _tensors(folder).write_bytes(data)


def _pickle(folder: Path) -> None:
    import hashlib

    data = pickle.dumps(_Bomb())
    _tensors(folder).write_bytes(data)
    _json(folder, lambda d: d.update(sha256=hashlib.sha256(data).hexdigest()))


class _Bomb:
    def __reduce__(self) -> Any:
        return exec, ("import sys; sys.modules['refarch_bomb'] = sys",)


def _first(tensors: dict[str, torch.Tensor]) -> str:
    return sorted(tensors)[0]


DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "truncated tensors": (lambda f: _tensors(f).write_bytes(_tensors(f).read_bytes()[:-40]), "truncated or altered"),
    "flipped byte": (_flip, "truncated or altered"),
    "empty tensors": (lambda f: _tensors(f).write_bytes(b""), "truncated or altered"),
    "tensors missing": (lambda f: _tensors(f).unlink(), "cannot read"),
    "json missing": (lambda f: (f / "adaptation.json").unlink(), "holds no adaptation.json"),
    "truncated json": (
        lambda f: (f / "adaptation.json").write_text((f / "adaptation.json").read_text()[:-30]),
        "not valid JSON",
    ),
    "binary json": (lambda f: (f / "adaptation.json").write_bytes(b"\xff\xfe\x00{"), "not valid JSON"),
    "json of another kind": (lambda f: (f / "adaptation.json").write_text("[1, 2]"), "not valid"),
    "deep json": (lambda f: (f / "adaptation.json").write_text("[" * 200_000), "not valid"),
    "missing field": (lambda f: _json(f, lambda d: d.pop("base")), "base: is required"),
    "extra field": (lambda f: _json(f, lambda d: d.update(code="import os")), "code: there is no such field"),
    "newer format": (lambda f: _json(f, lambda d: d.update(format=99)), "checkpoint format 99"),
    "climbing name": (lambda f: _json(f, lambda d: d.update(tensors="../x.safetensors")), "leads out of the folder"),
    "absolute name": (lambda f: _json(f, lambda d: d.update(tensors="/etc/passwd")), "leads out of the folder"),
    "pickle": (_pickle, "no valid safetensors"),
    "key gone": (lambda f: _rewrite(f, lambda t: t.pop(_first(t))), "only saved"),
    "key gone, honestly": (lambda f: _rewrite(f, lambda t: t.pop(_first(t)), honest_shapes=True), "only here"),
    "key added": (lambda f: _rewrite(f, lambda t: t.update(x=torch.ones(1)), honest_shapes=True), "only saved: x"),
    "wrong shape": (
        lambda f: _rewrite(f, lambda t: t.update({_first(t): torch.ones(4, 32)}), honest_shapes=True),
        r"different: .*\(4, 32\) saved, \(3, 32\) here",
    ),
    "nan": (lambda f: _rewrite(f, lambda t: t[_first(t)].view(-1)[:1].fill_(float("nan"))), "not finite"),
    "infinity": (lambda f: _rewrite(f, lambda t: t[_first(t)].view(-1)[:1].fill_(float("inf"))), "not finite"),
    "another rank": (lambda f: _json(f, lambda d: d["technique"]["options"].update(rank=4)), "shapes do not match"),
    "another workspace": (
        lambda f: _json(f, lambda d: d["technique"]["technique"]["modules"][0].update(workspace=["ffn.up"])),
        "slots do not match",
    ),
    "an impossible spec": (
        lambda f: _json(f, lambda d: d["technique"]["technique"]["modules"][0].update(integration="rescaling")),
        "rescaling",
    ),
    "an unknown option": (lambda f: _json(f, lambda d: d["technique"]["options"].update(rnak=4)), "mean .rank"),
    "another technique": (
        lambda f: _json(f, lambda d: d["technique"]["technique"].update(name="no-such-thing")),
        "no-such-thing",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_refused_and_leaves_the_model_untouched(kind: str, saved: Path) -> None:
    damage, reason = DAMAGE[kind]
    damage(saved)
    model = em.tiny("bert")
    before = em.snapshot(model)
    with pytest.raises(RefarchError, match=reason):
        refarch.load(model, saved)
    em.assert_restored(before, model)
    assert "refarch_bomb" not in sys.modules


def test_huge_json_is_not_read(saved: Path) -> None:
    with open(saved / "adaptation.json", "ab") as file:
        file.truncate(17 * 2**20)
    with pytest.raises(CheckpointError, match="at most"):
        refarch.load(em.tiny("bert"), saved)


@pytest.mark.parametrize("name", ["a.b", "", "training", "lora"])
def test_a_name_that_does_not_fit_is_refused_or_replaced(name: str, saved: Path) -> None:
    _json(saved, lambda d: d.update(name=name))
    model = em.tiny("bert")
    before = em.snapshot(model)
    if name in ("a.b", ""):
        with pytest.raises(RefarchError, match="has a dot"):
            refarch.load(model, saved)
        em.assert_restored(before, model)
    else:
        refarch.attach(model, "lora")
        assert refarch.load(model, saved).name == f"{name}-2"


def test_nothing_that_a_checkpoint_names_is_imported(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    marker = tmp_path / "executed"
    (tmp_path / "evil_module.py").write_text(f"open({str(marker)!r}, 'w').close()\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    _json(saved, lambda d: d["technique"]["technique"]["modules"][0].update(function="evil_module:Payload"))
    model = em.tiny("bert")
    before = em.snapshot(model)
    with pytest.raises(
        CheckpointError, match=r"evil_module:Payload, which the installed refarch-lora .* does not declare"
    ):
        refarch.load(model, saved)
    with pytest.raises(CheckpointError, match="which the given spec does not declare"):
        refarch.load(model, saved, technique=refarch.default_registry().technique("lora"))
    em.assert_restored(before, model)
    assert not marker.exists() and "evil_module" not in sys.modules


def test_another_base_is_refused_by_structure_and_by_content(saved: Path) -> None:
    for other, reason in (
        (em.tiny("bert", num_hidden_layers=3), "backbone parameters"),
        (em.tiny("gpt2"), "model type is bert, this model's is gpt2"),
        (em.tiny("bert", seed=9), "same architecture, but other weights"),
    ):
        before = em.snapshot(other)
        with pytest.raises(CheckpointError, match=reason):
            refarch.load(other, saved)
        em.assert_restored(before, other)
    refarch.load(em.tiny("bert", seed=9), saved, any_base=True)
    with pytest.raises(CheckpointError, match="another base"):
        refarch.load(em.tiny("bert", num_hidden_layers=3), saved, any_base=True)
    refarch.load(em.tiny("bert").to(torch.bfloat16), saved)  # the same base, stored otherwise


@pytest.mark.parametrize("at", ["write", "replace", "fsync", "mkstemp"])
@pytest.mark.parametrize("file", [1, 2])
def test_a_full_disk_keeps_the_old_checkpoint(at: str, file: int, saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, values = em.tiny("bert"), em.batch("bert")
    old = refarch.load(model, saved, trainable=True)
    expected = model(**values).logits
    _train(old)
    module, name = {
        "write": (Path, "write_bytes"),
        "replace": (os, "replace"),
        "fsync": (os, "fsync"),
        "mkstemp": (__import__("tempfile"), "mkstemp"),
    }[at]
    original, calls = getattr(module, name), []

    def full(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) >= (file if at != "fsync" else 2 * file - 1):
            raise OSError(errno.ENOSPC, "No space left on device")
        return original(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(module, name, full)
        with pytest.raises(SaveError, match="No space left on device"):
            old.save(saved)
    assert not [p for p in saved.iterdir() if p.suffix == ".tmp"]
    fresh = em.tiny("bert")
    refarch.load(fresh, saved)
    assert torch.equal(fresh(**values).logits, expected)
    old.save(saved)  # and once there is space again
    assert len(list(saved.iterdir())) == 2


def test_a_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("x")
    with pytest.raises(SaveError):
        refarch.attach(em.tiny("bert"), "lora").save(tmp_path / "taken")
    with pytest.raises(CheckpointError, match="holds no"):
        refarch.load(em.tiny("bert"), tmp_path / "taken")
