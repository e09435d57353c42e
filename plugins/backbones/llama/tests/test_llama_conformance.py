"""The llama tables, and every model type that they serve, against the conformance kit."""

import pytest
from refarch_llama import GEMMA2, LLAMA, OLMO2

from refarch import FamilySpec
from refarch.testing import BackboneConformance


class TestLlama(BackboneConformance):
    family = "llama"


class TestGemma2(BackboneConformance):
    family = "gemma2"


class TestOLMo2(BackboneConformance):
    family = "olmo2"


@pytest.mark.parametrize("family", [LLAMA, GEMMA2, OLMO2], ids=lambda family: family.name)
def test_every_model_type_is_tried(family: FamilySpec) -> None:
    assert {family.tiny.model_type, *family.kin} == set(family.model_types)
