"""Write docs/learning.md: whether every installed technique learns, on the embedded default task, against head-only.

    python docs/learning.py                              # all techniques, 3 seeds; writes docs/learning.md
    python docs/learning.py --technique lora --seeds 1   # a part; prints the page
    python docs/learning.py --processes 1                # on a machine that is busy

Each run has a folder of its own below runs/learning: killed at any moment, the command goes on where it was, and
finished runs are not run again.
"""

from __future__ import annotations

import statistics
import sys

import tables

tables.one_thread()
PAGE = tables.ROOT / "docs" / "learning.md"
BACKBONE, TASK, BASELINE = "minilm", "lexicon-polarity", "head-only"
TRAIN_ROWS, SEEDS = 1500, 3
CHOSEN = ("adalora", "bitfit", "hra", "ia3", "ln-tuning", "lokr", "mam", "p-tuning", "prefix-tuning")
"""Techniques whose default learning rate was chosen on this task."""


def job(technique: str, seed: int) -> tables.Job:
    """What is run: the technique's own defaults, on a part of the task's training words."""
    pipeline = {
        "backbone": BACKBONE,
        "techniques": [technique],
        "task": {"name": TASK, "options": {"train_limit": TRAIN_ROWS, "validation_size": 0.0}},
        "training": {"threads": 1},
        "seed": seed,
    }
    return tables.Job(f"{technique}-{seed}", pipeline)


def page(techniques: list[str], seeds: int, results: dict[str, tables.Result]) -> str:
    """The page as Markdown."""
    base = [results[f"{BASELINE}-{seed}"] for seed in range(seeds)]
    rows, behind = [], []
    for name in techniques:
        own = [results[f"{name}-{seed}"] for seed in range(seeds)]
        wrong = next((result.error for result in own if result.error), "")
        if wrong:
            rows.append((-1.0, f"| `{name}` | failed: {wrong} | | | |"))
            behind.append(f"- `{name}` could not be run: {wrong}")
            continue
        scores = [result.score for result in own]
        mean, half = tables.interval([one.score - other.score for one, other in zip(own, base, strict=True)])
        shown = "" if name == BASELINE else f"{mean:+.3f} ± {half:.3f}"
        verdict = "" if name == BASELINE else "yes" if mean > half else "within noise" if abs(mean) <= half else "no"
        cells = f"| `{name}` | {tables.spread(scores)} | {shown} | {verdict} | {own[0].parameters:,} |"
        rows.append((statistics.fmean(scores), cells))
        if verdict not in ("", "yes"):
            word = "falls short of it" if mean < 0 else "is above it"
            behind.append(f"- `{name}` {word} by {abs(mean):.3f} on average ({verdict})")
    majority = base[0].baselines["majority"]
    beaten = len(techniques) - 1 - len(behind)
    lines = [
        "# Every technique learns",
        "",
        f"Backbone `{BACKBONE}`, task `{TASK}` with {TRAIN_ROWS:,} training words, {seeds} seeds, each technique"
        " with its own default options and training settings, nothing searched (some default learning rates were chosen"
        f" among two to four values on this task with seed 0: those of {', '.join(f'`{n}`' for n in CHOSEN)}). The head"
        " trains along"
        f" in every row; `{BASELINE}` trains nothing else. Always answering the more frequent label scores"
        f" {majority:.3f}.",
        "",
        f"**{beaten} of {len(techniques) - 1} techniques beat head-only** with a 95 % interval of the paired difference"
        " (same seed, same head at the start, same order of the data; Student's t) above zero.",
        "",
        "| technique | accuracy, mean ± deviation | difference to head-only, 95 % | beats it | trainable, head too |",
        "|---|---|---|---|---|",
        *(row for _, row in sorted(rows, reverse=True)),
        "",
        "Budgets are not matched here: this page says whether a technique learns with its defaults, not which is best.",
        "",
        "## Those that do not beat it",
        "",
        *(behind or ["None."]),
        "",
        "## How to reproduce it",
        "",
        "`python docs/learning.py` writes this page; run folders with pipeline, metrics and record are left in"
        f" `runs/learning`. {tables.machine()}",
    ]
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """The command."""
    parser = tables.parser(__doc__, "learning", SEEDS)
    parser.add_argument("--technique", action="append", help="only this technique (and head-only); repeatable")
    chosen = parser.parse_args(arguments)
    from refarch.plugins import default_registry

    names = [BASELINE, *(n for n in chosen.technique or default_registry().names("technique") if n != BASELINE)]
    jobs = [job(name, seed) for seed in range(chosen.seeds) for name in names]
    results = tables.run_all(jobs, chosen.runs, chosen.processes)
    whole = not chosen.technique and chosen.seeds == SEEDS
    return tables.finish(page(names, chosen.seeds, results), PAGE if whole else None, results)


if __name__ == "__main__":
    sys.exit(main())
