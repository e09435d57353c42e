"""The model card of an entry: Markdown with the header that the Hugging Face hub reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from refarch_library.entry import Entry, Part

PIPELINES = {
    "AutoModelForCausalLM": "text-generation",
    "AutoModelForMultipleChoice": "multiple-choice",
    "AutoModelForQuestionAnswering": "question-answering",
    "AutoModelForSeq2SeqLM": "text2text-generation",
    "AutoModelForSequenceClassification": "text-classification",
    "AutoModelForTokenClassification": "token-classification",
}
"""The hub's name of what models of an auto class do."""

VERSIONS = ("refarch", "torch", "transformers")


def card(entry: Entry) -> str:
    """The card as text."""
    record = entry.record
    lines = ["---", *_header(entry), "---", "", f"# {entry.name}", ""]
    if entry.description:
        lines += [_plain(entry.description), ""]
    lines += [
        f"Trained modules for `{_plain(entry.base.short)}`, made with refarch:"
        f" {', '.join(map(_sentence, entry.parts))}. Trained on the task `{_plain(entry.task)}`.",
        "",
        "| | |",
        "|---|---|",
        *(f"| {name} | {value} |" for name, value in _facts(entry)),
        "",
        "## Use",
        "",
        "```python",
        "from refarch_library.predict.predictor import Predictor",
        "",
        "predictor = Predictor()",
        f'predictor.ask("{entry.name}", ["a text"])   # an entry of the library, or a folder',
        "```",
        "",
        f"`refarch library show {entry.name}` prints everything: the spec, each insertion, all settings of the run.",
        "",
        "## Evidence",
        "",
        f"One run with seed {record.seeds.run}; a score belongs to its backbone, task, budget and seed.",
        "",
        "| metric | value |",
        "|---|---|",
        *(f"| {_plain(name)} | {value:.4f} |" for name, value in sorted(record.metrics.items())),
        *(f"| {record.metric} of the baseline `{_plain(n)}` | {v:.4f} |" for n, v in sorted(record.baselines.items())),
        "",
    ]
    return "\n".join(lines)


def _header(entry: Entry) -> list[str]:
    """YAML in which every text is a JSON string, so that no text can be anything else."""
    record = entry.record
    found: dict[str, Any] = {"library_name": "refarch"}
    if entry.licence:
        found["license"] = entry.licence
    if _is_hub_id(entry.base.name):
        found["base_model"] = entry.base.name
        found["base_model_relation"] = "adapter"
    if entry.base.auto_class in PIPELINES:
        found["pipeline_tag"] = PIPELINES[entry.base.auto_class]
    found["tags"] = ["refarch", *dict.fromkeys(part.technique for part in entry.parts), entry.base.family]
    found["model-index"] = [
        {
            "name": entry.name,
            "results": [
                {
                    "task": {"type": found.get("pipeline_tag", "other"), "name": entry.task},
                    "dataset": {"type": entry.task, "name": entry.task, "split": record.pipeline.score_on},
                    "metrics": [{"type": record.metric, "value": record.score}],
                }
            ],
        }
    ]
    return [f"{key}: {json.dumps(value, ensure_ascii=True)}" for key, value in found.items()]


def _facts(entry: Entry) -> list[tuple[str, str]]:
    record = entry.record
    training = record.pipeline.training
    return [
        (
            "backbone",
            f"`{_plain(entry.base.short)}` (family {entry.base.family}, {entry.base.fingerprint.parameters:,})",
        ),
        ("parameters", f"{entry.parameters:,}"),
        ("slots", ", ".join(f"`{slot}`" for part in entry.parts for slot in part.workspace)),
        (record.metric, f"{record.score:.4f} on {record.pipeline.score_on}"),
        ("training", f"{record.steps:,} steps, learning rate {training.learning_rate:g}, batch {training.batch_size}"),
        ("licence", _plain(entry.licence) or "not stated"),
        ("versions", ", ".join(f"{name} {version}" for name, version in _versions(entry).items())),
    ]


def _versions(entry: Entry) -> dict[str, str]:
    """Of what decides a result, and of the plugins whose techniques are in it."""
    core = {name: entry.record.versions[name] for name in VERSIONS if name in entry.record.versions}
    return core | {part.distribution: part.version for part in entry.parts if part.distribution}


def _sentence(part: Part) -> str:
    slots = ", ".join(part.workspace)
    return f"{part.technique} at {slots}" + (" with a head of its own" if part.head else "")


def _is_hub_id(name: str) -> bool:
    """Whether it could be a repository's name: an owner and a name, and no folder here."""
    return name.count("/") == 1 and not name.startswith((".", "/", "~")) and not Path(name).exists()


def _plain(text: str) -> str:
    """Text that is no Markdown, on one line."""
    return " ".join("".join(f"\\{c}" if c in "\\`*_[]<>|#" else c for c in text).split())
