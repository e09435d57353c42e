"""Write docs/house.md: the house in figures, beside those of an older checkout and beside what is aimed at.

    python docs/house_sizes.py                       # this checkout
    python docs/house_sizes.py --before CHECKOUT     # an older one beside it, whatever its folders are called
    python docs/house_sizes.py --print               # to the terminal instead

Nearly all is read from the source. Two figures are executed, in a process of its own for each checkout, whose packages
then come before the installed ones: the files that a second ``attach`` runs through, and how often a run configures its
technique.
"""

from __future__ import annotations

import argparse
import ast
import io
import json
import os
import re
import subprocess
import sys
import tempfile
import tokenize
from collections.abc import Callable, Iterable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

from code_size import lines_of_code

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

import house  # noqa: E402 - from tests, which hold the drawing that is measured here

PAGE = ROOT / "docs" / "house.md"
ARCHIVE = ROOT / "tests" / "archive"
"""Has a backbone of two layers and data, on which any checkout can run."""
TASKS = ("task", "files", "json_text", "sources", "splits", "prompts", "evaluation")
"""What was in ``pipeline`` and is a task author's room now."""
_KEY = re.compile(r"_refarch_\w+")


class Figure(NamedTuple):
    """One line of the table."""

    what: str
    of: Callable[[house.House, dict[str, int]], object]
    """From a checkout's source, and what was executed of it."""
    target: str


# what is read ---------------------------------------------------------------------------------------------------------


def folder(drawn: house.House, *names: str) -> list[Path]:
    """The first of some folders of the core that there is, as its files; none if there is none."""
    for name in names:
        found = [path for module, path in drawn.core() if f"{module}.".startswith(f"refarch.{name}.")]
        if found:
            return found
    return []


def engine(drawn: house.House) -> list[Path]:
    """The engine's files, without those of compositions, which were a folder of it."""
    compositions = set(folder(drawn, "composition", "engine.compose"))
    return [path for path in folder(drawn, "engine") if path not in compositions]


def tasks(drawn: house.House) -> list[Path]:
    """The files for authors of tasks, wherever they are."""
    old = [drawn.files[name] for name in (f"refarch.pipeline.{stem}" for stem in TASKS) if name in drawn.files]
    return folder(drawn, "tasks") or old


def code(paths: Iterable[Path]) -> int:
    """Lines of code: without comments, docstrings and blank lines."""
    return sum(lines_of_code(path.read_text(encoding="utf-8")) for path in paths)


def core(drawn: house.House) -> list[Path]:
    """All files of the core."""
    return [path for _, path in drawn.core()]


def number_of_arrows_up(drawn: house.House) -> int:
    """Those of all folders, in the order of each folder's rooms in which the fewest run up."""
    return sum(house.arrows_up(drawn.rooms(name)) for name in drawn.folders())


def longest(drawn: house.House) -> int:
    """Lines of the core's longest file."""
    return max(len(path.read_text(encoding="utf-8").splitlines()) for path in core(drawn))


def most_files(drawn: house.House) -> int:
    """Python files of the core's fullest folder."""
    folders = [path.parent for path in core(drawn)]
    return max(folders.count(one) for one in folders)


def named_by_plugins(drawn: house.House) -> set[str]:
    """The files of the core that plugins import, by their dotted names."""
    found: set[str] = set()
    for name, path in drawn.files.items():
        if name.partition(".")[0] != "refarch":
            found |= {drawn.source(item.module, item.name) or "" for item in house.imports(path)}
    return {name for name in found if name.partition(".")[0] == "refarch"}


def asked_for_attributes(paths: Iterable[Path]) -> int:
    """Lines on which ``hasattr`` or ``getattr`` is called."""
    asking = ("hasattr", "getattr")
    return len(
        {
            (path, node.lineno)
            for path in paths
            for node in ast.walk(house.tree(path))
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in asking
        }
    )


def hidden_keys(paths: Iterable[Path]) -> set[str]:
    """The names under which the engine keeps something in the ``__dict__`` of a model's modules."""
    found: set[str] = set()
    for path in paths:
        for token in tokenize.generate_tokens(io.StringIO(path.read_text(encoding="utf-8")).readline):
            if token.type == tokenize.STRING and _KEY.fullmatch(token.string.strip("\"'")):
                found.add(token.string.strip("\"'"))
    return found


def torch_part(drawn: house.House) -> list[Path]:
    """Engine and compositions."""
    return [*engine(drawn), *folder(drawn, "composition", "engine.compose")]


# what is executed -----------------------------------------------------------------------------------------------------


def executed(root: Path) -> dict[str, int]:
    """The executed figures of a checkout."""
    sources = [str(path) for path in house.source_folders(root)]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(sources),
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    command = [sys.executable, __file__, "--walk", str(root)]
    done = subprocess.run(command, env=environment, cwd=ARCHIVE, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{root}: {done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def walk(root: Path) -> dict[str, int]:
    """In the process of one checkout: count."""
    import refarch

    assert Path(refarch.__file__).is_relative_to(root), f"{refarch.__file__} is not of {root}"
    with redirect_stdout(sys.stderr):
        return {"attach": files_of_attach(root), "configure": configured_in_a_run()}


def files_of_attach(root: Path) -> int:
    """The files of this house that a second ``attach`` of LoRA to a BERT of two layers runs through."""
    from transformers import AutoModelForSequenceClassification

    import refarch

    seen: set[str] = set()

    def note(frame: Any, event: str, _: Any) -> None:
        if event == "call" and Path(frame.f_code.co_filename).is_relative_to(root):
            seen.add(frame.f_code.co_filename)

    for counted in (False, True):  # nothing is imported for the second one
        model = AutoModelForSequenceClassification.from_pretrained("base/bert")
        sys.setprofile(note if counted else None)
        refarch.attach(model, "lora")
        sys.setprofile(None)
    return len(seen - {__file__})


def configured_in_a_run() -> int:
    """How often ``refarch run`` configures the one technique of a pipeline."""
    import refarch
    from refarch.cli import main

    count, configure = 0, refarch.TechniqueSpec.configure

    def counted(self: Any, *arguments: Any, **choices: Any) -> Any:
        nonlocal count
        count += 1
        return configure(self, *arguments, **choices)

    refarch.TechniqueSpec.configure = counted  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory() as out:
        settings = ["task.train=data/letters.csv", "training.max_steps=1", "training.threads=1", "technique.rank=2"]
        said = [word for setting in settings for word in ("--set", setting)]
        names = ["--backbone", "base/bert", "--technique", "lora", "--task", "text-classification"]
        assert main(["run", *names, *said, "--out", str(Path(out) / "run"), "--quiet"]) == 0
    return count


# the page -------------------------------------------------------------------------------------------------------------

FIGURES = (
    Figure("import circles among files", lambda h, _: len(house.circles(h.arrows)), "0"),
    Figure("files in the largest circle", lambda h, _: max(map(len, house.circles(h.arrows)), default=0), "0"),
    Figure("arrows up inside a folder, at the least", lambda h, _: number_of_arrows_up(h), "0"),
    Figure("engine, lines of code (without compositions)", lambda h, _: code(engine(h)), "3,400"),
    Figure("composition, lines of code", lambda h, _: code(folder(h, "composition", "engine.compose")), "2,350"),
    Figure("lines of both with `hasattr`, `getattr`", lambda h, _: asked_for_attributes(torch_part(h)), "40"),
    Figure("keys of both in the `__dict__` of modules", lambda h, _: len(hidden_keys(torch_part(h))), "4"),
    Figure("tasks, lines of code", lambda h, _: code(tasks(h)), "900"),
    Figure("core in all, lines of code", lambda h, _: code(core(h)), "12,950"),
    Figure("core's largest file, lines of file", lambda h, _: longest(h), "370"),
    Figure("`Adaptation`, lines of file", lambda h, _: house.class_lines(h, "Adaptation"), "330"),
    Figure("`Composition`, lines of file", lambda h, _: house.class_lines(h, "Composition"), "290"),
    Figure("files in one folder of the core", lambda h, _: most_files(h), "15"),
    Figure('files executed by a second `attach(model, "lora")`', lambda _, run: run["attach"], "20"),
    Figure("`configure` calls in a run", lambda _, run: run["configure"], "1"),
    Figure("files of the core", lambda h, _: len(core(h)), ""),
    Figure("files of the core that plugins name", lambda h, _: len(named_by_plugins(h)), "10"),
    Figure("of these, no faces", lambda h, _: len(named_by_plugins(h) - set(house.FACES)), "0"),
    Figure("names of classes with two meanings", lambda h, _: len(house.several(house.names_of_types(h))), "0"),
    Figure("names of functions with two meanings", lambda h, _: len(house.several(house.names_of_functions(h))), ""),
)
WORDS = """\
A circle is a set of files that all import each other in the end; imports for type checking, inside functions and of an
`__init__.py` count. An arrow from one file or folder to another one of the same folder runs up if its order has the
imported one above; here the order is the one with the fewest such arrows that a search finds, so only circles have any.
Lines of code are those without comments, docstrings and blank lines. A name of a class counts if files of the core
define it twice at their top level, as a class or as an alias of a type. Targets are upper bounds; `tests/test_house.py`
holds most of them. `python docs/house_sizes.py --before CHECKOUT` writes this page.
"""


def column(root: Path) -> list[str]:
    """All figures of a checkout."""
    drawn, run = house.House(root), executed(root)
    return [f"{figure.of(drawn, run):,}" for figure in FIGURES]


def commit(root: Path) -> str:
    """The commit that a checkout is at; the name of its folder if it is none."""
    asked = ["git", "-C", str(root), "rev-parse", "--short", "HEAD"]
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    return done.stdout.strip() or root.name


def page(before: Path | None, now: Path = ROOT) -> str:
    """The page as Markdown."""
    columns = {f"before ({commit(before)})": column(before)} if before else {}
    columns["now"] = column(now)
    rows = [
        [figure.what, *(values[i] for values in columns.values()), figure.target] for i, figure in enumerate(FIGURES)
    ]
    head = ["", *columns, "target"]
    table = [head, ["---"] * len(head), *rows]
    text = "\n".join(f"| {' | '.join(row)} |" for row in table)
    return f"# The house in figures\n\n{WORDS}\n{text}\n"


def main() -> int:
    """Write the page, or print it."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--before", type=Path, help="an older checkout")
    options.add_argument("--print", action="store_true", help="to the terminal instead of the page")
    options.add_argument("--walk", type=Path, help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.walk:
        print(json.dumps(walk(chosen.walk)))
        return 0
    text = page(chosen.before.resolve() if chosen.before else None)
    if chosen.print:
        print(text)
    else:
        PAGE.write_text(text, encoding="utf-8")
        print(f"wrote {PAGE.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
