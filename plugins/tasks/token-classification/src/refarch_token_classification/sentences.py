"""Sentences as words and tags that remember where they came from: from CoNLL files, or from columns of lists."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from refarch.errors import DataError, did_you_mean
from refarch.tasks import Table, read_source, read_text, shown
from refarch_token_classification.schemes import OUTSIDE, as_iob2, found, names, parts, problem

logger = logging.getLogger(__name__)
SUFFIXES = (".conll", ".conll03", ".bio", ".iob", ".iob2", ".bioes", ".txt")
"""Files that are read as CoNLL columns."""
DOCUMENT = "-DOCSTART-"
"""The word that CoNLL files begin a document with; it is no sentence."""


@dataclass(frozen=True)
class Sentences:
    """Words and their tags.

    Attributes:
        words: of each sentence.
        tags: one each word.
        places: of each sentence, for messages: ``train.conll, line 7``.
        lines: of each sentence, where each word has a line of its own, the first one's.
        source: the file or data set.
    """

    words: Sequence[Sequence[str]]
    tags: Sequence[Sequence[str]]
    places: Sequence[str]
    lines: Sequence[int | None]
    source: str

    def __len__(self) -> int:
        return len(self.words)

    def where(self, index: int, word: int) -> str:
        """The place of a word."""
        return _where(self.source, self.places[index], self.lines[index], word)

    def select(self, indices: Iterable[int]) -> Sentences:
        """These sentences, in this order."""
        chosen = list(indices)
        return replace(
            self,
            words=[self.words[i] for i in chosen],
            tags=[self.tags[i] for i in chosen],
            places=[self.places[i] for i in chosen],
            lines=[self.lines[i] for i in chosen],
        )


@dataclass(frozen=True)
class Corpus:
    """All splits, in one scheme.

    Attributes:
        splits: by name; ``train`` is always there.
        names: the tags in the order of their numbers.
    """

    splits: Mapping[str, Sentences]
    names: Sequence[str] = field(default_factory=list)


def read_corpus(options: Mapping[str, Any]) -> Corpus:
    """Read what the options of the task name, and check it.

    Raises:
        UsageError: neither ``train`` nor ``dataset`` is set.
        DataError: a file or data set is missing or malformed; names the file and the line.
    """
    readers: dict[str, Callable[[str], Table]] = dict.fromkeys(SUFFIXES, lambda path: read_conll(path, options))
    source = read_source(options, "token-classification", readers)
    declared = list(options["tag_names"] or source.label_names(options["tags_column"]) or [])
    splits = {name: from_table(table, options, declared) for name, table in source.tables.items()}
    scheme = options["scheme"] or found(splits["train"].tags)
    for sentences in splits.values():
        _check(sentences, scheme)
    if scheme == "IOB1":
        splits = {name: replace(part, tags=[as_iob2(tags) for tags in part.tags]) for name, part in splits.items()}
    known = names({tag for tags in splits["train"].tags for tag in tags}, declared)
    if len(known) < 2:
        raise DataError(f"{source.tables['train'].path} marks no entity: all tags are O", "choose another tags_column")
    for sentences in splits.values():
        _check_known(sentences, known)
    return Corpus(splits, known)


def read_conll(path: str, options: Mapping[str, Any]) -> Table:
    """Read a file with one word a line and an empty line after each sentence.

    Fields are separated by tabs, or where a line has none, by blanks; a line of blanks alone is empty. Every line has
    as many fields as the first.

    Raises:
        DataError: a line has another number of fields, or too few; the file holds no sentence.
    """
    words: list[list[str]] = []
    tags: list[list[str]] = []
    lines: list[int] = []
    width, open_sentence = 0, False
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            open_sentence = False
            continue
        fields = _fields(line.rstrip("\r"))
        width = width or len(fields)
        token, tag = _word(fields, width, options, f"{path}, line {number}")
        if token == DOCUMENT:
            open_sentence = False
            continue
        if not open_sentence:
            words.append([])
            tags.append([])
            lines.append(number)
            open_sentence = True
        words[-1].append(token)
        tags[-1].append(tag)
    if not words:
        raise DataError(f"{path} holds no sentence", "give a file with one word and its tag a line")
    return ConllTable(path, {options["tokens_column"]: words, options["tags_column"]: tags}, lines)


class ConllTable(Table):
    """A table of sentences whose words have a line each; ``lines`` holds the first one's."""


def _fields(line: str) -> list[str]:
    return line.split("\t") if "\t" in line else re.split(r" +", line.strip())


def _word(fields: Sequence[str], width: int, options: Mapping[str, Any], place: str) -> tuple[str, str]:
    if len(fields) != width:
        raise DataError(
            f"{place}: {len(fields)} fields, but the first line has {width}",
            "separate fields by one tab, or by blanks; an empty line ends a sentence",
        )
    try:
        token, tag = fields[options["token_field"]].strip(), fields[options["tag_field"]].strip()
    except IndexError:
        raise DataError(f"{place}: only {width} fields", "set token_field and tag_field, counted from 0") from None
    if width < 2 or not token or not tag:
        raise DataError(f"{place}: expected a word and its tag, but got {shown(' '.join(fields))}", "complete the line")
    return token, tag


def from_table(table: Table, options: Mapping[str, Any], declared: Sequence[str]) -> Sentences:
    """Check a table's lists of words and of tags; sentences without words are left out, and said so.

    Raises:
        DataError: a column is missing (with the nearest names); a row's lists do not fit; with its line.
    """
    rows = list(zip(table.column(options["tokens_column"]), table.column(options["tags_column"]), strict=True))
    own_lines = isinstance(table, ConllTable)
    words, tags, places, lines = [], [], [], []
    for index, (tokens, marks) in enumerate(rows):
        line = table.lines[index] if own_lines else None
        place = table.where(index)
        for column, value in ((options["tokens_column"], tokens), (options["tags_column"], marks)):
            if not isinstance(value, (list, tuple)):
                raise DataError(
                    f"{place}: column {column!r} should hold a list, but has {shown(value)}",
                    "give one item a word, in JSONL or parquet; CoNLL files end in .conll",
                )
        if len(tokens) != len(marks):
            raise DataError(f"{place}: {len(tokens)} words, but {len(marks)} tags", "give each word one tag")
        if not tokens or list(tokens) == [DOCUMENT]:
            continue
        for word, token in enumerate(tokens):
            if not isinstance(token, str):
                raise DataError(
                    f"{_where(table.path, place, line, word)}: a word is text, but this is {shown(token)}",
                    "choose another tokens_column",
                )
        words.append(list(tokens))
        tags.append([_tag(mark, declared, _where(table.path, place, line, word)) for word, mark in enumerate(marks)])
        places.append(place)
        lines.append(line)
    if not words:
        raise DataError(f"{table.path} has no sentence with words", "name another file or split")
    if len(words) < len(rows):
        logger.info("%s: %d of %d rows have no words and were left out", table.path, len(rows) - len(words), len(rows))
    return Sentences(words, tags, places, lines, table.path)


def _where(source: str, place: str, line: int | None, word: int) -> str:
    return f"{source}, line {line + word}" if line is not None else f"{place}, word {word + 1}"


def _tag(mark: Any, declared: Sequence[str], place: str) -> str:
    if isinstance(mark, str) and mark.strip():
        return mark.strip()
    if isinstance(mark, int) and not isinstance(mark, bool):
        if 0 <= mark < len(declared):
            return declared[mark]
        raise DataError(
            f"{place}: the tag {mark} is a number "
            + (f"beyond the {len(declared)} names" if declared else "without a name"),
            "give all names in order, tag_names=O,B-person,I-person ...; -1 stands for a tag that is kept secret",
        )
    raise DataError(f"{place}: a tag is text or a number, but this is {shown(mark)}", "choose another tags_column")


def _check(sentences: Sentences, scheme: str) -> None:
    for index, tags in enumerate(sentences.tags):
        wrong = problem(tags, scheme)
        if wrong is not None:
            raise DataError(
                f"{sentences.where(index, wrong.place)}: {wrong.message}",
                "correct it, name the scheme (IOB1, IOB2, IOBES), or take tags as they are with scheme=unchecked",
            )


def _check_known(sentences: Sentences, known: Sequence[str]) -> None:
    allowed = set(known)
    for index, tags in enumerate(sentences.tags):
        for word, tag in enumerate(tags):
            if tag not in allowed:
                kinds = [parts(name)[1] for name in known if name != OUTSIDE]
                raise DataError(
                    f"{sentences.where(index, word)}: the tag {tag!r} does not occur in the train rows",
                    did_you_mean(parts(tag)[1], kinds),
                )
