"""The albert table against the conformance kit."""

from refarch.testing import BackboneConformance


class TestAlbert(BackboneConformance):
    family = "albert"
