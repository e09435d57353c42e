"""(IA)3: the conformance kit, the paper's parameter count, and peft with equal factors."""

from refarch.testing import TechniqueConformance


class TestIA3(TechniqueConformance):
    technique = "ia3"
