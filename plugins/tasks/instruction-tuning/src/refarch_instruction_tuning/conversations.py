"""Conversations that remember where they came from: from columns of messages, or of prompts and answers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from refarch.errors import DataError, UsageError, did_you_mean
from refarch.tasks import Table, read_source, shown, text_of

Message = dict[str, Any]
"""At least ``role`` and ``content``, both text; what else there is goes to the chat template too."""
ANSWERS = "assistant"
"""The role whose messages are learnt."""
MESSAGES = "messages"
PAIRS = (("prompt", "completion", None), ("instruction", "output", "input"))
"""Columns of prompts, answers and (where there may be one) inputs that are found by their names."""
_FORM = 'write [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]'


class Pair(NamedTuple):
    """The columns of a prompt, its answer and what the prompt is about."""

    prompt: str
    answer: str
    about: str | None


@dataclass(frozen=True)
class Conversations:
    """Lists of messages.

    Attributes:
        messages: of each conversation; one at least is by the assistant.
        places: of each, for messages: ``train.jsonl, line 7``.
        source: the file or data set.
    """

    messages: Sequence[Sequence[Message]]
    places: Sequence[str]
    source: str

    def __len__(self) -> int:
        return len(self.messages)

    def select(self, indices: Iterable[int]) -> Conversations:
        """These conversations, in this order."""
        chosen = list(indices)
        return Conversations([self.messages[i] for i in chosen], [self.places[i] for i in chosen], self.source)

    def asked(self, index: int) -> str:
        """All that is not answered, by which like conversations are found."""
        return "\n".join(m["content"] for m in self.messages[index] if m["role"] != ANSWERS).lower()


def read_conversations(options: Mapping[str, Any]) -> dict[str, Conversations]:
    """Read all splits that the options of the task name, and check them.

    Raises:
        UsageError: neither ``train`` nor ``dataset`` is set, or prompts are named without answers.
        DataError: a file or data set is missing or malformed; names the file and the line.
    """
    tables = read_source(options, "instruction-tuning").tables
    return {name: from_table(table, options) for name, table in tables.items()}


def from_table(table: Table, options: Mapping[str, Any]) -> Conversations:
    """Check a table's rows and make conversations of them.

    Raises:
        DataError: a column is missing (with the nearest names); a row holds no conversation; with its line.
    """
    columns = find_columns(table, options)
    found: list[list[Message]] = []
    for index in range(len(table)):
        messages = _messages(table, index, columns) if isinstance(columns, str) else _pair(table, index, columns)
        if options["system"] is not None and messages[0]["role"] != "system":
            messages = [{"role": "system", "content": options["system"]}, *messages]
        found.append(messages)
    return Conversations(found, [table.where(index) for index in range(len(table))], table.path)


def find_columns(table: Table, options: Mapping[str, Any]) -> str | Pair:
    """The column with messages, or those with prompts and answers: the ones that are named, or that are found.

    Raises:
        UsageError: only one of prompts and answers is named.
        DataError: a column that is named is missing, or none is found.
    """
    prompt, answer, about = (options[f"{name}_column"] for name in ("prompt", "answer", "input"))
    if (prompt is None) != (answer is None):
        raise UsageError("prompt_column and answer_column belong together, but only one is set", "set both, or none")
    if prompt is not None:
        pair = Pair(prompt, answer, about)
        for name in pair:
            if name is not None:
                table.column(name)
        return pair
    messages: str = options["messages_column"] or MESSAGES
    if options["messages_column"] is not None:
        table.column(messages)
    if messages in table.columns:
        return messages
    for asks, answers, beside in PAIRS:
        if asks in table.columns and answers in table.columns:
            if about is not None:
                table.column(about)
            return Pair(asks, answers, about or (beside if beside in table.columns else None))
    known = [MESSAGES, *(name for pair in PAIRS for name in pair[:2])]
    near = [name for name in table.columns if did_you_mean(name, known).startswith("did you mean")]
    raise DataError(
        f"{table.path} has neither a column 'messages', nor 'prompt' and 'completion', nor 'instruction' and 'output';"
        f" it has {', '.join(map(repr, table.columns))}",
        "name the columns: messages_column, or prompt_column and answer_column"
        + (f"; is it {' or '.join(map(repr, near))}?" if near else ""),
    )


def _pair(table: Table, index: int, columns: Pair) -> list[Message]:
    asked = text_of(table, index, columns.prompt)
    about = "" if columns.about is None or table.columns[columns.about][index] is None else columns.about
    if about:
        more = text_of(table, index, about, blank=True)
        asked = f"{asked}\n\n{more}" if more.strip() else asked
    answer = text_of(table, index, columns.answer)
    return [{"role": "user", "content": asked}, {"role": ANSWERS, "content": answer}]


def _messages(table: Table, index: int, column: str) -> list[Message]:
    value, place = table.columns[column][index], table.where(index)
    if not isinstance(value, list) or not value:
        raise DataError(f"{place}: column {column!r} should hold a list of messages, but has {shown(value)}", _FORM)
    messages = [_message(item, f"{place}, message {number}") for number, item in enumerate(value, start=1)]
    if not any(message["role"] == ANSWERS for message in messages):
        raise DataError(f"{place}: no message is by {ANSWERS!r}, so there is no answer to learn", _FORM)
    return messages


def _message(value: Any, place: str) -> Message:
    if not isinstance(value, Mapping):
        raise DataError(f"{place}: a message is an object, but this is {shown(value)}", _FORM)
    message = {str(name): item for name, item in value.items() if item is not None}
    for name in ("role", "content"):
        if name not in message:
            raise DataError(f"{place} has no {name!r}; it has {', '.join(map(repr, message)) or 'nothing'}", _FORM)
        if not isinstance(message[name], str):
            raise DataError(f"{place}: {name!r} is text, but this is {shown(message[name])}", _FORM)
    if message["role"] == ANSWERS and not message["content"].strip():
        raise DataError(f"{place}: the answer is empty", "write it, or remove the message")
    return message
