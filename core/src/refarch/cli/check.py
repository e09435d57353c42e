"""``refarch check``: the conformance kit on one installed plugin, from the command line. Needs no pytest."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from refarch.testing.report import HearResult, Report, Result

KINDS = ("technique", "backbone", "task")
"""The kinds of plugin that the kit has checks for."""
SHOWN = 3
"""How many names of a longer list are shown."""


@click.command("check")
@click.argument("name")
@click.option("--kind", type=click.Choice(KINDS), help="Where plugins of two kinds have one name.")
@click.option(
    "--family",
    "families",
    metavar="F",
    multiple=True,
    help="Check a technique on this backbone family only; repeatable.",
)
@click.option(
    "--options", "options", metavar="KEY=VALUE", multiple=True, help="An option of the technique or task; repeatable."
)
@click.option(
    "--exempt", "exempt", metavar="CHECK=REASON", multiple=True, help="Leave a check out, and say why; repeatable."
)
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@click.option("--quiet", is_flag=True, help="Show no progress.")
@click.pass_context
def command(
    context: click.Context,
    name: str,
    kind: str | None,
    families: tuple[str, ...],
    options: tuple[str, ...],
    exempt: tuple[str, ...],
    as_json: bool,
    quiet: bool,
) -> None:
    """Run the conformance kit on the technique, backbone family or task NAME.

    A technique is checked on the tiny models of all installed backbone families. The report says what passed, what does
    not apply and why, and what failed. Exits with 1 if something failed.

    \b
    Examples:
      refarch check NAME
      refarch check NAME --family F --options rank=2 --options "slots=[ffn.up, ffn.down]"
      refarch check NAME --json > report.json
    """  # noqa: D301 - click reads \b as: keep these lines as they are
    kind = _kind(name, kind)
    if families and kind != "technique":
        raise click.UsageError(f"--family chooses what a technique is checked on; {name!r} is a {kind}")
    if options and kind == "backbone":
        raise click.UsageError("a backbone family has no options")
    values, reasons = _values(options), _pairs(exempt, "--exempt", "CHECK=REASON")
    _check_use(kind, name, values, families)
    with contextlib.redirect_stdout(sys.stderr), _progress(not quiet) as progress:
        report = _run(kind, name, values, families, reasons, progress)
    if as_json:
        import json

        counts = {outcome: len(results) for outcome, results in _by_outcome(report).items()}
        data = {"passed": report.passed, "counts": counts, **report.model_dump(mode="json")}
        click.echo(json.dumps(data, indent=2, ensure_ascii=False))
    else:
        click.echo(text(report))
    if not report.passed:
        context.exit(1)


def text(report: Report) -> str:
    """The report in words: a line for each check, then what does not apply and what failed, with the reasons."""
    by_outcome, models = _by_outcome(report), {result.model for result in report.results if result.model}
    options = "".join(f" {key}={value}" for key, value in report.options.items())
    on = f", on {len(models)} model{'' if len(models) == 1 else 's'}: {', '.join(sorted(models))}" if models else ""
    lines = [f"{report.kind} {report.name}{options}{on}", ""]
    checks: dict[str, list[Result]] = {}
    for result in report.results:
        checks.setdefault(result.check, []).append(result)
    width = max(map(len, checks), default=0)
    lines += [f"  {_mark(results):<14} {check:<{width}}  {results[0].summary}" for check, results in checks.items()]
    for title, outcomes in (("not applicable", ("skipped",)), ("exempt", ("exempt",)), ("failed", ("failed", "error"))):
        found = [result for outcome in outcomes for result in by_outcome[outcome]]
        if found:
            lines += ["", f"{title}:", *_reasons(found)]
    failed = len(report.failures())
    seconds = sum(result.seconds for result in report.results)
    lines += [
        "",
        f"{'FAILED' if failed else 'passed'}: {len(by_outcome['passed'])} passed, {failed} failed,"
        f" {len(by_outcome['skipped'])} not applicable, {len(by_outcome['exempt'])} exempt, in {seconds:.1f} s",
    ]
    return "\n".join(lines)


def _mark(results: list[Result]) -> str:
    outcomes = [result.outcome for result in results]
    wrong = sum(outcome in ("failed", "error") for outcome in outcomes)
    if wrong:
        return f"FAILED {wrong}/{len(results)}"
    if "passed" in outcomes:
        return f"pass {outcomes.count('passed')}/{len(results)}"
    return "exempt" if "exempt" in outcomes else "not applicable"


def _reasons(results: list[Result]) -> Iterator[str]:
    """Each message once, below the checks and the models that it is about."""
    groups: dict[str, list[Result]] = {}
    for result in results:
        groups.setdefault(result.message, []).append(result)
    for message, group in groups.items():
        checks = _some(dict.fromkeys(result.check for result in group), "checks")
        models = _some(dict.fromkeys(result.model for result in group if result.model), "models")
        yield f"  {checks}{f' on {models}' if models else ''}"
        yield from (f"      {line}" for line in (message or "no message").splitlines())


def _some(names: dict[str, None], what: str) -> str:
    listed = list(names)
    more = len(listed) - SHOWN
    return ", ".join(listed) if more <= 0 else f"{', '.join(listed[:SHOWN])} and {more} more {what}"


def _by_outcome(report: Report) -> dict[str, list[Result]]:
    found: dict[str, list[Result]] = {name: [] for name in ("passed", "failed", "error", "skipped", "exempt")}
    for result in report.results:
        found[result.outcome].append(result)
    return found


def _kind(name: str, kind: str | None) -> str:
    """The kind of the plugin of this name; says what else there is where there is none."""
    from refarch.errors import UnknownNameError, UsageError, did_you_mean
    from refarch.plugins.registry import default_registry

    registry = default_registry()
    kinds = list(dict.fromkeys(item.kind for item in registry.found if item.name == name and kind in (None, item.kind)))
    checkable = [item for item in kinds if item in KINDS]
    if len(checkable) > 1:
        raise UsageError(f"{name!r} is a {' and a '.join(checkable)}", f"say which with --kind {checkable[0]}")
    if checkable:
        return checkable[0]
    if kinds:
        raise UsageError(f"{name!r} is a {kinds[0]}; the kit checks techniques, backbones and tasks")
    known = [item.name for item in registry.found if item.kind in (KINDS if kind is None else (kind,))]
    raise UnknownNameError(
        f"no {kind or 'technique, backbone or task'} named {name!r} is installed", did_you_mean(name, known)
    )


def _check_use(kind: str, name: str, options: dict[str, Any], families: tuple[str, ...]) -> None:
    """Refuse what is wrong use, and no failed check, before the kit is loaded: a name that is misspelt."""
    from refarch.plugins.registry import default_registry

    registry = default_registry()
    if kind == "backbone":
        registry.family(name)
        return
    (registry.task(name) if kind == "task" else registry.technique(name)).configure(options)
    for family in families:
        registry.family(family)


def _run(
    kind: str,
    name: str,
    options: dict[str, Any],
    families: tuple[str, ...],
    exempt: dict[str, str],
    progress: HearResult,
) -> Report:
    from refarch.testing.report import run_backbone_checks, run_checks, run_task_checks

    if kind == "backbone":
        return run_backbone_checks(name, exempt=exempt, progress=progress)
    if kind == "task":
        return run_task_checks(name, options, exempt, progress)
    return run_checks(name, options, families or None, exempt, progress)


@contextlib.contextmanager
def _progress(shown: bool) -> Iterator[HearResult]:
    """A bar on standard error that goes away at the end; failures stay, as lines above it."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress as Bars, TextColumn, TimeElapsedColumn

    console = Console(stderr=True, quiet=not shown, markup=False, highlight=False)
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}", markup=False))
    with Bars(*columns, console=console, transient=True, disable=not (shown and console.is_terminal)) as bars:
        bar = bars.add_task("loading")

        def hear(done: int, total: int, result: Result) -> None:
            where = f" on {result.model}" if result.model else ""
            bars.update(bar, completed=done, total=total, description=f"{result.check}{where}")
            if result.outcome in ("failed", "error"):
                console.print(f"FAILED {result.check}{where}")

        yield hear


def _values(pairs: tuple[str, ...]) -> dict[str, Any]:
    from refarch.errors import UsageError
    from refarch.yaml_text import parse_yaml

    values = {}
    for key, value in _pairs(pairs, "--options", "KEY=VALUE").items():
        try:
            values[key] = parse_yaml(value)
        except ValueError as error:
            raise UsageError(f"--options {key}: the value is not valid YAML: {error}", "quote it as a whole") from None
    return values


def _pairs(texts: tuple[str, ...], flag: str, form: str) -> dict[str, str]:
    from refarch.errors import UsageError

    found: dict[str, str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise UsageError(f"{flag} {text}: it should read {form}")
        if key.strip() in found:
            raise UsageError(f"{flag} {key.strip()} is given twice")
        found[key.strip()] = value.strip()
    return found
