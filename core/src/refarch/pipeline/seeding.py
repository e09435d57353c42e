"""The seeds of a run. Needs no torch, so that a study of many runs is planned at once."""

from __future__ import annotations

import numpy as np

from refarch.architecture import Seeds


def seeds(run: int) -> Seeds:
    """The seeds of one run. Techniques that share a run seed share head initialisation and data order."""
    head, modules, data = (int(value) for value in np.random.SeedSequence(run).generate_state(3) % 2**31)
    return Seeds(run=run, head=head, modules=modules, data=data)
