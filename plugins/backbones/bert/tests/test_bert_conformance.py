"""The bert table against the conformance kit."""

from refarch.testing import BackboneConformance


class TestBert(BackboneConformance):
    family = "bert"
