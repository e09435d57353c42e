"""The modernbert table against the conformance kit."""

from refarch.testing import BackboneConformance


class TestModernBert(BackboneConformance):
    family = "modernbert"
