"""The bart table against the conformance kit."""

from refarch.testing import BackboneConformance


class TestBart(BackboneConformance):
    family = "bart"
