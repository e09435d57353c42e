"""Assemble pipelines from installed plugins and run them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from refarch._lazy import lazy, names

if TYPE_CHECKING:
    from refarch.pipeline.assembly import Assembled as Assembled, assemble as assemble, score_split as score_split
    from refarch.pipeline.backbone import (
        backbone_kind as backbone_kind,
        device as device,
        load_backbone as load_backbone,
        quiet as quiet,
        quiet_transformers as quiet_transformers,
    )
    from refarch.pipeline.meta_model import model_on_meta as model_on_meta
    from refarch.pipeline.pool import Pool as Pool
    from refarch.pipeline.process_memory import peak_memory as peak_memory, reset_peak as reset_peak
    from refarch.pipeline.run_folder import (
        COMPLETE as COMPLETE,
        RunFolder as RunFolder,
        differences as differences,
        versions as versions,
    )
    from refarch.pipeline.runner import run as run
    from refarch.pipeline.seeding import seeds as seeds
    from refarch.pipeline.threads import torch_threads as torch_threads
    from refarch.pipeline.trainer import AdaptationTrainer as AdaptationTrainer
    from refarch.yaml_text import parse_yaml as parse_yaml, read_mapping as read_mapping

_FROM = {
    "refarch.pipeline.assembly": "Assembled assemble score_split",
    "refarch.pipeline.backbone": "backbone_kind device load_backbone quiet quiet_transformers",
    "refarch.pipeline.meta_model": "model_on_meta",
    "refarch.pipeline.process_memory": "peak_memory reset_peak",
    "refarch.pipeline.pool": "Pool",
    "refarch.pipeline.run_folder": "COMPLETE RunFolder differences versions",
    "refarch.pipeline.runner": "run",
    "refarch.pipeline.seeding": "seeds",
    "refarch.pipeline.threads": "torch_threads",
    "refarch.pipeline.trainer": "AdaptationTrainer",
    "refarch.yaml_text": "parse_yaml read_mapping",
}
__all__ = names(_FROM)  # pyright: ignore[reportUnsupportedDunderAll]


if not TYPE_CHECKING:  # a type checker would take any name from a module with __getattr__

    def __getattr__(name: str) -> Any:
        return lazy(__name__, name, _FROM)
