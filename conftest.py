"""One torch thread a worker (more make a few cores several times slower), and each test from the same seed.

And of the conformance kit's cells of technique x family a covering sample, with all of what is touched.
CONTRIBUTING.md says what is where ("Tests").
"""

import functools
import os
import random
import subprocess
from pathlib import Path

import pytest
import warm
from cells import Matrix
from digests import packages, touched

from refarch.plugins.registry import default_registry
from refarch.testing.sample import CHOICE, covering, one_of

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # the environment came without bytecode; hundreds of processes need it


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """What a test draws without naming a seed is the same each time, in whatever order and worker it runs."""
    import numpy
    import torch

    random.seed(0)
    numpy.random.seed(0)
    torch.manual_seed(0)


class Sample:
    """Which checks of a conformance class run on which cases; all of them for a touched technique or family.

    Otherwise a technique is checked in the cells of a covering sample, or on the families that its class names, on one
    head of each; and a family's kin, whose table is the family's, are probed with one integration form each.
    """

    def __init__(self, config: pytest.Config) -> None:
        self.named = _named(config)
        self.since, self.touched, self.core = config.getoption("touched") or "", set(), False
        if self.since:
            try:
                self.touched, self.core = touched(self.since)
            except (OSError, subprocess.CalledProcessError):
                raise pytest.UsageError(f"--touched {self.since}: git knows no such commit here") from None

    @functools.cached_property
    def techniques(self) -> list:
        return [default_registry().technique(name) for name in default_registry().names("technique")]

    @functools.cached_property
    def cells(self) -> frozenset:
        return covering(self.techniques, default_registry().families(), Matrix.read().applies)

    def __call__(self, cls: type, check: str, case: object) -> bool:
        technique, everything = getattr(cls, "technique", None), self.touched | self.named
        family = getattr(getattr(case, "tiny", None), "family", None)
        if family is None or family.name in everything:
            return True
        if isinstance(technique, str):
            if technique in everything:
                return True
            head = one_of(family.tiny.auto_classes, technique, cls.__name__, family.name)
            there = getattr(cls, "families", None) is not None or (technique, family.name) in self.cells
            return there and case.tiny.auto_class == head
        if isinstance(getattr(cls, "family", None), str) and check in self.probes:
            kin = family.tiny.model_type != default_registry().backbone(family.name).tiny.model_type
            return not kin or check == one_of(self.probes, family.tiny.model_type)
        return True

    @functools.cached_property
    def probes(self) -> list[str]:
        from refarch.testing.checks.backbone import PROBE_CHECKS

        return list(PROBE_CHECKS)

    def __str__(self) -> str:
        every = len(self.techniques) * len(default_registry().families())
        said = f"conformance: a covering sample, {len(self.cells)} of {every} cells (--full: all)"
        if self.touched or self.named:
            said += f"; all cells of {', '.join(sorted(self.touched | self.named))}"
        if self.core:
            said += f"; the core differs from {self.since}: that alone adds none, docs/matrix.py runs all"
        return said


def _named(config: pytest.Config) -> set[str]:
    """The techniques and families whose own folders pytest was asked for."""
    asked = [Path(config.invocation_params.dir, arg.partition("::")[0]).resolve() for arg in config.args]
    folders = {package.folder: package.names for package in packages().values()}
    return {name for path in asked for folder in (path, *path.parents) for name in folders.get(folder, ())}


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--full`` and ``--touched COMMIT``."""
    group = parser.getgroup("conformance", "the conformance kit on techniques x families")
    full, since = os.environ.get("REFARCH_FULL_MATRIX"), os.environ.get("REFARCH_TOUCHED")
    group.addoption("--full", action="store_true", default=bool(full), help="all cells; or REFARCH_FULL_MATRIX=1")
    group.addoption(
        "--touched",
        metavar="COMMIT",
        default=since,
        help="beside the sample all cells of what differs from this commit; or REFARCH_TOUCHED",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Tell the kit which cases run."""
    if not config.getoption("full"):
        config.stash[CHOICE] = Sample(config)


def pytest_unconfigure() -> None:
    """End the processes that tests fork."""
    warm.close()


def pytest_report_header(config: pytest.Config) -> str:
    """Say what is left out, so that no run looks like more than it was."""
    return str(config.stash[CHOICE]) if CHOICE in config.stash else "conformance: all cells"
