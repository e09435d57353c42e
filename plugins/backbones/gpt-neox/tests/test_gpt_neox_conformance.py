"""The gpt-neox table against the conformance kit."""

from refarch.testing import BackboneConformance


class TestGPTNeoX(BackboneConformance):
    family = "gpt-neox"
