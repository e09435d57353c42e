"""Whether importing a plugin, and asking it for its specs, stays light."""

from __future__ import annotations

import functools
import json
import subprocess
import sys

from refarch.plugins.discovery import Kind
from refarch.plugins.hooks import HOOKS
from refarch.plugins.registry import default_registry

HEAVY = ("torch", "transformers", "numpy", "pandas", "sklearn")
_SCRIPT = """
import importlib, json, sys
module, _, attribute = sys.argv[1].partition(":")
plugin = importlib.import_module(module)
for part in filter(None, attribute.split(".")):
    plugin = getattr(plugin, part)
list(getattr(plugin, sys.argv[2])())
print(json.dumps([name for name in json.loads(sys.argv[3]) if name in sys.modules]))
"""


def expect_light(kind: Kind, name: str) -> None:
    """Fail if importing the plugin and calling its hook imports torch or its like (in a process of its own)."""
    _expect_light(kind, name, default_registry().find(kind, name).target)


@functools.cache
def _expect_light(kind: Kind, name: str, target: str) -> None:
    """Several classes test one plugin; once in a process is enough, unless it fails."""
    command = [sys.executable, "-c", _SCRIPT, target, HOOKS[kind], json.dumps(HEAVY)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, f"{kind} {name!r}: importing {target!r} in a new process failed:\n{done.stderr}"
    heavy = json.loads(done.stdout.strip().splitlines()[-1])
    assert not heavy, (
        f"{kind} {name!r}: importing {target!r} and calling its hook imports {', '.join(heavy)}. The module that the"
        " entry point names may declare specs only; move the code to another module, named by an import path"
    )
