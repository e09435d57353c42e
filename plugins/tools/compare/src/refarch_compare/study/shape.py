"""A backbone without its weights, on which techniques are tried before anything runs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from refarch import ConfiguredTechnique, Registry, pipeline
from refarch.architecture import BackboneChoice
from refarch.errors import UsageError
from refarch.plugins import locate
from refarch_compare.attached import attached

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def empty_model(
    choice: BackboneChoice, auto_class: str, registry: Registry, arguments: Mapping[str, Any] | None = None
) -> PreTrainedModel:
    """The backbone on the meta device: shapes, no weights.

    Args:
        choice: which one.
        auto_class: transformers' auto class, which decides the head.
        registry: where names are looked up.
        arguments: the task's, for the head: its number of labels, for example.

    Raises:
        UsageError: its configuration cannot be had, or there is no such model class for it.
    """
    from transformers import AutoConfig  # not above: names are looked up first, and need no torch

    source = locate(choice, registry)
    common: dict[str, Any] = {"trust_remote_code": choice.trust_remote_code}
    values = {**choice.config, **(arguments or {})}
    try:
        with pipeline.quiet():
            config = AutoConfig.from_pretrained(source, revision=choice.revision or "main", **common, **values)
            return pipeline.model_on_meta(config, auto_class, **common)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"the backbone {choice.name!r} cannot be had as {auto_class}: {str(error).splitlines()[0]}",
            "give a local folder, a hub id that can be reached from here, or an installed model",
        ) from error


class Shapes:
    """Empty backbones, each made once, on which techniques are counted.

    Args:
        registry: where names are looked up.
    """

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        self._models: dict[str, PreTrainedModel] = {}
        self._counts: dict[str, int] = {}

    def count(
        self,
        choice: BackboneChoice,
        auto_class: str,
        arguments: Mapping[str, Any],
        technique: ConfiguredTechnique,
        label: str,
        new_head: bool,
    ) -> int:
        """Trainable parameters of a technique's modules on a backbone with a task's head, by attaching them.

        A ``new_head`` trains along, as in a run, and does not count.

        Raises:
            RefarchError: the backbone cannot be had, or the technique cannot be attached to it.
        """
        where = f"{choice.to_json(indent=None)} {auto_class} {json.dumps(arguments, sort_keys=True, default=repr)}"
        key = f"{where} {new_head} {technique.to_json(indent=None)}"
        if key not in self._counts:
            if where not in self._models:
                self._models[where] = empty_model(choice, auto_class, self.registry, arguments)
            head = new_head and not technique.selects_head
            choices: dict[str, Any] = {"name": label, "train_head": head, "registry": self.registry}
            with attached(self._models[where], technique, **choices) as adaptation:
                self._counts[key] = adaptation.count(head=False)
        return self._counts[key]
