"""The baselines against the conformance kit."""

from refarch.testing import TechniqueConformance


class TestFull(TechniqueConformance):
    technique = "full"


class TestHeadOnly(TechniqueConformance):
    technique = "head-only"
