"""Files of every format version, saved by the code of its day, go on loading and give the outputs that they gave.

``tests/archive/make.py`` says what is in the archive and which commits wrote it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import refarch
from refarch.cli import main
from refarch.plugins import resolve

ARCHIVE = Path(__file__).parent / "archive"
ITEMS = sorted(path.parent.relative_to(ARCHIVE).as_posix() for path in ARCHIVE.glob("*-*/*/expected.json"))
LIMIT = 300 * 1024
"""Bytes of all of it, which everybody clones."""
CORE = {"Update", "Tokens", "KeysAndValues"}
"""Functions of the core's own techniques whose import paths stood in files of format 2."""


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy, so that nothing in the repository is written."""
    return Path(shutil.copytree(ARCHIVE, tmp_path_factory.mktemp("archive") / "archive"))


@pytest.fixture(autouse=True)
def _there(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs name their backbone and their data relative to the archive."""
    monkeypatch.chdir(archive)


def _expected(item: str) -> dict[str, Any]:
    return json.loads(Path(item, "expected.json").read_text(encoding="utf-8"))


def _base(item: str) -> Any:
    """The base that an item was saved on, from its own weights."""
    expected = _expected(item)
    auto = getattr(transformers, expected["auto_class"])
    return auto.from_pretrained(f"base/{expected['base']}").eval()


@torch.no_grad()
def _logits(model: Any, item: str) -> torch.Tensor:
    return model.eval()(input_ids=torch.tensor(_expected(item)["input_ids"])).logits[..., :8]


def _gives_what_it_gave(model: Any, item: str) -> None:
    expected = torch.tensor(_expected(item)["logits"])
    torch.testing.assert_close(_logits(model, item), expected, rtol=1e-4, atol=1e-5)
    assert (_logits(_base(item), item) - expected).abs().max() > 1e-3, "the base alone gives the same"


def _kind(item: str) -> str:
    return item.partition("/")[0].rpartition("-")[0]


def _of(kind: str) -> Callable[[Any], Any]:
    items = [item for item in ITEMS if _kind(item) == kind]
    assert items, f"the archive has no {kind}"
    return pytest.mark.parametrize("item", items)


def test_it_is_small_and_has_every_kind() -> None:
    assert {_kind(item) for item in ITEMS} == {"adaptation", "composition", "run", "study", "library"}
    assert {path.name for path in ARCHIVE.glob("*-*/*")} == {item.rpartition("/")[2] for item in ITEMS}
    files = [path for path in ARCHIVE.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")]
    assert sum(path.stat().st_size for path in files) < LIMIT


def test_it_has_todays_formats(tmp_path: Path) -> None:
    model = _base("composition-1/route")
    for name in "ab":
        refarch.attach(model, "ia3", name=name)
    saved = refarch.compose(model, "stack(a, b)").save(tmp_path)
    part = json.loads(next(saved.glob("parts/*/adaptation.json")).read_text())["format"]
    whole = json.loads((saved / "composition.json").read_text())["format"]
    for found in (f"adaptation-{part}", f"composition-{whole}"):
        assert (ARCHIVE / found).is_dir(), f"run python tests/archive/make.py: the archive has no {found}"


def test_all_of_the_cores_own_functions_are_in_it() -> None:
    found: set[str] = set()
    for path in ARCHIVE.glob("adaptation-2/core-*/saved/adaptation.json"):
        modules = json.loads(path.read_text(encoding="utf-8"))["technique"]["technique"]["modules"]
        found |= {module["function"] for module in modules}
    assert found == {f"refarch.engine.given:{name}" for name in CORE}


def test_nothing_in_it_names_the_machine_that_made_it() -> None:
    marks = (b"/tmp", b"/home", b"/root", b"/Users", b"-generic", b"glibc")
    found = [
        str(path)
        for path in ARCHIVE.rglob("*")
        if path.is_file() and path.suffix != ".py" and any(mark in path.read_bytes() for mark in marks)
    ]
    assert found == []


@_of("adaptation")
def test_an_adaptation_loads_and_is_saved_in_todays_format(item: str, tmp_path: Path) -> None:
    model = _base(item)
    adaptation = refarch.load(model, Path(item, "saved"))
    _gives_what_it_gave(model, item)
    adaptation.save(tmp_path, for_training="for-training" in item)
    again = _base(item)
    refarch.load(again, tmp_path)
    _gives_what_it_gave(again, item)
    today = json.loads((tmp_path / "adaptation.json").read_text())
    assert today["format"] >= json.loads(Path(item, "saved", "adaptation.json").read_text())["format"]
    for module in today["technique"]["technique"]["modules"]:
        if module["function"] is not None:
            resolve(module["function"])  # no name of yesterday is written again


@_of("composition")
def test_a_composition_loads_and_is_saved_in_todays_format(item: str, tmp_path: Path) -> None:
    model = _base(item)
    composition = refarch.load_composition(model, Path(item, "saved"))
    _gives_what_it_gave(model, item)
    composition.save(tmp_path)
    again = _base(item)
    refarch.load_composition(again, tmp_path)
    _gives_what_it_gave(again, item)


@_of("run")
def test_a_run_is_known_as_finished(item: str) -> None:
    folder = Path(item, "saved")
    pipeline = refarch.PipelineSpec.from_json((folder / "pipeline.json").read_text(encoding="utf-8"))
    record, _ = refarch.run(pipeline, folder)
    assert record == refarch.RunFolder(folder, writes=False).finished()
    assert record.score == json.loads((folder / "record.json").read_text(encoding="utf-8"))["score"]
    _load_all(item, folder, record)


@_of("study")
def test_a_study_is_gone_on_with(item: str, capsys: pytest.CaptureFixture[str]) -> None:
    from refarch_compare.study.folder import StudyFolder

    folder = Path(item, "saved")
    before = {path: path.read_bytes() for path in folder.rglob("record.json")}
    assert before and main(["compare", "run", str(folder), "--json", "--quiet"]) == 0
    cells = json.loads(capsys.readouterr().out)["cells"]
    assert [cell["status"] for cell in cells] == ["finished"] * len(before)
    assert before == {path: path.read_bytes() for path in folder.rglob("record.json")}
    files = StudyFolder(folder)
    for cell, row in zip(files.planned().cells, cells, strict=True):
        record = files.record(cell)
        assert record is not None and (row["score"], row["learning_rate"]) == (
            record.score,
            record.pipeline.training.learning_rate,
        )
        _load_all(item, files.run(cell), record)


@_of("study")
def test_a_study_is_reported(item: str, tmp_path: Path) -> None:
    assert main(["compare", "report", str(Path(item, "saved")), "--out", str(tmp_path / "report.html")]) == 0
    assert "ia3" in (tmp_path / "report.html").read_text(encoding="utf-8")


@_of("library")
def test_a_librarys_entry_is_checked_and_loaded(item: str) -> None:
    from refarch_library.store import Library

    folder = Path(item, "saved")
    library = Library(folder)
    entries, problems = library.entries()
    assert entries and not problems
    assert main(["library", "check", "--load", "--library", str(folder)]) == 0
    for entry in entries:
        model = _base(item)
        library.load(model, entry.name)
        _gives_what_it_gave(model, item)


def _load_all(item: str, folder: Path, record: refarch.RunRecord) -> None:
    """What a run has saved, on its base."""
    model = _base(item)
    for saved in record.adaptations:
        refarch.load(model, folder / saved)
    _gives_what_it_gave(model, item)
