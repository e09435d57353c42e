"""Files as the adapters library writes them, and what they compute, written out by hooks on the plain model."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from refarch_interchange import load_adapters
from torch import Tensor
from torch.nn import functional as F

import refarch
from refarch.testing import outputs

from .support import batch_of, close, tiny_of

Hook = Callable[[Tensor, Tensor], Tensor]
"""What a module of the base returns instead: of its input and its output."""
DOUBLE: dict[str, Any] = {
    "architecture": None,
    "mh_adapter": True,
    "output_adapter": True,
    "non_linearity": "swish",
    "reduction_factor": 4,
    "original_ln_before": False,
    "original_ln_after": True,
    "residual_before_ln": True,
    "adapter_residual_before_ln": False,
    "ln_before": False,
    "ln_after": False,
    "use_gating": False,
    "is_parallel": False,
    "scaling": 1.0,
    "inv_adapter": None,
    "leave_out": [],
    "dropout": 0.0,
    "phm_layer": False,
}
LORA: dict[str, Any] = {
    "architecture": "lora",
    "r": 3,
    "alpha": 6,
    "dropout": 0.0,
    "attn_matrices": ["q", "v"],
    "composition_mode": "add",
    "use_gating": False,
    "use_dora": False,
    "vera_d": None,
    "vera_b": None,
    "leave_out": [],
}
NAME = "mine"


def write(folder: Path, config: dict[str, Any], tensors: dict[str, Tensor], version: str = "adapters.1.3.0") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    whole = {"config": config, "name": NAME, "model_name": "someone/base", "version": version}
    (folder / "adapter_config.json").write_text(json.dumps(whole))
    torch.save(tensors, folder / "pytorch_adapter.bin")
    return folder


class Random:
    """Random tensors that are the same in every test."""

    def __init__(self) -> None:
        self.generator = torch.Generator().manual_seed(11)

    def __call__(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator) * 0.3


def expect(family: str, folder: Path, hooks: dict[str, Hook], head: str = "LM") -> refarch.Adaptation:
    """The loaded adaptation computes what the plain model does with these hooks."""
    tiny = tiny_of(family, head)
    model, plain, batch = tiny.model(), tiny.model(), batch_of(tiny)
    for path, hook in hooks.items():

        def replace(_: Any, args: Any, output: Tensor, hook: Hook = hook) -> Tensor:
            return hook(args[0], output)

        plain.get_submodule(path).register_forward_hook(replace)
    adaptation = load_adapters(model, folder)
    wanted = outputs(plain, batch)
    close(outputs(model, batch), wanted)
    assert (wanted - outputs(tiny.model(), batch)).abs().max() > 1e-2
    return adaptation


# family -> where the library has adapters, and the projection that each comes after
PLACES = {
    "bert": {
        f"bert.encoder.layer.{i}.{at}": f"bert.encoder.layer.{i}.{at}.dense"
        for i in range(2)
        for at in ("attention.output", "output")
    },
    "gpt2": {
        f"transformer.h.{i}.{at}_adapters": f"transformer.h.{i}.{end}.c_proj"
        for i in range(2)
        for at, end in (("attention", "attn"), ("output", "mlp"))
    },
    "t5": {
        **{
            f"encoder.block.{i}.layer.{n}": f"encoder.block.{i}.layer.{n}.{end}"
            for i in range(2)
            for n, end in ((0, "SelfAttention.o"), (1, "DenseReluDense.wo"))
        },
        **{
            f"decoder.block.{i}.layer.{n}": f"decoder.block.{i}.layer.{n}.{end}"
            for i in range(2)
            for n, end in ((0, "SelfAttention.o"), (1, "EncDecAttention.o"), (2, "DenseReluDense.wo"))
        },
    },
}


def bottlenecks(
    places: dict[str, str], scale: float, act: Any, m: int = 8
) -> tuple[dict[str, Tensor], dict[str, Hook]]:
    new, tensors, hooks = Random(), {}, {}
    for path, projection in places.items():
        down, b_down, up, b_up = new(m, 32), new(m), new(32, m), new(32)
        start = f"{path}.adapters.{NAME}"
        tensors |= {f"{start}.adapter_down.0.weight": down, f"{start}.adapter_down.0.bias": b_down}
        tensors |= {f"{start}.adapter_up.weight": up, f"{start}.adapter_up.bias": b_up}

        def hook(x: Tensor, y: Tensor, down: Any = down, b: Any = b_down, up: Any = up, c: Any = b_up) -> Tensor:
            return y + scale * F.linear(act(F.linear(y, down, b)), up, c)

        hooks[projection] = hook
    return tensors, hooks
