"""VeRA: one frozen pair of matrices for the whole model, of which every module reads its corner."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from refarch import Adaptation
from refarch.errors import CompositionError
from refarch_interchange.codec import Codec, Written
from refarch_interchange.files import PeftFiles
from refarch_interchange.mapping.rules import own_tensors
from refarch_interchange.notes import tell
from refarch_interchange.places import Places

A, B = "base_model.vera_A", "base_model.vera_B"


class Projections(Codec):
    """peft has A [r, largest d_in] and B [largest d_out, r]; refarch a pair for each shape."""

    def read(self, files: PeftFiles, adaptation: Adaptation, places: Places) -> None:
        """The corners of the file's matrices; where they were not saved, of those that peft's seed gives."""
        wide, tall = self._matrices(files, adaptation)
        for insertion in adaptation.insertions:
            own = own_tensors(insertion)
            own["down"].copy_(wide[:, : own["down"].shape[1]])
            own["up"].copy_(tall[: len(own["up"])])

    def _matrices(self, files: PeftFiles, adaptation: Adaptation) -> tuple[Tensor, Tensor]:
        if files.settings.get("save_projection", True):
            return files.take(A), files.take(B)
        own = [own_tensors(insertion) for insertion in adaptation.insertions]
        rank, d_in = len(own[0]["down"]), max(item["down"].shape[1] for item in own)
        d_out = max(len(item["up"]) for item in own)
        generator = torch.Generator().manual_seed(int(files.settings.get("projection_prng_key") or 0))
        wide, tall = torch.empty(rank, d_in), torch.empty(d_out, rank)
        for matrix in (wide, tall):
            nn.init.kaiming_uniform_(matrix, generator=generator)
        tell("the file lacks the frozen matrices; they are made again from its seed, as this version of torch does")
        return wide, tall

    def write(self, adaptation: Adaptation, places: Places, written: Written) -> None:
        """The largest matrices, of which all others must be corners.

        Raises:
            CompositionError: they are not: peft has one pair for all shapes.
        """
        wide, tall = torch.empty(0, 0), torch.empty(0, 0)
        pairs = []
        for insertion in adaptation.insertions:
            own = own_tensors(insertion)
            pairs.append((own["down"].detach(), own["up"].detach()))
            wide = own["down"].detach() if own["down"].shape[1] > wide.shape[1] else wide
            tall = own["up"].detach() if own["up"].shape[0] > tall.shape[0] else tall
        for down, up in pairs:
            if not torch.equal(down, wide[:, : down.shape[1]]) or not torch.equal(up, tall[: len(up)]):
                raise CompositionError(
                    "peft has one frozen pair of matrices for all shapes; here modules of different shapes have others",
                    "choose slots whose layers have one shape, such as attention.query and attention.output",
                )
        written.tensors.update({A: wide, B: tall})
        written.settings.update({"save_projection": True, "projection_prng_key": 0})
