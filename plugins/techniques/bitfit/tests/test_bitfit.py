"""bitfit: the conformance kit."""

from refarch.testing import TechniqueConformance


class TestBitFit(TechniqueConformance):
    technique = "bitfit"
