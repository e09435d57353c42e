"""ln-tuning: the conformance kit."""

from refarch.testing import TechniqueConformance


class TestLnTuning(TechniqueConformance):
    technique = "ln-tuning"
