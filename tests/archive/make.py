"""Write the archive: small files of every format version, with the outputs that they must go on giving.

    python tests/archive/make.py                    # what is not there yet, in the formats that today's code writes
    python tests/archive/make.py --old CHECKOUT     # adaptations by the code of an older checkout, in its format

What is there is never written again: the archive is worth something because later code did not make it. Run this when
a format's number goes up, and say here which commit wrote the new folders:

=============================================  =======================================================================
``base``, ``data``                             7ac5b32
``adaptation-1``                               6dd6cea^, the last one of format 1, with ``--old``
``adaptation-2``, ``composition-1``            7ac5b32
``run-1``, ``study-1``, ``library-1``          7ac5b32
=============================================  =======================================================================

Nothing of the machine stays in the files: names of backbones and data are relative to this folder, and times, memory
and the description of the machine are written over.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import transformers

import refarch

transformers.utils.logging.disable_progress_bar()
HERE = Path(__file__).resolve().parent
AUTO = {"bert": "AutoModelForSequenceClassification", "gpt2": "AutoModelForCausalLM"}
SHAPES = {
    "bert": {
        "hidden_size": 8,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "max_position_embeddings": 48,
    },
    "gpt2": {"n_embd": 8, "n_layer": 2, "n_head": 2, "n_positions": 48, "bos_token_id": 2, "eos_token_id": 3},
}
IDS = [[2, 5, 7, 11, 3], [2, 17, 23, 3, 9]]
TECHNIQUES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "lora": ("bert", "lora", {"rank": 2}),
    "lora-fused-parts": ("gpt2", "lora", {"rank": 2, "slots": ["attention.query", "attention.value"]}),
    "prefix-tuning-folded": ("bert", "prefix-tuning", {"length": 3}),
    "prompt-tuning": ("gpt2", "prompt-tuning", {"length": 3}),
    "bitfit-selection": ("bert", "bitfit", {}),
    "adapter": ("bert", "adapter", {"bottleneck": 2}),
    "molora-routed": ("bert", "molora", {"rank": 1, "experts": 2, "slots": ["attention.query", "ffn.down"]}),
    "adaption-prompt-gated": ("gpt2", "adaption-prompt", {"length": 2}),
    "adalora-folded": ("bert", "adalora", {"rank": 3, "slots": ["attention.query", "ffn.down"]}),
    "tiny-attention": ("bert", "tiny-attention", {}),
}
"""An adaptation of each way of joining a function to a model: base, technique, options."""
OLD = ("lora", "prefix-tuning-folded", "bitfit-selection")
"""What the archive has of format 1, whose code had no techniques of its own."""
NEXT = ("bitfit-selection", "core-low-rank", "core-tokens", "core-keys-and-values")
"""What it is to have of formats after 2: small ones."""
COMPOSITIONS = {
    "route": ("bert", "route(a, b)", "ia3"),
    "fusion": ("bert", "fuse(a, b)", "ia3"),
    "sum": ("gpt2", "sum(a: 0.5, b: -1)", "ia3"),
}
"""Base, expression, technique of the parts."""
Write = Callable[[Path], tuple[str, Any]]
"""Saves something into a folder, and says on which base, with the model that it was saved from."""


def main() -> int:
    """Write what is missing."""
    os.chdir(HERE)  # so that names of files are relative to the archive
    if "--old" in sys.argv[1:]:
        return _by(Path(sys.argv[sys.argv.index("--old") + 1]).resolve())
    for name in AUTO:
        _new(f"base/{name}", partial(_base, family=name))
    _new("data", _data)
    number = adaptation_format()
    for name, write in adaptations().items():
        if number == 2 or name in (OLD if number == 1 else NEXT):
            _item(f"adaptation-{number}/{name}", write)
    if "--adaptations" in sys.argv[1:]:
        return 0
    number = composition_format()
    for name, (base, expression, technique) in COMPOSITIONS.items():
        write = partial(_composition, base=base, expression=expression, technique=technique)
        _item(f"composition-{number}/{name}", write)
    _item(f"composition-{number}/core-part", _core_part)
    _item("run-1/ia3", _run)
    _item("study-1/ia3", _study)
    _item("library-1/ia3", _library)
    return 0


def _by(checkout: Path) -> int:
    """Run this file by the code of another checkout, whose packages come before the installed ones."""
    sources = [checkout / "core" / "src", *sorted(checkout.glob("plugins/*/*/src"))]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, sources))}
    return subprocess.run([sys.executable, __file__, "--adaptations"], env=environment, check=False).returncode


def adaptation_format() -> int:
    """The format of adaptations that the code at hand writes."""
    with tempfile.TemporaryDirectory() as folder:
        saved = refarch.attach(load_base("bert"), "ia3").save(folder)
        return json.loads((saved / "adaptation.json").read_text())["format"]


def composition_format() -> int:
    """The same of compositions."""
    model = load_base("bert")
    for name in "ab":
        refarch.attach(model, "ia3", name=name)
    with tempfile.TemporaryDirectory() as folder:
        saved = refarch.compose(model, "stack(a, b)").save(folder)
        return json.loads((saved / "composition.json").read_text())["format"]


def adaptations() -> dict[str, Write]:
    """What there is to write of adaptations, by name."""
    return {
        **{
            name: partial(_adaptation, base=base, technique=technique, options=options)
            for name, (base, technique, options) in TECHNIQUES.items()
        },
        "prefix-tuning-for-training": _unfolded,
        "core-low-rank": _low_rank,
        "core-tokens": partial(_concatenated, base="gpt2", technique="prompt-tuning"),
        "core-keys-and-values": partial(_concatenated, base="bert", technique="prefix-tuning"),
    }


def _new(name: str, write: Callable[[Path], Any]) -> None:
    folder = Path(name)
    if folder.exists():
        print(f"{name} is there")
        return
    folder.mkdir(parents=True)
    try:
        write(folder)
    except BaseException:
        shutil.rmtree(folder)  # half an item would pass for one that is there
        raise
    print(f"wrote {name}: {sum(file.stat().st_size for file in folder.rglob('*') if file.is_file()):,} bytes")


def _item(name: str, write: Write) -> None:
    """A folder with what was saved, and the outputs of the model that it was saved from."""

    def both(folder: Path) -> None:
        base, model = write(folder / "saved")
        expected = {"base": base, "auto_class": AUTO[base], "input_ids": IDS, "logits": _logits(model)}
        (folder / "expected.json").write_text(json.dumps(expected) + "\n", encoding="utf-8")

    _new(name, both)


@torch.no_grad()
def _logits(model: Any) -> Any:
    """The first of them: a token has a hundred, which eight hidden values decide."""
    found = model.eval()(input_ids=torch.tensor(IDS)).logits[..., :8]
    return json.loads(json.dumps(found.tolist()), parse_float=lambda text: round(float(text), 6))


@torch.no_grad()
def _spread(parameters: Any, seed: int) -> None:
    """Noise on every value, so that nothing is zero or the identity and a wrong one shows."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in parameters:
        parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.3)


# bases and data ----------------------------------------------------------------------------------------------------


def _base(folder: Path, family: str) -> None:
    from refarch.testing import tiny_tokenizer

    tokenizer = tiny_tokenizer()
    if family == "bert":  # on which tasks are run
        tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(family, vocab_size=len(tokenizer), **SHAPES[family])
    model = getattr(transformers, AUTO[family]).from_config(config)
    _spread(model.parameters(), 1)
    model.save_pretrained(folder)


def _data(folder: Path) -> None:
    chance = random.Random(0)
    rows = [f"{''.join(chance.choice('wxyz' if i % 2 else 'abcd') for _ in range(5))},{i % 2}" for i in range(32)]
    (folder / "letters.csv").write_text("\n".join(["text,label", *rows]) + "\n", encoding="utf-8")


def load_base(family: str) -> Any:
    """The base of an item, from its files."""
    return getattr(transformers, AUTO[family]).from_pretrained(f"base/{family}").eval()


# adaptations and compositions --------------------------------------------------------------------------------------


def _attached(model: Any, technique: str, seed: int = 5, **choices: Any) -> Any:
    adaptation = refarch.attach(model, technique, **choices)
    _spread([p for p in adaptation.parameters() if p.requires_grad], seed)
    return adaptation


def _adaptation(folder: Path, base: str, technique: str, options: dict[str, Any]) -> tuple[str, Any]:
    model = load_base(base)
    _attached(model, technique, train_head=base == "bert" and technique == "lora", **options).save(folder)
    return base, model


def _unfolded(folder: Path) -> tuple[str, Any]:
    model = load_base("bert")
    _attached(model, "prefix-tuning", length=3, hidden=4).save(folder, for_training=True)
    return "bert", model


def _low_rank(folder: Path) -> tuple[str, Any]:
    model = load_base("bert")
    adaptation = _attached(model, "ia3", slots=["attention.query", "attention.value"])
    refarch.to_low_rank(adaptation, 2, name="nearest").save(folder)
    return "bert", model


def _concatenated(folder: Path, base: str, technique: str) -> tuple[str, Any]:
    model = load_base(base)
    for seed, name in enumerate("ab"):
        _attached(model, technique, 5 + seed, name=name, length=2)
    refarch.combine(model, "concat(a, b)", name="both").save(folder)
    return base, model


def _composition(folder: Path, base: str, expression: str, technique: str) -> tuple[str, Any]:
    model = load_base(base)
    for seed, name in enumerate("ab"):
        _attached(model, technique, 5 + seed, name=name, slots=["ffn.hidden"])
    composition = refarch.compose(model, expression, name="together")
    _spread(composition.tree.parameters(), 8)
    composition.save(folder)
    return base, model


def _core_part(folder: Path) -> tuple[str, Any]:
    """Parts of the core's own techniques, whose import paths stand in the parts' files."""
    model = load_base("gpt2")
    for seed, name in enumerate("ab"):
        _attached(model, "lora", 5 + seed, name=name, rank=1)
        _attached(model, "prompt-tuning", 5 + seed, name=f"{name}-prompt", length=2)
    refarch.combine(model, "concat(a-prompt, b-prompt)", name="prompt")
    refarch.combine(model, "average(a, b)", name="mean")
    refarch.compose(model, "stack(prompt, mean)", name="together").save(folder)
    return "gpt2", model


# runs, studies, libraries ------------------------------------------------------------------------------------------

TASK = {"name": "text-classification", "label": "letters", "options": {"train": "data/letters.csv"}}
TRAINING = {"max_steps": 4, "batch_size": 8, "learning_rate": 0.02, "threads": 1, "log_every": 2}


def _trained(run: Path) -> tuple[str, Any]:
    """The base with what a run has saved."""
    model = load_base("bert")
    for saved in sorted(run.glob("adaptations/*")):
        refarch.load(model, saved)
    return "bert", model


def _run(folder: Path) -> tuple[str, Any]:
    task = {key: value for key, value in TASK.items() if key != "label"}
    pipeline = {"backbone": "base/bert", "techniques": ["ia3"], "task": task, "training": TRAINING}
    refarch.run(refarch.PipelineSpec.parse(pipeline), folder)
    _scrub(folder)
    return _trained(folder)


def _study(folder: Path) -> tuple[str, Any]:
    from refarch.cli import main as command

    spec = {
        "name": "archived",
        "techniques": ["ia3"],
        "tasks": [{**TASK, "options": {**TASK["options"], "validation_size": 0.25}}],
        "backbones": [{"name": "base/bert", "label": "tiny"}],
        "seeds": 1,
        "training": {key: value for key, value in TRAINING.items() if key != "learning_rate"},
        "search": {"trials": 1, "evaluations": 1, "settled": 1},
    }
    written = folder.parent / "study.yaml"
    written.write_text(json.dumps(spec), encoding="utf-8")
    try:
        assert command(["compare", "run", str(written), "--out", str(folder), "--quiet"]) == 0
    finally:
        written.unlink()
    _scrub(folder)
    return _trained(next((folder / "runs").iterdir()))


def _library(folder: Path) -> tuple[str, Any]:
    from refarch.cli import main as command

    run = "run-1/ia3/saved"
    assert command(["library", "add", run, "--library", str(folder), "--name", "letters"]) == 0
    return _trained(folder / "letters")


def _scrub(folder: Path) -> None:
    """Take the machine and the hour out of a run's or a study's files."""
    for path in [*folder.rglob("*.lock"), *folder.rglob("*.html")]:
        path.unlink()
    for path in folder.rglob("*.json"):
        values = json.loads(path.read_text(encoding="utf-8"))
        path.write_text(json.dumps(_scrubbed(values), indent=2) + "\n", encoding="utf-8")
    for path in folder.rglob("*.jsonl"):
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        path.write_text("".join(json.dumps(_scrubbed(line)) + "\n" for line in lines), encoding="utf-8")


FIXED: dict[str, Any] = {
    "platform": "Linux",
    "processor": "x86_64",
    "python": "3.11",
    "started": "2026-12-01T00:00:00+00:00",
    "finished": "2026-12-01T00:00:01+00:00",
    "peak_memory_bytes": 2**29,
    "seconds": 0.5,
    "runtime": 0.25,
    "samples_per_second": 24.0,
    "steps_per_second": 4.0,
    "load": 0.25,
    "train": 0.5,
    "evaluate": 0.25,
}
BEGAN = 1796083200.0
"""``started``, where it is a number."""


def _scrubbed(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _fixed(key, inner) for key, inner in value.items()}
    return [_scrubbed(inner) for inner in value] if isinstance(value, list) else value


def _fixed(key: str, value: Any) -> Any:
    known = BEGAN if key == "started" and isinstance(value, float) else FIXED.get(key)
    return known if type(known) is type(value) else _scrubbed(value)


if __name__ == "__main__":
    sys.exit(main())
