"""What the tests of conversions share: tiny models, batches, and both libraries' outputs."""

import functools
import warnings
from pathlib import Path
from typing import Any

import peft
import torch
from torch import Tensor

from refarch.testing import Batch, Tiny, all_tiny, outputs


@functools.cache
def tiny_of(family: str, head: str = "LM") -> Tiny:
    """The family's tiny language model."""
    return next(tiny for tiny in all_tiny([family]) if tiny.auto_class.endswith(head))


def batch_of(tiny: Tiny, shift: int = 0) -> Batch:
    """Rows without padding: peft leaves positions to the model, which counts them along the sequence."""
    batch = tiny.batch(tiny.model(), (6, 6))
    batch.pop("position_ids", None)
    return {**batch, "position_ids": torch.arange(6).expand(2, -1) + shift} if shift else batch


def close(found: Tensor, wanted: Tensor) -> None:
    """Equal within 1e-5. Of a prompt's positions, which peft returns too, only the tokens' count."""
    torch.testing.assert_close(found[:, -wanted.shape[1] :], wanted, rtol=1e-5, atol=1e-5)


def changed(found: Tensor, tiny: Tiny, batch: Batch) -> None:
    """The module is at work."""
    plain = outputs(tiny.model(), batch)
    assert (found[:, -plain.shape[1] :] - plain).abs().max() > 1e-3


def with_peft(tiny: Tiny, folder: Path) -> Any:
    """The model as peft loads it from its files."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return peft.PeftModel.from_pretrained(tiny.model(), str(folder)).eval()


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix in (".json", ".safetensors")}


@torch.no_grad()
def spread(wrapped: Any, scale: float = 0.2) -> None:
    """Random values for all of peft's parameters that train, none of them near a start that does nothing."""
    generator = torch.Generator().manual_seed(3)
    for parameter in wrapped.parameters():
        if parameter.requires_grad:
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=scale)


def trained_by_peft(tiny: Tiny, config: Any, folder: Path) -> Path:
    """A checkpoint of peft's with random values."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wrapped = peft.get_peft_model(tiny.model(), config).eval()
        spread(wrapped)
        wrapped.save_pretrained(str(folder))
    return folder
