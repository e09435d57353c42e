"""Arithmetic of weight operators, written out value by value."""

import torch

from refarch.composition.weights.arithmetic import ties


def test_ties_trims_elects_and_averages() -> None:
    """Written out, value by value; the sign is elected with the weights, so that a negative one turns a part around."""
    generator = torch.Generator().manual_seed(0)
    tensors, weights = [torch.randn(4, 5, generator=generator) for _ in range(3)], (1.0, -0.5, 2.0)
    kept = []
    for w, tensor in zip(weights, tensors, strict=True):
        least = sorted(tensor.abs().flatten().tolist(), reverse=True)[7]  # 0.4 of 20 values are kept
        kept.append([[w * float(v) if abs(float(v)) >= least else 0.0 for v in row] for row in tensor])
    want = torch.zeros(4, 5)
    for i in range(4):
        for j in range(5):
            here = [k[i][j] for k in kept]
            sign = 1 if sum(here) >= 0 else -1
            agree = [v for v in here if v * sign > 0]
            want[i, j] = sum(agree) / len(agree) if agree else 0.0
    torch.testing.assert_close(ties(tensors, weights, 0.4), want)
