"""The files of the adapters library: a configuration, and tensors by safetensors or as a pickle of tensors alone."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import TYPE_CHECKING, Any

from refarch.errors import CheckpointError
from refarch.files import read_json
from refarch_interchange.files import PeftFiles, read_tensors

if TYPE_CHECKING:
    from torch import Tensor

CONFIG, TENSORS, PICKLE = "adapter_config.json", "adapter.safetensors", "pytorch_adapter.bin"
HEADS = ("pytorch_model_head.bin", "model_head.safetensors")
NAMES = (CONFIG, TENSORS, PICKLE, "head_config.json", *HEADS)
LEGACY = {
    "attention_text_task_adapters": "adapters",
    "attention_text_lang_adapters": "adapters",
    "layer_text_task_adapters": "adapters",
    "layer_text_lang_adapters": "adapters",
}
"""What versions before 2.0 of adapter-transformers called the places, as the library itself renames them."""
FIRST_RIGHT_SCALE = (1, 1, 0)
"""Before this version of ``adapters``, LoRA was not scaled by alpha / r, and the library takes alpha for r."""


def read_settings(folder: Path) -> dict[str, Any]:
    """The settings of the method: ``config`` of the file, and ``name`` and ``model_name``. Needs no torch.

    Raises:
        CheckpointError: they are missing, or there are no tensors beside them.
    """
    if not (folder / CONFIG).is_file():
        raise CheckpointError(f"{folder} holds no {CONFIG}", "give the folder that save_adapter has written")
    whole = read_json(folder / CONFIG)
    method = whole.get("config") if isinstance(whole, dict) else None
    if not isinstance(method, dict) or not isinstance(whole.get("name"), str):
        raise CheckpointError(f"{folder / CONFIG} says no name and config", "is it of the adapters library?")
    settings: dict[str, Any] = {**method, "name": whole["name"], "model_name": whole.get("model_name")}
    if settings.get("architecture") == "lora" and len(_version(whole)) > 0 and _version(whole) < FIRST_RIGHT_SCALE:
        settings["alpha"] = settings["r"]
    if not (folder / TENSORS).is_file() and not (folder / PICKLE).is_file():
        raise CheckpointError(f"{folder} holds neither {TENSORS} nor {PICKLE}", "the checkpoint is not whole")
    return settings


def read(folder: Path) -> PeftFiles:
    """Settings (:func:`read_settings`) and tensors.

    Raises:
        CheckpointError: missing, damaged, or a pickle that holds more than tensors.
    """
    settings = read_settings(folder)
    tensors = read_tensors(folder / TENSORS) if (folder / TENSORS).is_file() else _unpickled(folder / PICKLE)
    return PeftFiles(settings, {_renamed(name): tensor for name, tensor in tensors.items()}, str(folder))


def _version(whole: dict[str, Any]) -> tuple[int, ...]:
    """Of the library of this name; empty for its predecessor."""
    text = str(whole.get("version") or "")
    numbers = text.removeprefix("adapters.").split(".") if text.startswith("adapters.") else []
    return tuple(int(number) for number in numbers if number.isdigit())


def _renamed(name: str) -> str:
    for old, new in LEGACY.items():
        name = name.replace(f".{old}.", f".{new}.")
    return name


def _unpickled(path: Path) -> dict[str, Tensor]:
    """The tensors of a pickle, read by torch's loader that makes nothing else."""
    import torch  # not above: what the commands check first needs no torch

    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} is damaged, or holds more than tensors, which is not loaded: {str(error).splitlines()[0]}",
            "use another copy, or save it again as safetensors: save_adapter(..., use_safetensors=True)",
        ) from None
    if not isinstance(tensors, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in tensors.values()):
        raise CheckpointError(f"{path} holds more than tensors by name")
    bad = [name for name, tensor in tensors.items() if not bool(torch.isfinite(tensor).all())]
    if bad:
        raise CheckpointError(f"{path} holds values that are not finite, in {bad[0]}")
    return dict(tensors)
