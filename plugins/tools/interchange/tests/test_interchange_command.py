"""The command, from folders on disk: both directions, what it prints, and what it says when it cannot."""

import json
from pathlib import Path
from typing import Any

import peft
import pytest

import refarch
from refarch.cli import main
from refarch.testing import outputs, randomise

from .support import batch_of, close, tiny_of, trained_by_peft, with_peft


@pytest.fixture
def base(tmp_path: Path) -> Path:
    tiny_of("bert", "SequenceClassification").model().save_pretrained(str(tmp_path / "base"))
    return tmp_path / "base"


def _run(capsys: pytest.CaptureFixture[str], *arguments: Any) -> tuple[int, str, str]:
    code = main([str(argument) for argument in ("convert", *arguments)])
    shown = capsys.readouterr()
    return code, shown.out, shown.err


def test_from_peft_and_back(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny = tiny_of("bert", "SequenceClassification")
    config = peft.LoraConfig(r=2, target_modules=["query"], task_type="SEQ_CLS", base_model_name_or_path=str(base))
    trained_by_peft(tiny, config, tmp_path / "theirs")
    settings = json.loads((tmp_path / "theirs" / "adapter_config.json").read_text())
    settings["base_model_name_or_path"] = str(base)
    (tmp_path / "theirs" / "adapter_config.json").write_text(json.dumps(settings))
    code, out, _ = _run(capsys, "from-peft", tmp_path / "theirs", "--out", tmp_path / "ours", "--json")
    assert code == 0
    said = json.loads(out)
    assert (said["from"], said["to"], said["slots"], said["train_head"]) == (
        "peft's LORA",
        "lora",
        ["attention.query"],
        True,
    )
    model, batch = tiny.model(), batch_of(tiny)
    loaded = refarch.load(model, tmp_path / "ours")
    assert loaded.source.distribution == "refarch-lora"
    wanted = outputs(with_peft(tiny, tmp_path / "theirs"), batch)
    close(outputs(model, batch), wanted)
    code, out, _ = _run(capsys, "to-peft", tmp_path / "ours", "--out", tmp_path / "again")
    assert code == 0 and "lora in" in out and "is now peft's LORA" in out and "with a head that trained along" in out
    close(outputs(with_peft(tiny, tmp_path / "again"), batch), wanted)
    assert json.loads((tmp_path / "again" / "adapter_config.json").read_text())["base_model_name_or_path"] == str(base)


def test_differences_are_told(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = peft.OFTConfig(r=0, oft_block_size=4, target_modules=["query"])
    trained_by_peft(tiny_of("bert", "SequenceClassification"), config, tmp_path / "theirs")
    arguments = ("from-peft", tmp_path / "theirs", "--model", base, "--out", tmp_path / "ours")
    code, out, err = _run(capsys, *arguments)
    assert code == 0, err
    assert "difference: peft computes this OFT by a series" in out
    code, out, _ = _run(capsys, *arguments, "--json")
    assert code == 0 and len(json.loads(out)["differences"]) == 1


def test_a_checkpoint_of_refarchs_names_its_base(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(str(base)).eval()
    adaptation = refarch.attach(model, "ia3")
    randomise(adaptation)
    adaptation.save(tmp_path / "ours")
    code, out, err = _run(capsys, "to-peft", tmp_path / "ours", "--out", tmp_path / "theirs", "--json")
    assert code == 0, err
    assert json.loads(out)["to"] == "peft's IA3"
    tiny = tiny_of("bert", "SequenceClassification")
    batch = batch_of(tiny)
    close(outputs(with_peft(tiny, tmp_path / "theirs"), batch), outputs(model, batch))


def test_wrong_use_is_said_in_words(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trained_by_peft(
        tiny_of("bert", "SequenceClassification"), peft.LoraConfig(r=2, target_modules=["query"]), tmp_path / "theirs"
    )
    code, _, err = _run(capsys, "from-peft", tmp_path / "theirs", "--out", tmp_path / "ours")
    assert code == 2 and "--model" in err
    code, _, err = _run(
        capsys, "from-peft", tmp_path / "theirs", "--model", tmp_path / "no", "--out", tmp_path / "ours"
    )
    assert code == 2
    code, _, err = _run(
        capsys, "from-peft", tmp_path / "theirs", "--model", base, "--class", "AutoModelForPoems", "--out", tmp_path
    )
    assert code == 2 and "AutoModelForPoems" in err
    code, _, err = _run(capsys, "from-peft", tmp_path / "base", "--model", base, "--out", tmp_path / "ours")
    assert code == 1 and "adapter_config.json" in err
    code, _, err = _run(capsys, "to-peft", tmp_path / "base", "--out", tmp_path / "ours")
    assert code == 1 and "adaptation.json" in err


def test_the_table_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = _run(capsys, "formats")
    assert code == 0 and "LN_TUNING" in out and "XLORA" in out
    code, out, _ = _run(capsys, "formats", "--json")
    assert code == 0 and len(json.loads(out)["mapped"]) > 20
