"""What a composition is good for: it trains, saves, loads, generates, swaps its parts, merges and is exported."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

import refarch
from refarch.errors import CheckpointError, CompositionError, SpecError
from refarch.testing import Tiny, all_tiny, outputs

MIX = {"prompt": "prompt-tuning", "lora": "lora", "adapter": "adapter", "factors": "ia3"}
WHOLE = "stack(prompt, sum(lora: 0.5, factors: 0.7), route(adapter, adapter-b, by=token))"
PARTS = {**MIX, "adapter-b": "adapter"}


def made(family: str, auto: str = "AutoModelForCausalLM") -> Tiny:
    """A family's tiny model."""
    found = all_tiny([family])
    return next((one for one in found if one.auto_class == auto), found[0])


def spread(values: Any, seed: int) -> None:
    """Values that are nowhere neutral."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in (p for p in values.parameters() if p.requires_grad):
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)


def train(tiny: Tiny, model: PreTrainedModel, steps: int = 6) -> list[float]:
    """A few steps; the losses."""
    batch = tiny.batch(model)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.02)
    losses = []
    for _ in range(steps):
        loss = tiny.loss(model, batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss))
    return losses


def generated(model: PreTrainedModel, batch: dict[str, Any], **options: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Greedy tokens and their scores."""
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    settings = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False, "pad_token_id": 0, **options}
    out = model.generate(**inputs, **settings, output_scores=True, return_dict_in_generate=True)
    return out.sequences, torch.stack(out.scores)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_mixture_trains_saves_loads_and_generates(family: str, tmp_path: Path) -> None:
    tiny = made(family)
    model = tiny.model()
    base, batch = model.state_dict(), tiny.batch(model, lengths=(6, 4))
    base = {name: tensor.clone() for name, tensor in base.items()}
    composition = refarch.compose(model, WHOLE, PARTS, name="whole")
    spread(composition, 1)
    before = {name: p.detach().clone() for name, p in composition.named_parameters()}
    losses = train(tiny, model)
    assert losses[-1] < losses[0]
    still = [name for name, p in composition.named_parameters() if torch.equal(p, before[name])]
    assert not still, "every part and the route's own parameters train"
    want = outputs(model, batch)
    tokens, scores = generated(model, batch)
    plain_tokens, plain_scores = generated(model, batch, use_cache=False)
    assert torch.equal(tokens, plain_tokens)
    torch.testing.assert_close(scores, plain_scores, rtol=1e-3, atol=1e-4)
    composition.save(tmp_path / "whole")
    composition.detach()
    assert all(torch.equal(tensor, base[name]) for name, tensor in model.state_dict().items())
    fresh = tiny.model()
    loaded = refarch.load_composition(fresh, tmp_path / "whole")
    assert loaded.expression == composition.expression and list(loaded.parts) == list(composition.parts)
    assert torch.equal(outputs(fresh, batch), want)
    again, again_scores = generated(fresh, batch)
    assert torch.equal(again, tokens) and torch.equal(again_scores, scores)
    refarch.load_composition(tiny.model(), tmp_path / "whole", name="other", trainable=True).save(tmp_path / "whole")
    assert len(list((tmp_path / "whole" / "parts").iterdir())) == 5


@pytest.mark.parametrize(
    "text", ["fuse(lora, adapter)", "route(lora, adapter, by=example)", "route(lora, l2, gate=arrow)"]
)
def test_the_operators_own_parameters_come_back(text: str, tmp_path: Path) -> None:
    tiny = made("bert")
    model = tiny.model()
    batch = tiny.batch(model, lengths=(6, 4))
    attached = {name: refarch.attach(model, "lora" if name == "l2" else name, name=name, seed=i)
                for i, name in enumerate(("lora", "adapter", "l2")) if name in text}  # fmt: skip
    for seed, part in enumerate(attached.values()):
        spread(part, seed)
    composition = refarch.compose(model, text, seed=3)
    if "arrow" in text:
        composition.refresh()
    spread(composition.tree, 9)
    want = outputs(model, batch)
    composition.save(tmp_path)
    fresh = tiny.model()
    refarch.load_composition(fresh, tmp_path)
    assert torch.equal(outputs(fresh, batch), want)


def saved(tmp_path: Path) -> tuple[Tiny, Path]:
    """A small composition on disk."""
    tiny = made("bert")
    model = tiny.model()
    composition = refarch.compose(model, "route(a, b)", {"a": "lora", "b": "adapter"}, name="whole")
    spread(composition, 1)
    return tiny, composition.save(tmp_path / "saved")


def edit(folder: Path, **changes: Any) -> None:
    """Change fields of the JSON file."""
    data = json.loads((folder / "composition.json").read_text())
    (folder / "composition.json").write_text(json.dumps({**data, **changes}))


def damage(folder: Path, how: str) -> None:
    """Do something to a checkpoint that its writer would not."""
    data = json.loads((folder / "composition.json").read_text())
    part = folder / "parts" / data["parts"]["a"]["folder"]
    tensors = folder / data["tensors"]
    if how == "truncated JSON":
        (folder / "composition.json").write_text((folder / "composition.json").read_text()[:100])
    elif how == "truncated tensors":
        tensors.write_bytes(tensors.read_bytes()[:-8])
    elif how == "a pickle in disguise":
        torch.save({"weight": torch.zeros(1)}, tensors)
    elif how == "a part missing":
        shutil.rmtree(part)
    elif how == "a part altered":
        text = (part / "adaptation.json").read_text()
        (part / "adaptation.json").write_text(text.replace('"seed": 0', '"seed": 1'))
    elif how == "a part's tensors altered":
        file = next(part.glob("*.safetensors"))
        file.write_bytes(file.read_bytes()[:-4] + b"\0\0\0\1")
    elif how == "a folder that climbs":
        edit(folder, parts={**data["parts"], "a": {**data["parts"]["a"], "folder": "../../etc"}})
    elif how == "a file that climbs":
        edit(folder, tensors="../x.safetensors")
    elif how == "a name that climbs":
        edit(folder, expression="route(../a, b)")
    elif how == "a bomb":
        deep = '{"op":"stack","terms":[' * 100_000
        (folder / "composition.json").write_text('{"format":1,"expression":' + deep)
    elif how == "another expression":
        edit(folder, expression="route(a, c)")
    elif how == "another operator":
        edit(folder, expression="fuse(a, b)")
    elif how == "a newer format":
        edit(folder, format=99)
    elif how == "not finite":
        values = load_file(tensors)
        values[next(iter(values))][0] = float("nan")
        save_file(values, tensors)
        import hashlib

        edit(folder, sha256=hashlib.sha256(tensors.read_bytes()).hexdigest())


DAMAGES = {
    "truncated JSON": "not valid JSON", "truncated tensors": "truncated or altered",
    "a pickle in disguise": "nothing of it was read",
    "a part missing": "cannot read", "a part altered": "was altered",
    "a part's tensors altered": "truncated or altered",
    "a folder that climbs": "leads out of the folder", "a file that climbs": "leads out of the folder",
    "a name that climbs": "cannot be read", "a bomb": "nested too deeply", "another expression": "its expression names",
    "another operator": "do not fit this model", "a newer format": "update refarch", "not finite": "not finite",
}  # fmt: skip


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_checkpoint_is_refused_and_changes_nothing(how: str, tmp_path: Path) -> None:
    tiny, folder = saved(tmp_path)
    damage(folder, how)
    model = tiny.model()
    before = set(model.__dict__["_modules"])
    with pytest.raises((CheckpointError, SpecError), match=DAMAGES[how]):
        refarch.load_composition(model, folder)
    assert set(model._modules) == before and not refarch.adaptations(model)


def test_another_base_is_refused(tmp_path: Path) -> None:
    tiny, folder = saved(tmp_path)
    model = tiny.model()
    with torch.no_grad():
        next(p for p in model.base_model.parameters()).add_(1)
    with pytest.raises(CheckpointError, match="belongs to another base"):
        refarch.load_composition(model, folder)
    assert not refarch.adaptations(model)
    with pytest.raises(CheckpointError, match="holds a composition of several"):
        refarch.load(tiny.model(), folder)


def test_an_interrupted_save_leaves_the_earlier_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny, folder = saved(tmp_path)
    model = tiny.model()
    composition = refarch.load_composition(model, folder, trainable=True)
    batch = tiny.batch(model)
    want = outputs(model, batch)
    spread(composition, 5)

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    for name in ("composition.files.write_text", "engine.checkpoints.tensor_files.write_bytes"):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(f"refarch.{name}", stop)
            composition.save(folder)
        fresh = tiny.model()
        refarch.load_composition(fresh, folder)
        assert torch.equal(outputs(fresh, batch), want)


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama", "t5"])
@pytest.mark.parametrize(
    "text", ["sum(lora: 0.5, factors: -0.3)", "stack(factors, sum(lora: 2))", "stack(lora, factors)"]
)
def test_a_composition_of_weights_merges_and_unmerges(family: str, text: str) -> None:
    tiny = made(family)
    model = tiny.model()
    batch = tiny.batch(model)
    base = {name: p.detach().clone() for name, p in model.named_parameters()}
    composition = refarch.compose(model, text, {"lora": "lora", "factors": "ia3"})
    spread(composition, 1)
    want = outputs(model, batch)
    composition.merge()
    torch.testing.assert_close(outputs(model, batch), want, rtol=1e-4, atol=1e-5)
    with pytest.raises(CompositionError, match="is merged"):
        composition.detach()
    composition.unmerge()
    assert torch.equal(outputs(model, batch), want)
    composition.detach()
    assert all(torch.equal(p, base[name]) for name, p in model.named_parameters())


def test_what_does_not_merge_is_said_with_its_slot() -> None:
    model = made("bert").model()
    for text, match in (("sum(lora, adapter)", "not linear"), ("route(lora, ia3)", "depend on the input"),
                        ("split(lora, ia3)", "is said at each call"),
                        ("stack(lora, prompt-tuning)", "inputs")):  # fmt: skip
        names = [name for name in ("lora", "adapter", "ia3", "prompt-tuning") if name in text]
        composition = refarch.compose(model, text, {name: name for name in names})
        with pytest.raises(CompositionError, match=match):
            composition.merge()
        composition.detach()


EXPORTED = ["lora", "ia3", "dora", "oft", "boft", "hra", "loha", "lokr", "vera", "adalora", "bitfit", "ln-tuning"]


@pytest.mark.parametrize("technique", EXPORTED)
def test_a_merged_model_is_exported_as_a_plain_one(technique: str, tmp_path: Path) -> None:
    family = "gpt2" if technique not in ("oft", "boft", "hra") else "llama"
    tiny = made(family)
    model = tiny.model()
    batch = tiny.batch(model)
    adaptation = refarch.attach(model, technique)
    spread(adaptation, 1)
    want, before = outputs(model, batch), {name: p.detach().clone() for name, p in model.named_parameters()}
    refarch.export(adaptation, tmp_path / "plain")
    assert torch.equal(outputs(model, batch), want)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    plain = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "plain").eval()
    assert plain.state_dict().keys() == tiny.model().state_dict().keys()
    torch.testing.assert_close(outputs(plain, batch), want, rtol=1e-4, atol=1e-5)


def test_a_composition_is_exported_and_others_are_not_forgotten(tmp_path: Path) -> None:
    tiny = made("t5", "AutoModelForSeq2SeqLM")
    model = tiny.model()
    batch = tiny.batch(model)
    composition = refarch.compose(model, "sum(a: 0.5, b: 1.5)", {"a": "lora", "b": "ia3"})
    spread(composition, 1)
    want = outputs(model, batch)
    refarch.export(composition, tmp_path)
    plain = transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(outputs(plain, batch), want, rtol=1e-4, atol=1e-5)
    adapter = refarch.attach(model, "adapter")
    with pytest.raises(CompositionError, match="'adapter' would not be in the exported model"):
        refarch.export(composition, tmp_path)
    with pytest.raises(CompositionError, match="does not merge"):
        composition.enabled = False
        refarch.export(adapter, tmp_path)


def test_a_part_is_swapped_while_the_others_serve(tmp_path: Path) -> None:
    """Hot swap: the new part's rows compute as it does alone, and nothing of the others is touched or run again."""
    tiny = made("gpt2")
    model = tiny.model()
    kinds = {"a": "lora", "b": "adapter", "c": "prefix-tuning", "d": "lora"}
    for seed, (name, technique) in enumerate(kinds.items()):
        spread(refarch.attach(model, technique, name=name, seed=seed), seed)
    rows = ["a", "b", "c", "d", None]
    batch = tiny.batch(model, lengths=[5] * 5)
    composition = refarch.compose(model, "split(a, b, c, d)")
    with composition.rows(rows):
        first = outputs(model, batch)
    composition.save(tmp_path)
    other = tiny.model()
    new = refarch.attach(other, "ia3")
    spread(new, 9)
    alone = outputs(other, batch)
    new.save(tmp_path / "new")
    stays = {name: [*map(id, part.parameters())] for name, part in composition.parts.items() if name != "b"}
    versions = {name: [p._version for p in composition.parts[name].parameters()] for name in stays}
    calls: list[str] = []
    for name in stays:
        for _, function in composition.parts[name].functions():
            function.register_forward_hook(lambda *_, name=name: calls.append(name))
    old = composition.replace("b", refarch.load(model, tmp_path / "new", name="later"))
    assert old.state == "detached" and old.name == "b" and composition.parts["b"].name == "later"
    assert not calls, "no function of the others has run"
    assert stays == {name: [*map(id, composition.parts[name].parameters())] for name in stays}
    assert versions == {name: [p._version for p in composition.parts[name].parameters()] for name in stays}
    with composition.rows(rows):
        second = outputs(model, batch)
    for row, name in enumerate(rows):
        if name != "b":
            assert torch.equal(first[row], second[row])
    torch.testing.assert_close(second[1], alone[1], rtol=1e-4, atol=1e-5)
    with pytest.raises(CompositionError, match="selection"):
        composition.replace("d", refarch.attach(model, "bitfit"))
    refarch.adaptations(model)[-1].detach()
    with composition.rows(rows):
        assert torch.equal(outputs(model, batch), second)
    composition.detach()
    assert not refarch.adaptations(model)


def test_a_route_keeps_its_gates_when_a_part_is_swapped() -> None:
    model = made("bert").model()
    composition = refarch.compose(model, "route(a, b)", {"a": "lora", "b": "lora"})
    spread(composition.tree, 1)
    before = {name: tensor.clone() for name, tensor in composition.tree.state_dict().items()}
    composition.replace("b", refarch.attach(model, "lora", name="c", rank=3))
    assert {
        name: bool(torch.equal(t, before[name])) for name, t in composition.tree.state_dict().items()
    } == dict.fromkeys(before, True)


def test_a_model_is_copied_with_its_composition() -> None:
    import copy

    tiny = made("gpt2")
    model = tiny.model()
    batch = tiny.batch(model)
    composition = refarch.compose(model, "split(a, stack(b, c))", {"a": "lora", "b": "adapter", "c": "prefix-tuning"})
    spread(composition, 1)
    with composition.rows(["a", "c"]):
        want = outputs(model, batch)
        clone = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in composition.parameters():
            parameter.zero_()
    other = refarch.compositions(clone)[0]
    with other.rows(["a", "c"]):
        assert torch.equal(outputs(clone, batch), want)


def test_merged_weights_come_back_in_order() -> None:
    tiny = made("llama")
    model = tiny.model()
    base = {name: p.detach().clone() for name, p in model.named_parameters()}
    composition = refarch.compose(model, "sum(lora: 0.5)", {"lora": "lora"})
    spread(composition, 1)
    composition.merge()
    later = refarch.attach(model, "ia3")
    spread(later, 2)
    later.merge()
    with pytest.raises(CompositionError, match="'ia3' was merged into the same weights since"):
        composition.unmerge()
    later.unmerge()
    later.detach()
    copies = refarch.attach(model, "full")
    with pytest.raises(CompositionError, match="trains a copy"):
        composition.unmerge()
    copies.detach()
    composition.unmerge()
    copies = refarch.attach(model, "full")
    with pytest.raises(CompositionError, match="a selection trains a copy"):
        composition.merge()
    copies.detach()
    composition.detach()
    assert all(torch.equal(p, base[name]) for name, p in model.named_parameters())
