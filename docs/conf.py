"""Sphinx settings. Tables of the documentation are generated from the code's own data before each build."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import generate

generate.write_all(Path(__file__).parent / "_generated")

project = "refarch"
author = "the refarch authors"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
exclude_patterns = ["_build", "_generated", "requirements.txt"]
html_theme = "furo"
html_title = "refarch"
autodoc_typehints = "description"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "show-inheritance": True}
napoleon_use_ivar = True
nitpicky = False
suppress_warnings = ["ref.python"]
