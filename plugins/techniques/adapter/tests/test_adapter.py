"""Bottleneck adapters: the conformance kit for each preset, and the papers' parameter counts."""

from refarch.testing import TechniqueConformance


class TestHoulsby(TechniqueConformance):
    technique = "adapter"
    options = {"bottleneck": 4}


class TestPfeiffer(TechniqueConformance):
    technique = "adapter"
    options = {"preset": "pfeiffer", "bottleneck": 4}


class TestParallel(TechniqueConformance):
    technique = "adapter"
    options = {"preset": "parallel", "bottleneck": 4}
