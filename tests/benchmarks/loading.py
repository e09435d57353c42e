"""What loading one more saved module onto a backbone takes, from the first to the last, through refarch and peft.

The same LoRA (rank 8, query and value) is loaded again and again under new names, by turns through ``refarch.load``,
through peft's ``load_adapter`` and through the latter with ``low_cpu_mem_usage``, all in one process on copies of one
backbone that share its weights. Figures are CPU time: medians over windows of ten loads as ratios to the first window,
and peft's as a ratio to refarch's in the same window. Run from the top of the repository::

    python tests/benchmarks/loading.py --modules 200
    python tests/benchmarks/loading.py --modules 200 --technique adapter --alone
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoConfig, AutoModel, PreTrainedModel

import refarch

WINDOW = 10


def shared(model: PreTrainedModel) -> PreTrainedModel:
    """A copy of the modules over the same weights."""
    return copy.deepcopy(model, {id(p): p for p in model.parameters()})


def with_refarch(model: PreTrainedModel, technique: str, folder: Path) -> Callable[[int], object]:
    """Saves a technique and gives what loads it as the n-th one."""
    adaptation = refarch.attach(model, technique)
    adaptation.save(folder)
    adaptation.detach()
    return lambda number: refarch.load(model, folder, name=f"module-{number}")


def with_peft(model: PreTrainedModel, folder: Path, fast: bool) -> Callable[[int], object]:
    """Saves LoRA through peft and gives what loads it as the n-th one."""
    config = LoraConfig(r=8, lora_alpha=16, target_modules=["query", "value"])
    get_peft_model(shared(model), config).save_pretrained(folder)
    adapted: list[PeftModel] = []

    def load(number: int) -> object:
        name = f"module-{number}"
        if not adapted:  # peft's first one makes the model
            adapted.append(PeftModel.from_pretrained(model, str(folder), name, low_cpu_mem_usage=fast))
            return adapted[0]
        return adapted[0].load_adapter(str(folder), name, low_cpu_mem_usage=fast)

    return load


def measure(loaders: dict[str, Callable[[int], object]], count: int) -> dict[str, list[float]]:
    """CPU seconds of each load."""
    spent: dict[str, list[float]] = {name: [] for name in loaders}
    for number in range(count):
        for name, load in loaders.items():
            began = time.process_time()
            load(number)
            spent[name].append(time.process_time() - began)
    return spent


def windows(seconds: list[float]) -> dict[int, float]:
    """The median of every window that is reported, by the number of its last load."""
    ends = sorted({WINDOW, 40, 100, len(seconds)} & set(range(WINDOW, len(seconds) + 1)))
    return {end: statistics.median(seconds[end - WINDOW : end]) for end in ends}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--modules", type=int, default=200)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--technique", default="lora", help="through refarch")
    parser.add_argument("--alone", action="store_true", help="without peft")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = AutoModel.from_config(AutoConfig.for_model("bert", num_hidden_layers=options.layers)).eval()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        loaders = {"refarch": with_refarch(shared(model), options.technique, root / "refarch")}
        if not options.alone:
            loaders["peft"] = with_peft(shared(model), root / "peft", fast=False)
            loaders["peft, low_cpu_mem_usage"] = with_peft(shared(model), root / "fast", fast=True)
        found = {name: windows(seconds) for name, seconds in measure(loaders, options.modules).items()}
    print(f"{options.technique} on a {options.layers}-layer BERT base shape, CPU time, medians of {WINDOW} loads")
    ends = list(found["refarch"])
    print(f"{'':36}" + "".join(f"{f'to {end}':>10}" for end in ends))
    rows: dict[str, Any] = {}
    for name, own in found.items():
        rows[f"{name} / its first {WINDOW}"] = {end: own[end] / own[ends[0]] for end in ends}
    for name, own in list(found.items())[1:]:
        rows[f"{name} / refarch"] = {end: own[end] / found["refarch"][end] for end in ends}
    for name, row in rows.items():
        print(f"{name:36}" + "".join(f"{value:10.2f}" for value in row.values()))
    if options.json:
        milliseconds = {name: {end: 1e3 * value for end, value in own.items()} for name, own in found.items()}
        setting = {"modules": options.modules, "layers": options.layers, "machine": platform.processor()}
        options.json.write_text(
            json.dumps({"ratios": rows, "milliseconds": milliseconds, "setting": setting}, indent=2)
        )


if __name__ == "__main__":
    main()
