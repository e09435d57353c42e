"""Commands that look at files, names or help alone answer without torch: wrong input is told at once, whatever comes
after it. ``tests/benchmarks/startup.py`` measures the same commands.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("torch", "transformers", "numpy", "scipy", "pandas")
SCRIPT = f"""
import sys
from refarch.cli import main
code = main(sys.argv[1:])
print("loaded:", *(name for name in {HEAVY!r} if name in sys.modules), file=sys.stderr)
sys.exit(code)
"""
HELP = [
    *("advise", "compare", "convert", "diagram", "estimate", "evaluate", "inspect", "library", "predict"),
    *("compare evidence", "compare import", "compare measure", "compare relate", "compare report", "compare run"),
    *("compare schema", "compare structure", "convert formats", "convert from-adapters", "convert from-peft"),
    *("convert to-peft", "library add", "library check", "library compose", "library list", "library port"),
    *("library pull", "library push", "library remove", "library search", "library show", "library transfer-matrix"),
]
WRONG = {
    "advise --task t --backbone ./nowhere": "no folder './nowhere'",
    "advise --task t --backbone b --evidence nowhere": "no folder nowhere",
    "advise --task t --backbone b --max-trainable much": "no amount",
    "advise --task t --backbone b --memory much": "no amount",
    "compare evidence nowhere": "no folder nowhere",
    "compare import nobody . --out out": "no importer 'nobody'",
    "compare import peft-method-comparison nowhere --out out": "no folder nowhere",
    "compare measure": "nothing to measure",
    "compare measure nowhere": "no folder nowhere",
    "compare measure . --no-timing": "--no-timing",
    "compare measure . --target 1": "no record of a run",
    "compare measure --backbone ./nowhere --technique lora": "no folder './nowhere'",
    "compare measure --backbone b --technique lorra": "did you mean 'lora'",
    "compare measure --backbone b --technique lora:rang=1": "did you mean 'rank'",
    "compare measure --backbone b --technique lora --task nothing": "no task named 'nothing'",
    "compare relate nowhere": "no folder nowhere",
    "compare report nowhere": "no folder nowhere",
    "compare report . --out report.txt": "report is HTML",
    "compare run missing.yaml": "cannot read missing.yaml",
    "compare run .": "holds no study",
    "compare run broken.yaml": "not valid YAML",
    "compare run list.yaml": "a study is a mapping",
    "compare run empty.yaml": "techniques",
    "compare run technique.yaml": "did you mean 'lora'",
    "compare run option.yaml": "did you mean 'rank'",
    "compare run task.yaml": "no task named 'nothing'",
    "compare run backbone.yaml": "no folder './nowhere'",
    "compare run technique.yaml --dry-run": "did you mean 'lora'",
    "compare structure lorra": "did you mean 'lora'",
    "compare structur": "did you mean 'structure'",
    "convert from-adapters ./nowhere --out out": "'./nowhere' is no folder",
    "convert from-adapters . --out out": "adapter_config.json",
    "convert from-peft ./nowhere --out out": "'./nowhere' is no folder",
    "convert from-peft . --out out": "adapter_config.json",
    "convert from-peft theirs --out out": "adapter_model.safetensors",
    "convert from-peft pickled --out out": "a pickle",
    "convert from-peft strange --out out": "nothing is known",
    "convert from-peft lora --out out": "--model",
    "convert from-peft lora --model ./nowhere --out out": "no folder './nowhere'",
    "convert to-peft nowhere --out out": "nowhere holds no adaptation.json",
    "diagram lorra": "did you mean 'lora'",
    "diagram lora --backbone ./nowhere": "no folder './nowhere'",
    "estimate --backbone ./nowhere": "no folder './nowhere'",
    "estimate --backbone b --technique lorra": "did you mean 'lora'",
    "estimate --backbone b --memory much": "is no size",
    "evaluate nowhere --tasks arc_easy": "nowhere is no folder",
    "evaluate . --tasks arc_easy": "neither a run nor an adaptation",
    "evaluate . --tasks ,": "no task is named",
    "evaluate . --tasks arc_easy --include-path nowhere": "nowhere is no folder",
    "inspect": "name one model",
    "inspect ./nowhere": "no folder './nowhere'",
    "inspect b --save table.txt": ".json or as .py",
    "inspect b --package .": "not empty",
    "library add nowhere": "nowhere holds no run",
    "library add . --name a/b": "cannot be an entry's name",
    "library check nowhere": "no entry 'nowhere'",
    "library compose stack(a,": "cannot be read",
    "library compose stack(a,b)": "no entry 'a'",
    "library port nowhere --to b": "no entry 'nowhere'",
    "library port nowhere --to b --layers [": "is no JSON",
    "library pull ./nowhere": "nowhere",
    "library push nowhere target": "no entry 'nowhere'",
    "library remove nowhere": "no entry 'nowhere'",
    "library search --score high": "",
    "library show nowhere": "no entry 'nowhere'",
    "library transfer-matrix": "no entry to score",
    "library transfer-matrix nowhere": "no entry 'nowhere'",
    "predict --adaptation nowhere": "no text",
    "predict --adaptation nowhere --text x": "no entry 'nowhere'",
    "predict --adaptation nowhere --file nowhere.txt": "nowhere.txt",
}
RIGHT = ["compare schema", "convert formats", "diagram lora", "library list", "library search x", "library check"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with studies and checkpoints, each with one thing wrong."""
    place = tmp_path_factory.mktemp("light")
    study = "{{techniques: [{technique}], tasks: [{task}], backbones: [{backbone}]}}"
    right = {"technique": "lora", "task": "lexicon-polarity", "backbone": "somebody/something"}
    wrong = {
        "technique": {"technique": "lorra"},
        "option": {"technique": "{name: lora, options: {rang: 1}}"},
        "task": {"task": "nothing"},
        "backbone": {"backbone": "./nowhere"},
    }
    for name, change in wrong.items():
        (place / f"{name}.yaml").write_text(study.format(**right | change))
    for name, text in {"broken": "[", "list": "[1]", "empty": "{}"}.items():
        (place / f"{name}.yaml").write_text(text)
    for name, kind in {"theirs": "LORA", "pickled": "LORA", "strange": "STRANGE", "lora": "LORA"}.items():
        (place / name).mkdir()
        (place / name / "adapter_config.json").write_text(f'{{"peft_type": "{kind}", "target_modules": ["query"]}}')
        if name != "theirs":
            (place / name / f"adapter_model.{'bin' if name == 'pickled' else 'safetensors'}").write_bytes(b"")
    return place


def _answer(line: str, place: Path) -> tuple[int, str, list[str]]:
    """Exit code, what was said, and what was loaded."""
    command = [sys.executable, "-c", SCRIPT, *line.split(" ")]
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, timeout=120, check=False)
    said, _, loaded = done.stderr.rpartition("loaded:")
    return done.returncode, said, loaded.split()


@pytest.mark.parametrize("line", HELP)
def test_help_loads_nothing_heavy(line: str, place: Path) -> None:
    assert _answer(f"{line} --help", place)[::2] == (0, [])


@pytest.mark.parametrize("line", WRONG)
def test_wrong_input_is_told_before_anything_heavy_is_loaded(line: str, place: Path) -> None:
    code, said, loaded = _answer(line, place)
    assert WRONG[line] in said
    assert (code != 0) == bool(WRONG[line])
    assert loaded == []


@pytest.mark.parametrize("line", RIGHT)
def test_what_needs_no_torch_loads_none(line: str, place: Path) -> None:
    assert _answer(line, place)[::2] == (0, [])
