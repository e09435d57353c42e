"""Compositions of installed techniques: batches that mix them, and a whole that trains, saves, loads and generates."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

import refarch
from refarch.testing import Tiny, all_tiny, primary

FAMILIES = {"bert": "AutoModelForMaskedLM", "roberta": "AutoModelForMaskedLM", "gpt2": "AutoModelForCausalLM",
            "llama": "AutoModelForCausalLM", "opt": "AutoModelForCausalLM", "t5": "AutoModelForSeq2SeqLM",
            "bart": "AutoModelForSeq2SeqLM"}  # fmt: skip
MIXES: dict[str, Sequence[tuple[str, dict[str, Any]]]] = {
    "lora": [("lora", {"rank": rank, "slots": ["attention.query", "ffn.down"]}) for rank in (1, 2, 3, 4, 2, 3, 1, 2)],
    "ia3": [("ia3", {})] * 8,
    "adapter": [("adapter", {"bottleneck": size}) for size in (1, 2, 3, 4, 1, 2, 3, 4)],
    "prefix-tuning": [("prefix-tuning", {"length": length}) for length in (1, 2, 3, 4, 4, 3, 2, 1)],
    "prompt-tuning": [("prompt-tuning", {"length": length}) for length in (1, 2, 3, 4, 4, 3, 2, 1)],
    "all": [
        ("lora", {"slots": ["attention.query", "attention.value", "ffn.up"]}),
        ("ia3", {}),
        ("adapter", {"preset": "parallel"}),
        ("prefix-tuning", {"length": 3}),
        ("prompt-tuning", {"length": 2}),
        ("lora", {"rank": 2}),
        ("tiny-attention", {}),
        ("dora", {}),
    ],
    "others": [
        ("unipelt", {}),
        ("loreft", {"first": 2, "last": 1}),
        ("adaption-prompt", {"length": 2}),
        ("mam", {}),
        ("molora", {}),
        ("p-tuning", {"length": 3}),
        ("oft", {}),
        ("compacter", {}),
    ],
}
LOOK_AHEAD = {"others"}
"""With parts whose effect on a token depends on later ones, so that no cache holds it (see docs/architecture.md)."""


def made(family: str) -> Tiny:
    """A family's tiny model under the head that this file uses."""
    return next(one for one in all_tiny([family]) if one.auto_class == FAMILIES[family])


def spread(adaptation: refarch.Adaptation, seed: int) -> None:
    """Values that are nowhere neutral."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in adaptation.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.2)


def attached(model: PreTrainedModel, mix: str) -> list[str]:
    """The adaptations of a mix, named p0, p1 ..."""
    names = []
    for number, (name, options) in enumerate(MIXES[mix]):
        adaptation = refarch.attach(model, name, name=f"p{number}", seed=number, **options)
        spread(adaptation, number)
        names.append(adaptation.name)
    return names


def alone(model: PreTrainedModel, name: str | None) -> Iterator[None]:
    """Only one adaptation takes part."""
    for adaptation in refarch.adaptations(model):
        adaptation.enabled = adaptation.name == name
    yield
    for adaptation in refarch.adaptations(model):
        adaptation.enabled = True


def row(batch: dict[str, Tensor], number: int) -> dict[str, Tensor]:
    """One row of a batch."""
    return {name: values[number : number + 1] for name, values in batch.items()}


@pytest.mark.parametrize("mix", MIXES)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_mixed_batch_computes_each_row_as_alone(family: str, mix: str) -> None:
    tiny = made(family)
    model = tiny.model()
    names = attached(model, mix)
    rows = [*names[::-1], None, names[0]]
    lengths = [7, 5, 7, 6, 7, 4, 7, 7, 5, 6]
    batch = tiny.batch(model, lengths=lengths)
    composition = refarch.compose(model, f"split({', '.join(names)})")
    with torch.no_grad(), composition.rows(rows):
        mixed = primary(model(**batch))
    composition.detach(parts=False)
    for _ in alone(model, None):
        with torch.no_grad():
            base = primary(model(**batch))
    for number, name in enumerate(rows):
        for _ in alone(model, name):
            with torch.no_grad():
                want = tiny.real(primary(model(**row(batch, number))), [max(lengths)], 0)
        got = mixed[number]
        real = batch["attention_mask"][number].bool() if tiny.kind != "encoder-decoder" else slice(None)
        torch.testing.assert_close(got[real], want[real], rtol=1e-4, atol=1e-5)
        assert torch.allclose(got[real], base[number][real], atol=1e-4) == (name is None), "each part does something"


@pytest.mark.parametrize("mix", MIXES)
@pytest.mark.parametrize("family", ["gpt2", "llama", "t5", "bart"])
def test_a_mixed_batch_generates_each_row_as_alone(family: str, mix: str) -> None:
    tiny = made(family)
    model = tiny.model()
    names = attached(model, mix)
    rows = [*names, None]
    batch = tiny.batch(model, lengths=[5, 4, 5, 3, 5, 5, 4, 5, 5])
    batch = {name: values for name, values in batch.items() if name in ("input_ids", "attention_mask")}
    composition = refarch.compose(model, f"split({', '.join(names)})")
    settings = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False}
    settings |= {"output_scores": True, "return_dict_in_generate": True, "pad_token_id": 0}
    with composition.rows(rows):
        mixed = model.generate(**batch, **settings)
        plain = model.generate(**batch, **settings, use_cache=False)
        beams = model.generate(**batch, num_beams=2, max_new_tokens=3, do_sample=False, pad_token_id=0)
    if mix not in LOOK_AHEAD:
        torch.testing.assert_close(torch.stack(mixed.scores), torch.stack(plain.scores), rtol=1e-3, atol=1e-4)
    composition.detach(parts=False)
    for number, name in enumerate(rows):
        for _ in alone(model, name):
            want = model.generate(**row(batch, number), **settings)
            best = model.generate(**row(batch, number), num_beams=2, max_new_tokens=3, do_sample=False, pad_token_id=0)
        assert torch.equal(mixed.sequences[number], want.sequences[0])
        assert torch.equal(beams[number, : best.shape[1]], best[0])
        torch.testing.assert_close(
            torch.stack(mixed.scores)[:, number], torch.stack(want.scores)[:, 0], rtol=1e-3, atol=1e-4
        )


@pytest.mark.parametrize("family", ["bert", "gpt2", "opt", "t5"])
def test_operators_nest_around_and_inside_a_split(family: str) -> None:
    """Each row computes the stack that is its own, with what stands around the split for all rows."""
    tiny = made(family)
    model = tiny.model()
    attached(model, "all")
    text = "stack(p5, split(one=stack(p0, p3, p7), two=stack(p4, split(p1, p2)), p6))"
    branches = {
        "one": ["p0", "p3", "p7"],
        "p1": ["p4", "p1"],
        "p2": ["p4", "p2"],
        "two": ["p4"],
        "p6": ["p6"],
        None: [],
    }
    rows = ["one", "p1", "p2", "p6", None, "two", "p1"]
    batch = tiny.batch(model, lengths=[7, 5, 7, 6, 7, 4, 7])
    composition = refarch.compose(model, text)
    with torch.no_grad(), composition.rows(rows):
        mixed = primary(model(**batch))
    composition.detach(parts=False)
    for number, name in enumerate(rows):
        chosen = ["p5", *branches[name]]
        for adaptation in refarch.adaptations(model):
            adaptation.enabled = adaptation.name in chosen
        single = refarch.compose(model, f"stack({', '.join(chosen)})")
        with torch.no_grad():
            want = primary(model(**row(batch, number)))[0]
        single.detach(parts=False)
        real = batch["attention_mask"][number].bool() if tiny.kind != "encoder-decoder" else slice(None)
        torch.testing.assert_close(mixed[number][real], want[real], rtol=1e-4, atol=1e-5)


def test_gradients_of_a_mixed_batch_are_those_of_its_rows() -> None:
    tiny = made("gpt2")
    model = tiny.model()
    names = attached(model, "all")
    batch = tiny.batch(model, lengths=[6, 5, 6, 4, 6, 6, 5, 6])
    composition = refarch.compose(model, f"split({', '.join(names)})")
    with composition.rows(names):
        primary(model(**batch))[:, -1].square().sum().backward()
    got = {name: p.grad.clone() for name, p in composition.named_parameters() if p.grad is not None}
    composition.detach(parts=False)
    for number, name in enumerate(names):
        model.zero_grad()
        for _ in alone(model, name):
            primary(model(**row(batch, number)))[:, -1].square().sum().backward()
        part = next(part for part in refarch.adaptations(model) if part.name == name)
        for key, parameter in part.named_parameters():
            if parameter.grad is not None:
                want = parameter.grad
                torch.testing.assert_close(got[f"{name}.{key}"], want, rtol=1e-3, atol=1e-4 * float(want.abs().max()))


def test_rows_are_asked_for_and_checked() -> None:
    tiny = made("bert")
    model = tiny.model()
    names = attached(model, "lora")[:2]
    batch = tiny.batch(model, lengths=[4, 4])
    composition = refarch.compose(model, f"split({', '.join(names)})")
    with pytest.raises(refarch.RefarchError, match="nobody has said which rows are whose"):
        model(**batch)
    with pytest.raises(refarch.RefarchError, match="is none of its terms"), composition.rows(["p0", "p9"]):
        pass
    with pytest.raises(refarch.RefarchError, match="2 rows, but 3"), composition.rows(["p0", "p1", None]):
        model(**batch)
    with composition.disabled():
        model(**batch)


@pytest.mark.parametrize("inside", ["adapter", "unipelt", "tiny-attention", "loreft"])
@pytest.mark.parametrize("composed", [True, False], ids=["in a stack", "attached before"])
@pytest.mark.parametrize("family", ["bert", "llama"])
def test_what_runs_inside_a_split_may_have_noted_something_for_all_rows(
    family: str, composed: bool, inside: str
) -> None:
    """A factor on the input of ``ffn.down`` asks for the map inside it a second time, for its own rows."""
    tiny = made(family)
    model = tiny.model()
    options = {"adapter": {"preset": "parallel"}, "loreft": {"first": 2, "last": 1}}.get(inside, {})
    for seed, (name, technique) in enumerate({"p": inside, "a": "ia3", "b": "lora", "c": "prefix-tuning"}.items()):
        adaptation = refarch.attach(model, technique, name=name, seed=seed, **(options if name == "p" else {}))
        spread(adaptation, seed)
    rows = ["a", "b", None, "c", "a"]
    batch = tiny.batch(model, lengths=[7, 5, 7, 6, 4])
    composition = refarch.compose(model, "stack(p, split(a, b, c))" if composed else "split(a, b, c)")
    with torch.no_grad(), composition.rows(rows):
        mixed = primary(model(**batch))
    composition.detach(parts=False)
    for number, name in enumerate(rows):
        for adaptation in refarch.adaptations(model):
            adaptation.enabled = adaptation.name in ("p", name)
        with torch.no_grad():
            want = primary(model(**row(batch, number)))[0]
        real = batch["attention_mask"][number].bool()
        torch.testing.assert_close(mixed[number][real], want[real], rtol=1e-4, atol=1e-5)
