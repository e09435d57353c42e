"""A new head of a shared backbone has the values that loading gives it."""

import pytest
import torch
import transformers

from refarch import default_registry
from refarch.architecture import BackboneChoice
from refarch.pipeline.backbone import load_backbone
from refarch.pipeline.pool import _renew
from refarch.testing import all_tiny, tiny_tokenizer


@pytest.mark.parametrize(
    "tiny",
    [tiny for tiny in all_tiny() if tiny.auto_class == "AutoModelForSequenceClassification"],
    ids=lambda tiny: tiny.family.name,
)
def test_a_new_head_is_drawn_as_loading_draws_it(tiny, tmp_path):
    transformers.AutoModel.from_config(tiny.config()).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    choice = BackboneChoice(name=str(tmp_path))
    loaded = {
        seed: load_backbone(choice, tiny.auto_class, {"num_labels": 3}, default_registry(), seed)[0].state_dict()
        for seed in (5, 6)
    }
    model, _ = load_backbone(choice, tiny.auto_class, {"num_labels": 3}, default_registry(), 5)
    assert any(not torch.equal(loaded[5][name], loaded[6][name]) for name in loaded[5]), "the head is new"
    for seed in (6, 5):
        _renew(model, seed)
        state = model.state_dict()
        assert all(torch.equal(state[name], tensor) for name, tensor in loaded[seed].items())
