"""AdaLoRA: modules of different ranks under one scale."""

from __future__ import annotations

from refarch import Adaptation
from refarch_interchange.codec import Codec, Written, fold_all
from refarch_interchange.files import PeftFiles
from refarch_interchange.mapping.rules import PREFIX
from refarch_interchange.places import Places


class Triplets(Codec):
    """peft keeps the triplets that are left and, in ``rank_pattern``, which of the first ones they were; it divides by
    the first rank all along.
    """

    def prepare(self, files: PeftFiles, adaptation: Adaptation, places: Places) -> None:
        """As many triplets as the file has, and no account of their importance, which it does not hold."""
        fold_all(adaptation)
        for insertion in adaptation.insertions:
            values = files.tensors.get(f"{PREFIX}{places.path(insertion.site.end.module)}.lora_E")
            if values is not None:
                insertion.function.resize({"values": (len(values),)})

    def write(self, adaptation: Adaptation, places: Places, written: Written) -> None:
        """``init_r`` as large as the largest rank, with alpha so that the scale stays."""
        settings = written.settings
        ranks = {name.removeprefix(PREFIX): len(t) for name, t in written.tensors.items() if name.endswith(".lora_E")}
        first = max(settings["init_r"], *ranks.values())
        settings["lora_alpha"] = settings["lora_alpha"] * first / settings["init_r"]
        settings["init_r"] = first
        if set(ranks.values()) != {first}:
            kept = {name: [True] * rank + [False] * (first - rank) for name, rank in ranks.items()}
            settings["rank_pattern"] = kept
