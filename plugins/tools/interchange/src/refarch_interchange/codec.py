"""What a codec is: the code of a mapping whose tensors no rule describes."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor

from refarch import Adaptation
from refarch.engine import fold
from refarch_interchange.files import PeftFiles
from refarch_interchange.places import Places


class Written(NamedTuple):
    """What is going to be written; a codec changes it in place."""

    settings: dict[str, Any]
    tensors: dict[str, Tensor]


def fold_all(adaptation: Adaptation) -> None:
    """Drop, in place, what only training needs: their files, as refarch's, hold what it has made."""
    for _, function in adaptation.functions():
        fold(function)
    adaptation.folded = True


class Codec:
    """Base of codecs; each method does nothing unless a subclass says otherwise."""

    def choices(self, files: PeftFiles, places: Places) -> dict[str, Any]:
        """Slots, layers and options, where targets do not tell them.

        Raises:
            RefarchError: the settings ask for something that the technique does not have.
        """
        return {}

    def prepare(self, files: PeftFiles, adaptation: Adaptation, places: Places) -> None:
        """Change the attached functions before the rules fill them."""

    def read(self, files: PeftFiles, adaptation: Adaptation, places: Places) -> None:
        """Fill the attached functions with what the rules do not, and take the tensors that hold it."""

    def write(self, adaptation: Adaptation, places: Places, written: Written) -> None:
        """Add to what the rules have written, or change it."""
