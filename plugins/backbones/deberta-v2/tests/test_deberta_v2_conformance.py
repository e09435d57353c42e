"""The deberta-v2 table against the conformance kit."""

from refarch.testing import BackboneConformance


class TestDebertaV2(BackboneConformance):
    family = "deberta-v2"
