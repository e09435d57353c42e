"""Write docs/porting.md: modules moved between two trained encoders of one width, against the baselines of porting.

    python docs/porting.py                              # both directions, 4 techniques, 3 seeds; writes docs/porting.md
    python docs/porting.py --technique lora --seeds 1   # a part; prints the page
    python docs/porting.py --other FOLDER               # the second encoder, where it is elsewhere

A module is trained on one encoder (MiniLM-L6, or paraphrase-MiniLM-L3), moved to the other, and scored there as it is
and after a short training from it. Each run has a folder of its own below runs/porting: killed at any moment, the
command goes on where it was, and finished runs are not run again.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tables

tables.one_thread()
PAGE = tables.ROOT / "docs" / "porting.md"
OTHER = tables.ROOT.parent / "shared" / "models" / "paraphrase-minilm-l3"
BACKBONE, TASK = "minilm", "lexicon-polarity"
TECHNIQUES = ("lora", "adapter", "ia3", "bitfit")
STARTS = ("ported", "sampled", "head", "scratch")
SEEDS, SOURCE_ROWS, TARGET_ROWS = 3, 1500, 200


def source_job(technique: str, backbone: str, seed: int, rows: int) -> tables.Job:
    """The run that trains a module; the test split is the same for all seeds, so nothing of it is ever trained on."""
    task = {"name": TASK, "options": {"train_limit": rows, "validation_size": 0.0, "split_seed": 0}}
    pipeline = {
        "backbone": backbone,
        "techniques": [technique],
        "task": task,
        "training": {"threads": 1},
        "seed": seed,
    }
    return tables.Job(f"{technique}-on-{Path(backbone).name}-{seed}", pipeline)


def ported(job: tables.Job, to: str, runs: Path, rows: int) -> tuple[dict[str, float], list[tables.Job]]:
    """What a trained module scores on the other encoder before any training, by start; and the runs from each start."""
    import torch
    from refarch_library.finding import find
    from refarch_library.store import Library
    from refarch_library.transfer.scoring import score_saved, score_start
    from refarch_library.transfer.study import pipeline_for, port_entry

    from refarch import Pool, default_registry

    torch.set_num_threads(1)
    registry, pool, seed = default_registry(), Pool(), job.pipeline["seed"]
    found, out = find(str(runs / job.name), Library()), runs / "starts" / f"{job.name}-to-{Path(to).name}"
    note = out / "zero-shot.json"
    folders = port_entry(found, to, out, registry, seeds=[seed]).folders
    starts = {
        "ported": folders["ported"],
        "sampled": folders[f"sampled-{seed}"],
        "head": folders["head"],
        "scratch": [],
    }
    pipelines = {start: pipeline_for(found, to, own, seed) for start, own in starts.items()}
    before = json.loads(note.read_text(encoding="utf-8")) if note.is_file() else {}
    for start, pipeline in pipelines.items():
        if start not in before:
            own = starts[start]
            scored = score_saved(pipeline, own, registry, pool) if own else score_start(pipeline, registry, pool)
            before[start] = scored
            note.write_text(json.dumps(before), encoding="utf-8")
    jobs = []
    for start, pipeline in pipelines.items():
        plain = pipeline.model_dump(mode="json")
        plain["task"]["options"]["train_limit"] = rows
        jobs.append(tables.Job(f"{job.name}-to-{Path(to).name}-{start}", plain))
    return before, jobs


def row(technique: str, direction: str, cells: dict[str, dict[str, list[float]]]) -> list[str]:
    """The lines of one technique in one direction."""
    lines = []
    for start in STARTS:
        zero, after = cells[start]["zero"], cells[start]["after"]
        shown = ["", ""]
        if start != "ported":
            for place, kind in enumerate(("zero", "after")):
                pairs = zip(cells["ported"][kind], cells[start][kind], strict=True)
                mean, half = tables.interval([one - other for one, other in pairs])
                shown[place] = f"{mean:+.3f} ± {half:.3f}"
        texts = [tables.spread(zero), shown[0], tables.spread(after), shown[1]]
        lines.append(f"| `{technique}` | {direction} | {start} | " + " | ".join(texts) + " |")
    return lines


def findings(found: Sequence[dict[str, dict[str, list[float]]]]) -> list[str]:
    """In how many settings the ported module is told apart from each baseline, in words."""
    lines = []
    for kind, when in (("zero", "Zero-shot"), ("after", "After training")):
        parts = []
        for start in STARTS[1:]:
            pairs = [list(zip(cells["ported"][kind], cells[start][kind], strict=True)) for cells in found]
            means = [tables.interval([one - other for one, other in pair]) for pair in pairs]
            better, worse = sum(mean > half for mean, half in means), sum(-mean > half for mean, half in means)
            parts.append(f"better than `{start}` in {better}, worse in {worse}")
        lines.append(f"- {when}, of {len(found)} settings the ported module is {'; '.join(parts)}. The rest is noise.")
    return lines


def page(rows: list[str], own: list[str], shown: list[str], seeds: int, source_rows: int, target_rows: int) -> str:
    """The page as Markdown."""
    lines = [
        "# Porting between two encoders",
        "",
        "all-MiniLM-L6-v2 (6 layers) and paraphrase-MiniLM-L3-v2 (3 layers) have the same widths and other weights. A"
        f" module is trained on one of them (task `{TASK}`, {source_rows:,} words, defaults), moved to the other slot"
        " by slot with layers matched by depth, and scored on the same test split, of which nothing was trained on: as"
        f" it is, and after training on {target_rows:,} words from it. Baselines as in Sabry and Belz 2024 (arXiv"
        " 2401.14228): parameters sampled from the module's own distribution (`sampled`), and none of it (`scratch`);"
        f" beside them the module's head alone (`head`), which tells what the module adds to it. {seeds} seeds; each"
        " difference is that of the ported module to the row's start, paired by seed, with its 95 % interval"
        " (Student's t).",
        "",
        "| technique | from, to | start | zero-shot | ported is better by | after training | ported is better by |",
        "|---|---|---|---|---|---|---|",
        *rows,
        "",
        "## What it shows",
        "",
        *shown,
        "",
        "On its own encoder each module scores: " + "; ".join(own) + ".",
        "",
        "## How to reproduce it",
        "",
        "`python docs/porting.py` writes this page; run folders and starting points are left in `runs/porting`. The"
        f" second encoder is a folder of its weights (`--other`). {tables.machine()}",
    ]
    return "\n".join(lines) + "\n"


def study(chosen: argparse.Namespace, seeds: range) -> tuple[list[str], list[str], list[str], dict[str, tables.Result]]:
    """All runs, as lines of the page."""
    backbones = (BACKBONE, str(chosen.other))
    jobs = {
        (technique, backbone, seed): source_job(technique, backbone, seed, chosen.source_rows)
        for technique in chosen.technique
        for backbone in backbones
        for seed in seeds
    }
    results = tables.run_all(list(jobs.values()), chosen.runs, chosen.processes)
    before: dict[str, dict[str, float]] = {}
    later: list[tables.Job] = []
    for number, ((_, backbone, _), job) in enumerate(jobs.items(), start=1):
        other = next(name for name in backbones if name != backbone)
        before[job.name], own = ported(job, other, chosen.runs, chosen.target_rows)
        later += own
        print(f"[{number}/{len(jobs)}] ported {job.name}", file=sys.stderr, flush=True)
    results |= tables.run_all(later, chosen.runs, chosen.processes)
    rows, scores, every = [], [], []
    for technique in chosen.technique:
        for backbone in backbones:
            other = next(name for name in backbones if name != backbone)
            names = [jobs[technique, backbone, seed].name for seed in seeds]
            cells: dict[str, Any] = {
                start: {
                    "zero": [before[name][start] for name in names],
                    "after": [results[f"{name}-to-{Path(other).name}-{start}"].score for name in names],
                }
                for start in STARTS
            }
            every.append(cells)
            rows += row(technique, f"{layers(backbone)} to {layers(other)}", cells)
            scores.append(f"`{technique}` {layers(backbone)} {tables.spread([results[name].score for name in names])}")
    return rows, scores, findings(every), results


def layers(backbone: str) -> str:
    """What the table calls an encoder."""
    return "L6" if backbone == BACKBONE else "L3"


def main(arguments: list[str] | None = None) -> int:
    """The command."""
    parser = tables.parser(__doc__, "porting", SEEDS)
    parser.add_argument("--technique", action="append", help="only this technique; repeatable")
    parser.add_argument("--other", type=Path, default=OTHER, help="the second encoder's folder")
    parser.add_argument("--source-rows", type=int, default=SOURCE_ROWS, help="words that modules are trained on")
    parser.add_argument("--target-rows", type=int, default=TARGET_ROWS, help="words that training goes on with")
    chosen = parser.parse_args(arguments)
    whole = not chosen.technique and (chosen.seeds, chosen.source_rows, chosen.target_rows) == (
        SEEDS,
        SOURCE_ROWS,
        TARGET_ROWS,
    )
    chosen.technique = chosen.technique or list(TECHNIQUES)
    rows, scores, shown, results = study(chosen, range(chosen.seeds))
    text = page(rows, scores, shown, chosen.seeds, chosen.source_rows, chosen.target_rows)
    return tables.finish(text, PAGE if whole else None, results)


if __name__ == "__main__":
    sys.exit(main())
