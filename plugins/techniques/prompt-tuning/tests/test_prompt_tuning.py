"""Prompt tuning: the conformance kit and the paper's parameter count."""

from refarch.testing import TechniqueConformance


class TestPromptTuning(TechniqueConformance):
    technique = "prompt-tuning"
    options = {"length": 3}
