"""Both round trips of every technique that peft has too, after random weights, with peft itself on the other side."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from peft.tuners.boft import layer as peft_boft
from refarch_interchange import Difference, load_peft, save_peft
from torch import Tensor

import refarch
from refarch.testing import Tiny, outputs, randomise

from .cases import CASES, Case
from .support import batch_of, changed, close, contents, tiny_of, trained_by_peft, with_peft

PAIRS = [(name, family) for name, case in CASES.items() for family in case.families]


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
    return case._replace(shift=0) if family == "t5" else case, tiny_of(family)


@pytest.mark.parametrize(("name", "family"), PAIRS)
def test_refarch_to_peft_to_refarch(name: str, family: str, tmp_path: Path) -> None:
    case, tiny = case_of(name, family)
    model = tiny.model()
    batch, theirs = batch_of(tiny, case.shift), batch_of(tiny)
    slots = {"slots": case.slots[family]} if family in case.slots else {}
    adaptation = refarch.attach(model, case.technique, **case.options, **slots, **case.own.get(family, {}))
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


@pytest.mark.parametrize(("name", "family"), PAIRS)
def test_peft_to_refarch_to_peft(name: str, family: str, tmp_path: Path) -> None:
    case, tiny = case_of(name, family)
    batch, theirs = batch_of(tiny, case.shift), batch_of(tiny)
    trained_by_peft(tiny, case.config(family), tmp_path / "theirs")
    before = outputs(with_peft(tiny, tmp_path / "theirs"), theirs)
    changed(before, tiny, batch)
    model = tiny.model()
    adaptation = load_peft(model, tmp_path / "theirs", trainable=True)
    assert adaptation.technique.name == case.technique and adaptation.count()
    wanted = outputs(model, batch)
    close(before, wanted)
    save_peft(adaptation, tmp_path / "ours")
    close(outputs(with_peft(tiny, tmp_path / "ours"), theirs), wanted)
