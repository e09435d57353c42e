"""The t5 table against the conformance kit."""

from refarch.testing import BackboneConformance


class TestT5(BackboneConformance):
    family = "t5"
