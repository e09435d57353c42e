"""``refarch convert``: checkpoints from and to other libraries."""

from __future__ import annotations

import contextlib
import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from refarch import Adaptation

_OUT = click.option(
    "--out", required=True, type=click.Path(file_okay=False, path_type=Path), help="The folder to write."
)
_MODEL = click.option("--model", metavar="NAME", help="The base, where the checkpoint's own name for it is of no use.")
_CLASS = click.option(
    "--class", "class_name", metavar="NAME", help="transformers' class, such as AutoModelForCausalLM."
)
_JSON = click.option("--json", "as_json", is_flag=True, help="Print what was converted as JSON.")


@click.group("convert")
def command() -> None:
    """Convert checkpoints from and to Hugging Face peft, and from the adapters library.

    Nothing in a checkpoint is run: safetensors and JSON are read, pickles are refused (of the adapters library, whose
    files are pickles, only tensors are read). What one side has no word for is refused by its name; where something
    only differs, the difference is told.

    \b
    Examples:
      refarch convert formats
      refarch convert from-peft someone/lora-adapter --out ours/
      refarch convert to-peft runs/first/adaptations/lora --out theirs/
    """  # noqa: D301 - click reads \b as: keep these lines as they are


@command.command("from-peft")
@click.argument("source")
@_OUT
@_MODEL
@_CLASS
@click.option("--revision", metavar="NAME", help="Of a hub repository: a branch, tag or commit.")
@_JSON
def from_peft(
    source: str, out: Path, model: str | None, class_name: str | None, revision: str | None, as_json: bool
) -> None:
    """Convert a peft checkpoint, a folder or a hub id, to refarch's.

    The base is loaded to find the slots that peft's module names are, and because refarch's checkpoint says which base
    it belongs to. It is the one that the checkpoint names, unless --model says otherwise.

    \b
    Examples:
      refarch convert from-peft their-adapter/ --out ours/
      refarch convert from-peft someone/lora-adapter --revision v2 --model ./llama --out ours/ --json
    """  # noqa: D301
    from refarch import default_registry
    from refarch_interchange.files import locate, read, read_settings, require_base
    from refarch_interchange.mapping.mappings import find

    registry = default_registry()
    folder = locate(source, revision)
    settings = read_settings(folder)
    find(settings, registry)
    require_base(model or settings.get("base_model_name_or_path"), registry)
    from refarch_interchange import bases  # loads torch
    from refarch_interchange.reading import load_peft

    files = read(folder)
    shapes = {name: tuple(t.shape) for name, t in files.tensors.items() if "classifier" in name or "score" in name}
    named = files.settings.get("base_model_name_or_path")
    base = bases.load_base(
        model or named, class_name or bases.class_of_peft(files.settings), bases.labels_of(shapes), registry
    )
    with _differences() as told:
        adaptation = load_peft(base, folder, registry=registry)
    adaptation.save(out)
    _report(adaptation, f"peft's {files.settings['peft_type']}", source, out, told, as_json)


@command.command("from-adapters")
@click.argument("source")
@_OUT
@_MODEL
@_CLASS
@click.option("--revision", metavar="NAME", help="Of a hub repository: a branch, tag or commit.")
@_JSON
def from_adapters(
    source: str, out: Path, model: str | None, class_name: str | None, revision: str | None, as_json: bool
) -> None:
    """Convert a checkpoint of the adapters library (AdapterHub), a folder or a hub id, to refarch's.

    Houlsby's and parallel bottleneck adapters, Compacter, LoRA, (IA)3 and prefix tuning are the same here. Of a pickle
    only tensors are loaded. A prediction head beside the adapter is left out.

    \b
    Examples:
      refarch convert from-adapters AdapterHub/some-adapter --out ours/
      refarch convert from-adapters their-adapter/ --model ./bert --class AutoModelForSequenceClassification --out ours/
    """  # noqa: D301
    from refarch import default_registry
    from refarch_interchange.files import locate, require_base
    from refarch_interchange.hub_adapters.files import NAMES, read_settings

    registry = default_registry()
    folder = locate(source, revision, NAMES)
    settings = read_settings(folder)
    require_base(model or settings["model_name"], registry)
    from refarch_interchange import bases  # loads torch
    from refarch_interchange.hub_adapters.reading import load_adapters

    base = bases.load_base(model or settings["model_name"], class_name, None, registry)
    with _differences() as told:
        adaptation = load_adapters(base, folder, registry=registry)
    adaptation.save(out)
    kind = settings.get("architecture") or "bottleneck"
    _report(adaptation, f"the adapters library's {kind}", source, out, told, as_json)


@command.command("to-peft")
@click.argument("folder", type=click.Path(path_type=Path))
@_OUT
@_MODEL
@_CLASS
@_JSON
def to_peft(folder: Path, out: Path, model: str | None, class_name: str | None, as_json: bool) -> None:
    """Convert a refarch checkpoint to peft's, for PeftModel.from_pretrained and engines that read peft's LoRA.

    FOLDER is what Adaptation.save or a run has written (runs/first/adaptations/lora). The base is loaded, and checked
    to be the one that the adaptation belongs to.

    \b
    Examples:
      refarch convert to-peft runs/first/adaptations/lora --out theirs/
      refarch convert to-peft ours/ --model ./llama --out theirs/ --json
    """  # noqa: D301
    from refarch import default_registry
    from refarch.engine import read_description
    from refarch_interchange.files import require_base

    registry = default_registry()
    saved = read_description(folder)
    require_base(model or saved.base.name_or_path, registry)
    from refarch import load  # loads torch
    from refarch_interchange import bases
    from refarch_interchange.writing import save_peft

    heads = (
        {name: shape for name, shape in saved.shapes.items() if name.startswith("base:")} if saved.train_head else {}
    )
    name = model or saved.base.name_or_path
    base = bases.load_base(name, class_name or saved.base.model_class, bases.labels_of(heads), registry)
    adaptation = load(base, folder, registry=registry)
    with _differences() as told:
        save_peft(adaptation, out, base=name, registry=registry)
    kind = json.loads((out / "adapter_config.json").read_text(encoding="utf-8"))["peft_type"]
    _report(adaptation, f"peft's {kind}", str(folder), out, told, as_json, reverse=True)


@command.command("formats")
@_JSON
def formats(as_json: bool) -> None:
    """List what peft's techniques are here, and why others are nothing.

    \b
    Examples:
      refarch convert formats
      refarch convert formats --json
    """  # noqa: D301
    from refarch import default_registry, terminal
    from refarch_interchange.mapping.mappings import mappings
    from refarch_interchange.mapping.unmapped import UNMAPPED

    known = mappings(default_registry())
    if as_json:
        mapped = [item.model_dump(mode="json", exclude_defaults=True) for item in known]
        click.echo(json.dumps({"mapped": mapped, "unmapped": UNMAPPED}, indent=2))
        return
    rows = [(item.kind, _technique(item.technique, item.preset), item.summary, item.note) for item in known]
    terminal.table(("peft's type", "technique", "what", "difference"), rows, width=140)
    terminal.table(("peft's type", "why it is nothing here"), list(UNMAPPED.items()), width=140)


@contextlib.contextmanager
def _differences() -> Iterator[list[str]]:
    """The differences that are told inside, each once; other warnings go their way."""
    from refarch_interchange.notes import Difference

    told: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield told
    for item in caught:
        if issubclass(item.category, Difference):
            told.extend([str(item.message)] if str(item.message) not in told else [])
        else:
            warnings.warn_explicit(item.message, item.category, item.filename, item.lineno)


def _report(
    adaptation: Adaptation, theirs: str, source: str, out: Path, told: list[str], as_json: bool, reverse: bool = False
) -> None:
    names = (adaptation.technique.name, theirs) if reverse else (theirs, adaptation.technique.name)
    slots = sorted({str(item.site.ref) for item in adaptation.insertions})
    found: dict[str, Any] = {
        "source": source,
        "from": names[0],
        "to": names[1],
        "out": str(out),
        "options": adaptation.technique.options,
        "slots": slots,
        "insertions": len(adaptation.insertions),
        "parameters": sum(parameter.numel() for parameter in adaptation.parameters()),
        "train_head": adaptation.train_head,
        "differences": told,
    }
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    click.echo(f"{found['from']} in {source} is now {found['to']} in {out}")
    options = ", ".join(f"{name} {value}" for name, value in found["options"].items())
    where = f"{found['insertions']} modules at {', '.join(slots)}" if slots else f"{len(adaptation.copies)} parameters"
    click.echo(f"  {where}; {found['parameters']:,} values" + (f"; {options}" if options else ""))
    if adaptation.train_head:
        click.echo("  with a head that trained along")
    for difference in told:
        click.echo(f"  difference: {difference}")


def _technique(name: str, preset: str | None) -> str:
    return f"{name} ({preset})" if preset else name
