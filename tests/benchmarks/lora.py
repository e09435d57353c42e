"""LoRA's cost through refarch and through peft, against the frozen backbone's own limit and full finetuning.

All variants share one set of frozen weights, run interleaved in one process, and are given as ratios to the limit of
the same round: forward plus the gradients of the inputs, which any technique inside the backbone must pay. Run from the
top of the repository::

    python tests/benchmarks/lora.py --model bert
    python tests/benchmarks/lora.py --model gpt2 --json gpt2.json
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
from peft import LoraConfig, inject_adapter_in_model
from torch import nn
from transformers import AutoConfig, AutoModel, PreTrainedModel

import refarch

SHAPES: dict[str, dict[str, Any]] = {
    "bert": {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
    "gpt2": {"attn_pdrop": 0.0, "resid_pdrop": 0.0, "embd_pdrop": 0.0},
}
DEPTH = {"bert": "num_hidden_layers", "gpt2": "n_layer"}
ALL_SLOTS = ["attention.query", "attention.key", "attention.value", "attention.output", "ffn.up", "ffn.down"]
PEFT_TARGETS = {
    "bert": {"query+value": ["query", "value"], "all": ["query", "key", "value", "dense"]},
    "gpt2": {"query+value": ["c_attn"], "all": ["c_attn", "c_proj", "c_fc"]},
}
SETTINGS = {"query+value": 0.0, "all": 0.0, "all, dropout": 0.1}


def shared(model: PreTrainedModel) -> PreTrainedModel:
    """A copy of the modules over the same weights."""
    return copy.deepcopy(model, {id(p): p for p in model.parameters()})


def with_refarch(model: PreTrainedModel, where: str, dropout: float) -> PreTrainedModel:
    """LoRA through refarch, with a B that is not zero."""
    slots = ["attention.query", "attention.value"] if where == "query+value" else ALL_SLOTS
    adaptation = refarch.attach(model, "lora", rank=8, alpha=16, dropout=dropout, slots=slots)
    for name, parameter in adaptation.named_parameters():
        if name.endswith("up"):
            nn.init.normal_(parameter, std=0.02)
    return model


def with_peft(model: PreTrainedModel, kind: str, where: str, dropout: float) -> PreTrainedModel:
    """LoRA through peft's own injection, with a B that is not zero."""
    config = LoraConfig(
        r=8,
        lora_alpha=16,
        lora_dropout=dropout,
        target_modules=PEFT_TARGETS[kind][where],
        fan_in_fan_out=kind == "gpt2",
    )
    model = inject_adapter_in_model(config, model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("lora_" in name)
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.02)
    return model


def variants(kind: str, model: PreTrainedModel) -> dict[str, PreTrainedModel]:
    """All that is compared, the limit first."""
    found = {"limit": model}
    for setting, dropout in SETTINGS.items():
        where = setting.split(",")[0]
        found[f"refarch {setting}"] = with_refarch(shared(model), where, dropout)
        found[f"peft {setting}"] = with_peft(shared(model), kind, where, dropout)
    found["full"] = copy.deepcopy(model).requires_grad_(True)
    return found


def step(model: PreTrainedModel, embedded: torch.Tensor) -> None:
    """Forward and backward, down to the gradients of the embedded inputs."""
    embedded = embedded.detach().requires_grad_(True)
    out = model(inputs_embeds=embedded).last_hidden_state
    out.backward(torch.full_like(out, 1e-3))


def kept_bytes(model: PreTrainedModel, embedded: torch.Tensor) -> int:
    """Bytes of activations that one forward pass keeps for backward; parameters do not count."""
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    seen: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(inputs_embeds=embedded.detach().requires_grad_(True))
    return sum(seen.values())


def clock(work: Callable[[], object]) -> tuple[float, float]:
    """Wall and CPU seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def measure(kind: str, layers: int, batch: int, tokens: int, rounds: int) -> dict[str, Any]:
    """All figures of one backbone shape."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **SHAPES[kind], **{DEPTH[kind]: layers}, use_cache=False)
    model = AutoModel.from_config(config).requires_grad_(False).train()
    embedded = torch.randn(batch, tokens, config.hidden_size) * 0.1
    models = variants(kind, model)
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in models}
    latency: dict[str, list[float]] = {name: [] for name in models}
    for round_ in range(rounds + 1):
        for name, item in models.items():
            spent = clock(lambda item=item: step(item, embedded))
            item.zero_grad(set_to_none=True)
            if round_:  # the first round warms up
                times[name].append(spent)
    for item in models.values():
        item.eval()
    with torch.inference_mode():
        for round_ in range(rounds + 1):
            for name, item in models.items():
                spent = clock(lambda item=item: item(inputs_embeds=embedded))
                if round_:
                    latency[name].append(spent[0])
    for item in models.values():
        item.train()
    rows = {}
    for name, item in models.items():
        ratios = [[a[i] / b[i] for a, b in zip(times[name], times["limit"], strict=True)] for i in (0, 1)]
        slower = [a / b for a, b in zip(latency[name], latency["limit"], strict=True)]
        spread = statistics.quantiles(ratios[0], n=4)
        rows[name] = {
            "wall": statistics.median(ratios[0]),
            "wall_quartiles": [spread[0], spread[2]],
            "cpu": statistics.median(ratios[1]),
            "kept_mib": kept_bytes(item, embedded) / 2**20,
            "latency": statistics.median(slower),
            "trainable": sum(p.numel() for p in item.parameters() if p.requires_grad),
        }
    return {"rows": rows, "attach_ms": attach_times(kind, layers)}


def attach_times(kind: str, layers: int, repeats: int = 9) -> dict[str, float]:
    """Milliseconds to attach LoRA to all linear slots; median."""
    config = AutoConfig.for_model(kind, **{DEPTH[kind]: layers})
    model = AutoModel.from_config(config)
    ours, theirs = [], []
    for _ in range(repeats):
        began = time.perf_counter()
        adaptation = refarch.attach(model, "lora", slots=ALL_SLOTS)
        ours.append(time.perf_counter() - began)
        adaptation.detach()
        other = shared(model)
        began = time.perf_counter()
        inject_adapter_in_model(LoraConfig(r=8, target_modules=PEFT_TARGETS[kind]["all"]), other)
        theirs.append(time.perf_counter() - began)
    return {"refarch": statistics.median(ours) * 1e3, "peft": statistics.median(theirs) * 1e3}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=sorted(SHAPES), default="bert")
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    result = measure(options.model, options.layers, options.batch, options.tokens, options.rounds)
    result["setting"] = {**{k: v for k, v in vars(options).items() if k != "json"}, "machine": platform.processor()}
    print(
        f"{options.model} base shape, {options.layers} layers, batch {options.batch} x {options.tokens} tokens,"
        f" {options.threads} threads, {options.rounds} rounds; ratios to the limit, medians"
    )
    print(f"{'':24}{'wall':>7}{'(quartiles)':>16}{'cpu':>7}{'latency':>9}{'kept MiB':>10}{'trainable':>12}")
    for name, row in result["rows"].items():
        low, high = row["wall_quartiles"]
        print(
            f"{name:24}{row['wall']:7.3f}{f'({low:.3f}-{high:.3f})':>16}{row['cpu']:7.3f}{row['latency']:9.3f}"
            f"{row['kept_mib']:10.1f}{row['trainable']:12,}"
        )
    print("attach, all linears: " + ", ".join(f"{who} {ms:.1f} ms" for who, ms in result["attach_ms"].items()))
    if options.json:
        options.json.write_text(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
