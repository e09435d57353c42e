"""The page of the porting study says what the runs gave."""

import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parent.parent / "docs"


@pytest.fixture
def porting(monkeypatch):
    monkeypatch.syspath_prepend(str(DOCS))
    for name in ("OMP_NUM_THREADS", "TOKENIZERS_PARALLELISM"):
        monkeypatch.setenv(name, "1")
    import porting

    yield porting
    for name in ("porting", "tables"):
        sys.modules.pop(name, None)


def test_differences_are_paired_and_of_the_ported_module(porting):
    values = {"ported": [0.8, 0.9], "sampled": [0.5, 0.6], "head": [0.8, 0.8], "scratch": [0.4, 0.5]}
    cells = {start: {"zero": own, "after": [value + 0.05 for value in own]} for start, own in values.items()}
    lines = porting.row("lora", "L6 to L3", cells)
    assert lines[0] == "| `lora` | L6 to L3 | ported | 0.850 ± 0.071 |  | 0.900 ± 0.071 |  |"
    assert (
        lines[1] == "| `lora` | L6 to L3 | sampled | 0.550 ± 0.071 | +0.300 ± 0.000 | 0.600 ± 0.071 | +0.300 ± 0.000 |"
    )
    assert "| +0.050 ± 0.635 |" in lines[2] and len(lines) == 4
    shown = porting.findings([cells, cells])
    assert (
        "of 2 settings the ported module is better than `sampled` in 2, worse in 0; better than `head` in 0" in shown[0]
    )
    page = porting.page(lines, ["`lora` L6 0.900"], shown, 2, 1500, 200)
    assert all(line in page for line in lines) and "1,500 words" in page and "`lora` L6 0.900" in page


def test_the_runs_never_train_on_the_test_split(porting):
    first, second = (porting.source_job("lora", "minilm", seed, 100).pipeline for seed in (0, 1))
    assert first["task"]["options"]["split_seed"] == second["task"]["options"]["split_seed"] == 0
    assert first["seed"] != second["seed"]
