"""Prefix tuning: the conformance kit, folding, the paper's parameter count."""

from refarch.testing import TechniqueConformance


class TestPrefixTuning(TechniqueConformance):
    technique = "prefix-tuning"
    options = {"length": 3, "hidden": 8}
