"""The adapters library's checkpoints. It does not run beside transformers 5, so the files are made here, with the names
and shapes that its version 1.3.0 writes, and what they compute is written out by hooks on the plain model.
"""

import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from refarch_interchange import Difference, load_adapters
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

import refarch
from refarch.cli import main
from refarch.errors import CheckpointError, CompositionError, RefarchError
from refarch.testing import outputs

from .adapters_support import DOUBLE, LORA, NAME, PLACES, Random, bottlenecks, expect, write
from .support import batch_of, close, tiny_of


@pytest.mark.parametrize("family", PLACES)
def test_houlsby_adapters(family: str, tmp_path: Path) -> None:
    tensors, hooks = bottlenecks(PLACES[family], 1.0, F.silu)
    adaptation = expect(family, write(tmp_path, {**DOUBLE, "cross_adapter": family == "t5"}, tensors), hooks)
    assert adaptation.technique.name == "adapter" and adaptation.name == NAME
    assert adaptation.source.distribution == "refarch-adapter"


def test_a_scale_layers_left_out_and_widths_by_layer(tmp_path: Path) -> None:
    places = {path: end for path, end in PLACES["bert"].items() if ".1." in path}
    tensors, hooks = bottlenecks(places, 2.5, torch.relu, m=5)
    config = {**DOUBLE, "scaling": 2.5, "non_linearity": "relu", "leave_out": [0]}
    adaptation = expect("bert", write(tmp_path / "one", config, tensors), hooks)
    assert {item.site.shape.layer for item in adaptation.insertions} == {1}
    first = {path: end for path, end in PLACES["bert"].items() if ".0." in path}
    more, others = bottlenecks(first, 2.5, torch.relu, m=3)
    adaptation = expect("bert", write(tmp_path / "two", {**config, "leave_out": []}, tensors | more), hooks | others)
    assert {len(function.down.weight) for _, function in adaptation.functions()} == {3, 5}


def test_parallel_adapters_where_norms_come_after(tmp_path: Path) -> None:
    places = {path: path for path in PLACES["bert"] if "attention" not in path}
    tensors, _ = bottlenecks(places, 1.0, torch.relu)
    config = {**DOUBLE, "mh_adapter": False, "is_parallel": True, "scaling": 4.0, "non_linearity": "relu"}
    write(tmp_path, config, tensors)
    tiny = tiny_of("bert")
    model, plain, batch = tiny.model(), tiny.model(), batch_of(tiny)
    for path in places:
        own = ("adapter_down.0.weight", "adapter_down.0.bias", "adapter_up.weight", "adapter_up.bias")
        down, b, up, c = (tensors[f"{path}.adapters.{NAME}.{name}"] for name in own)
        output = plain.get_submodule(path)

        def forward(h: Tensor, x: Tensor, o: Any = output, d: Any = (down, b, up, c)) -> Tensor:
            beside = F.linear(torch.relu(F.linear(x, d[0], d[1])), d[2], d[3])
            return o.LayerNorm(o.dense(h) + 4.0 * beside + x)

        output.forward = forward
    adaptation = load_adapters(model, tmp_path)
    close(outputs(model, batch), outputs(plain, batch))
    assert [str(item.site.ref) for item in adaptation.insertions] == ["ffn", "ffn"]
    gpt2 = {path: end for path, end in PLACES["gpt2"].items() if "output" in path}
    tensors, _ = bottlenecks(gpt2, 1.0, torch.relu)
    with pytest.raises(CompositionError, match="norms before a sublayer"):
        load_adapters(tiny_of("gpt2").model(), write(tmp_path / "gpt2", config, tensors))


def test_compacter(tmp_path: Path) -> None:
    new, tensors, hooks = Random(), {}, {}
    rule = tensors[f"bert.shared_parameters.{NAME}.phm_rule"] = new(4, 4, 4)

    def matrix(start: str, d_in: int, d_out: int) -> Tensor:
        left, right = new(4, d_in // 4, 1), new(4, 1, d_out // 4)
        tensors.update({f"{start}.W_left": left, f"{start}.W_right": right})
        return sum(torch.kron(rule[i], left[i] @ right[i]) for i in range(4))  # type: ignore[return-value]

    for path, projection in PLACES["bert"].items():
        start = f"{path}.adapters.{NAME}"
        down, up = matrix(f"{start}.adapter_down.0", 32, 8), matrix(f"{start}.adapter_up", 8, 32)
        b_down, b_up = new(8), new(32)
        tensors |= {f"{start}.adapter_down.0.b": b_down, f"{start}.adapter_up.b": b_up}

        def hook(x: Tensor, y: Tensor, d: Any = (down, b_down, up, b_up)) -> Tensor:
            return y + F.gelu(y @ d[0] + d[1]) @ d[2] + d[3]

        hooks[projection] = hook
    config = {
        **DOUBLE, "phm_layer": True, "phm_dim": 4, "phm_rank": 1, "non_linearity": "gelu", "shared_phm_rule": True,
        "factorized_phm_rule": False, "factorized_phm_W": True, "shared_W_phm": False, "phm_bias": True,
    }  # fmt: skip
    assert expect("bert", write(tmp_path, config, tensors), hooks).technique.name == "compacter"
    del tensors[f"bert.shared_parameters.{NAME}.phm_rule"]
    with pytest.raises(CheckpointError, match="phm_rule"):
        load_adapters(tiny_of("bert").model(), write(tmp_path, config, tensors))


@pytest.mark.parametrize(("version", "alpha"), [("adapters.1.3.0", 6), ("adapters.1.0.1", 3), ("3.2.1", 6)])
def test_lora_with_the_scale_that_its_version_had(version: str, alpha: int, tmp_path: Path) -> None:
    new, tensors, hooks = Random(), {}, {}
    for i in range(2):
        for part in ("query", "value"):
            path = f"bert.encoder.layer.{i}.attention.self.{part}"
            a, b = new(3, 32), new(32, 3)
            tensors |= {f"{path}.loras.{NAME}.lora_A": a, f"{path}.loras.{NAME}.lora_B": b}
            hooks[path] = lambda x, y, a=a, b=b: y + alpha / 3 * x @ a.T @ b.T
    adaptation = expect("bert", write(tmp_path, LORA, tensors, version), hooks)
    assert adaptation.technique.options["alpha"] == alpha and len(adaptation.technique.technique.modules) == 1


def test_lora_of_a_fused_projection(tmp_path: Path) -> None:
    """The library stacks A and B of the matrices that it adapts: those of queries and values here."""
    new, tensors, hooks = Random(), {}, {}
    for i in range(2):
        path = f"transformer.h.{i}.attn.c_attn"
        a, b = new(6, 32), new(64, 3)
        tensors |= {f"{path}.loras.{NAME}.lora_A": a, f"{path}.loras.{NAME}.lora_B": b}

        def hook(x: Tensor, y: Tensor, a: Tensor = a, b: Tensor = b) -> Tensor:
            query, value = 2 * x @ a[:3].T @ b[:32].T, 2 * x @ a[3:].T @ b[32:].T
            return y + torch.cat([query, torch.zeros_like(query), value], dim=-1)

        hooks[path] = hook
    adaptation = expect("gpt2", write(tmp_path, LORA, tensors), hooks)
    assert {str(item.site.ref) for item in adaptation.insertions} == {"attention.query", "attention.value"}


def test_ia3_at_the_outputs_that_the_library_scales(tmp_path: Path) -> None:
    new, tensors, hooks = Random(), {}, {}
    for i in range(2):
        for part in ("attention.self.key", "attention.self.value", "intermediate.dense"):
            path = f"bert.encoder.layer.{i}.{part}"
            factors = 1 + new(48 if "dense" in part else 32, 1)
            tensors[f"{path}.loras.{NAME}.lora_B"] = factors
            hooks[path] = lambda x, y, f=factors: y * f.flatten()
    config = {**LORA, "r": 1, "alpha": 1, "composition_mode": "scale", "attn_matrices": ["k", "v"]}
    assert expect("bert", write(tmp_path, config, tensors), hooks).technique.name == "ia3"


def test_dora_where_it_is_the_papers(tmp_path: Path) -> None:
    new, tensors, hooks = Random(), {}, {}
    model = tiny_of("llama").model()
    for i in range(2):
        path = f"model.layers.{i}.self_attn.q_proj"
        weight = model.get_submodule(path).weight.detach()
        a, b, m = new(3, 32), new(32, 3), 3 + new(32, 1)
        tensors |= {f"{path}.loras.{NAME}.lora_A": a, f"{path}.loras.{NAME}.lora_B": b}
        tensors[f"{path}.loras.{NAME}.m.weight"] = m
        direction = weight + b @ a
        whole = m * direction / direction.norm(dim=1, keepdim=True)
        hooks[path] = lambda x, y, w=whole: x @ w.T
    config = {**LORA, "alpha": 3, "use_dora": True, "attn_matrices": ["q"]}
    assert expect("llama", write(tmp_path, config, tensors), hooks).technique.name == "dora"
    with pytest.raises(CompositionError, match="alpha / r"):
        load_adapters(model, write(tmp_path, {**config, "alpha": 6}, tensors))


@pytest.mark.parametrize("flat", [True, False])
def test_a_prefix_is_what_its_network_makes(flat: bool, tmp_path: Path) -> None:
    new = Random()
    start = f"bert.prefix_tuning.prefix_tunings.{NAME}.self_prefix"
    if flat:
        table = new(3 * 2 * 2 * 32)
        tensors = {f"{start}.control_trans": table}
    else:
        wte, first, b, last, c = new(3, 32), new(8, 32), new(8), new(128, 8), new(128)
        tensors = {f"{start}.wte.weight": wte, f"{start}.control_trans.0.weight": first}
        tensors |= {f"{start}.control_trans.0.bias": b, f"{start}.control_trans.2.weight": last}
        tensors[f"{start}.control_trans.2.bias"] = c
        table = torch.stack([last @ torch.tanh(first @ token + b) + c for token in wte]).flatten()
    again = f"bert.encoder.layer.0.attention.self.prefix_tuning.pool.prefix_tunings.{NAME}.self_prefix"
    tensors |= {name.replace(start, again): tensor for name, tensor in tensors.items()}
    config = {
        "architecture": "prefix_tuning", "flat": flat, "prefix_length": 3, "bottleneck_size": 8, "leave_out": [],
        "non_linearity": "tanh", "use_gating": False, "encoder_prefix": True, "cross_prefix": True,
    }  # fmt: skip
    model = tiny_of("bert").model()
    adaptation = load_adapters(model, write(tmp_path, config, tensors))
    rows = table.view(3, 4, 32)  # l, keys and values of each layer, d
    for layer, (_, function) in enumerate(adaptation.functions()):
        torch.testing.assert_close(function.keys, rows[:, 2 * layer])
        torch.testing.assert_close(function.values, rows[:, 2 * layer + 1])
    adaptation.save(tmp_path / "own")
    refarch.load(tiny_of("bert").model(), tmp_path / "own")
    with pytest.raises(CompositionError, match="position biases"):
        load_adapters(tiny_of("t5").model(), tmp_path)


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({**DOUBLE, "original_ln_before": True}, "Pfeiffer"),
        ({**DOUBLE, "ln_after": True}, "ln_after"),
        ({**DOUBLE, "use_gating": True}, "use_gating"),
        ({**DOUBLE, "inv_adapter": "nice"}, "inv_adapter"),
        ({**DOUBLE, "scaling": "learned"}, "scaling"),
        ({**DOUBLE, "non_linearity": "leakyrelu"}, "non_linearity"),
        ({**DOUBLE, "phm_layer": True, "shared_phm_rule": False}, "shared_phm_rule"),
        ({**LORA, "vera_d": 0.1}, "vera_d"),
        ({**LORA, "use_gating": True}, "use_gating"),
        ({"architecture": "union"}, "several methods"),
        ({"architecture": "prompt_tuning"}, "positions and norm"),
        ({"architecture": "next_year"}, "nothing is known"),
    ],
)
def test_what_has_no_counterpart_is_refused_by_name(config: dict[str, Any], named: str, tmp_path: Path) -> None:
    tensors, _ = bottlenecks(PLACES["bert"], 1.0, torch.relu)
    model = tiny_of("bert").model()
    with pytest.raises(CompositionError, match=named):
        load_adapters(model, write(tmp_path, config, tensors))
    assert refarch.adaptations(model) == ()


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (os.getcwd, ())


def test_hostile_and_damaged_files_are_refused(tmp_path: Path) -> None:
    tensors, _ = bottlenecks(PLACES["bert"], 1.0, F.silu)
    path = write(tmp_path, DOUBLE, tensors) / "pytorch_adapter.bin"

    def refused(named: str) -> None:
        model = tiny_of("bert").model()
        with pytest.raises(RefarchError, match=named):
            load_adapters(model, tmp_path)
        assert refarch.adaptations(model) == ()

    whole = path.read_bytes()
    path.write_bytes(whole[:500])
    refused("damaged, or holds more than tensors")
    path.write_bytes(pickle.dumps({"a": Evil()}))
    refused("damaged, or holds more than tensors")
    torch.save({"a": [1, 2]}, path)
    refused("more than tensors by name")
    torch.save({name: tensor for name, tensor in tensors.items() if ".layer.1.output." not in name}, path)
    refused("no module in layer 1")
    torch.save({name: tensor for name, tensor in tensors.items() if not name.endswith("adapter_up.bias")}, path)
    refused("missing")
    torch.save({name: tensor * float("nan") for name, tensor in tensors.items()}, path)
    refused("not finite")
    torch.save({name: tensor[:-1] for name, tensor in tensors.items()}, path)
    refused("shape")
    path.unlink()
    refused("holds neither")
    save_file(tensors, tmp_path / "adapter.safetensors")
    load_adapters(tiny_of("bert").model(), tmp_path)
    (tmp_path / "adapter_config.json").write_text("{}")
    refused("no name and config")


def test_a_head_beside_it_and_old_names(tmp_path: Path) -> None:
    tensors, hooks = bottlenecks(PLACES["bert"], 1.0, F.silu)
    old = {
        name.replace(".attention.output.adapters.", ".attention.output.attention_text_task_adapters.").replace(
            ".output.adapters.", ".output.layer_text_task_adapters."
        ): tensor
        for name, tensor in tensors.items()
    }
    write(tmp_path, DOUBLE, old)
    (tmp_path / "pytorch_model_head.bin").write_bytes(b"")
    with pytest.warns(Difference, match="prediction head"):
        expect("bert", tmp_path, hooks)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny_of("bert").model().save_pretrained(str(tmp_path / "base"))
    tensors, _ = bottlenecks(PLACES["bert"], 1.0, F.silu)
    write(tmp_path / "theirs", DOUBLE, tensors)
    arguments = [
        "convert",
        "from-adapters",
        tmp_path / "theirs",
        "--model",
        tmp_path / "base",
        "--out",
        tmp_path / "ours",
    ]
    assert main([*map(str, arguments), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["slots"] == ["attention.output", "ffn.down"]
    model, again, batch = tiny_of("bert").model(), tiny_of("bert").model(), batch_of(tiny_of("bert"))
    refarch.load(model, tmp_path / "ours")
    load_adapters(again, tmp_path / "theirs")
    close(outputs(model, batch), outputs(again, batch))
