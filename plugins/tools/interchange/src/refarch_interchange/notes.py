"""What a conversion changes besides names, said aloud."""

from __future__ import annotations

import warnings


class Difference(UserWarning):
    """Something that the other library has no word for, or does otherwise; the finished module computes the same unless
    the message says how much it differs.
    """


def tell(message: str) -> None:
    """Warn of a difference, at the caller of the conversion."""
    warnings.warn(message, Difference, stacklevel=3)
