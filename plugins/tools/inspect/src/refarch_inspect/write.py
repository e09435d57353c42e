"""A family's table as Python source, and as a whole plugin."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from refarch import FamilySpec
from refarch.errors import UsageError
from refarch.files import write_text

if TYPE_CHECKING:
    from refarch_inspect.classify import Finding


def python_source(family: FamilySpec, findings: list[Finding]) -> str:
    """A plugin module that provides the family; what was not resolved stands in its docstring."""
    constant = module_name(family).removeprefix("refarch_").upper()
    missing = [f"* {f.stack} {f.slot}: {f.reason}" for f in findings if f.entry is None]
    doc = [f'"""{family.summary[0].upper()}{family.summary[1:]}.']
    doc += ["", "Check it before use: python -m pytest tests (it runs refarch's conformance kit)."]
    if missing:
        doc += ["", "Not resolved:", "", *(line.replace("\\", "").replace('"""', "'''") for line in missing)]
    lines = [
        *("\n".join(doc).splitlines()),
        '"""',
        "",
        "from refarch import FamilySpec, StackTable, TinyModel, hookimpl",
        "",
        f"{constant} = FamilySpec(",
        *_fields(
            [
                ("name", family.name),
                ("summary", family.summary),
                ("model_types", family.model_types),
            ]
        ),
        "    stacks=(",
    ]
    for stack in family.stacks:
        values = {name: value for name, value in stack if value not in (None, "", {}) and name != "slots"}
        values = {name: value for name, value in values.items() if (name, value) != ("positions", "sequence")}
        slots = {"slots": stack.slots}
        lines += ["        StackTable(", *_fields([*values.items(), *slots.items()], 12), "        ),"]
    once = [("embedding", family.embedding), ("embedding_norm", family.embedding_norm), ("head", family.head)]
    lines += ["    ),", *_fields([item for item in once if item[1] is not None])]
    tiny = [(name, value) for name, value in family.tiny]
    lines += ["    tiny=TinyModel(", *_fields(tiny, 8), "    ),", ")", "", "", "@hookimpl"]
    lines += ["def refarch_backbones() -> list[FamilySpec]:", '    """The family of this plugin."""']
    return "\n".join([*lines, f"    return [{constant}]", ""])


def package(family: FamilySpec, findings: list[Finding], folder: Path) -> list[Path]:
    """Write a whole plugin: pyproject with its entry point, module, README, test.

    Raises:
        UsageError: the folder is there and not empty.
    """
    require_room(folder)
    module, name = module_name(family), f"refarch-{family.name}"
    cls = "".join(part.capitalize() for part in family.name.split("-"))
    files = {
        "pyproject.toml": f"""[build-system]
requires = ["flit_core>=3.11,<5"]
build-backend = "flit_core.buildapi"

[project]
name = "{name}"
version = "0.1.0"
description = "{family.name} for refarch: the table from standard slots to its modules"
readme = "README.md"
requires-python = ">=3.11"
dependencies = ["refarch"]

[project.entry-points."refarch.backbone"]
{family.name} = "{module}"

[tool.flit.module]
name = "{module}"
""",
        "README.md": f"""# {name}

{family.summary}. Serves the model types {", ".join(family.model_types)}.

    pip install -e . && python -m pytest
""",
        f"src/{module}/__init__.py": python_source(family, findings),
        f"src/{module}/py.typed": "",
        f"tests/test_{module}.py": f'''"""The {family.name} table against the conformance kit."""

from refarch.testing import BackboneConformance


class Test{cls}(BackboneConformance):
    family = "{family.name}"
''',
    }
    for path, content in files.items():
        write_text(folder / path, content)
    return [folder / path for path in files]


def require_room(folder: Path) -> None:
    """Refuse a folder that holds something.

    Raises:
        UsageError: it does.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} is there already, and not empty", "give a folder that is not there yet")


def module_name(family: FamilySpec) -> str:
    """``refarch_gpt_neo``."""
    return f"refarch_{family.name.replace('-', '_')}"


def _fields(items: list[tuple[str, Any]], indent: int = 4) -> list[str]:
    space, lines = " " * indent, []
    for name, value in items:
        if isinstance(value, dict):
            inner = [f"{space}    {_literal(key)}: {_literal(item)}," for key, item in value.items()]
            lines += [f"{space}{name}={{", *inner, f"{space}}},"] if inner else [f"{space}{name}={{}},"]
        else:
            lines.append(f"{space}{name}={_literal(value)},")
    return lines


def _literal(value: Any) -> str:
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    if isinstance(value, tuple):
        inner = ", ".join(map(_literal, value))
        return f"({inner},)" if len(value) == 1 else f"({inner})"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_literal(key)}: {_literal(item)}" for key, item in value.items()) + "}"
    return repr(value)
