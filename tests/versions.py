"""A smoke test on the oldest and newest versions that the packages' open ranges allow. Not part of .ci/run.

    python tests/versions.py                                 # the oldest on the oldest Python, the newest on each
    python tests/versions.py --only newest --python python3.12                 # a part
    python tests/versions.py --pin torch==2.13.0 --pin transformers==5.20.0    # these versions instead
    python tests/versions.py --list                          # what would run, and which interpreters are missing

Oldest are the floors of torch and transformers in core/pyproject.toml; newest is what pip finds. Each combination gets
a virtual environment with the core, all techniques and all families, and there list-plugins, the covering sample of the
conformance kit (attach, train, merge, save, load, and what else it asks), and the kit on each family. Some minutes
each, after downloads of up to some gigabytes: torch's builds on PyPI bring CUDA along. --keep FOLDER keeps the
environments; there a second run installs only what differs.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
PLUGINS = ("techniques", "backbones")
OPEN = ("torch", "transformers")
"""What the core lives in and sets no upper bound to. How old the rest may be, these two say themselves."""
NEWEST_KNOWN = 14
"""The newest minor version of Python that is looked for."""


class Combination(NamedTuple):
    """What one environment is made of."""

    name: str
    python: str
    """An interpreter."""
    pins: tuple[str, ...]
    """What pip is held to."""


def project(folder: Path = ROOT / "core") -> dict:
    """A package's metadata."""
    return tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def floors() -> tuple[str, ...]:
    """The oldest versions that the core's open ranges allow, as pins."""
    return tuple(text.replace(">=", "==") for text in project()["dependencies"] if text.partition(">=")[0] in OPEN)


def interpreters() -> tuple[dict[str, str], list[str]]:
    """The interpreters at hand by their version, oldest first, and the versions of which there is none.

    Looks on the path and in pyenv.
    """
    lowest = int(re.search(r">=3\.(\d+)", project()["requires-python"])[1])
    found, missing = {}, []
    for minor in range(lowest, NEWEST_KNOWN + 1):
        kept = sorted(Path.home().glob(f".pyenv/versions/3.{minor}.*/bin/python"), reverse=True)
        here = next(filter(_runs, (shutil.which(f"python3.{minor}") or "", *map(str, kept))), None)
        if here:
            found[f"3.{minor}"] = here
        else:
            missing.append(f"3.{minor}")
    return found, missing


def _runs(python: str) -> bool:
    """Whether an interpreter is one, and no name of one that is not installed."""
    return bool(python) and subprocess.run([python, "--version"], capture_output=True, check=False).returncode == 0


def combinations(chosen: argparse.Namespace, pythons: dict[str, str]) -> list[Combination]:
    """What runs: the oldest on the oldest Python, the newest on each; or what was asked for."""
    asked = {Path(python).name: python for python in chosen.python or ()} or pythons
    if chosen.pin:
        return [Combination("pinned", python, tuple(chosen.pin)) for python in asked.values()]
    oldest = [Combination("oldest", next(iter(asked.values())), floors())]
    newest = [Combination("newest", python, ()) for python in asked.values()]
    return [one for one in (*oldest, *newest) if chosen.only in (None, one.name)]


def install(combination: Combination, folder: Path) -> Path:
    """Make the environment; gives its interpreter.

    Raises:
        subprocess.CalledProcessError: it cannot be installed so.
    """
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([combination.python, "-m", "venv", str(folder)], check=True)
    constraints = folder / "constraints.txt"
    constraints.write_text("".join(f"{pin}\n" for pin in combination.pins))
    plugins = [folder for kind in PLUGINS for folder in sorted(ROOT.glob(f"plugins/{kind}/*/"))]
    needs = {text for each in plugins for text in project(each)["dependencies"] if not text.startswith("refarch")}
    pip = [str(python), "-m", "pip", "install", "--quiet", "--no-compile", "--upgrade"]
    subprocess.run(
        [*pip, "-c", str(constraints), "flit_core>=3.11,<5", f"{ROOT / 'core'}[testing]", *needs], check=True
    )
    ours = [argument for each in (ROOT / "core", *plugins) for argument in ("-e", str(each))]
    subprocess.run([*pip, "--no-deps", "--no-build-isolation", *ours], check=True)
    return python


def smoke() -> Iterator[str]:
    """What fails in this environment; progress goes to standard error."""
    sys.path.insert(0, str(ROOT / "tests"))
    from cells import Matrix
    from digests import Own, own_tests

    from refarch.cli import main
    from refarch.plugins import default_registry
    from refarch.testing import covering, run_backbone_checks, run_checks

    if main(["list-plugins", "--check"]):
        yield "refarch list-plugins --check"
    registry, own = default_registry(), own_tests()
    techniques = [registry.technique(name) for name in registry.names("technique")]
    for technique, family in sorted(covering(techniques, registry.families(), Matrix.read().applies)):
        said = own.get(technique, Own())
        report = run_checks(technique, said.options, [family], said.exempt)
        print(f"{technique} x {family}: {len(report.failures())} failed", file=sys.stderr)
        yield from (f"{technique} x {family}: {bad.check} ({bad.model}): {bad.message}" for bad in report.failures())
    for family in registry.families():
        report = run_backbone_checks(family.name)
        print(f"{family.name}: {len(report.failures())} failed", file=sys.stderr)
        yield from (f"{family.name}: {bad.check} ({bad.model}): {bad.message}" for bad in report.failures())


def run(combination: Combination, folder: Path) -> list[str]:
    """Install a combination and run the smoke test there; gives what failed."""
    try:
        python = install(combination, folder)
    except subprocess.CalledProcessError as error:
        return [f"cannot be installed: {' '.join(error.cmd[:6])} ... exited with {error.returncode}"]
    code = "import importlib.metadata as m, sys; print(*('%s %s' % (n, m.version(n)) for n in sys.argv[1:]), sep=', ')"
    names = [re.split(r"[^\w-]", text)[0] for text in project()["dependencies"]]
    subprocess.run([str(python), "-c", code, *names], check=True)
    settings = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    told = folder / "failures.json"
    told.unlink(missing_ok=True)
    command = [str(python), __file__, "--smoke", str(told)]
    subprocess.run(command, env={**os.environ, **settings}, check=False, cwd=folder)
    return json.loads(told.read_text()) if told.exists() else ["the process died"]


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("oldest", "newest"))
    parser.add_argument("--python", action="append", help="this interpreter instead of all that are found; repeatable")
    parser.add_argument("--pin", action="append", help="a version instead of oldest and newest; repeatable")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep the environments there")
    parser.add_argument("--list", action="store_true", help="only say what would run")
    parser.add_argument("--smoke", type=Path, metavar="FILE", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.smoke:
        chosen.smoke.write_text(json.dumps(list(smoke())))
        return 0
    pythons, missing = interpreters()
    print(f"no interpreter of Python {', '.join(missing)} was found" if missing else "all interpreters were found")
    failed = False
    with tempfile.TemporaryDirectory(prefix="refarch-versions-") as temporary:
        for combination in combinations(chosen, pythons):
            print(f"\n== {combination.name}: {combination.python} {' '.join(combination.pins)}", flush=True)
            if chosen.list:
                continue
            name = re.sub(r"\W+", "-", "-".join((combination.name, combination.python, *combination.pins)))[:200]
            failures = run(combination, (chosen.keep or Path(temporary)).resolve() / name.strip("-"))
            failed = failed or bool(failures)
            print("\n".join(failures) or "all passed", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
