"""The files of a peft checkpoint: a folder or a hub repository, read without running anything, written atomically."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from refarch import Registry
from refarch.architecture import BackboneChoice
from refarch.errors import CheckpointError, UsageError
from refarch.files import read_json, write_bytes, write_text
from refarch.plugins import locate as locate_backbone

if TYPE_CHECKING:
    from torch import Tensor

CONFIG, TENSORS, PICKLE = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"


class PeftFiles:
    """What a checkpoint holds.

    Args:
        settings: of ``adapter_config.json``.
        tensors: of ``adapter_model.safetensors``, by their names.
        where: the folder, for messages.
    """

    def __init__(self, settings: dict[str, Any], tensors: dict[str, Tensor], where: str) -> None:
        self.settings, self.tensors, self.where = settings, tensors, where
        self.left = set(tensors)
        """Names of tensors that nothing has taken yet."""

    def take(self, name: str) -> Tensor:
        """A tensor by its name; it counts as used.

        Raises:
            CheckpointError: it is not there.
        """
        if name not in self.tensors:
            raise CheckpointError(f"{self.where}: {TENSORS} has no tensor {name!r}", "the file may be truncated")
        self.left.discard(name)
        return self.tensors[name]


def locate(source: str | Path, revision: str | None = None, names: tuple[str, ...] = (CONFIG, TENSORS)) -> Path:
    """The folder of a checkpoint: a local one, or that of a hub repository's files, fetched if need be.

    Raises:
        UsageError: neither a folder nor a repository that can be reached.
    """
    if Path(source).is_dir():
        return Path(source)
    hint = f"give a folder with {CONFIG} and {TENSORS}, or a hub id such as someone/lora-adapter"
    if str(source).startswith((".", "/", "~")) or str(source).count("/") > 1:
        raise UsageError(f"{str(source)!r} is no folder, and no name that a hub repository can have", hint)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(str(source), revision=revision, allow_patterns=list(names)))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise UsageError(
            f"{str(source)!r} is no folder, and no hub repository that can be reached: {str(error).splitlines()[0]}",
            hint,
        ) from None


def require_base(name: object, registry: Registry) -> None:
    """Refuse what can be no base model by its name, as it is loaded later: by ``bases.load_base``.

    Raises:
        UsageError: there is no name; it is a family, or a path that does not exist.
    """
    if not name:
        raise UsageError(
            "the checkpoint does not say which model it was trained on",
            "give it with --model: an installed model, a folder or a hub id",
        )
    locate_backbone(BackboneChoice.parse({"name": str(name)}, "the base"), registry)


def read(folder: Path) -> PeftFiles:
    """Read and check both files; nothing in them is executed.

    Raises:
        CheckpointError: missing, a pickle, truncated, or with values that are not finite.
    """
    return PeftFiles(read_settings(folder), read_tensors(folder / TENSORS), str(folder))


def read_settings(folder: Path) -> dict[str, Any]:
    """The settings alone, where there are tensors beside them. Needs no torch.

    Raises:
        CheckpointError: one of the files is missing, or it holds no settings of peft's.
    """
    if not (folder / CONFIG).is_file():
        raise CheckpointError(f"{folder} holds no {CONFIG}", "give the folder that peft's save_pretrained has written")
    settings = read_json(folder / CONFIG)
    if not isinstance(settings, dict) or not isinstance(settings.get("peft_type"), str):
        raise CheckpointError(f"{folder / CONFIG} says no peft_type", "is it a checkpoint of peft's?")
    require_tensors(folder / TENSORS)
    return settings


def require_tensors(path: Path) -> None:
    """Refuse a missing file of tensors, with the reason why a pickle in its place is not read.

    Raises:
        CheckpointError: it is missing.
    """
    if not path.is_file() and (path.parent / PICKLE).is_file():
        raise CheckpointError(
            f"{path.parent} holds its tensors as {PICKLE}, a pickle, whose loading can run any code; it is not read",
            "load it where you trust it and save it again as safetensors: PeftModel.save_pretrained(folder)",
        )
    if not path.is_file():
        raise CheckpointError(
            f"{path.parent} holds no {path.name}",
            f"where there is only a pickle ({PICKLE}), which is not read, save it again as safetensors",
        )


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Raises:
        CheckpointError: it is missing (a pickle beside it is refused with the reason), or damaged.
    """
    require_tensors(path)
    import torch  # not above: what the commands check first needs no torch
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from None
    except SafetensorError as error:
        raise CheckpointError(f"{path} is no valid safetensors file: {error}", "use another copy") from None
    bad = [name for name, tensor in tensors.items() if not bool(torch.isfinite(tensor).all())]
    if bad:
        raise CheckpointError(f"{path} holds values that are not finite, in {', '.join(bad[:3])}")
    return tensors


def write(folder: Path, settings: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Write both files; the same values give the same bytes.

    Raises:
        SaveError: writing failed; each file is there whole or as it was.
    """
    from safetensors.torch import save

    plain = {name: tensors[name].detach().cpu().contiguous().clone() for name in sorted(tensors)}
    write_bytes(folder / TENSORS, save(plain, metadata={"format": "pt"}))
    write_text(folder / CONFIG, json.dumps(dict(settings), indent=2, sort_keys=True) + "\n")
