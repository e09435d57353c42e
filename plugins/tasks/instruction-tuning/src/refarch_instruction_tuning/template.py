"""Conversations as text: by the tokenizer's chat template, and where in the text the answers are.

A template that marks answers with ``{% generation %}`` tells so itself. Any other is asked twice for each answer: what
it writes for the messages before with the prompt for an answer, and what it writes with the answer. The difference is
the answer, up to and with the first special token that follows its text; the line break that many templates put after
that token is nobody's answer.

Some templates write earlier answers in another way once more has been said (they leave out what a model has thought).
There the text of the whole conversation is not what the model was asked with, so each answer becomes an example of its
own, with the text that asks for it.
"""

from __future__ import annotations

import functools
import logging
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from jinja2.exceptions import TemplateError
from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import render_jinja_template

from refarch.errors import DataError
from refarch.tasks import end_token, read_text
from refarch_instruction_tuning.conversations import ANSWERS, Message

logger = logging.getLogger(__name__)

PLAIN = """
{%- for message in messages -%}
    {{- '\n\n' if not loop.first else '' -}}
    {{- message['role'] | capitalize + ':\n' -}}
    {%- if message['role'] == 'assistant' -%}
        {%- generation -%}{{- message['content'] + end -}}{%- endgeneration -%}
    {%- else -%}
        {{- message['content'] -}}
    {%- endif -%}
{%- endfor -%}
{{- '\n\nAssistant:\n' if add_generation_prompt else '' -}}
"""
"""For tokenizers without a template: roles and texts, each answer with the tokenizer's end token."""
_MARK = "\ue000answer\ue000"
"""Stands for an answer, to see what a template puts around one. Its outer characters are for private use."""
_MARKED = re.compile(r"\{%-?\s*generation\s*-?%\}")


class Written(NamedTuple):
    """A conversation as text, up to the end of its last answer."""

    text: str
    answers: list[tuple[int, int]]
    """Where each answer starts and ends, the token that ends it included: characters, in order."""


class Template:
    """How conversations are written.

    Args:
        tokenizer: the backbone's.
        wanted: ``plain``, or a file with a Jinja template; the tokenizer's own when left out, plain where it has none.
        ended: whether the plain template puts the tokenizer's end token after each answer.

    Attributes:
        plain: whether it is the plain one, which writes no special tokens at the beginning.

    Raises:
        DataError: the file cannot be read.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, wanted: str | None = None, ended: bool = True) -> None:
        own = tokenizer.get_chat_template() if wanted is None and tokenizer.chat_template else None
        self.plain = own is None and wanted in (None, "plain")
        self.jinja: str = own or (PLAIN if self.plain else read_text(str(wanted)))
        self.marks_answers = _MARKED.search(self.jinja) is not None
        end = tokenizer.convert_ids_to_tokens(end_token(tokenizer)) if self.plain and ended else ""
        self.values: dict[str, Any] = {**tokenizer.special_tokens_map, "end": end}
        added = [str(token) for token in tokenizer.get_added_vocab()]
        self.special = re.compile("|".join(map(re.escape, sorted(added, key=len, reverse=True))) or r"(?!)")

    def write(self, messages: Sequence[Message], place: str, ask: bool = False) -> str:
        """The text of messages.

        Args:
            messages: one at least.
            place: for error messages.
            ask: end with the prompt for an answer.

        Raises:
            DataError: the template refuses them.
        """
        return self._render(messages, place, ask)[0]

    def answers(self, messages: Sequence[Message], place: str) -> list[Written]:
        """A conversation's text and where its answers are; several texts where the template rewrites earlier answers.

        Raises:
            DataError: the template refuses the messages, or does not write an answer at all.
        """
        if self.marks_answers:
            text, spans = self._render(messages, place, spans=True)
            spans = [(start, end) for start, end in spans if end > start]
            if not spans:
                raise DataError(f"{place}: the chat template marks no answer in this conversation", _HINT)
            return [Written(text[: spans[-1][1]], spans)]
        whole = self.write(messages, place)
        single = [self._answer(messages[: n + 1], place) for n, m in enumerate(messages) if m["role"] == ANSWERS]
        if all(whole.startswith(one.text) for one in single):
            return [Written(single[-1].text, [span for one in single for span in one.answers])]
        return single

    def _answer(self, messages: Sequence[Message], place: str) -> Written:
        """The text up to the end of the last message, which is an answer."""
        before, answer = messages[:-1], messages[-1]
        text = self.write(messages, place)
        head, mark, tail = self.write([*before, {**answer, "content": _MARK}], place).partition(_MARK)
        if not mark or not text.startswith(head) or not text.endswith(tail) or len(head) + len(tail) >= len(text):
            raise DataError(f"{place}: the chat template does not write this answer as it is", _HINT)
        start, end = len(head), len(text) - len(tail)
        if before:
            asks = self.write(before, place, ask=True)
            # What an answer's text begins with is part of it if the prompt for an answer does not hold it.
            if asks != self.write(before, place) and text.startswith(asks) and len(asks) < start:
                start = len(asks)
        closing = self.special.search(tail)
        if closing is None:
            _warn_of_no_end()
        end += closing.end() if closing else len(tail)
        return Written(text[:end], [(start, end)])

    def _render(
        self, messages: Sequence[Message], place: str, ask: bool = False, spans: bool = False
    ) -> tuple[str, list[tuple[int, int]]]:
        try:
            both: Any = render_jinja_template(
                conversations=[list(messages)],
                chat_template=self.jinja,
                return_assistant_tokens_mask=spans,
                add_generation_prompt=ask,
                **self.values,
            )
        except (TemplateError, TypeError, ValueError, KeyError) as error:  # whatever an expression in it can raise
            raise DataError(
                f"{place}: the chat template refuses this conversation: {str(error) or type(error).__name__}", _HINT
            ) from error
        (text,), places = both
        return text, [(int(start), int(end)) for start, end in places[0]] if spans else []


_HINT = "change the messages as the template wants them, or write them otherwise: template=plain, or a file of your own"


@functools.cache
def _warn_of_no_end() -> None:
    logger.warning("the chat template puts no special token after an answer, so that nothing tells the model to stop")
