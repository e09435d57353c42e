"""Tiny models from the families' own specs, inputs for them, and short spec builders."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import PreTrainedModel

from refarch import FamilySpec, ModuleSpec, TechniqueSpec, default_registry

FAMILIES = ("bert", "gpt2", "llama", "t5")
GENERATIVE = ("gpt2", "llama", "t5")

# The test's own table, so that a wrong one in a family plugin shows: slot -> path below the model with its head, and
# for GPT-2's fused projection which third of the output.
PATHS: dict[str, dict[str, tuple[str, int | None]]] = {
    "bert": {
        "attention.query": ("bert.encoder.layer.{}.attention.self.query", None),
        "attention.value": ("bert.encoder.layer.{}.attention.self.value", None),
        "attention.output": ("bert.encoder.layer.{}.attention.output.dense", None),
        "ffn.up": ("bert.encoder.layer.{}.intermediate.dense", None),
        "ffn.down": ("bert.encoder.layer.{}.output.dense", None),
        "ffn.norm": ("bert.encoder.layer.{}.output.LayerNorm", None),
        "layer": ("bert.encoder.layer.{}", None),
        "embedding": ("bert.embeddings.word_embeddings", None),
    },
    "gpt2": {
        "attention.query": ("transformer.h.{}.attn.c_attn", 0),
        "attention.value": ("transformer.h.{}.attn.c_attn", 2),
        "attention.output": ("transformer.h.{}.attn.c_proj", None),
        "ffn.up": ("transformer.h.{}.mlp.c_fc", None),
        "ffn.down": ("transformer.h.{}.mlp.c_proj", None),
        "ffn.norm": ("transformer.h.{}.ln_2", None),
        "layer": ("transformer.h.{}", None),
        "embedding": ("transformer.wte", None),
    },
    "llama": {
        "attention.query": ("model.layers.{}.self_attn.q_proj", None),
        "attention.value": ("model.layers.{}.self_attn.v_proj", None),
        "attention.output": ("model.layers.{}.self_attn.o_proj", None),
        "ffn.up": ("model.layers.{}.mlp.up_proj", None),
        "ffn.down": ("model.layers.{}.mlp.down_proj", None),
        "ffn.norm": ("model.layers.{}.post_attention_layernorm", None),
        "layer": ("model.layers.{}", None),
        "embedding": ("model.embed_tokens", None),
    },
    "t5": {
        "attention.query": ("decoder.block.{}.layer.0.SelfAttention.q", None),
        "attention.value": ("decoder.block.{}.layer.0.SelfAttention.v", None),
        "attention.output": ("decoder.block.{}.layer.0.SelfAttention.o", None),
        "ffn.up": ("decoder.block.{}.layer.2.DenseReluDense.wi", None),
        "ffn.down": ("decoder.block.{}.layer.2.DenseReluDense.wo", None),
        "ffn.norm": ("decoder.block.{}.layer.2.layer_norm", None),
        "layer": ("decoder.block.{}", None),
        "embedding": ("encoder.embed_tokens", None),
    },
}


def family(name: str) -> FamilySpec:
    """An installed family."""
    found = default_registry().backbone(name)
    assert isinstance(found, FamilySpec)
    return found


def tiny(name: str, auto: str | None = None, seed: int = 1, **config: Any) -> PreTrainedModel:
    """A tiny model with random weights and biases, evaluating; nothing in it is zero or one by construction."""
    spec = family(name).tiny
    torch.manual_seed(seed)
    settings = transformers.AutoConfig.for_model(spec.model_type, **{**spec.config, **config})
    model: PreTrainedModel = getattr(transformers, auto or spec.auto_classes[0]).from_config(settings)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * (0.1 if parameter.ndim > 1 else 0.2))
    return model.eval()


def batch(name: str, rows: int = 2, length: int = 6, seed: int = 3) -> dict[str, Tensor]:
    """Inputs with labels; the second row is two tokens shorter, padded on the right."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, 99, (rows, length), generator=generator)
    mask = torch.ones_like(ids)
    mask[1:, length - 2 :] = 0
    values = {"input_ids": ids, "attention_mask": mask}
    if name == "bert":
        values["labels"] = torch.randint(0, 2, (rows,), generator=generator)
    elif name == "t5":
        values["labels"] = torch.randint(3, 99, (rows, 5), generator=generator)
    else:
        values["labels"] = ids.masked_fill(mask == 0, -100)
    return values


def logits(model: nn.Module, values: dict[str, Tensor]) -> Tensor:
    """The logits where the mask is one (what stands at padding means nothing)."""
    out = model(**values).logits
    mask = values["attention_mask"]
    return out[mask.bool()] if out.ndim == 3 and out.shape[:2] == mask.shape else out


def module(function: str | None, integration: str, workspace: str | tuple[str, ...], **fields: Any) -> ModuleSpec:
    """A module spec with the defaults that its integration form calls for."""
    defaults: dict[str, dict[str, Any]] = {
        "rescaling": {"insertion": "sequential", "form": "vector", "intra": "diagonal"},
        "concatenation": {"form": "tokens", "input_type": "data", "intra": "none", "inter": "dynamic"},
        "transformation": {"input_type": "weights", "adapted": "reparameterisation"},
        "selection": {"input_type": "weights", "adapted": "selection", "parameters": ("*",), "intra": "none"},
    }
    base = {
        "name": "part",
        "insertion": "parallel",
        "input_type": "hidden",
        "adapted": "addition",
        "intra": "dense",
        "inter": "fixed",
        "form": "linear",
    }
    values = {**base, **defaults.get(integration, {}), **fields}
    path = f"engine_functions:{function}" if function else None
    where = (workspace,) if isinstance(workspace, str) else workspace
    return ModuleSpec(function=path, integration=integration, workspace=where, **values)


def technique(*modules: ModuleSpec, name: str = "throwaway", **fields: Any) -> TechniqueSpec:
    """A technique of these modules."""
    return TechniqueSpec(name=name, summary="for tests", modules=modules, **fields)


Edit = Callable[[Tensor, Tensor], Tensor]
"""(what the module reads, what it computes) -> what it shall compute."""


def edited(model: PreTrainedModel, path: str, part: int | None, edit: Edit) -> PreTrainedModel:
    """An independent copy of a plain model in which a forward hook changes one module's output (or a third of it)."""
    clone = copy.deepcopy(model)
    add_edit(clone, path, part, edit)
    return clone


def add_edit(clone: nn.Module, path: str, part: int | None, edit: Edit) -> None:
    """Put the hook on a model."""

    def hook(_: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        x = args[0] if args else next(iter(kwargs.values()))
        y = output[0] if isinstance(output, tuple) else output
        if part is None:
            new = edit(x, y)
        else:
            thirds = list(y.chunk(3, dim=-1))
            thirds[part] = edit(x, thirds[part])
            new = torch.cat(thirds, dim=-1)
        return (new, *output[1:]) if isinstance(output, tuple) else new

    clone.get_submodule(path).register_forward_hook(hook, with_kwargs=True)


def snapshot(model: nn.Module) -> dict[str, Any]:
    """Everything that detaching must restore: values, instance attributes, hooks, requires_grad, configuration."""
    ignored = {"_parameters", "_modules", "_buffers", "config"}
    return {
        "values": {name: tensor.clone() for name, tensor in model.state_dict().items()},
        "identity": {name: id(p) for name, p in model.named_parameters(remove_duplicate=False)},
        "modules": [name for name, _ in model.named_modules()],
        "attributes": {
            path: {key: repr(value) for key, value in vars(each).items() if key not in ignored}
            for path, each in model.named_modules()
        },
        "grad": {name: p.requires_grad for name, p in model.named_parameters()},
        "config": repr(vars(model.config)) if hasattr(model, "config") else "",
    }


def assert_restored(before: dict[str, Any], model: nn.Module) -> None:
    """The model is bit for bit what it was."""
    after = snapshot(model)
    assert all(torch.equal(tensor, after["values"][name]) for name, tensor in before["values"].items())
    assert before["values"].keys() == after["values"].keys()
    for key in ("identity", "modules", "attributes", "grad", "config"):
        assert before[key] == after[key], key


def scores(model: PreTrainedModel, values: dict[str, Tensor], **options: Any) -> tuple[Tensor, Tensor]:
    """Eight greedily generated tokens and the scores of each step, [steps, rows, vocabulary], or as ``options`` say."""
    inputs = {key: values[key] for key in ("input_ids", "attention_mask") if key in values}
    settings = {"max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False, **options}
    with torch.no_grad():
        out = model.generate(**inputs, **settings, return_dict_in_generate=True, output_scores=True)  # type: ignore[operator]
    return out.sequences, torch.stack(out.scores).nan_to_num(neginf=-1e4)


def left_padded(values: dict[str, Tensor], pad: int = 0) -> dict[str, Tensor]:
    """The same rows with their padding moved to the left, labels left out."""
    ids, mask = values["input_ids"].clone(), values["attention_mask"].clone()
    for row in range(len(ids)):
        count = int((mask[row] == 0).sum())
        ids[row], mask[row] = ids[row].roll(count), mask[row].roll(count)
        ids[row, :count] = pad
    return {"input_ids": ids, "attention_mask": mask}
