"""``refarch library``: a group whose commands are imported when they are invoked."""

from __future__ import annotations

from refarch.plugins import command_group

PARTS = {
    "add": ("refarch_library.commands.keep:add", "Add what a finished run has trained."),
    "check": ("refarch_library.commands.keep:check", "Check entries: files, statements, installed plugins, the base."),
    "compose": ("refarch_library.commands.compose:command", "Combine entries by an expression, judged beforehand."),
    "list": ("refarch_library.commands.find:list_", "All entries."),
    "port": ("refarch_library.commands.port:command", "Move an entry to another backbone of compatible slots."),
    "pull": ("refarch_library.commands.share:pull", "Copy an entry from a hub repository, a URL or a folder."),
    "push": ("refarch_library.commands.share:push", "Copy an entry to a hub repository, a URL or a folder."),
    "remove": ("refarch_library.commands.keep:remove", "Delete entries."),
    "search": ("refarch_library.commands.find:search", "Entries by technique, slot, backbone, task, score."),
    "show": ("refarch_library.commands.find:show", "All that one entry says about itself."),
    "transfer-matrix": ("refarch_library.commands.matrix:command", "The score of each entry on each task."),
}
"""Each command's import path and its line in ``--help`` (so that help imports none of them)."""

HELP = """A library of finetuned modules that outlive the run that made them.

An entry is a folder that describes itself: structure, slots, shapes, base, versions, licence, and the run's evidence.
The library is a folder of entries: --library, or the variable REFARCH_LIBRARY, or ./library. `refarch predict` uses
entries.

\b
Examples:
  refarch library add runs/first --licence MIT
  refarch library search --technique lora --slot 'attention.*' --score '>=0.8'
  refarch library push lora-sst2-minilm-seed0 hf://me/lora-sst2
  refarch library pull hf://me/lora-sst2
  refarch library port lora-sst2-minilm-seed0 --to ./another-model
  refarch library compose "ties(law, news, density=0.2, rank=16)" --out merged/
"""

command = command_group("library", HELP, PARTS)
