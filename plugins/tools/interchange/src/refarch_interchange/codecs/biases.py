"""BEFT: a vector that peft adds to a layer's output, which is a bias in training."""

from __future__ import annotations

from torch import nn

from refarch import Adaptation
from refarch.engine import selected
from refarch.errors import CompositionError
from refarch_interchange.codec import Codec, Written
from refarch_interchange.files import PeftFiles
from refarch_interchange.mapping.rules import PREFIX
from refarch_interchange.places import Places


class Added(Codec):
    """peft keeps what is added to the base's bias, refarch the bias that comes of it."""

    def read(self, files: PeftFiles, adaptation: Adaptation, places: Places) -> None:
        """The base's bias, to what the rules have put there."""
        for path, original in _originals(adaptation).items():
            adaptation.copies[path].add_(original)

    def write(self, adaptation: Adaptation, places: Places, written: Written) -> None:
        """Without the base's bias.

        Raises:
            CompositionError: a bias is that of no linear layer.
        """
        for path, original in _originals(adaptation).items():
            module = path.rpartition(".")[0]
            kind = type(places.modules[module])
            if not issubclass(kind, nn.Linear):
                raise CompositionError(
                    f"peft's BEFT works at linear layers; {path} is a bias of a {kind.__name__}",
                    'choose slots that are linear layers: slots=["attention.value"]',
                )
            written.tensors[f"{PREFIX}{module}.beft_bias"] = (adaptation.copies[path] - original)[None]


def _originals(adaptation: Adaptation) -> dict[str, nn.Parameter]:
    """The base's own biases that this adaptation has copies of."""
    found = selected(adaptation.model)
    return {path: found[path].original for path in adaptation.copies if path.endswith(".bias")}
