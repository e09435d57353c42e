"""Reading and checking: SQuAD's nested JSON, JSONL, CSV, data sets, and what every mistake says."""

import csv
import json
from pathlib import Path

import datasets
import pytest
from refarch_question_answering.task import QuestionAnswering

from refarch.errors import DataError, SpecError, UsageError
from refarch.plugins import default_registry, resolve

XQUAD = Path(__file__).resolve().parents[5] / "shared" / "data" / "xquad_en" / "xquad.en.json"
CONTEXT = "Ann saw Bob. Bob saw 3 dogs."


def nested(*questions, context=CONTEXT):
    return {"version": "1", "data": [{"title": "t", "paragraphs": [{"context": context, "qas": list(questions)}]}]}


def asked(number, text="Bob", start=8, **more):
    return {
        "id": f"q{number}",
        "question": f" Who {number}? ",
        "answers": [{"text": text, "answer_start": start}],
        **more,
    }


def write(path, data):
    path.write_bytes(
        data if isinstance(data, bytes) else (data if isinstance(data, str) else json.dumps(data)).encode()
    )
    return str(path)


def read(seed=0, formulation="extractive", **options):
    task = QuestionAnswering(**{"validation_size": 0, "test": options.get("train"), **options})
    task.formulation = formulation
    task.read(seed)
    return task


def found(task):
    return [(item.text, item.context, item.answers, item.starts) for item in task.splits["train"].items]


def fails(*parts, error=DataError, **options):
    with pytest.raises(error) as caught:
        read(**options)
    for part in parts:
        assert part in str(caught.value), str(caught.value)
    return caught.value


EXPECTED = [
    ("Who 1?", CONTEXT, ("Bob",), (8,)),
    ("Who 2?", CONTEXT, ("Bob", "3"), (13, 21)),
    ("Who 3?", CONTEXT, (), ()),
]
SECOND = {"text": "3", "answer_start": 21}


def squad():
    two = asked(2, start=13)
    two["answers"].append(SECOND)
    three = {"id": "q3", "question": "Who 3?", "answers": [], "is_impossible": True, "plausible_answers": [SECOND]}
    return nested(asked(1), two, three)


def flat():
    rows = []
    for number, (question, context, answers, starts) in enumerate(EXPECTED, start=1):
        rows.append(
            {
                "id": f"q{number}",
                "question": question,
                "context": context,
                "answers": {"text": list(answers), "answer_start": list(starts)},
            }
        )
    return rows


def lines(rows):
    return "\n".join(map(json.dumps, rows))


def test_squads_json_and_flat_rows_in_every_form(tmp_path):
    assert found(read(train=write(tmp_path / "a.json", squad()))) == EXPECTED
    assert found(read(train=write(tmp_path / "b.json", flat()))) == EXPECTED
    assert found(read(train=write(tmp_path / "c.json", {"data": flat()}))) == EXPECTED
    assert found(read(train=write(tmp_path / "d.jsonl", lines(flat())))) == EXPECTED
    pairs = [
        {**row, "answers": [{"text": t, "answer_start": s} for t, s in zip(*row["answers"].values(), strict=True)]}
        for row in flat()
    ]
    assert found(read(train=write(tmp_path / "e.jsonl", lines(pairs)))) == EXPECTED
    apart = [
        {**row, "answers": row["answers"]["text"], "answer_start": row["answers"]["answer_start"]} for row in flat()
    ]
    assert found(read(train=write(tmp_path / "f.jsonl", lines(apart)))) == EXPECTED


def test_csv_with_and_without_starts(tmp_path, caplog):
    path = tmp_path / "a.csv"
    rows = [
        ("question", "context", "answer", "answer_start"),
        ("Who?", CONTEXT, "Bob", "13"),
        ("What?", CONTEXT, "", ""),
    ]
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    task = read(train=str(path), answers_column="answer")
    assert found(task) == [("Who?", CONTEXT, ("Bob",), (13,)), ("What?", CONTEXT, (), ())]
    assert task.unanswerable
    with caplog.at_level("INFO"):
        task = read(train=str(path), answers_column="answer", start_column="none")
    assert found(task)[0] == ("Who?", CONTEXT, ("Bob",), (8,))
    assert "1 answers do not say where they start" in caplog.text


def test_answers_that_are_written_need_not_be_in_the_text(tmp_path):
    row = {"question": "How many?", "context": CONTEXT, "answers": ["three"]}
    path = write(tmp_path / "a.jsonl", lines([row, row]))
    assert found(read(train=path, formulation="generative"))[0][2:] == (("three",), (None,))
    fails("a.jsonl, line 1: the answer 'three' does not occur in the context", "generative", train=path)


@pytest.mark.parametrize("name", ["squad", "squad-v2", "xquad"])
def test_presets_read_a_local_copy_with_the_columns_of_the_hub(tmp_path, name):
    features = datasets.Features(
        {
            "id": datasets.Value("string"),
            "title": datasets.Value("string"),
            "context": datasets.Value("string"),
            "question": datasets.Value("string"),
            "answers": datasets.Sequence({"text": datasets.Value("string"), "answer_start": datasets.Value("int32")}),
        }
    )
    chosen = flat() if name == "squad-v2" else flat()[:2]
    rows = [{**row, "id": f"{i}", "title": "t", "context": f"{row['context']} {i}"} for i, row in enumerate(chosen * 5)]
    made = datasets.Dataset.from_list(rows, features=features)
    parts = {"validation": made} if name == "xquad" else {"train": made, "validation": made}
    spec = default_registry().task(name)
    where = tmp_path / "set" / (spec.configure({})["config"] or "")
    datasets.DatasetDict(parts).save_to_disk(str(where))
    task = resolve(spec.implementation)(**spec.configure({"dataset": str(tmp_path / "set")}))
    task.read(0)
    sizes = {split: len(part) for split, part in task.splits.items()}
    if name == "xquad":  # there is one split, from which all are made
        assert sizes == {"train": 7, "test": 2, "validation": 1}
    else:
        assert sizes["test"] == len(rows) and sizes["train"] + sizes["validation"] == len(rows)
    assert task.unanswerable == (name == "squad-v2")
    assert spec.kind == "preset" and spec.data_licence and spec.reference


def test_questions_about_one_text_stay_in_one_split(tmp_path):
    rows = [{"question": f"Who {i}?", "context": f"Bob and Ann, no {i // 4}.", "answers": ["Bob"]} for i in range(200)]
    task = read(train=write(tmp_path / "a.jsonl", lines(rows)), test=None, validation_size=0.1)
    texts = [{item.context for item in part.items} for part in task.splits.values()]
    assert sum(map(len, texts)) == len(set.union(*texts)) == 50
    assert [len(part) for part in task.splits.values()] == [140, 40, 20]


def test_whether_questions_may_have_no_answer_is_found_in_any_split(tmp_path, caplog):
    answered, all_rows = write(tmp_path / "a.jsonl", lines(flat()[:2])), write(tmp_path / "b.jsonl", lines(flat()))
    assert not read(train=answered).unanswerable
    assert read(train=answered, test=all_rows).unanswerable
    assert read(train=answered, validation=all_rows).unanswerable
    assert read(train=answered, unanswerable=True).unanswerable
    with caplog.at_level("INFO"):
        assert not read(train=answered, test=all_rows, unanswerable=False).unanswerable
    assert "a.jsonl: 1 of 5 questions (all splits) have no answer" in caplog.text


NO_CONTEXT = {"data": [{"paragraphs": [{"qas": [asked(1)]}]}]}


@pytest.mark.parametrize(
    "data, parts",
    [
        (
            nested(asked(1, start=9)),
            [
                "a.json, data[0].paragraphs[0].qas[0]: the answer 'Bob' should start at character 9",
                "has 'ob.'",
                "it starts at 8",
            ],
        ),
        (nested(asked(1), asked(2, start=-3)), ["qas[1]", "character -3"]),
        (nested(asked(1, start=999)), ["character 999", "where it has ''"]),
        (nested(asked(1, text="Eve")), ["'Eve' should start at character 8", "does not occur in the context at all"]),
        (nested(asked(1, text="")), ["qas[0]: an answer is a text", "leave the list empty"]),
        (nested(asked(1, start="x")), ["starts at a character's number, but this is 'x'"]),
        (nested(asked(1), asked(1)), ["qas[1]: id 'q1' stands already at", "qas[0]"]),
        (nested(asked(1, is_impossible=True)), ["is_impossible is true, but there are answers"]),
        (
            nested({"id": "1", "question": "Who?", "answer": []}),
            ["there is no list 'answers'", "did you mean 'answer'"],
        ),
        (nested({"id": "1", "question": " ", "answers": []}), ["qas[0]: no text in column 'question'"]),
        (NO_CONTEXT, ["a.json has no column 'context'"]),
        (nested("Who?"), ["qas[0]: expected an object, but got 'Who?'"]),
        ({"data": [{"paragraph": []}]}, ["data[0]: there is no list 'paragraphs'", "did you mean 'paragraph'"]),
        ({"data": [{"paragraphs": [{"context": "x"}]}]}, ["data[0].paragraphs[0]: there is no list 'qas'"]),
        ({"data": [{"paragraphs": []}]}, ["holds no questions"]),
        ({"questions": []}, ["holds no list of questions"]),
        ([], ["holds no list of questions"]),
        ('{"data": [\n{"paragraphs": ', ["a.json, line 2: not valid JSON", "truncated"]),
        (b'{"data": "\xff"}', ["a.json, line 1", "is not UTF-8", "iconv"]),
        (nested(asked(1), asked(2, text="\ud83d")), ["a.json, data[0].paragraphs[0].qas[1]: \\ud83d is half of"]),
        ([{"query": "Who?", "context": "x", "answers": []}], ["a.json has no column 'question'; it has 'query'"]),
    ],
)
def test_a_mistake_is_named_by_file_and_place(tmp_path, data, parts):
    error = fails(*parts, train=write(tmp_path / "a.json", data))
    assert str(tmp_path) in str(error)


@pytest.mark.parametrize(
    "row, parts",
    [
        (
            {"question": "Who?", "context": CONTEXT, "answers": ["Bob"], "answer_start": [8, 9]},
            ["line 2: 1 answers, but their starts"],
        ),
        ({"question": "Who?", "context": CONTEXT, "answers": 5}, ["line 2: answers are texts, but this is 5"]),
        (
            {"question": "Who?", "context": CONTEXT, "answers": [None]},
            ["line 2: an answer is a text, but this is None"],
        ),
        ({"question": "Who?", "context": None, "answers": []}, ["line 2: no text in column 'context'"]),
        ({"question": 7, "context": CONTEXT, "answers": []}, ["line 2: column 'question' should hold text"]),
    ],
)
def test_a_mistake_in_a_row_is_named_by_file_and_line(tmp_path, row, parts):
    good = {"question": "Who?", "context": CONTEXT, "answers": ["Bob"]}
    fails(*(f"{part}" for part in parts), train=write(tmp_path / "a.jsonl", lines([good, row])))


def test_other_mistakes(tmp_path):
    fails("no data", error=UsageError)
    fails("strid", error=SpecError, strid=3)
    fails("does not exist", train=str(tmp_path / "b.json"))
    path = write(tmp_path / "a.jsonl", lines(flat()))
    fails("no column 'answer'", "did you mean 'answers'", train=path, answers_column="answer")
    fails("no column 'ids'", "did you mean 'id'", train=path, id_column="ids")
    fails("e.jsonl is empty", train=write(tmp_path / "e.jsonl", ""))
    for prompt in ("{question}", "{question} {context} {x}", "{question} {context", "{question!r} {context}", "no"):
        fails("the prompt", "{{ }}", error=UsageError, prompt=prompt, train=path)
    assert read(train=path, prompt="{{x}} {question} {context}").options["prompt"]


@pytest.mark.skipif(not XQUAD.is_file(), reason="needs ../shared/data/xquad_en")
def test_xquad_is_read_whole():
    task = read(train=str(XQUAD), test=None, validation_size=0.1)
    assert sum(map(len, task.splits.values())) == 1190
    assert not task.unanswerable
    assert 0 < task.baselines()["sentence"] < 40
