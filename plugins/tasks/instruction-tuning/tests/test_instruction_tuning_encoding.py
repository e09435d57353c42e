"""Tokens and labels, against plain slow computations: an off-by-one would be seen."""

import math

import pytest
import torch
from hypothesis import HealthCheck, given, settings, strategies as st
from refarch_instruction_tuning import SPEC
from refarch_instruction_tuning.conversations import Conversations
from refarch_instruction_tuning.encoding import encode, tokens
from refarch_instruction_tuning.task import InstructionTuning
from refarch_instruction_tuning.template import Template, Written

from refarch.errors import DataError, UsageError
from refarch.tasks import log_likelihoods
from refarch.testing import all_tiny

OPTIONS = SPEC.configure({})
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] + '\n' + m['content'] }}<|im_end|>{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def of(*messages):
    return Conversations(list(messages), [f"a.jsonl, line {n + 1}" for n in range(len(messages))], "a.jsonl")


def tiny(auto_class, tokenizer, tie=0):
    each = next(each for each in all_tiny() if each.auto_class == auto_class)
    torch.manual_seed(tie)
    return each.build(each.config(vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id)).eval()


@pytest.fixture
def chatml(tmp_path):
    (tmp_path / "chatml.jinja").write_text(CHATML)
    return {**OPTIONS, "template": str(tmp_path / "chatml.jinja")}


def test_the_answers_and_their_ends_are_learnt_and_nothing_else(gpt2, dialogue, chatml):
    (row,) = encode(of(dialogue), gpt2, "decoder", chatml).rows
    assert (
        row["input_ids"]
        == gpt2(gpt2.apply_chat_template(dialogue, chat_template=CHATML, tokenize=False)[:-1])["input_ids"]
    )
    end = gpt2.convert_tokens_to_ids("<|im_end|>")
    expected = []
    for token, text in _walk(gpt2, dialogue):
        expected.append(token if text else -100)
    assert row["labels"] == expected
    assert [label for label in row["labels"] if label != -100].count(end) == 2
    assert gpt2.decode([label for label in row["labels"] if label != -100]) == (
        "It is 4.<|im_end|>It is 6. Anything else?<|im_end|>"
    )
    assert row["attention_mask"] == [1] * len(row["input_ids"])


def _walk(tokenizer, messages):
    """Each token, and whether it is learnt: message by message, with the marks written out."""
    for number, message in enumerate(messages):
        learnt = message["role"] == "assistant"
        head = f"<|im_start|>{message['role']}\n"
        yield from ((token, False) for token in tokenizer(head)["input_ids"])
        yield from ((token, learnt) for token in tokenizer(message["content"] + "<|im_end|>")["input_ids"])
        if number + 1 < len(messages):
            yield from ((token, False) for token in tokenizer("\n")["input_ids"])


def test_the_loss_is_that_of_each_answer_after_all_that_stands_before_it(tokenizer, dialogue):
    """By log-likelihoods of the answers' own tokens, asked one by one."""
    model = tiny("AutoModelForCausalLM", tokenizer)
    chats = encode(of(dialogue, dialogue[:2]), tokenizer, "decoder", OPTIONS)
    bos = [tokenizer.bos_token_id] if tokenizer.bos_token_id is not None else []
    ends = {1: "It is 4.</s>", 3: "It is 6. Anything else?</s>"}
    template, pairs = Template(tokenizer), []
    for turn in (1, 3, 1):
        asks = bos + tokenizer(template.write(dialogue[:turn], "", ask=True), add_special_tokens=False)["input_ids"]
        whole = (
            bos
            + tokenizer(template.write(dialogue[:turn], "", ask=True) + ends[turn], add_special_tokens=False)[
                "input_ids"
            ]
        )
        assert whole[: len(asks)] == asks
        pairs.append((asks, whole[len(asks) :]))
    with torch.no_grad():
        likelihoods = log_likelihoods(model, pairs, 2, tokenizer.pad_token_id)
        task = InstructionTuning()
        found = task.scores(model, tokenizer, chats, 1)
    expected = -sum(each.total for each in likelihoods) / sum(each.tokens for each in likelihoods)
    assert found["loss"] == pytest.approx(expected, abs=1e-5)
    assert found["perplexity"] == pytest.approx(math.exp(expected), rel=1e-5)
    assert task.scores(model, tokenizer, chats, 2)["loss"] == pytest.approx(expected, abs=1e-5)


def test_an_encoder_decoder_learns_each_answer_from_all_that_stands_before_it(tokenizer, dialogue):
    chats = encode(of(dialogue), tokenizer, "encoder-decoder", {**OPTIONS, "match": "text"})
    assert len(chats) == 2
    for row, turn in zip(chats.rows, (1, 3), strict=True):
        asked = Template(tokenizer, ended=False).write(dialogue[:turn], "", ask=True)
        assert row["input_ids"] == tokenizer(asked)["input_ids"]
        assert row["labels"] == tokenizer(text_target=dialogue[turn]["content"])["input_ids"]
    assert chats.prompts == [chats.rows[1]["input_ids"]] and chats.answers == ["It is 6. Anything else?"]


def test_its_loss_is_a_mean_over_tokens_of_answers(gpt2, dialogue):
    model = tiny("AutoModelForSeq2SeqLM", gpt2)
    chats = encode(of(dialogue), gpt2, "encoder-decoder", OPTIONS)
    with torch.no_grad():
        pairs = [(row["input_ids"], row["labels"]) for row in chats.rows]
        likelihoods = log_likelihoods(model, pairs, 1, gpt2.pad_token_id)
        found = InstructionTuning().scores(model, gpt2, chats, 2)
    expected = -sum(each.total for each in likelihoods) / sum(each.tokens for each in likelihoods)
    assert found["loss"] == pytest.approx(expected, abs=1e-5)


def test_what_stands_before_the_last_answer_is_what_is_asked(tokenizer, dialogue, chatml):
    for options in (OPTIONS, chatml):
        chats = encode(of(dialogue, dialogue[:2]), tokenizer, "decoder", {**options, "match": "text"})
        template = Template(tokenizer, options["template"])
        bos = [tokenizer.bos_token_id] if tokenizer.bos_token_id is not None and template.plain else []
        for prompt, row, turns in zip(chats.prompts, chats.rows, (3, 1), strict=True):
            assert prompt == row["input_ids"][: len(prompt)]
            asked = template.write(dialogue[:turns], "", ask=True)
            assert prompt == bos + tokenizer(asked, add_special_tokens=False)["input_ids"]
            assert row["labels"][len(prompt)] != -100 and row["labels"][len(prompt) - 1] == -100


def test_characters_that_a_tokenizer_joins_across_an_answers_start_stay_on_their_sides(gpt2):
    text = "It is 4"
    joined = gpt2(" is")["input_ids"]
    assert len(joined) == 1, "the tokenizer should have a token for ' is'"
    (row,) = tokens(gpt2, [Written(text, [(4, 7)])], [])  # "It i" asks for "s 4"
    before, answer = gpt2("It i")["input_ids"], gpt2("s 4")["input_ids"]
    assert row["input_ids"] == before + answer
    assert row["labels"] == [-100] * len(before) + answer


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(parts=st.lists(st.text("ab4 .\nIt", min_size=1, max_size=12), min_size=1, max_size=6))
def test_labels_say_the_answers_and_tokens_the_text(gpt2, parts):
    """Any text, cut anywhere into what is asked and what is answered."""
    places = [sum(map(len, parts[:n])) for n in range(len(parts) + 1)]
    spans = list(zip(places[1::2], places[2::2], strict=False))
    if not spans:
        return
    text = "".join(parts)[: spans[-1][1]]
    (row,) = tokens(gpt2, [Written(text, spans)], [])
    assert gpt2.decode(row["input_ids"]) == text
    learnt, at = [], 0
    for token, label in zip(row["input_ids"], row["labels"], strict=True):
        size = len(gpt2.decode([token]))
        inside = any(start <= at and at + size <= end for start, end in spans)
        assert (label == token) if inside else (label == -100)
        assert inside or all(at + size <= start or at >= end for start, end in spans)
        learnt.append(inside)
        at += size
    assert any(learnt) and not learnt[0]


def test_the_first_token_is_never_learnt(gpt2):
    (row,) = tokens(gpt2, [Written("It is", [(0, 5)])], [])
    assert row["labels"][0] == -100 and row["labels"][1:] == row["input_ids"][1:]


def test_a_long_conversation_loses_its_end_and_one_without_an_answer_is_left_out(gpt2, dialogue, caplog):
    chats = encode(of(dialogue), gpt2, "decoder", OPTIONS)
    whole = chats.rows[0]
    first = next(place for place, label in enumerate(whole["labels"]) if label != -100)
    long = [{"role": "user", "content": "x" * 200}, dialogue[1]]
    with caplog.at_level("INFO"):
        cut = encode(of(dialogue, long), gpt2, "decoder", {**OPTIONS, "max_length": first + 1}).rows
    assert cut == [{name: values[: first + 1] for name, values in whole.items()}]
    assert "a.jsonl: 2 of 2 examples were cut to fit" in caplog.text
    assert "a.jsonl: 1 of 2 examples were left out" in caplog.text
    with pytest.raises(DataError, match=r"a.jsonl: no answer begins within 8 tokens[\s\S]*max_length"):
        encode(of(long), gpt2, "decoder", {**OPTIONS, "max_length": 8})


def test_a_long_prompt_that_is_asked_loses_its_beginning(gpt2, dialogue, caplog):
    options = {**OPTIONS, "match": "text", "max_answer": 4}
    whole = encode(of(dialogue), gpt2, "decoder", options).prompts[0]
    with caplog.at_level("INFO"):
        cut = encode(of(dialogue), gpt2, "decoder", {**options, "max_length": len(whole)}).prompts[0]
    assert cut == whole[4:] and "1 of 1 prompts lost their beginning" in caplog.text
    with pytest.raises(UsageError, match="no room for a prompt"):
        encode(of(dialogue), gpt2, "decoder", {**options, "max_answer": 512})


def test_the_tokenizers_own_limit_holds(gpt2, dialogue):
    import copy

    short = copy.deepcopy(gpt2)
    short.model_max_length = 40
    (row,) = encode(of(dialogue), short, "decoder", OPTIONS).rows
    assert len(row["input_ids"]) == 40


def test_an_answer_that_nothing_asks_for(gpt2, dialogue, caplog):
    with caplog.at_level("INFO"):
        chats = encode(of(dialogue[1:]), gpt2, "encoder-decoder", OPTIONS)
    assert len(chats) == 1 and "1 conversations begin with an answer" in caplog.text
    with pytest.raises(DataError, match=r"a.jsonl, line 1: nothing is asked"):
        encode(of(dialogue[1:2]), gpt2, "encoder-decoder", OPTIONS)
    assert len(encode(of(dialogue[1:]), gpt2, "decoder", OPTIONS)) == 1
