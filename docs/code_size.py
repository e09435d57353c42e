"""Write docs/code-size.md: how many lines of code each technique and backbone plugin takes.

    python docs/code_size.py            # writes the page
    python docs/code_size.py --check    # exits with 1 if the page is not what it would write

A line counts if a token of code is on it: blank lines, comments and docstrings (of modules, classes, functions, and
below attributes) do not. Counted is what is installed, ``src/``; a plugin's tests are not.
"""

from __future__ import annotations

import ast
import io
import statistics
import sys
import tokenize
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "code-size.md"
KINDS = {"techniques": "technique", "backbones": "backbone"}
LIMIT = 60
"""The median that the design promises for techniques."""
_NO_CODE = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENCODING,
    tokenize.ENDMARKER,
}


def lines_of_code(text: str) -> int:
    """The number of lines of a Python source on which there is code."""
    docs: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            docs.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    code: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in _NO_CODE:
            code.update(range(token.start[0], token.end[0] + 1))
    return len(code - docs)


def sizes(kind: str, root: Path = ROOT) -> dict[str, int]:
    """Lines of code by plugin of a kind (``techniques``, ``backbones``)."""
    return {
        folder.name: sum(lines_of_code(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("src/**/*.py")))
        for folder in sorted((root / "plugins" / kind).iterdir())
        if (folder / "pyproject.toml").is_file()
    }


def page(root: Path = ROOT) -> str:
    """The page as Markdown."""
    parts = [
        "# Lines of code a plugin",
        "What is not in the core: non-blank lines of `src/` without comments and docstrings. A spec's data\n"
        "(provenance, options, presets, the tiny model of a family) counts; tests do not.\n"
        "`python docs/code_size.py` writes this page.",
    ]
    for kind, word in KINDS.items():
        found = sizes(kind, root)
        median = statistics.median(found.values())
        parts.append(f"## {kind.capitalize()}")
        parts.append(
            f"{len(found)} {word} plugins; median **{median:g}** lines"
            + (f" (the design promises {LIMIT} or fewer)." if kind == "techniques" else ".")
        )
        rows = [f"| `{name}` | {count} |" for name, count in sorted(found.items(), key=lambda item: (item[1], item[0]))]
        parts.append("\n".join(["| plugin | lines |", "|---|---|", *rows]))
    return "\n\n".join(parts) + "\n"


def main() -> int:
    """Write the page, or compare it."""
    text = page()
    if "--check" in sys.argv[1:]:
        same = PAGE.is_file() and PAGE.read_text(encoding="utf-8") == text
        print("up to date" if same else f"{PAGE.name} is out of date: run python docs/code_size.py")
        return 0 if same else 1
    PAGE.write_text(text, encoding="utf-8")
    print(f"wrote {PAGE.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
