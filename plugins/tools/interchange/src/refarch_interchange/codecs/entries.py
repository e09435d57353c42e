"""FourierFT: peft does not save which entries have a coefficient, but the seed that decides them."""

from __future__ import annotations

import torch

from refarch import Adaptation
from refarch.errors import CompositionError
from refarch_interchange.codec import Codec, Written
from refarch_interchange.mapping.rules import own_tensors
from refarch_interchange.places import Places


class Entries(Codec):
    """Reading is all in the options: the seed gives the same entries here."""

    def write(self, adaptation: Adaptation, places: Places, written: Written) -> None:
        """Check that the seed does.

        Raises:
            CompositionError: the entries are others: those of a checkpoint from before there was a seed for them.
        """
        seed = written.settings.get("random_loc_seed")
        for insertion in adaptation.insertions:
            own = own_tensors(insertion)["entries"]
            shape = insertion.site.shape
            generator = torch.Generator().manual_seed(seed or 0)
            expected = torch.randperm(shape.d_out * shape.d_in, generator=generator)[: len(own)]
            if seed is None or not torch.equal(own.cpu().long(), expected):
                raise CompositionError(
                    f"the entries at {insertion.site.address} are not those that entry_seed={seed} gives, and peft"
                    " saves no others",
                    "train again with this version, in which they follow from entry_seed",
                )
