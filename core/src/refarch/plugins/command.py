"""What a command plugin returns."""

from __future__ import annotations

from pydantic import Field

from refarch.architecture.module_fields import ImportPath
from refarch.architecture.spec import CONTRACT, Spec
from refarch.architecture.technique import PluginName


class CommandSpec(Spec):
    """A command: its name, its one-line help and the click command that is imported when it is invoked."""

    name: PluginName
    summary: str = Field(min_length=1, max_length=120)
    command: ImportPath
    contract: int = CONTRACT
