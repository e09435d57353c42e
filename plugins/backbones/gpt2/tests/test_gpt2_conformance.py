"""The gpt2 table against the conformance kit."""

from refarch.testing import BackboneConformance


class TestGPT2(BackboneConformance):
    family = "gpt2"
