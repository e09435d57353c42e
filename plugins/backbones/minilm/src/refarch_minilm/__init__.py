"""all-MiniLM-L6-v2 (Wang et al. 2020, arXiv 2002.10957; tuned by sentence-transformers): a BERT, 6 layers x 384."""

from refarch import ModelSpec, hookimpl
from refarch_minilm.source import folder

__all__ = ["MINILM", "folder", "refarch_backbones"]

MINILM = ModelSpec(
    name="minilm",
    summary="all-MiniLM-L6-v2: a BERT of 6 layers x 384, 22.7 M parameters, that pip installs",
    source="refarch_minilm.source:folder",
    licence="Apache-2.0",
)


@hookimpl
def refarch_backbones() -> list[ModelSpec]:
    """The model of this plugin."""
    return [MINILM]
