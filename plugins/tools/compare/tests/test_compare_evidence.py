"""The store: records found, read and queried; what cannot be read is named and never taken for evidence."""

from __future__ import annotations

import csv
import io
import json
import shutil
import time

import pytest
from refarch_compare.evidence.query import ask, flat, select
from refarch_compare.evidence.row import Row
from refarch_compare.evidence.store import load, records

from refarch.cli import main
from refarch.errors import DataError, UnknownNameError, UsageError


@pytest.fixture
def runs(make_run, tmp_path):
    make_run(tmp_path / "study" / "runs" / "a", "lora", options={"rank": 4}, score=0.81, seed=1)
    make_run(tmp_path / "study" / "runs" / "b", "lora", options={"rank": 8}, score=0.83, seed=2)
    make_run(tmp_path / "single", "ia3", score=0.79)
    return tmp_path


def test_a_row_holds_what_the_record_says(runs):
    row = load([runs / "study"]).rows[0]
    assert (row.technique, row.options, row.score, row.seed) == ("lora", {"rank": 4}, 0.81, 1)
    assert (row.backbone, row.family, row.task, row.metric) == ("minilm", "bert", "lexicon-polarity", "accuracy")
    assert row.measures == {"loss": 0.5, "baseline majority": 0.5, "load_seconds": 1.0, "evaluate_seconds": 2.0}
    assert (row.train_seconds, row.seconds_per_step, row.batch_size) == (20.0, 0.2, 32)
    assert row.spec is not None and row.spec.options["rank"] == 4 and row.spec.options["alpha"] == 16.0
    assert row.origin == "run" and not row.imported and row.path.endswith("a/record.json")


def test_compositions_and_techniques_that_are_not_installed(make_run, tmp_path):
    make_run(tmp_path / "a", [{"name": "lora"}, {"name": "ia3", "label": "factors"}])
    make_run(tmp_path / "b", "nowhere")
    make_run(tmp_path / "c", "lora", options={"no_such_option": 1})
    both, missing, changed = load([tmp_path]).rows
    assert (both.technique, both.name) == ("lora+ia3", "lora+factors")
    assert [spec.name for spec in both.specs] == ["lora", "ia3"] and both.spec is None
    assert missing.specs == () and missing.score == 0.8
    assert changed.specs == ()


def test_a_task_with_other_options_is_another_problem(make_run, tmp_path):
    make_run(tmp_path / "a", task={"name": "text-classification", "options": {"train": "a.tsv", "test_size": 0.2}})
    make_run(tmp_path / "b", task={"name": "text-classification", "options": {"train": "b.tsv"}})
    path = make_run(tmp_path / "c")
    text = path.read_text(encoding="utf-8").replace('"score_on": "test"', '"score_on": "validation"')
    path.write_text(text, encoding="utf-8")
    one, two, searched = load([tmp_path]).rows
    assert (one.problem, two.problem) == ("text-classification (train=a.tsv)", "text-classification (train=b.tsv)")
    assert one.task == two.task and one.block != two.block
    assert (searched.problem, searched.metric) == ("lexicon-polarity", "validation accuracy")
    assert select([one, two], "problem = 'text-classification (train=b.tsv)'") == [two]


def test_measures_beside_a_record_are_read(make_run, tmp_path):
    path = make_run(tmp_path / "a")
    path.with_name("measures.json").write_text('{"step time ratio": 1.25}', encoding="utf-8")
    assert load([tmp_path]).rows[0].measures["step time ratio"] == 1.25
    path.with_name("measures.json").write_text('{"step time ratio": "fast"}', encoding="utf-8")
    with pytest.raises(DataError, match="'step time ratio' is 'fast', not a number"):
        load([tmp_path])


def test_each_record_counts_once_and_folders_of_a_run_are_no_runs(runs, make_run):
    make_run(runs / "single" / "checkpoints" / "checkpoint-1")
    make_run(runs / ".trash")
    assert len(records([runs, runs / "study", runs / "single" / "record.json"])) == 3


def test_corrupt_records_are_named_skipped_and_counted(runs, make_run):
    whole = (runs / "single" / "record.json").read_text(encoding="utf-8")
    broken = {
        "truncated": whole[: len(whole) // 2],
        "wrong": whole.replace('"score": 0.79', '"score": "high"'),
        "list": "[]",
        "nan": whole.replace('"score": 0.79', '"score": NaN'),
        "newer": whole.replace('"steps": 100', '"steps": 100, "future": 1'),
    }
    for name, text in broken.items():
        (runs / name).mkdir()
        (runs / name / "record.json").write_text(text, encoding="utf-8")
    (runs / "x.evidence.json").write_text(json.dumps({"technique": "a", "origin": "run"}), encoding="utf-8")
    evidence = load([runs])
    assert len(evidence.rows) == 3
    reasons = {item.path.removeprefix(f"{runs}/").partition("/")[0]: item.reason for item in evidence.problems}
    assert set(reasons) == {*broken, "x.evidence.json"}
    assert "truncated" in evidence.note(10) and "skipped 6 records" in evidence.note()
    assert "score" in reasons["wrong"] and "not valid JSON" in reasons["truncated"] and "future" in reasons["newer"]


def test_a_changed_or_removed_record_is_seen_at_once(runs, make_run):
    before = load([runs]).rows
    make_run(runs / "single", "ia3", score=0.5)
    shutil.rmtree(runs / "study" / "runs" / "a")
    after = load([runs]).rows
    assert [row.score for row in before] == [0.79, 0.81, 0.83]
    assert [row.score for row in after] == [0.5, 0.83]


def test_nothing_to_read_is_an_error_in_words(tmp_path):
    with pytest.raises(DataError, match="no record below") as error:
        load([tmp_path])
    assert "refarch run" in (error.value.hint or "")
    with pytest.raises(DataError, match="there is no folder"):
        load([tmp_path / "nowhere"])
    (tmp_path / "record.json").write_text("{", encoding="utf-8")
    with pytest.raises(DataError, match=r"no readable record below .*; skipped 1 record"):
        load([tmp_path])


def test_sql_selects_and_sorts(runs):
    rows = load([runs]).rows
    assert [row.score for row in select(rows, "technique = 'lora' and option_rank >= 4", "score desc")] == [0.83, 0.81]
    assert [row.score for row in select(rows, '"baseline majority" < score and seed is not null and not imported')] == [
        0.79,
        0.81,
        0.83,
    ]
    assert select(rows) == list(rows)
    head, found = ask(rows, "select technique, count(*) as n, max(score) from evidence group by all order by n")
    assert head[:2] == ["technique", "n"] and found == [("ia3", 1, 0.79), ("lora", 2, 0.83)]


def test_an_unknown_column_names_the_nearest(runs):
    rows = load([runs]).rows
    with pytest.raises(UnknownNameError, match="no column 'tecnique'") as error:
        select(rows, "tecnique = 'lora'")
    assert "'technique'" in (error.value.hint or "")
    with pytest.raises(UnknownNameError, match="no table 'evidenc'"):
        ask(rows, "select * from evidenc")


@pytest.mark.parametrize("sql", ["score >", "score > 'high'", "1 = 1; drop table evidence", "nofunction(score)"])
def test_what_is_not_sql_is_said_in_words(runs, sql):
    with pytest.raises(UsageError):
        select(load([runs]).rows, sql)


@pytest.mark.parametrize(
    "sql",
    [
        "select * from read_csv('{file}')",
        "select * from '{file}'",
        "copy evidence to '{file}2'",
        "set enable_external_access = true",
        "attach '{file}' as other",
    ],
)
def test_a_query_reaches_no_file(runs, sql):
    file = runs / "secret.csv"
    file.write_text("a,b\n1,2\n", encoding="utf-8")
    with pytest.raises(UsageError):
        ask(load([runs]).rows, sql.format(file=file))
    assert not (runs / "secret.csv2").exists()


def test_options_of_one_name_and_two_types_are_one_column():
    common = {"technique": "t", "backbone": "b", "task": "k", "metric": "m", "score": 1.0}
    rows = [Row(**common, options={"init": value}) for value in ("random", 2, [1, 2], None)]
    assert flat(rows[2])["option_init"] == "[1, 2]"
    assert select(rows, "option_init = '2'") == [rows[1]]


def test_the_command_shows_tables_json_and_csv(runs, capsys):
    (runs / "bad").mkdir()
    (runs / "bad" / "record.json").write_text("{", encoding="utf-8")
    assert main(["compare", "evidence", str(runs), "--where", "technique = 'lora'"]) == 0
    shown = capsys.readouterr()
    assert "0.83" in shown.out and "0.79" not in shown.out and "2 of 3 rows" in shown.out
    assert "skipped 1 record" in shown.err and "bad/record.json" in shown.err
    assert main(["compare", "evidence", str(runs), "--json", "--sort", "score"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert [row["score"] for row in data["rows"]] == [0.79, 0.81, 0.83] and len(data["skipped"]) == 1
    assert Row.parse(data["rows"][0]).technique == "ia3"
    assert main(["compare", "evidence", str(runs), "--csv", "--columns", "technique,score,loss"]) == 0
    lines = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert lines[0] == {"technique": "ia3", "score": "0.79", "loss": "0.5"}
    assert main(["compare", "evidence", str(runs), "--sql", "select max(score) as best from evidence", "--csv"]) == 0
    assert capsys.readouterr().out == "best\n0.83\n"
    assert main(["compare", "evidence", str(runs), "--columns", "scor"]) == 2
    assert "'score'" in capsys.readouterr().err


@pytest.mark.slow
def test_five_thousand_records_are_read_and_queried_in_seconds(make_run, tmp_path):
    first = make_run(tmp_path / "0", "lora")
    text = first.read_text(encoding="utf-8")
    for index in range(1, 5000):
        folder = tmp_path / f"study{index % 10}" / str(index)
        folder.mkdir(parents=True)
        (folder / "record.json").write_text(text.replace('"score": 0.8', f'"score": {index / 5000}'), encoding="utf-8")
    began = time.process_time()
    rows = load([tmp_path]).rows
    found = select(rows, "score >= 0.9", "score")
    assert (len(rows), len(found)) == (5000, 500)
    assert time.process_time() - began < 20  # 2 to 3 s of CPU where it was written
