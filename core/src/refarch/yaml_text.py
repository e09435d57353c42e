"""YAML as people write it, read without surprises."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from refarch.errors import DataError


class Loader(yaml.SafeLoader):
    """YAML's safe loader; a key given twice is an error, and 1e-3 is a number as it is everywhere else."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} is given twice", key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep=deep)


def parse_yaml(text: str | bytes) -> Any:
    """Read YAML: plain data only, never objects.

    Raises:
        ValueError: what is wrong, with line and column where YAML knows them.
    """
    try:
        return yaml.load(text, Loader)  # a SafeLoader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise ValueError(f"{place}{error.problem or error.context}") from None
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(" ".join(str(error).split())) from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def read_mapping(path: Path, what: str, hint: str) -> dict[str, Any]:
    """The mapping in a YAML file.

    Args:
        path: the file.
        what: what it is to hold, for the message: "a pipeline".
        hint: which keys that has.

    Raises:
        DataError: the file cannot be read, is not YAML, or holds something else than a mapping.
    """
    try:
        data = parse_yaml(path.read_bytes())
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from None
    except ValueError as error:
        raise DataError(f"{path} is not valid YAML: {error}") from None
    if not isinstance(data, dict):
        held = "nothing" if data is None else f"a {type(data).__name__}"
        raise DataError(f"{path} holds {held}, but {what} is a mapping", hint)
    return data
