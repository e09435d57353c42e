"""The electra table against the conformance kit."""

from refarch.testing import BackboneConformance


class TestElectra(BackboneConformance):
    family = "electra"
