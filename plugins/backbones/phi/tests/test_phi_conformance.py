"""The phi and phi3 tables against the conformance kit."""

from refarch.testing import BackboneConformance


class TestPhi(BackboneConformance):
    family = "phi"


class TestPhi3(BackboneConformance):
    family = "phi3"
