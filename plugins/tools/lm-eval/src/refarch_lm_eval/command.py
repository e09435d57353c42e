"""``refarch evaluate``: what a run has trained, on tasks of the lm-evaluation-harness."""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from typing import Any

import click


@click.command("evaluate")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--tasks", required=True, metavar="NAME[,NAME]...", help="Tasks, groups or tags of the harness.")
@click.option(
    "--include-path",
    "include",
    multiple=True,
    type=click.Path(path_type=Path),
    help="A folder with further tasks as YAML; repeatable. Tasks may run code of their own.",
)
@click.option("--backbone", metavar="NAME", help="The model, for an adaptation that lies in no run's folder.")
@click.option("--base", is_flag=True, help="Also evaluate the model without the adaptation.")
@click.option("--num-fewshot", type=click.IntRange(0), help="Examples in the prompt; the task's own when left out.")
@click.option("--limit", type=click.IntRange(1), help="At most so many examples a task.")
@click.option("--chat", is_flag=True, help="Write prompts by the tokenizer's chat template.")
@click.option("--batch-size", type=click.IntRange(1), default=8, show_default=True, help="Examples at a time.")
@click.option(
    "--max-length", type=click.IntRange(8), help="Tokens that the model can read; its own limit when left out."
)
@click.option("--seed", type=click.IntRange(0), default=1234, show_default=True, help="Decides few-shot examples.")
@click.option("--device", metavar="NAME", help="cpu, cuda ...; the accelerator, if there is one, when left out.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Also write the results as JSON here.")
@click.option("--json", "as_json", is_flag=True, help="Print the results as JSON.")
def command(
    folder: Path,
    tasks: str,
    include: tuple[Path, ...],
    backbone: str | None,
    base: bool,
    num_fewshot: int | None,
    limit: int | None,
    chat: bool,
    batch_size: int,
    max_length: int | None,
    seed: int,
    device: str | None,
    out: Path | None,
    as_json: bool,
) -> None:
    """Evaluate what a run has trained on tasks of EleutherAI's lm-evaluation-harness.

    FOLDER is a finished run's (all its adaptations are attached), or one that an adaptation was saved in. The backbone
    is the run's, a decoder or an encoder-decoder. Any task that the installed harness has can be named; its data come
    from the hub by way of datasets, or from local files that a task of your own names.

    \b
    Examples:
      refarch evaluate runs/first --tasks arc_easy,hellaswag --limit 200
      refarch evaluate runs/first --tasks my_task --include-path tasks/ --base
      refarch evaluate runs/first/adaptations/lora --tasks gsm8k --chat --json
    """  # noqa: D301 - click reads \b as: keep these lines as they are
    with contextlib.redirect_stdout(sys.stderr):  # the harness prints; standard output is the result's
        from refarch_lm_eval.evaluating import evaluated
        from refarch_lm_eval.tasks import Settings

        settings = Settings(num_fewshot, limit, chat, seed, batch_size, max_length)
        names = [name.strip() for name in tasks.split(",") if name.strip()]
        found = evaluated(folder, names, settings, include=include, backbone=backbone, base=base, device=device)
    text = json.dumps(found, indent=2)
    if out:
        from refarch.files import write_text

        write_text(out, text + "\n")
    click.echo(text if as_json else shown(found))


def shown(found: dict[str, Any]) -> str:
    """The results as a table."""
    base = {(row["task"], row["metric"], row["filter"]): row for row in found["base"] or ()}
    head = ["task", "metric", "value", *(["without"] if base else []), "examples", "few-shot"]
    rows = [head]
    for row in found["results"]:
        metric = row["metric"] + (f" ({row['filter']})" if row["filter"] != "none" else "")
        without = [_number(base[row["task"], row["metric"], row["filter"]])] if base else []
        few = "-" if row["few_shot"] is None else str(row["few_shot"])
        rows.append([row["task"], metric, _number(row), *without, f"{row['examples']:,}", few])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    title = f"{' + '.join(found['adaptations'])} on {found['backbone']}, by lm-evaluation-harness {found['harness']}"
    return "\n".join([title, *(f"  {line}" for line in lines)])


def _number(row: dict[str, Any]) -> str:
    error = f" ± {row['error']:.4f}" if row["error"] is not None else ""
    return f"{row['value']:.4f}{error}"
