"""Reading and checking: columns, files, data sets and presets, sources written out, and what every mistake says."""

import csv
import json
from pathlib import Path

import datasets
import pytest
from datasets import Features, Sequence, Value
from refarch_text_generation.examples import written_out
from refarch_text_generation.task import TextGeneration

from refarch.errors import DataError, SpecError, UsageError
from refarch.plugins import default_registry, resolve

SHARED = Path(__file__).resolve().parents[5] / "shared" / "data"
E2E, DART = SHARED / "e2e_nlg", SHARED / "dart" / "dev.json"


def write(path, content):
    if isinstance(content, list):
        content = json.dumps(content) if path.suffix == ".json" else "\n".join(map(json.dumps, content)) + "\n"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def read(seed=0, **options):
    task = TextGeneration(**{"validation_size": 0, **options})
    task.read(seed)
    return task


def pairs(examples):
    return [(item.source, list(item.references)) for item in examples.items]


def fails(*parts, error=DataError, **options):
    with pytest.raises(error) as caught:
        read(**options)
    for part in parts:
        assert part in str(caught.value), str(caught.value)
    assert caught.value.hint


EXPECTED = [("a b", ["x", "y", "z"]), ("c", ["v"])]


@pytest.mark.parametrize(
    "name, content",
    [
        ("a.csv", "source,target\na b,x\nc,v\na b,y\na b,z\n"),
        ("a.tsv", "source\ttarget\na b\tx\nc\tv\na b\ty\na b\tz\n"),
        ("a.jsonl", [{"source": "a b", "target": ["x", "y"]}, {"source": "c", "target": "v"}]),
        ("a.json", [{"source": "a b", "target": ["x", "y", "z"]}, {"source": "c", "target": ["v", " "]}]),
    ],
)
def test_the_references_of_a_source_are_put_together(tmp_path, name, content):
    if name == "a.jsonl":
        content = [*content, {"source": "a b", "target": "z"}]
    task = read(test=(path := write(tmp_path / name, content)), train=path)
    assert pairs(task.splits["test"]) == EXPECTED
    assert pairs(task.splits["train"]) == EXPECTED


TRIPLES = [["Mars Hill College", "JOINED", "1973"], ["Mars Hill College", "LOCATION", "North Carolina"]]
LINEAR = "Mars Hill College : JOINED : 1973 | Mars Hill College : LOCATION : North Carolina"


@pytest.mark.parametrize(
    "value, text",
    [
        ("name[A], area[B]", "name[A], area[B]"),
        ("a | b | c", "a | b | c"),  # a text is taken as it is
        (TRIPLES, LINEAR),
        (TRIPLES[:1], "Mars Hill College : JOINED : 1973"),
        (TRIPLES * 3, " | ".join([LINEAR] * 3)),
        ([" | ".join(triple) for triple in TRIPLES], LINEAR),
        ([[" | ".join(triple) for triple in TRIPLES]], LINEAR),  # WebNLG: a list of sets
        ([[" | ".join(triple) for triple in [*TRIPLES, TRIPLES[0]]]], f"{LINEAR} | Mars Hill College : JOINED : 1973"),
        ([["a", "b", "x | y | z"]], "a : b : x : y : z"),
        ({"name": "A", "stars": 4, "near": None, "tags": ["x", "y"]}, "name : A | stars : 4 | tags : x | y"),
        (["one", "two", "three"], "one | two | three"),
        ([], ""),
        (None, ""),
        (" \n", ""),
    ],
)
def test_sources_are_written_out(value, text):
    assert written_out(value, "source", "a.json, line 1") == text


@pytest.mark.parametrize("value", [3, True, [True], [[None, "a", "b"]], {"a": {1, 2}}, [b"x"]])
def test_other_sources_are_refused(value):
    with pytest.raises(DataError, match="line 7: column 'source' should hold a text, triples or a record"):
        written_out(value, "source", "a.json, line 7")


@pytest.mark.parametrize(
    "content, parts, options",
    [
        ("source,target\na,x\n,y\n", ["a.csv, line 3", "no text in column 'source'", "skip_empty"], {}),
        ("source,target\na,x\nb, \n", ["a.csv, line 3", "no text in column 'target'", "skip_empty"], {}),
        ("source,traget\na,x\n", ["no column 'target'", "did you mean 'traget'"], {}),
        ("source;target\na;x\n", ["no column 'source'", "the separator seems to be ';'"], {}),
        ("source,target\n", ["no rows"], {}),
        ("", ["is empty"], {}),
        ("source,target\n , \n", ["no row with a source and a target"], {"skip_empty": True}),
        (b"source,target\na,x\ncaf\xe9,y\n", ["a.csv, line 3", "0xe9", "is not UTF-8"], {}),
        ("id,source,target\n1,a,x\n2,b,y\n1,c,z\n", ["line 4: id '1' stands already", "line 2"], {"id_column": "id"}),
        ("source,target\na,x\n", ["no column 'translation.en'"], {"source_column": "translation.en"}),
        ("source,target\na,x\na,y\n", ["too few to make a test split"], {"test": None}),
    ],
)
def test_a_mistake_is_named_by_file_and_line(tmp_path, content, parts, options):
    path = write(tmp_path / "a.csv", content)
    fails(*parts, **{"train": path, "test": path, **options})


@pytest.mark.parametrize(
    "row, parts",
    [
        ({"source": "b", "target": 3}, ["line 2", "'target' should hold a text or a list of texts, but has 3"]),
        ({"source": "b", "target": ["x", 3]}, ["line 2", "'target' should hold a text or a list"]),
        ({"source": "b", "target": {"x": "y"}}, ["line 2", "'target' should hold a text or a list"]),
        ({"source": "b", "target": []}, ["line 2", "no text in column 'target'"]),
        ({"source": 7, "target": "x"}, ["line 2", "'source' should hold a text, triples or a record, but has 7"]),
        ({"target": "x"}, ["line 2", "no text in column 'source'"]),
    ],
)
def test_a_mistake_in_a_row_is_named_by_file_and_line(tmp_path, row, parts):
    path = write(tmp_path / "a.jsonl", [{"source": "a", "target": "x"}, row])
    fails("a.jsonl", *parts, train=path, test=path)


def test_other_mistakes(tmp_path):
    fails("has no data", error=UsageError)
    fails("targt_column", error=SpecError, targt_column="x")
    fails("does not exist", train=str(tmp_path / "none.csv"))
    fails("should have {source}", error=UsageError, prompt="write:")
    fails("is no template", error=UsageError, prompt="{source")
    with pytest.raises(SpecError, match="beams"):
        TextGeneration(beams=0)
    path = write(tmp_path / "a.json", '[{"source": "a", "target": "x"},\n{"source": "b"')
    fails("a.json, line 2", "not valid JSON", train=path)
    path = write(tmp_path / "b.json", [{"translation": {"de": "a", "en": "b"}}])
    fails("b.json, line 1", "'translation' holds nothing named 'fr'", train=path, source_column="translation.fr")


def test_rows_without_a_source_or_a_target_are_left_out_if_asked(tmp_path, caplog):
    content = "source,target\na,x\n,y\nb,\nc,z\n"
    path = write(tmp_path / "a.csv", content)
    with caplog.at_level("INFO"):
        task = read(train=path, test=path, skip_empty=True)
    assert pairs(task.splits["test"]) == [("a", ["x"]), ("c", ["z"])]
    assert "a.csv: 2 of 4 rows lack a source or a target and were left out" in caplog.text


def test_made_splits_keep_references_together_and_depend_on_the_seed_alone(tmp_path):
    rows = [{"source": f"s{i % 40}" if i % 3 else f"S{i % 40} ", "target": f"t{i}"} for i in range(160)]
    path = write(tmp_path / "a.jsonl", rows)
    first, again, other = (read(seed, train=path, validation_size=0.2) for seed in (1, 1, 2))
    assert first.splits == again.splits and first.splits != other.splits
    names = {split: {item.source.strip().lower() for item in part.items} for split, part in first.splits.items()}
    assert len(names["train"] | names["validation"] | names["test"]) == 40 == sum(map(len, names.values()))
    everything = [text for part in first.splits.values() for item in part.items for text in item.references]
    assert sorted(everything) == sorted(row["target"] for row in rows)
    limited = read(1, train=path, train_limit=5, test_limit=3)
    assert (len(limited.splits["train"]), len(limited.splits["test"])) == (5, 3)
    whole = dict(pairs(read(1, train=path, test=path).splits["test"]))
    assert all(whole[source] == references for source, references in pairs(limited.splits["test"]))


HUB = {
    "cnn-dailymail": (
        Features({"article": Value("string"), "highlights": Value("string"), "id": Value("string")}),
        [{"article": "A long story .", "highlights": "It was long .\nIt ended .", "id": "1"}],
        ("A long story .", ["It was long .\nIt ended ."]),
    ),
    "xsum": (
        Features({"document": Value("string"), "summary": Value("string"), "id": Value("string")}),
        [{"document": "A story.", "summary": "Short.", "id": "1"}, {"document": "", "summary": "None.", "id": "2"}],
        ("A story.", ["Short."]),
    ),
    "wmt16-en-ro": (
        Features({"translation": datasets.Translation(["ro", "en"])}),
        [{"translation": {"ro": "un câine", "en": "a dog"}}],
        ("a dog", ["un câine"]),
    ),
    "e2e": (
        Features({"meaning_representation": Value("string"), "human_reference": Value("string")}),
        [{"meaning_representation": "name[A]", "human_reference": text} for text in ("A is.", "There is A.")],
        ("name[A]", ["A is.", "There is A."]),
    ),
    "webnlg": (
        None,  # inferred: the library's versions differ in how they declare lists of records
        [
            {
                "category": "x",
                "modified_triple_sets": {"mtriple_set": [[" | ".join(triple) for triple in TRIPLES]]},
                "lex": {"comment": ["good"] * count, "lid": ["Id1"] * count, "text": ["One.", "Two."][:count]},
            }
            for count in (2, 0)
        ],
        (LINEAR, ["One.", "Two."]),
    ),
    "dart": (
        Features(
            {
                "tripleset": Sequence(Sequence(Value("string"))),
                "subtree_was_extended": Value("bool"),
                "annotations": Sequence({"source": Value("string"), "text": Value("string")}),
            }
        ),
        [
            {
                "tripleset": TRIPLES,
                "subtree_was_extended": None,
                "annotations": {"source": ["a", "b"], "text": ["One.", "Two."]},
            }
        ],
        (LINEAR, ["One.", "Two."]),
    ),
}


@pytest.mark.parametrize("name", sorted(HUB))
def test_presets_read_a_local_copy_with_the_columns_of_the_hub(tmp_path, name):
    features, rows, expected = HUB[name]
    spec = default_registry().task(name)
    made = datasets.Dataset.from_list(rows, features=features)
    folder = tmp_path / (spec.defaults.get("config") or "")  # a configuration may be a folder of its own
    datasets.DatasetDict(dict.fromkeys(("train", "validation", "test"), made)).save_to_disk(str(folder))
    task = resolve(spec.implementation)(**spec.configure({"dataset": str(tmp_path)}))
    task.read(0)
    assert pairs(task.splits["test"]) == pairs(task.splits["validation"]) == pairs(task.splits["train"]) == [expected]
    assert spec.kind == "preset" and spec.data_licence and spec.reference
    assert spec.metric == {"cnn-dailymail": "rougeLsum", "xsum": "rougeL"}.get(name, "bleu")


def test_a_folder_of_parquet_files_is_read_as_the_hubs_conversion_is(tmp_path):
    """With folders for configurations and splits; and where a list of records is just that."""
    _, rows, expected = HUB["webnlg"]
    sets = [[{"mtriple_set": row["modified_triple_sets"]["mtriple_set"][0]}] for row in rows]
    texts = [[{"text": text} for text in row["lex"]["text"]] for row in rows]
    made = datasets.Dataset.from_dict({"modified_triple_sets": sets, "lex": texts})
    for split in ("train", "dev", "test"):
        (tmp_path / "webnlg_challenge_2017" / split).mkdir(parents=True)
        made.to_parquet(str(tmp_path / "webnlg_challenge_2017" / split / "0000.parquet"))
    spec = default_registry().task("webnlg")
    task = resolve(spec.implementation)(**spec.configure({"dataset": str(tmp_path)}))
    task.read(0)
    assert pairs(task.splits["validation"]) == pairs(task.splits["test"]) == [expected]


@pytest.mark.skipif(not E2E.is_dir(), reason="needs ../shared/data/e2e_nlg")
def test_e2e_is_read_from_its_own_files():
    names = {"train": "devset.csv", "test": "testset_w_refs.csv"}
    columns = {"source_column": "mr", "target_column": "ref"}
    task = read(**{split: str(E2E / file) for split, file in names.items()}, **columns)
    for split, file in names.items():
        with (E2E / file).open(encoding="utf-8-sig", newline="") as opened:
            rows = list(csv.DictReader(opened))
        items = task.splits[split].items
        assert len(items) == len({row["mr"] for row in rows})
        assert sum(len(item.references) for item in items) == len(rows)
        assert max(len(item.references) for item in items) > 20
    # the sources' words are restaurants' names and the like, so copying them scores something, but little
    task.metric = "bleu"
    assert 1 < task.baselines()["copy"] < 20


@pytest.mark.skipif(not DART.is_file(), reason="needs ../shared/data/dart")
def test_dart_is_read_from_its_own_json():
    spec = default_registry().task("dart")
    task = resolve(spec.implementation)(**spec.configure({"train": str(DART), "validation_size": 0}))
    task.read(0)
    rows = json.loads(DART.read_text("utf-8"))
    assert sum(len(item.references) for part in task.splits.values() for item in part.items) == sum(
        len([note for note in row["annotations"] if note["text"].strip()]) for row in rows
    )
    found = dict(pair for part in task.splits.values() for pair in pairs(part))
    first = rows[0]
    assert [note["text"] for note in first["annotations"]] == found[
        " | ".join(" : ".join(triple) for triple in first["tripleset"])
    ]
