import importlib
import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from refarch.errors import DataError
from refarch.tasks.tables import read_bytes, read_rows, read_text


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def fails(path: Path | str, *parts: str) -> str:
    with pytest.raises(DataError) as caught:
        read_rows(path)
    text = str(caught.value)
    for part in parts:
        assert part in text, text
    assert caught.value.hint
    return text


def test_csv_keeps_the_line_where_each_row_starts(tmp_path):
    path = write(tmp_path, "a.csv", '\ufefftext,label\r\n"one\r\ntwo",x\r\n\r\n"say ""hi"", now",y\r\n')
    table = read_rows(path)
    assert table.columns == {"text": ["one\r\ntwo", 'say "hi", now'], "label": ["x", "y"]}
    assert list(table.lines) == [2, 5]
    assert table.where(1) == f"{path}, line 5"
    assert len(table) == 2


def test_tsv_takes_quotes_for_ordinary_characters(tmp_path):
    table = read_rows(write(tmp_path, "a.tsv", 'text\tlabel\n"an open quote\t1\n'))
    assert table.columns == {"text": ['"an open quote'], "label": ["1"]}


def test_jsonl_keeps_types_and_fills_gaps(tmp_path):
    table = read_rows(write(tmp_path, "a.jsonl", '{"a": 1, "b": {"c": []}}\n\n{"a": "x\\u2028y"}\n'))
    assert table.columns == {"a": [1, "x\u2028y"], "b": [{"c": []}, None]}
    assert list(table.lines) == [1, 3]


def test_jsonl_is_cut_at_newlines_alone(tmp_path):
    table = read_rows(write(tmp_path, "a.jsonl", '{"a": "x\u2028y\x85z"}\n'))
    assert table.columns == {"a": ["x\u2028y\x85z"]}


def test_json_keeps_the_line_where_each_object_starts(tmp_path):
    table = read_rows(
        write(tmp_path, "a.json", '\ufeff\n[\n  {"a": "x\\n]",\n "b": [1]},  {"a": "y"}\n,\n\n{"b": {}}\n]\n')
    )
    assert table.columns == {"a": ["x\n]", "y", None], "b": [[1], None, {}]}
    assert list(table.lines) == [3, 4, 7]


def test_parquet(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(arrow.table({"text": ["a", None], "label": [1, 2]}), tmp_path / "a.parquet")
    table = read_rows(tmp_path / "a.parquet")
    assert table.columns == {"text": ["a", None], "label": [1, 2]}
    assert table.where(1).endswith("a.parquet, row 2")
    whole = (tmp_path / "a.parquet").read_bytes()
    fails(write(tmp_path, "cut.parquet", whole[: len(whole) // 2]), "not a readable parquet file", "truncated")


def test_parquet_whose_text_is_not_utf8_names_row_and_column(tmp_path):
    pa = pytest.importorskip("pyarrow")
    texts = pa.array([b"fine", b"caf\xe9"])
    stored = pa.Array.from_buffers(pa.string(), 2, texts.buffers())  # what other writers do not check either
    importlib.import_module("pyarrow.parquet").write_table(
        pa.table({"label": [1, 2], "text": stored}), tmp_path / "a.parquet"
    )
    fails(tmp_path / "a.parquet", "a.parquet, row 2: column 'text' holds text that is not UTF-8 (0xe9)")


def test_characters_that_json_writes_in_two_halves_are_read(tmp_path):
    assert read_rows(write(tmp_path, "a.jsonl", '{"a": "\\ud83d\\ude00"}')).columns == {"a": ["\U0001f600"]}


def test_json_rows_know_the_line_where_they_start(tmp_path):
    text = '\ufeff [\n\n  {"a": "x\\n, [ ]",\n "b": [1,\n2]}, {"a": "y"}\n,\n{"b":\n3}\n]\n'
    table = read_rows(write(tmp_path, "a.json", text))
    assert table.columns == {"a": ["x\n, [ ]", "y", None], "b": [[1, 2], None, 3]}
    assert [table.where(i).rpartition(", ")[2] for i in range(3)] == ["line 3", "line 5", "line 7"]


def test_fields_inside_columns(tmp_path):
    rows = [
        {"t": {"en": "a", "de": "b"}, "c": [{"x": 1}, {"x": 2}], "d": {"x": [3, 4]}, "u.v": 5},
        {"t": {"en": "c"}, "c": [], "d": {"x": {"y": 1}}},
    ]
    table = read_rows(write(tmp_path, "a.json", json.dumps(rows)))  # all on line 1
    assert table.column("t.en") == ["a", "c"]
    assert table.column("c.x") == [[1, 2], []]
    assert table.value(0, "d.x") == [3, 4]
    assert table.value(1, "d.x.y") == 1
    assert table.column("u.v") == [5, None]
    lacking = read_rows(write(tmp_path, "b.jsonl", '{"t": {"en": "a"}}\n{"s": 1}\n'))
    assert lacking.column("t.en") == ["a", None]
    for index, name, parts in (
        (1, "t.de", ["a.json, line 1", "'t' holds nothing named 'de'", "en"]),
        (0, "t.enn", ["did you mean 'en'"]),
        (0, "c.y", ["a.json, line 1", "'c' holds nothing named 'y'"]),
        (0, "u.v.w", ["has no column 'u.v.w'"]),
        (0, "s.en", ["has no column 's.en'"]),
    ):
        with pytest.raises(DataError) as caught:
            table.value(index, name)
        assert all(part in str(caught.value) for part in parts), str(caught.value)
    with pytest.raises(DataError, match=r"a\.json, line 1: column 't' holds nothing named 'de'"):
        table.column("t.de")


def test_parquet_without_pyarrow_says_what_to_install(tmp_path, monkeypatch):
    original = importlib.import_module

    def absent(name, *rest):
        if name.startswith("pyarrow"):
            raise ImportError("No module named 'pyarrow'")
        return original(name, *rest)

    monkeypatch.setattr(importlib, "import_module", absent)
    fails(write(tmp_path, "a.parquet", b"PAR1"), "needs pyarrow", "pip install pyarrow")


def test_the_module_imports_no_heavy_library():
    source = Path(importlib.import_module("refarch.tasks.tables").__file__ or "").read_text()
    for name in ("torch", "pandas", "pyarrow", "datasets", "transformers"):
        assert f"import {name}" not in source


def test_a_url_goes_through_fsspec():
    fsspec = pytest.importorskip("fsspec")
    with fsspec.open("memory://refarch/a.csv", "wb") as file:
        file.write(b"text,label\nfine,1\n")
    assert read_rows("memory://refarch/a.csv").columns == {"text": ["fine"], "label": ["1"]}
    fails("memory://refarch/b.csv", "does not exist")
    fails("nosuchscheme://refarch/b.csv", "cannot be read", "nosuchscheme")


def test_long_fields_are_read_and_the_limit_of_csv_is_put_back(tmp_path):
    import csv

    before = csv.field_size_limit()
    table = read_rows(write(tmp_path, "a.csv", "text,label\n" + "x" * 200_000 + ",1\n"))
    assert len(table.column("text")[0]) == 200_000
    assert csv.field_size_limit() == before


@pytest.mark.parametrize(
    ("name", "content", "parts"),
    [
        ("a.csv", "", ["is empty"]),
        ("a.csv", "  \n\n", ["is empty"]),
        ("a.csv", "text,label\n", ["no rows"]),
        ("a.jsonl", "\n", ["is empty"]),
        ("a.json", '[{"a": 1},\n{"a": }]', ["a.json, line 2", "not valid JSON"]),
        ("a.json", '[{"a": 1},\n\n [1]]', ["a.json, line 3", "expected an object", "list"]),
        ("a.json", b'[{"a": 1},\n{"a": "\xe9"}]', ["a.json, line 2", "0xe9", "UTF-8"]),
        ("a.xlsx", "x", ["'.xlsx'", ".csv"]),
        ("data", "x", ["no suffix", ".csv"]),
        ("a.csv", "text,label\na,b\nc,d,e\n", ["a.csv, line 3", "3 fields", "header has 2", "quote"]),
        ("a.csv", "text,label\na,b\nc\n", ["a.csv, line 3", "1 fields"]),
        ("a.csv", 'text,label\na,b\n"open,c\nd,e\n', ["a.csv, line 3", "quote"]),
        ("a.csv", 'text,label\n"a"b,c\n', ["a.csv, line 2", "quote"]),
        ("a.tsv", "text\tlabel\na b\n", ["a.tsv, line 2", "1 fields", "tab"]),
        ("a.csv", "text,text\na,b\n", ["a.csv, line 1", "'text' twice"]),
        ("a.jsonl", '{"a": 1}\n{"a": \n', ["a.jsonl, line 2", "not valid JSON"]),
        ("a.jsonl", '{"a": 1}\n[1]\n', ["a.jsonl, line 2", "expected an object", "list"]),
        ("a.jsonl", "[" * 100_000, ["a.jsonl, line 1", "not valid JSON"]),
        ("a.json", '{"a": 1}', ["a.json, line 1", "expected [", ".jsonl"]),
        ("a.json", "[]", ["no rows"]),
        ("a.json", '[\n{"a": 1},\n]', ["a.json, line 3", "not valid JSON"]),
        ("a.json", '[\n{"a": 1}\n\n{"a": 2}]', ["a.json, line 4", "expected , or ]"]),
        ("a.json", '[{"a": 1},\n {"a": 2}', ["a.json, line 2", "expected , or ]"]),
        ("a.json", '[{"a": 1},\n [2]]', ["a.json, line 2", "expected an object", "list"]),
        ("a.json", '[{"a": 1}]\n {"a": 2}', ["a.json, line 2", "something follows"]),
        ("a.json", "[\n" + "[" * 100_000, ["a.json, line 2", "not valid JSON"]),
        ("a.csv", b"text,label\nfine,1\ncaf\xe9,2\n", ["a.csv, line 3", "byte 22 ", "0xe9", "UTF-8"]),
        ("a.csv", b"\xef\xbb\xbftext,label\ncaf\xe9,2\n", ["a.csv, line 2", "byte 18 ", "0xe9", "WINDOWS-1252"]),
        ("a.tsv", "text\tlabel\nfine\t1\n".encode("utf-16"), ["a.tsv, line 1", "0xff", "-f UTF-16 "]),
        ("a.jsonl", '{"a": 1}\n{"a": "b}\n', ["a.jsonl, line 2: not valid JSON: Unterminated", "(column 7)"]),
        (
            "a.json",
            '[\n{"a": 1},\n{"a": 2,\n "b": "c',
            ["a.json, line 4: not valid JSON", "(column 7)", "truncated"],
        ),
        ("a.jsonl", '{"a": 1}\n\n{"a": {"b": ["x \\uD83D"]}}\n', ["a.jsonl, line 3", "\\ud83d is half of a character"]),
        ("a.json", '[{"a": 1},\n{"a": "\\ude00"}]', ["a.json, line 2", "\\ude00 is half of a character"]),
    ],
)
def test_what_is_wrong_is_said_with_file_and_line(tmp_path, name, content, parts):
    fails(write(tmp_path, name, content), *parts)


def test_a_missing_file_names_its_neighbours(tmp_path):
    write(tmp_path, "train.csv", "a\n1\n")
    fails(tmp_path / "trian.csv", "does not exist", "train.csv")
    fails(tmp_path / "nowhere" / "a.csv", "does not exist", "check the path")


def test_a_folder_is_no_file(tmp_path):
    (tmp_path / "a.csv").mkdir()
    fails(tmp_path / "a.csv", "cannot be read")


def test_a_missing_column_names_the_nearest_and_the_separator(tmp_path):
    table = read_rows(write(tmp_path, "a.csv", "text,lable\na,b\n"))
    with pytest.raises(DataError, match=r"no column 'label'[\s\S]*did you mean 'lable'"):
        table.column("label")
    table = read_rows(write(tmp_path, "b.csv", "text;label\na;b\n"))
    with pytest.raises(DataError, match=r"separator seems to be ';'"):
        table.column("label")


def test_text_and_bytes(tmp_path):
    path = write(tmp_path, "a.conll", "\ufeffWord\tO\n")
    assert read_text(path) == "Word\tO\n"
    assert read_bytes(path).startswith(b"\xef\xbb\xbf")


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(
        st.tuples(
            st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1), st.integers()
        ),
        min_size=1,
    )
)
def test_what_python_writes_is_read_back(tmp_path, rows):
    import csv

    with open(tmp_path / "a.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("text", "label"), *rows])
    assert read_rows(tmp_path / "a.csv").columns == {
        "text": [text for text, _ in rows],
        "label": [str(label) for _, label in rows],
    }
    lines = [json.dumps({"text": text, "label": label}, ensure_ascii=False) for text, label in rows]
    write(tmp_path, "a.jsonl", "\n".join(lines))
    assert read_rows(tmp_path / "a.jsonl").columns == {
        "text": [text for text, _ in rows],
        "label": [label for _, label in rows],
    }
    write(tmp_path, "a.json", json.dumps([{"text": text, "label": label} for text, label in rows], indent=1))
    assert read_rows(tmp_path / "a.json").columns == read_rows(tmp_path / "a.jsonl").columns
