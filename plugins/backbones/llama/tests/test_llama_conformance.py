"""The llama table against the conformance kit."""

from refarch.testing import BackboneConformance


class TestLlama(BackboneConformance):
    family = "llama"
