"""The roberta table against the conformance kit."""

from refarch.testing import BackboneConformance


class TestRoberta(BackboneConformance):
    family = "roberta"
