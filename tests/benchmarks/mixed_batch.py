"""A batch whose rows use eight LoRAs on one frozen base: together, and one LoRA after another; here and with peft.

All variants share the base's weights and the LoRAs' values, give equal outputs (this is checked), and run interleaved
in one
process. Times are medians, given as ratios to the base alone on the same batch. Run from the top of the repository::

    python tests/benchmarks/mixed_batch.py --model bert
    python tests/benchmarks/mixed_batch.py --model gpt2 --tokens 16 --json mixed.json
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedModel

import refarch

DEPTH = {"bert": "num_hidden_layers", "gpt2": "n_layer"}
SLOTS = {"bert": ["attention.query", "attention.value"], "gpt2": ["attention.output", "ffn.down"]}
"""Slots that both libraries can adapt alike: peft takes GPT-2's fused projection as one matrix."""
TARGETS = {"bert": ["query", "value"], "gpt2": ["c_proj"]}


def shared(model: PreTrainedModel) -> PreTrainedModel:
    """A copy of the modules over the same weights."""
    return copy.deepcopy(model, {id(p): p for p in model.parameters()})


def with_refarch(model: PreTrainedModel, kind: str, names: list[str], rank: int) -> refarch.Composition:
    """The LoRAs, each with random values."""
    for seed, name in enumerate(names):
        adaptation = refarch.attach(
            model, "lora", name=name, seed=seed, rank=rank, alpha=2 * rank, slots=SLOTS[kind], trainable=False
        )
        generator = torch.Generator().manual_seed(seed)
        for key, parameter in adaptation.named_parameters():
            if key.endswith("up"):
                nn.init.normal_(parameter, std=0.02, generator=generator)
    return refarch.compose(model, f"split({', '.join(names)})")


def with_peft(model: PreTrainedModel, kind: str, composition: refarch.Composition, rank: int) -> PeftModel:
    """The same LoRAs in peft."""
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=TARGETS[kind], fan_in_fan_out=kind == "gpt2")
    names = list(composition.parts)
    wrapped = get_peft_model(model, config, adapter_name=names[0])
    for name in names[1:]:
        wrapped.add_adapter(name, config)
    with torch.no_grad():
        for name, part in composition.parts.items():
            for item in part.insertions:
                layer = wrapped.base_model.model.get_submodule(item.site.end.path)
                layer.lora_A[name].weight.copy_(item.function.down)
                layer.lora_B[name].weight.copy_(item.function.up)
    return wrapped.eval()


def one_by_one_refarch(model: PreTrainedModel, names: list[str | None], ids: Tensor, parts: dict[str, Any]) -> Tensor:
    """Each LoRA's rows in a call of their own, without a composition."""
    out: list[Tensor] = []
    for name in dict.fromkeys(names):
        for label, part in parts.items():
            part.enabled = label == name
        rows = [i for i, own in enumerate(names) if own == name]
        out.append(model(input_ids=ids[rows]).last_hidden_state)
    return torch.cat(out)


def one_by_one_peft(model: PeftModel, names: list[str], ids: Tensor) -> Tensor:
    """The same in peft."""
    out: list[Tensor] = []
    for name in dict.fromkeys(names):
        model.set_adapter(name)
        rows = [i for i, own in enumerate(names) if own == name]
        out.append(model(input_ids=ids[rows]).last_hidden_state)
    return torch.cat(out)


def variants(
    kind: str, model: PreTrainedModel, ids: Tensor, names: list[str], rank: int
) -> dict[str, Callable[[], Tensor]]:
    """All that is compared, the base alone first."""
    different = list(dict.fromkeys(names))
    together, apart = shared(model), shared(model)
    composition = with_refarch(together, kind, different, rank)
    single = with_refarch(apart, kind, different, rank)
    single.detach(parts=False)
    peft = with_peft(shared(model), kind, composition, rank)

    def mixed() -> Tensor:
        with composition.rows(names):
            return together(input_ids=ids).last_hidden_state

    return {
        "base alone": lambda: model(input_ids=ids).last_hidden_state,
        "refarch, mixed": mixed,
        "refarch, one by one": lambda: one_by_one_refarch(apart, list(names), ids, single.parts),
        "peft, mixed": lambda: peft(input_ids=ids, adapter_names=names).last_hidden_state,
        "peft, one by one": lambda: one_by_one_peft(peft, names, ids),
    }


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Ratios of all variants."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(options.model, **{DEPTH[options.model]: options.layers}, use_cache=False)
    model = AutoModel.from_config(config).requires_grad_(False).eval()
    names = [f"lora{i}" for i in range(options.loras) for _ in range(options.rows)]
    ids = torch.randint(5, config.vocab_size, (len(names), options.tokens))
    work = variants(options.model, model, ids, names, options.rank)
    times: dict[str, list[float]] = {name: [] for name in work}
    with torch.inference_mode():
        found = {name: run() for name, run in work.items()}
        want = found["refarch, one by one"]
        differences = {name: float((out - want).abs().max()) for name, out in found.items() if name != "base alone"}
        assert max(differences.values()) < 1e-3, differences
        assert float((found["base alone"] - want).abs().max()) > 1e-2, "the LoRAs do something"
        for _ in range(options.rounds):
            for name, run in work.items():
                began = time.perf_counter()
                run()
                times[name].append(time.perf_counter() - began)
    rows = {}
    for name, own in times.items():
        ratios = [a / b for a, b in zip(own, times["base alone"], strict=True)]
        low, _, high = statistics.quantiles(ratios, n=4)
        rows[name] = {"ratio": statistics.median(ratios), "quartiles": [low, high], "ms": statistics.median(own) * 1e3}
    return {"rows": rows, "differences": differences}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=sorted(DEPTH), default="bert")
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--loras", type=int, default=8)
    parser.add_argument("--rows", type=int, default=1, help="of each LoRA")
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    result = measure(options)
    result["setting"] = {**{k: v for k, v in vars(options).items() if k != "json"}, "machine": platform.processor()}
    print(
        f"{options.model} base shape, {options.layers} layers, {options.loras} LoRAs of rank {options.rank},"
        f" {options.rows} rows each, {options.tokens} tokens, {options.threads} threads, {options.rounds} rounds"
    )
    print(f"{'':22}{'ratio to base':>14}{'(quartiles)':>16}{'ms':>9}")
    for name, row in result["rows"].items():
        low, high = row["quartiles"]
        print(f"{name:22}{row['ratio']:14.3f}{f'({low:.3f}-{high:.3f})':>16}{row['ms']:9.1f}")
    if options.json:
        options.json.write_text(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
