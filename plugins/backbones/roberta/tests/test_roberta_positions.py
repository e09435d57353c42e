"""Positions begin after the padding's own, and padding is not counted: with tokens at the inputs as without."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForMaskedLM, RobertaConfig, RobertaForCausalLM

import refarch
from refarch.errors import SlotError
from refarch.plugins import default_registry
from refarch.testing import spread

KINDS = default_registry().backbone("roberta").model_types
LENGTH = 3


def prompted(kind: str = "roberta", pad: int = 1):
    config = {**default_registry().backbone("roberta").tiny.config, "pad_token_id": pad}
    torch.manual_seed(0)
    model = AutoModelForMaskedLM.from_config(AutoConfig.for_model(kind, **config)).eval()
    spread(model, seed=1)
    (tokens,) = refarch.attach(model, "prompt-tuning", length=LENGTH).parameters()
    return model, tokens


@pytest.mark.parametrize("pad", [0, 1])
@pytest.mark.parametrize("kind", KINDS)
def test_padding_on_either_side_changes_nothing(kind: str, pad: int) -> None:
    model, _ = prompted(kind, pad)
    ids = torch.tensor([[7, 8, 9, 10]])
    alone = model(input_ids=ids).logits
    for side in ((2, 0), (0, 2)):
        wide = torch.nn.functional.pad(ids, side, value=pad)
        logits = model(input_ids=wide, attention_mask=(wide != pad).long()).logits[:, side[0] : side[0] + 4]
        torch.testing.assert_close(logits, alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("pad", [0, 1])
def test_given_positions_are_moved_behind_the_prompt(pad: int) -> None:
    model, _ = prompted(pad=pad)
    ids = torch.tensor([[7, 8, 9, 10], [7, 8, pad, pad]])
    mask = (ids != pad).long()
    given = mask.cumsum(dim=1) * mask + pad
    free = model(input_ids=ids, attention_mask=mask).logits
    torch.testing.assert_close(model(input_ids=ids, attention_mask=mask, position_ids=given).logits, free)


@pytest.mark.parametrize("pad", [0, 1])
def test_the_prompt_has_the_first_positions(pad: int) -> None:
    """States for tokens at pad + 1 .. pad + l and the text right behind them, given to the base explicitly."""
    model, tokens = prompted(pad=pad)
    ids = torch.tensor([[pad, 7, 8, 9]])
    found = model(input_ids=ids, attention_mask=torch.tensor([[0, 1, 1, 1]])).logits
    plain, tokens = model, tokens.detach().clone()
    refarch.adaptations(model)[0].detach()
    joined = torch.cat([tokens[None], plain.get_input_embeddings()(ids)], dim=1)
    start = pad + 1
    positions = torch.tensor([[*range(start, start + LENGTH), pad, *range(start + LENGTH, start + LENGTH + 3)]])
    mask = torch.tensor([[1] * LENGTH + [0, 1, 1, 1]])
    wanted = plain(inputs_embeds=joined, attention_mask=mask, position_ids=positions).logits
    torch.testing.assert_close(found[:, 1:], wanted[:, LENGTH + 1 :], rtol=1e-5, atol=1e-5)


def test_cross_attention_where_the_model_has_it() -> None:
    config = {**default_registry().backbone("roberta").tiny.config, "is_decoder": True}
    with pytest.raises(SlotError, match=r"cross_attention\.query"):
        refarch.attach(RobertaForCausalLM(RobertaConfig(**config)), "lora", slots=["cross_attention.query"])
    model = RobertaForCausalLM(RobertaConfig(**config, add_cross_attention=True)).eval()
    spread(model, seed=1)
    batch = {"input_ids": torch.tensor([[7, 8, 9]]), "encoder_hidden_states": torch.randn(1, 5, 32)}
    before = model(**batch).logits
    adaptation = refarch.attach(model, "lora", slots=["cross_attention.query", "cross_attention.value"])
    assert torch.equal(model(**batch).logits, before)
    with torch.no_grad():
        for parameter in adaptation.parameters():
            parameter.normal_()
    assert not torch.allclose(model(**batch).logits, before)
