"""Adaption prompts: the topmost layers of a decoder."""

from __future__ import annotations

from refarch import Adaptation
from refarch.errors import CompositionError
from refarch_interchange.codec import Codec, Written
from refarch_interchange.files import PeftFiles
from refarch_interchange.places import Places


class TopLayers(Codec):
    """peft names a number of layers, counted from the top, and the attention module."""

    def read(self, files: PeftFiles, adaptation: Adaptation, places: Places) -> None:
        """Refuse where peft computes something else, after the values are in."""
        _refuse_fused(adaptation)
        _check_top(adaptation, int(files.settings["adapter_layers"]))

    def write(self, adaptation: Adaptation, places: Places, written: Written) -> None:
        """The number of layers, in place of a list of targets."""
        _refuse_fused(adaptation)
        _check_top(adaptation, len(adaptation.insertions))
        paths = [places.path(insertion.site.end.module) for insertion in adaptation.insertions]
        written.settings["target_modules"] = paths[0].rpartition(".")[2]
        written.settings["adapter_layers"] = len(paths)


def _refuse_fused(adaptation: Adaptation) -> None:
    fused = any(place.part for insertion in adaptation.insertions for place in insertion.site.projections)
    if fused:
        raise CompositionError(
            "peft's ADAPTION_PROMPT on a fused attention projection adds its prompt's part after the output projection,"
            " which the paper and refarch do before it",
            "use a backbone with separate projections (Llama, Mistral)",
        )


def _check_top(adaptation: Adaptation, number: int) -> None:
    found = sorted((i.site.shape.stack, i.site.shape.layer or 0) for i in adaptation.insertions)
    count = adaptation.insertions[0].site.shape.layers
    slots = {str(insertion.site.ref) for insertion in adaptation.insertions}
    top = [("decoder", layer) for layer in range(count - number, count)]
    if found != top or slots != {"attention.key_value"}:
        raise CompositionError(
            f"peft's ADAPTION_PROMPT works in the topmost layers of a decoder; here it is at {', '.join(sorted(slots))}"
            f" of {', '.join(f'{stack} {layer}' for stack, layer in found)}",
            'attach it with layers={"last": n}',
        )
