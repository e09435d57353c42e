"""``refarch predict``: new texts, answered by trained modules."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from refarch_library.commands import options


@click.command("predict")
@click.option(
    "--adaptation",
    "names",
    multiple=True,
    required=True,
    metavar="ENTRY|FOLDER",
    help="An entry of the library, the folder of one, or a finished run's folder; repeatable.",
)
@click.option("--text", "texts", multiple=True, help="A text; repeatable.")
@click.option("--pair", "pairs", multiple=True, nargs=2, help="Two texts, for a task about pairs; repeatable.")
@click.option(
    "--file",
    "file",
    metavar="FILE",
    help="A text on each line; of a .jsonl file {text, pair, adaptation}. - reads standard input.",
)
@click.option("--backbone", metavar="NAME", help="The backbone, where it lies elsewhere than the entries say.")
@click.option("--batch-size", type=click.IntRange(1), default=32, show_default=True, help="Texts at a time.")
@click.option("--limit", type=click.IntRange(1), default=32, show_default=True, help="Hold at most so many entries.")
@click.option("--device", metavar="NAME", help="cpu, cuda ...; the accelerator, if there is one, when left out.")
@options.library
@options.as_json
def command(
    names: tuple[str, ...],
    texts: tuple[str, ...],
    pairs: tuple[tuple[str, str], ...],
    file: str | None,
    backbone: str | None,
    batch_size: int,
    limit: int,
    device: str | None,
    path: Path | None,
    as_json: bool,
) -> None:
    """Answer new texts with what runs have trained, all on one backbone that is loaded once.

    Every text is answered by each --adaptation, unless a .jsonl file says which one it is for. A text is encoded as the
    task of the run encodes its own, and answered as the task does: a label with probabilities, tags and entities, or a
    written text.

    \b
    Examples:
      refarch predict --adaptation runs/first --text "what a lovely film"
      refarch predict --adaptation polarity --adaptation topic --file reviews.txt --json
      echo '{"text": "dull", "adaptation": "polarity"}' > q.jsonl; refarch predict --adaptation polarity --file q.jsonl
    """  # noqa: D301 - click reads \b as: keep these lines as they are
    from refarch import terminal
    from refarch.plugins import default_registry
    from refarch_library.finding import place, require_backbone
    from refarch_library.predict.questions import read_file, requests
    from refarch_library.store import Library

    library = Library(path)
    asked = requests(names, [*texts, *pairs], read_file(file) if file else [])
    for name in dict.fromkeys(names):
        place(name, library)
    require_backbone(backbone, default_registry())
    from refarch_library.predict.predictor import Predictor  # loads torch

    predictor = Predictor(library, backbone=backbone, limit=limit, batch_size=batch_size, device=device)
    answers = predictor.ask_each(asked)
    rows = [
        {"adaptation": name, "text": question if isinstance(question, str) else list(question), **_renamed(answer)}
        for (name, question), answer in zip(asked, answers, strict=True)
    ]
    if as_json:
        click.echo(terminal.as_json(rows))
        return
    cells = [[_short(row["text"]), row["adaptation"], _said(answer)] for row, answer in zip(rows, answers, strict=True)]
    terminal.table(("TEXT", "ADAPTATION", "ANSWER"), cells, cell=terminal.printable)


def _renamed(answer: dict[str, Any]) -> dict[str, Any]:
    """An answer that is a text must not take the place of the one that was asked."""
    return {("written" if key == "text" else key): value for key, value in answer.items()}


def _said(answer: dict[str, Any]) -> str:
    """An answer for people."""
    if "label" in answer:
        return f"{answer['label']} ({answer['scores'][answer['label']]:.3f})"
    if "entities" in answer:
        return ", ".join(f"{item['text']} [{item['kind']}]" for item in answer["entities"]) or "no entity"
    found = answer.get("text", answer.get("value", answer))
    return f"{found:.4f}" if isinstance(found, float) else str(found)


def _short(text: Any) -> str:
    whole = text if isinstance(text, str) else " / ".join(text)
    return whole if len(whole) <= 80 else whole[:77] + "..."
