"""``refarch compare report``."""

from __future__ import annotations

from pathlib import Path

import click

FORMATS = {
    ".html": "refarch_compare.report.page:html",
    ".md": "refarch_compare.report.text:markdown",
    ".csv": "refarch_compare.report.text:csv",
}
"""Of each suffix: what makes the file's text from a report."""


@click.command("report")
@click.argument("roots", nargs=-1, required=True, metavar="FOLDER...", type=click.Path(path_type=Path))
@click.option(
    "--out",
    "outs",
    multiple=True,
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Where it goes, as .html, .md or .csv; repeatable. FOLDER/report.html when left out.",
)
@click.option("--where", metavar="SQL", help="Only rows for which this SQL condition holds.")
@click.option("--title", help="The report's title.")
@click.option("--alpha", default=0.05, show_default=True, type=click.FloatRange(0, 1, min_open=True, max_open=True))
@click.option("--json", "as_json", is_flag=True, help="Print what was written, and the verdicts, as JSON.")
def command(
    roots: tuple[Path, ...],
    outs: tuple[Path, ...],
    where: str | None,
    title: str | None,
    alpha: float,
    as_json: bool,
) -> None:
    """Write a report of the evidence below FOLDERs: runs, studies and imported records, at any depth.

    The HTML page is one file that needs no network: tables to sort and to filter by structural property, trade-offs and
    learning curves to explore, statistics, and for each number how to make it again. Markdown holds the same tables,
    CSV a line a result. Files that cannot be read are skipped, named and counted.

    \b
    Examples:
      refarch compare report study/
      refarch compare report study/ imported/ --out report.html --out report.md --out results.csv
      refarch compare report runs/ --where "task = 'lexicon-polarity'" --title "Polarity"
    """  # noqa: D301 - click reads \b as: keep these lines as they are
    from refarch import terminal
    from refarch.errors import UsageError
    from refarch.files import write_text
    from refarch.plugins import default_registry, resolve
    from refarch_compare.evidence.store import records

    outs = outs or ((roots[0] if roots[0].is_dir() else roots[0].parent) / "report.html",)
    for out in outs:
        if out.suffix.lower() not in FORMATS:
            raise UsageError(f"{out}: a report is HTML, Markdown or CSV", "let the name end in .html, .md or .csv")
    records(roots)
    from refarch_compare.report.report import make  # loads scipy

    report = make(roots, default_registry(), where=where, title=title, alpha=alpha)
    for out in outs:
        write_text(out, resolve(FORMATS[out.suffix.lower()])(report))
    if as_json:
        verdicts = {found.setting.title: found.verdict for found in report.comparisons}
        problems = [vars(item) for item in (*report.evidence.problems, *report.failed)]
        files = [str(out) for out in outs]
        click.echo(terminal.as_json({"files": files, "verdicts": verdicts, "skipped": problems}))
        return
    if report.evidence.problems:
        click.echo(report.evidence.note(), err=True)
    for found in report.comparisons:
        click.echo(f"{found.setting.title}: {found.verdict}")
    for out in outs:
        click.echo(f"wrote {out}")
