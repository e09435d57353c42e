"""The distilbert table against the conformance kit."""

from refarch.testing import BackboneConformance


class TestDistilBert(BackboneConformance):
    family = "distilbert"
