"""An interchange spec: what a technique of refarch's is called, and how its tensors look, in another library's files.

The data that an interchange tool works from, both ways. A technique's plugin may bring one, by the hook
``refarch_interchanges``, so that its checkpoints can be read and written by libraries that have the technique too.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from refarch.architecture.module_fields import ImportPath
from refarch.architecture.spec import CONTRACT, PlainData, Spec
from refarch.architecture.technique import PluginName


class TensorRule(Spec):
    """One parameter of a technique's function, and the other library's tensor with the same values."""

    own: str
    """The parameter's name in the function: ``down``, ``update.up``. With ``{}`` for a number, all of that name are one
    tensor of theirs, along its first axis. Of a selection, ``*``: each parameter that is selected at a module."""
    theirs: str
    """Their tensor's name after the path of the module that it belongs to: ``lora_A.weight``; ``*`` for the same."""
    operation: str = "same"
    """What makes one of the other, by a name that the tool knows: ``same``, ``transposed``, ``negated`` ...; or the
    import path of an object with ``read(theirs, like)`` and ``write(own, side)``."""
    rows: bool = True
    """At one part of a fused projection: whether the part has its own rows of their tensor (what belongs to output
    units); if not, all parts have the whole of it."""
    absent: float | Literal["row norms"] = 0.0
    """Its rows for parts of a fused projection that the technique leaves alone."""


class InterchangeSpec(Spec):
    """A technique in the files of another library."""

    name: PluginName
    summary: str = Field(min_length=1, max_length=120)
    format: PluginName
    """Whose files: ``peft``."""
    kind: str
    """What they call the technique: ``LORA``."""
    technique: PluginName
    preset: str | None = None
    when: PlainData = {}
    """Settings of theirs that must have these values, or one of several, of which the first is written. Those of a
    training, which a file does not tell, are called ``train.NAME``."""
    options: dict[str, str] = {}
    """Own options by name, and the setting of theirs that has the same value."""
    fixed: PlainData = {}
    """Own options that have one value for all that is read so."""
    derived: dict[str, ImportPath] = {}
    """Own options that are computed from their settings: a callable of the settings and the place, for each module."""
    settings: ImportPath | None = None
    """Their settings that are computed from the own options of a module, when written: a callable of the options."""
    patterns: dict[str, str] = {}
    """Own options, and the setting of theirs that holds other values of it for some modules."""
    silent: tuple[str, ...] = ()
    """Settings of theirs that do not change what the finished module computes."""
    untold: tuple[str, ...] = ()
    """Own options that their files have no word for, and that do not change what the finished module computes."""
    targets: Literal["linear", "norm", "attention", "none"] = "linear"
    """What the modules are that their setting of targets names; ``none`` where there is no such setting."""
    inputs: str = ""
    """Their setting that names those of the targets whose input is adapted, where there is one."""
    tensors: tuple[TensorRule, ...] = ()
    """Parameters that the module spec freezes need no rule: they follow from the options, or a codec carries them."""
    codec: ImportPath | None = None
    """For what no rule says: tensors of theirs that hold those of several insertions. A class of the tool's."""
    join: ImportPath | None = None
    """How parts of a fused projection become one module of theirs where what that has once differs between them; a
    callable of the tool's."""
    fused: Literal["no", "whole", "parts"] = "no"
    """Whether their module over a fused projection is the same as modules at its parts: not at all, at all of them
    together, or at any of them."""
    rewrite: ImportPath | None = None
    """What the function's tensors and options become before they are written; a callable of the tool's."""
    written_as: PluginName | None = None
    """The mapping by which it is written after that; its own when left out."""
    note: str = ""
    """In what the two differ, in one sentence."""
    contract: int = CONTRACT
