"""Both round trips of every technique that peft has too, after random weights, with peft itself on the other side."""

import functools
import warnings
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from peft.tuners.boft import layer as peft_boft
from refarch_interchange import Difference, load_peft, save_peft
from torch import Tensor

import refarch
from refarch.testing.case import randomise
from refarch.testing.models import Batch, Tiny, all_tiny, outputs

from .cases import CASES, Case

PAIRS = [(name, family) for name, case in CASES.items() for family in case.families]


@functools.cache
def tiny_of(family: str, head: str = "LM") -> Tiny:
    """The family's tiny language model."""
    return next(tiny for tiny in all_tiny([family]) if tiny.auto_class.endswith(head))


def batch_of(tiny: Tiny, shift: int = 0) -> Batch:
    """Rows without padding: peft leaves positions to the model, which counts them along the sequence."""
    batch = tiny.batch(tiny.model(), (6, 6))
    batch.pop("position_ids", None)
    return {**batch, "position_ids": torch.arange(6).expand(2, -1) + shift} if shift else batch


def close(found: Tensor, wanted: Tensor) -> None:
    """Equal within 1e-5. Of a prompt's positions, which peft returns too, only the tokens' count."""
    torch.testing.assert_close(found[:, -wanted.shape[1] :], wanted, rtol=1e-5, atol=1e-5)


def changed(found: Tensor, tiny: Tiny, batch: Batch) -> None:
    """The module is at work."""
    plain = outputs(tiny.model(), batch)
    assert (found[:, -plain.shape[1] :] - plain).abs().max() > 1e-3


def with_peft(tiny: Tiny, folder: Path) -> Any:
    """The model as peft loads it from its files."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return peft.PeftModel.from_pretrained(tiny.model(), str(folder)).eval()


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix in (".json", ".safetensors")}


class BlockDiagonal:
    """What peft's CUDA kernel computes, without which its BOFT has a single factor: [m, n, b, b] -> [m, d, d]."""

    @staticmethod
    def apply(blocks: Tensor) -> Tensor:
        return torch.stack([torch.block_diag(*factor) for factor in blocks])


@pytest.fixture(autouse=True)
def several_factors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peft_boft, "get_fbd_cuda", lambda: True)
    monkeypatch.setattr(peft_boft, "FastBlockDiag", BlockDiagonal)


@pytest.fixture(autouse=True)
def no_differences() -> Any:
    """Where a conversion says that something differs, the tests of that say so; here it is equal logits that count."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Difference)
        yield


def case_of(name: str, family: str) -> tuple[Case, Tiny]:
    case = CASES[name]
    if family in case.skip:
        pytest.skip(case.skip[family])
    return case, tiny_of(family)


@pytest.mark.parametrize(("name", "family"), PAIRS)
def test_refarch_to_peft_to_refarch(name: str, family: str, tmp_path: Path) -> None:
    case, tiny = case_of(name, family)
    model = tiny.model()
    batch, theirs = batch_of(tiny, case.shift), batch_of(tiny)
    slots = {"slots": case.slots[family]} if family in case.slots else {}
    adaptation = refarch.attach(model, case.technique, **case.options, **slots)
    randomise(adaptation)
    wanted = outputs(model, batch)
    changed(wanted, tiny, batch)
    save_peft(adaptation, tmp_path / "one")
    save_peft(adaptation, tmp_path / "two")
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    close(outputs(with_peft(tiny, tmp_path / "one"), theirs), wanted)
    again = tiny.model()
    loaded = load_peft(again, tmp_path / "one")
    assert loaded.technique.name == (case.back or case.technique)
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    close(outputs(again, batch), wanted)


@torch.no_grad()
def spread(wrapped: Any) -> None:
    """Random values for all of peft's parameters that train, none of them near a start that does nothing."""
    generator = torch.Generator().manual_seed(3)
    for parameter in wrapped.parameters():
        if parameter.requires_grad:
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.3)


@pytest.mark.parametrize(("name", "family"), PAIRS)
def test_peft_to_refarch_to_peft(name: str, family: str, tmp_path: Path) -> None:
    case, tiny = case_of(name, family)
    batch, theirs = batch_of(tiny, case.shift), batch_of(tiny)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wrapped = peft.get_peft_model(tiny.model(), case.config(family)).eval()
        spread(wrapped)
        wrapped.save_pretrained(str(tmp_path / "theirs"))
    before = outputs(with_peft(tiny, tmp_path / "theirs"), theirs)
    changed(before, tiny, batch)
    model = tiny.model()
    adaptation = load_peft(model, tmp_path / "theirs", trainable=True)
    assert adaptation.technique.name == case.technique and adaptation.count()
    wanted = outputs(model, batch)
    close(before, wanted)
    save_peft(adaptation, tmp_path / "ours")
    close(outputs(with_peft(tiny, tmp_path / "ours"), theirs), wanted)
