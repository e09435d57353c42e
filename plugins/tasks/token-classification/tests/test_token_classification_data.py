"""Reading and checking: CoNLL files, JSONL and data sets, schemes of tags, and what every mistake says."""

import json
from pathlib import Path

import datasets
import pytest
from hypothesis import given, strategies as st
from refarch_token_classification import SPEC
from refarch_token_classification.schemes import as_iob2, found, names, problem
from refarch_token_classification.task import TokenClassification
from seqeval.metrics.sequence_labeling import get_entities

from refarch.errors import DataError, SpecError, UsageError
from refarch.plugins import default_registry, resolve

WNUT = Path(__file__).resolve().parents[5] / "shared" / "data" / "wnut17"
GOOD = "Ann\tB-per\nSmith\tI-per\nwent\tO\n\nto\tO\nParis\tB-loc\n.\tO\n\nno\tO\none\tO\n"


def write(path, text):
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return str(path)


def read(seed=0, **options):
    task = TokenClassification(**{"test_size": 0.34, "validation_size": 0, **options})
    task.read(seed)
    return task


def everything(task):
    """All sentences as pairs of word and tag, whatever split they are in."""
    return sorted(
        list(zip(words, tags, strict=True))
        for part in task.splits.values()
        for words, tags in zip(part.words, part.tags, strict=True)
    )


def fails(*parts, error=DataError, **options):
    with pytest.raises(error) as caught:
        read(**options)
    for part in parts:
        assert part in str(caught.value), str(caught.value)
    assert caught.value.hint


EXPECTED = sorted(
    [
        [("Ann", "B-per"), ("Smith", "I-per"), ("went", "O")],
        [("to", "O"), ("Paris", "B-loc"), (".", "O")],
        [("no", "O"), ("one", "O")],
    ]
)


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        GOOD.replace("\t", " "),
        GOOD.replace("\t", " NN  x   "),
        GOOD.replace("\n", "\r\n"),
        GOOD.replace("\n\n", "\n\t\n"),
        GOOD.replace("\n\n", "\n \t \n\n"),
        "\n\n" + GOOD,
        "\ufeff" + GOOD.strip(),
        "-DOCSTART-\tO\n\n" + GOOD.replace("\n\nto", "\n\n-DOCSTART-\tO\nto"),
    ],
)
def test_a_conll_file_is_read_whatever_separates(tmp_path, text):
    assert everything(read(train=write(tmp_path / "a.conll", text))) == EXPECTED


def test_fields_of_other_columns(tmp_path):
    path = write(tmp_path / "a.txt", "1 O Ann PER\n2 O Lee PER\n".replace("O", "B-x"))
    task = read(train=path, test=path, token_field=2, tag_field=1)
    assert everything(task)[0] == [("Ann", "B-x"), ("Lee", "B-x")]


def test_jsonl_numbers_with_names_and_data_sets(tmp_path):
    rows = [
        {"id": f"{i}", "tokens": [w for w, _ in row], "ner_tags": [t for _, t in row]} for i, row in enumerate(EXPECTED)
    ]
    path = write(tmp_path / "a.jsonl", "\n".join(map(json.dumps, rows)))
    assert everything(read(train=path, id_column="id")) == EXPECTED
    known = ["O", "B-per", "I-per", "B-loc"]
    numbered = [{**row, "ner_tags": [known.index(tag) for tag in row["ner_tags"]]} for row in rows]
    path = write(tmp_path / "b.jsonl", "\n".join(map(json.dumps, numbered)))
    task = read(train=path, tag_names=known)
    assert everything(task) == EXPECTED
    assert task.model_arguments()["id2label"] == dict(enumerate([*known, "I-loc"]))
    features = datasets.Features(
        {
            "id": datasets.Value("string"),
            "tokens": datasets.Sequence(datasets.Value("string")),
            "ner_tags": datasets.Sequence(datasets.ClassLabel(names=known)),
        }
    )
    made = datasets.Dataset.from_list(numbered, features=features)
    datasets.DatasetDict({"train": made, "test": made}).save_to_disk(str(tmp_path / "set"))
    assert everything(read(dataset=str(tmp_path / "set"))) == sorted(EXPECTED * 2)


@pytest.mark.parametrize("name", ["conll2003", "wnut17", "ontonotes5"])
def test_presets_read_a_local_copy_with_the_columns_of_the_hub(tmp_path, name):
    spec = default_registry().task(name)
    defaults = spec.configure({})
    declared = defaults["tag_names"]
    label = datasets.Value("int32") if declared else datasets.ClassLabel(names=["O", "B-person", "I-person"])
    column = defaults["tags_column"]
    features = datasets.Features(
        {"tokens": datasets.Sequence(datasets.Value("string")), column: datasets.Sequence(label)}
    )
    b, i = (4, 5) if declared else (1, 2)  # the numbers of B-PERSON and I-PERSON
    rows = [{"tokens": ["Ann", "Lee", "ran"], column: [b, i, 0]}, {"tokens": ["he", "ran"], column: [0, 0]}] * 2
    made = datasets.Dataset.from_list(rows, features=features)
    datasets.DatasetDict({"train": made, "validation": made, "test": made}).save_to_disk(str(tmp_path / "set"))
    task = resolve(spec.implementation)(**spec.configure({"dataset": str(tmp_path / "set")}))
    task.read(0)
    assert [tag.lower() for tag in task.splits["test"].tags[0]] == ["b-person", "i-person", "o"]
    assert len(task.splits["validation"]) == 4
    if declared:
        assert len(task.names) == 37
    assert spec.kind == "preset" and spec.data_licence and spec.reference


def test_iob1_is_rewritten_with_the_same_entities(tmp_path):
    text = "Ann\tI-per\nLee\tB-per\nSmith\tI-per\nParis\tI-loc\nwent\tO\n\nPat\tI-per\n\nx\tO\n"
    task = read(train=write(tmp_path / "a.conll", text), test_size=0.3)
    longest = max(everything(task), key=len)
    assert [tag for _, tag in longest] == ["B-per", "B-per", "I-per", "B-loc", "O"]


SCHEMES = st.sampled_from(["IOB1", "IOB2", "IOBES"])


@st.composite
def marked(draw):
    """Entities as (type, words), with words outside between some; and their tags in each scheme, written plainly."""
    spans = draw(st.lists(st.tuples(st.sampled_from(["O", "a", "b"]), st.integers(1, 3)), max_size=6))
    tags = {"IOB1": [], "IOB2": [], "IOBES": []}
    before = "O"
    for kind, size in spans:
        if kind == "O":
            for written in tags.values():
                written += ["O"] * size
        else:
            tags["IOB2"] += [f"B-{kind}"] + [f"I-{kind}"] * (size - 1)
            tags["IOB1"] += [f"{'B' if before == kind else 'I'}-{kind}"] + [f"I-{kind}"] * (size - 1)
            middle = [f"I-{kind}"] * (size - 2)
            tags["IOBES"] += [f"S-{kind}"] if size == 1 else [f"B-{kind}", *middle, f"E-{kind}"]
        before = kind
    return tags


@given(marked(), SCHEMES)
def test_each_scheme_accepts_its_tags_and_entities_are_kept(tags, scheme):
    assert problem(tags[scheme], scheme) is None
    assert as_iob2(tags["IOB1"]) == tags["IOB2"]
    assert get_entities(tags["IOB1"]) == get_entities(tags["IOB2"]) == get_entities(tags["IOBES"])
    if any(tag != "O" for tag in tags[scheme]):
        assert problem(tags[scheme], found([tags[scheme]])) is None


@given(st.lists(st.sampled_from(["O", "B-a", "I-a", "B-b", "I-b"]), max_size=6))
def test_iob2_accepts_exactly_what_it_can_write(tags):
    """Read the entities and write them again: the tags come back only where they kept to the scheme."""
    written = ["O"] * len(tags)
    for kind, first, last in get_entities(tags):
        written[first : last + 1] = [f"B-{kind}"] + [f"I-{kind}"] * (last - first)
    assert (problem(tags, "IOB2") is None) == (tags == written)


def test_names_are_those_declared_and_what_a_type_may_need():
    assert names(["O", "B-b", "I-a"]) == ["O", "B-a", "I-a", "B-b", "I-b"]
    assert names(["S-a"]) == ["O", "B-a", "I-a", "E-a", "S-a"]
    assert names([], ["B-a", "O"]) == ["B-a", "O", "I-a"]


@pytest.mark.parametrize(
    "text, parts",
    [
        ("Ann\tB-per\n\nto\tO\nParis\tI-loc\n", ["a.conll, line 4", "'I-loc' continues no entity", "unchecked"]),
        ("Ann\tB-per\nto\tI-loc\n", ["a.conll, line 2", "'I-loc'"]),
        ("Ann\tB-per\nto\tX-loc\n", ["line 2", "'X-loc' is neither O nor"]),
        ("Ann\tB-per\nto\tloc\n", ["line 2", "'loc' is neither O nor"]),
        ("Ann\tB-per\nto\tB-\n", ["line 2", "'B-' is neither O nor"]),
        ("Ann\tS-per\nto\tO\nNew\tB-loc\n\nx\tO\n", ["line 3", "'B-loc' ends the sentence inside an entity"]),
        ("Ann\tS-per\nNew\tB-loc\nx\tO\n", ["line 3", "'O' cuts off the entity B-loc"]),
        ("Ann\tS-per\nNew\tB-loc\nx\tE-per\n", ["line 3", "another type, 'loc'"]),
        ("Ann\tB-per\nto\n", ["a.conll, line 2: 1 fields, but the first line has 2"]),
        ("Ann\tB-per\nto\tO\tO\n", ["a.conll, line 2: 3 fields"]),
        ("Ann\nto\n", ["a.conll, line 1: expected a word and its tag"]),
        ("Ann\tB-per\n\tO\n", ["a.conll, line 2: expected a word and its tag"]),
        ("Ann\tO\nto\tO\n", ["marks no entity"]),
        ("-DOCSTART- O\n\n", ["holds no sentence"]),
        ("\n\n", ["holds no sentence"]),
        (b"Ann\tB-per\nM\xfcnchen\tB-loc\n", ["a.conll, line 2", "is not UTF-8", "iconv"]),
    ],
)
def test_a_mistake_is_named_by_file_and_line(tmp_path, text, parts):
    fails(*parts, train=write(tmp_path / "a.conll", text))


@pytest.mark.parametrize(
    "row, parts",
    [
        ({"tokens": ["a"], "ner_tags": ["O", "O"]}, ["a.jsonl, line 2: 1 words, but 2 tags"]),
        ({"tokens": "a b", "ner_tags": ["O", "O"]}, ["a.jsonl, line 2", "'tokens' should hold a list", ".conll"]),
        ({"tokens": ["a", 3], "ner_tags": ["O", "O"]}, ["a.jsonl, line 2, word 2: a word is text"]),
        (
            {"tokens": ["a", "b"], "ner_tags": ["O", 3]},
            ["line 2, word 2: the tag 3 is a number without a name", "tag_names"],
        ),
        ({"tokens": ["a", "b"], "ner_tags": ["O", None]}, ["line 2, word 2: a tag is text or a number"]),
        ({"tokens": ["a", "b"], "ner_tags": ["O", "I-x"]}, ["a.jsonl, line 2, word 2: the tag 'I-x' continues no"]),
        ({"words": ["a"], "ner_tags": ["O"]}, ["line 2", "'tokens' should hold a list, but has None"]),
    ],
)
def test_a_mistake_in_a_row_is_named_by_file_line_and_word(tmp_path, row, parts):
    rows = [{"tokens": ["Ann"], "ner_tags": ["B-per"]}, row]
    fails(*parts, train=write(tmp_path / "a.jsonl", "\n".join(map(json.dumps, rows))))


def test_other_mistakes(tmp_path):
    good = write(tmp_path / "a.conll", GOOD)
    fails("no data", error=UsageError)
    fails("schme", error=SpecError, schme="IOB2")
    fails("does not exist", train=str(tmp_path / "b.conll"))
    write(tmp_path / "e.jsonl", "")
    fails("e.jsonl is empty", train=str(tmp_path / "e.jsonl"))
    rows = [{"id": i, "tokens": ["Ann"], "ner_tags": ["B-per"]} for i in (1, 2, 1)]
    path = write(tmp_path / "a.jsonl", "\n".join(map(json.dumps, rows)))
    fails("line 3: id 1 stands already at", "line 1", train=path, id_column="id")
    fails("no column 'ner_tag'", "did you mean 'ner_tags'", train=path, tags_column="ner_tag")
    fails("only 2 fields", "counted from 0", train=good, tag_field=5)
    test = write(tmp_path / "t.conll", "x\tO\n\nBob\tB-pers\n")
    fails("t.conll, line 3", "'B-pers' does not occur in the train rows", "did you mean 'per'", train=good, test=test)
    fails("'B-per' follows no entity", "a.conll, line 1", train=good, scheme="IOB1")
    none = write(tmp_path / "n.jsonl", '{"tokens": [], "ner_tags": []}\n')
    fails("no sentence with words", train=none)


def test_unchecked_tags_are_taken_as_they_are(tmp_path):
    text = GOOD.replace("B-loc", "I-loc").replace("I-per", "E-per")
    sentences = everything(read(train=write(tmp_path / "a.bio", text), scheme="unchecked"))
    assert any(("Paris", "I-loc") in sentence for sentence in sentences)


def test_rows_without_words_are_left_out_and_said(tmp_path, caplog):
    rows = [{"tokens": t, "ner_tags": ["B-x"] * len(t)} for t in (["a"], [], ["b"], ["-DOCSTART-"])]
    with caplog.at_level("INFO"):
        task = read(train=write(tmp_path / "a.jsonl", "\n".join(map(json.dumps, rows))), test_size=0.5)
    assert len(everything(task)) == 2
    assert "2 of 4 rows have no words" in caplog.text


def test_splits_keep_sentences_whole_and_depend_on_the_seed_alone(tmp_path):
    text = "".join(f"w{i}\tB-x\nof\tO\n\nw{i}\tO\n\n" for i in range(50))
    path = write(tmp_path / "a.conll", text)
    first, again, other = (read(seed, train=path, validation_size=0.1) for seed in (1, 1, 2))
    assert {name: part.words for name, part in first.splits.items()} == {
        name: part.words for name, part in again.splits.items()
    }
    assert first.splits["test"].words != other.splits["test"].words
    assert len(everything(first)) == 100
    assert sum("B-x" in tags for tags in first.splits["test"].tags) == 17


@pytest.mark.skipif(not WNUT.is_dir(), reason="needs ../shared/data/wnut17")
def test_wnut17_is_read_to_the_last_word():
    """As many words as the files have lines that are not blank."""
    task = read(
        **{
            name: str(WNUT / f"{file}.conll")
            for name, file in (("train", "train"), ("validation", "dev"), ("test", "test"))
        }
    )
    assert {name: len(part) for name, part in task.splits.items()} == {"train": 3394, "validation": 1009, "test": 1287}
    sizes = {name: sum(map(len, part.words)) for name, part in task.splits.items()}
    lines = {
        name: sum(bool(line.strip()) for line in (WNUT / f"{file}.conll").read_text("utf-8").split("\n"))
        for name, file in (("train", "train"), ("validation", "dev"), ("test", "test"))
    }
    assert sizes == lines
    assert len(task.names) == 13
    assert SPEC.metric == "f1"
