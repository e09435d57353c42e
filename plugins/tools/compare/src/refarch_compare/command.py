"""``refarch compare``: a group whose commands are imported when they are invoked."""

from __future__ import annotations

from refarch.plugins import command_group

PARTS = {
    "evidence": (
        "refarch_compare.evidence.command:command",
        "What runs left and what was imported, as a table to query.",
    ),
    "import": ("refarch_compare.evidence.importing:command", "Results of others as records, marked as imported."),
    "measure": (
        "refarch_compare.measure.command:command",
        "Time and memory relative to the frozen backbone, loading, time to a score.",
    ),
    "relate": (
        "refarch_compare.relate.command:command",
        "Which properties go with which results, and what cannot be said.",
    ),
    "report": (
        "refarch_compare.report.command:command",
        "One HTML file with tables, plots and statistics; Markdown and CSV.",
    ),
    "run": (
        "refarch_compare.study.command:command",
        "Run a study: techniques x tasks x backbones x seeds, or resume it.",
    ),
    "schema": ("refarch_compare.study.schema:command", "JSON Schema of a study's file."),
    "structure": ("refarch_compare.structure.command:command", "The typology side by side, distances, and a map."),
}
"""Each command's import path and its line in ``--help`` (so that help imports none of them)."""

HELP = """Compare techniques: what they are, what they cost, how well they do, and how these go together.

Everything is derived from specs and measured by runs. `refarch diagram` draws techniques, `refarch estimate` says what
one costs before training, `refarch advise` chooses among them.

\b
Examples:
  refarch compare structure lora ia3 prefix-tuning
  refarch compare structure adapter:houlsby adapter:pfeiffer --json
  refarch compare evidence runs/ --where "technique = 'lora'" --sort "score desc"
  refarch compare report runs/ --out report.html
"""

command = command_group("compare", HELP, PARTS)
