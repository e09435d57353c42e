"""OFT and BOFT: rotations that peft computes in a way of its own, or scales along."""

from __future__ import annotations

import torch
from torch import Tensor

from refarch import Adaptation
from refarch.engine import widths
from refarch.errors import CompositionError
from refarch_interchange.codec import Codec, Written
from refarch_interchange.files import PeftFiles
from refarch_interchange.mapping.rules import PREFIX
from refarch_interchange.notes import tell
from refarch_interchange.places import Places


class Series(Codec):
    """peft's default for OFT is a truncated series in place of Cayley's map; the difference is measured and told."""

    def read(self, files: PeftFiles, adaptation: Adaptation, places: Places) -> None:
        """Nothing but the difference."""
        settings = files.settings
        if not settings.get("use_cayley_neumann", True):
            return
        terms = int(settings.get("num_cayley_neumann_terms", 5))
        worst = 0.0
        for insertion in adaptation.insertions:
            exact = insertion.function.rotation.blocks()  # type: ignore[union-attr, operator]
            worst = max(worst, float((truncated(skew_of(exact), terms) - exact).abs().max()))
        tell(
            f"peft computes this OFT by a series of {terms} terms (use_cayley_neumann), refarch exactly: entries of the"
            f" rotations differ by up to {worst:.1e}"
        )

    def write(self, adaptation: Adaptation, places: Places, written: Written) -> None:
        """Without the series; the size of blocks or their number."""
        written.settings["use_cayley_neumann"] = False
        sizes = [(i.site.shape.d_in, int(i.function.rotation.size)) for i in adaptation.insertions]  # type: ignore[union-attr, arg-type]
        written.settings.update(size_or_number(sizes, "oft_block_size", "r"))


def size_or_number(modules: list[tuple[int, int]], size: str, number: str) -> dict[str, int]:
    """Peft's settings for blocks in modules of these widths and block sizes, of which it wants one to be 0.

    Raises:
        CompositionError: neither is the same in all modules.
    """
    sizes, numbers = {block for _, block in modules}, {width // block for width, block in modules}
    if len(sizes) > 1 and len(numbers) > 1:
        raise CompositionError(
            f"modules have blocks of {' and '.join(map(str, sorted(sizes)))}, and peft has one {size} or {number}",
            "attach them as separate adaptations",
        )
    return {size: sizes.pop(), number: 0} if len(sizes) == 1 else {size: 0, number: numbers.pop()}


def skew_of(rotation: Tensor) -> Tensor:
    """Q of R = (I + Q)(I - Q)^-1, [blocks, b, b]."""
    eye = torch.eye(rotation.shape[-1])
    return torch.linalg.solve(rotation + eye, rotation - eye)


def truncated(skew: Tensor, terms: int) -> Tensor:
    """I + 2 Q + 2 Q^2 + ..., the last power once: what peft takes for (I + Q)(I - Q)^-1; [blocks, b, b]."""
    total = torch.eye(skew.shape[-1]).expand_as(skew).clone()
    power = total
    for number in range(1, terms):
        power = power @ skew
        total = total + (1.0 if number == terms - 1 and terms > 2 else 2.0) * power
    return total


class Butterfly(Codec):
    """peft's BOFT always has a factor for each output unit."""

    def write(self, adaptation: Adaptation, places: Places, written: Written) -> None:
        """Factors of one where the option has left them out; the size of blocks or their number."""
        sizes = [(i.site.shape.d_in, int(i.function.block_size)) for i in adaptation.insertions]  # type: ignore[arg-type]
        written.settings.update(size_or_number(sizes, "boft_block_size", "boft_block_num"))
        for insertion in adaptation.insertions:
            name = f"{PREFIX}{places.path(insertion.site.end.module)}.boft_s"
            written.tensors.setdefault(name, torch.ones(widths(insertion.site.end.module)[1], 1))
