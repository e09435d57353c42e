"""Reading and checking: columns, answers of every kind, instructions, data sets and presets, and what mistakes say."""

import json
from pathlib import Path

import datasets
import pytest
from datasets import ClassLabel, Features, Sequence, Value
from refarch_multiple_choice.questions import answer, filled
from refarch_multiple_choice.task import MultipleChoice

from refarch.errors import DataError, SpecError, UsageError
from refarch.plugins import default_registry, resolve

COMMONSENSE = Path(__file__).resolve().parents[5] / "shared" / "data" / "commonsense"


def write(path, content):
    if isinstance(content, list):
        content = json.dumps(content) if path.suffix == ".json" else "\n".join(map(json.dumps, content)) + "\n"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def read(seed=0, **options):
    task = MultipleChoice(**{"validation_size": 0, **options})
    task.read(seed)
    return task


def shown(part):
    return [(item.text, item.context, item.choices, item.answer) for item in part.items]


def fails(*parts, error=DataError, **options):
    with pytest.raises(error) as caught:
        read(**options)
    for part in parts:
        assert part in str(caught.value), str(caught.value)
    assert caught.value.hint


INSTRUCTION = {"question_column": "instruction", "instructions": True}
FORM = "Answer format: answer1/answer2"
EXPECTED = [("what barks?", "", ("a cat", "a dog"), 1), ("what purrs?", "", ("a cat", "a dog"), 0)]


@pytest.mark.parametrize(
    "name, content, options",
    [
        (
            "a.jsonl",
            [
                {"question": "what barks?", "choices": ["a cat", " a dog"], "answer": 1},
                {"question": "what purrs?", "choices": ["a cat", "a dog"], "answer": "A"},
            ],
            {},
        ),
        (
            "a.csv",
            "q,one,two,right\nwhat barks?,a cat,a dog,1\nwhat purrs?,a cat,a dog,a cat\n",
            {"question_column": "q", "choice_columns": ["one", "two"], "answer_column": "right"},
        ),
        (
            "a.json",
            [
                {
                    "question": "what barks?",
                    "choices": {"text": ["a cat", "a dog"], "label": ["1", "2"]},
                    "answer": "2",
                },
                {
                    "question": "what purrs?",
                    "choices": {"text": ["a cat", "a dog"], "label": ["A", "B"]},
                    "answer": "A",
                },
            ],
            {"choice_columns": ["choices.text"], "label_column": "choices.label"},
        ),
        (
            "a.tsv",
            "question\tanswer\nwhat barks?\ttrue\nwhat purrs?\tfalse\n",
            {"choices": ["a cat", "a dog"], "labels": ["false", "true"]},
        ),
        (
            "a.jsonl",
            [{"question": "what barks?", "answer": True}, {"question": "what purrs?", "answer": False}],
            {"choices": ["a cat", "a dog"]},
        ),
        (
            "a.csv",
            "question,answer\nwhat barks?,2\nwhat purrs?,1\n",
            {"choices": ["a cat", "a dog"], "labels": ["1", "2"]},
        ),
        (
            "a.json",
            [
                {
                    "instruction": f"what {verb}?\n\nAnswer1: a cat Answer2: a dog\n\nAnswer format: answer1/answer2",
                    **right,
                }
                for verb, right in (("barks", {"answer": "answer2"}), ("purrs", {"answer": "answer1"}))
            ],
            {"question_column": "instruction", "instructions": True},
        ),
    ],
)
def test_questions_are_read_whatever_form_they_have(tmp_path, name, content, options):
    path = write(tmp_path / name, content)
    assert shown(read(train=path, test=path, **options).splits["test"]) == EXPECTED


@pytest.mark.parametrize(
    "value, labels, number",
    [
        (2, None, 2),
        ("2", None, 2),
        (" 2 ", None, 2),
        ("C", None, 2),
        ("blue", None, 2),
        (True, None, 1),
        ("x", ["w", "y", "x"], 2),
        (3, ["1", "2", "3"], 2),
        ("3", [1, 2, 3], 2),
        (True, ["false", "true", "maybe"], 1),
        ("c", ["a", "b", "c"], 2),
    ],
)
def test_an_answer_is_a_number_a_letter_a_text_or_a_label(value, labels, number):
    assert answer(value, ["red", "green", "blue"], labels, "a.csv, line 2", "answer") == number


@pytest.mark.parametrize("value", [3, -1, "3", "-1", "D", "c", "", None, "bluish", 1.0, "1.0", [1]])
def test_other_answers_are_refused(value):
    with pytest.raises(DataError) as caught:
        answer(value, ["red", "green", "blue"], None, "a.csv, line 2", "answer")
    assert "a.csv, line 2" in str(caught.value) and "is not a number from 0 to 2, a letter, or" in str(caught.value)
    secret = value in (None, "", -1, "-1")  # as sets write answers that they keep to themselves
    assert ("test=validation" if secret else "labels=") in (caught.value.hint or "")


def test_an_answer_that_may_mean_two_choices_is_refused():
    for value, choices in (("1", ["2", "0", "1"]), ("A", ["B", "A"]), ("0", ["1", "0"])):
        with pytest.raises(DataError, match=r"line 2: the answer .* may mean any of the choices numbered"):
            answer(value, choices, None, "a.csv, line 2", "answer")
    assert answer("1", ["0", "1"], None, "a.csv, line 2", "answer") == 1  # both meanings are one choice
    assert answer("1", ["2", "1", "0"], ["0", "1", "2"], "a.csv, line 2", "answer") == 1


def test_a_blank_parts_a_question():
    assert filled("Ann saw Bo because _ was late.", ["Ann", "Bo"], "_", "here") == (
        "Ann saw Bo because",
        ["Ann was late.", "Bo was late."],
    )
    assert filled("It was _", ["red", "blue"], "_", "here") == ("It was", ["red", "blue"])
    for text, count in (("no blank", 0), ("_ and _", 2)):
        with pytest.raises(DataError, match=f"a.csv, line 2: the question has {count} blanks '_'"):
            filled(text, ["a", "b"], "_", "a.csv, line 2")


@pytest.mark.parametrize(
    "text, question, choices",
    [
        ("Is it?\n\nAnswer format: true/false", "Is it?", ("true", "false")),
        ("Do: x Solution1: go Solution2: stay Answer format: solution1/solution2", "Do: x", ("go", "stay")),
        ("To _ Option1: a: b Option2: c\n\nAnswer format: option1/option2", "To _", ("a: b", "c")),
    ],
)
def test_instructions_hold_their_choices(tmp_path, text, question, choices):
    labels = text.rpartition(": ")[2].split("/")
    path = write(tmp_path / "a.json", [{"instruction": text, "answer": labels[1]}] * 2)
    assert shown(read(train=path, test=path, **INSTRUCTION).splits["test"])[0] == (question, "", choices, 1)


@pytest.mark.parametrize(
    "text, right, parts",
    [
        ("x Answer1: a Answer2: b", "answer1", ["does not end with its labels", "instructions=false"]),
        ("x Answer1: a Answer format: answer1", "answer1", ["does not end with its labels"]),
        ("x Answer1: a Answer format: answer1/answer2", "answer1", ["has no choice 'answer2'", "Answer1: ..."]),
        ("x Answer2: a Answer1: b Answer format: answer1/answer2", "answer1", ["in another order than its labels"]),
        ("x Answer1: Answer2: b Answer format: answer1/answer2", "answer1", ["the choice 'answer1' is empty"]),
        ("x Answer1: a Answer2: b Answer format: answer1/answer2", "answer3", ["'answer3'", "'answer1', 'answer2'"]),
        ("", "answer1", ["no text in column 'instruction'"]),
    ],
)
def test_a_mistake_in_an_instruction_is_named_by_file_and_line(tmp_path, text, right, parts):
    good = {"instruction": "x Answer1: a Answer2: b Answer format: answer1/answer2", "answer": "answer1"}
    path = write(tmp_path / "a.jsonl", [good, {"instruction": text, "answer": right}])
    fails("a.jsonl, line 2", *parts, train=path, **INSTRUCTION)


GOOD = {"question": "what barks?", "choices": ["a cat", "a dog"], "answer": 1}


@pytest.mark.parametrize(
    "changes, parts, options",
    [
        ({"question": " "}, ["no text in column 'question'"], {}),
        ({"question": 3}, ["column 'question' should hold text, but has 3"], {}),
        ({"choices": "a cat"}, ["column 'choices' should hold a list of texts", "choice_columns=a,b"], {}),
        ({"choices": ["a cat", 3]}, ["column 'choices' should hold a list of texts"], {}),
        ({"choices": ["a cat"]}, ["column 'choices' has ['a cat']", "two choices at least"], {}),
        ({"choices": ["a cat", ""]}, ["none of them empty"], {}),
        ({"choices": None}, ["column 'choices' should hold a list of texts, but has None"], {}),
        ({"answer": 2}, ["the answer 2 in column 'answer' is not a number from 0 to 1"], {}),
        ({"answer": None}, ["the answer None in column 'answer'"], {}),
        ({"labels": ["x"]}, ["2 choices, but 1 labels"], {"label_column": "labels"}),
        ({"labels": "x"}, ["column 'labels' should hold a list"], {"label_column": "labels"}),
        ({"context": 3}, ["column 'context' should hold text"], {"context_column": "context"}),
        ({}, ["2 choices, but 3 labels"], {"labels": ["a", "b", "c"]}),
        ({}, ["has 0 blanks '_'"], {"blank": "_"}),
        ({"id": "x"}, ["id 'x' stands already", "line 1"], {"id_column": "id"}),
    ],
)
def test_a_mistake_is_named_by_file_and_line(tmp_path, changes, parts, options):
    own = {"id": "x", "context": "", "labels": ["0", "1"], **GOOD}
    if options == {"labels": ["a", "b", "c"]}:
        own["choices"] = ["a cat", "a dog", "a cow"]
        own["answer"] = "a"
    if options == {"blank": "_"}:
        own["question"] = "_ barks"
    if options == {"label_column": "labels"}:
        own["answer"] = "0"
    path = write(tmp_path / "a.jsonl", [own, {**own, **GOOD, "answer": own["answer"], **changes}])
    fails("a.jsonl, line 2", *parts, train=path, **options)


def test_other_mistakes(tmp_path):
    fails("has no data", error=UsageError)
    fails("does not exist", train=str(tmp_path / "none.csv"))
    fails("should have {question}, and may have {context}", error=UsageError, prompt="{context}", context_column="c")
    fails("has {context}", "context_column", error=UsageError, prompt="{context} {question}")
    with pytest.raises(SpecError, match="anser_column"):
        MultipleChoice(anser_column="x")
    path = write(tmp_path / "a.csv", "question,one,two,answer\nx,a,b,0\n")
    fails("no column 'choices'", train=path)
    fails("no column 'tow'", "did you mean 'two'", train=path, choice_columns=["one", "tow"])
    fails("too few to make a test split", train=path, choice_columns=["one", "two"])
    write(tmp_path / "b.csv", b"question,one,two,answer\nx,a,b,0\ncaf\xe9,a,b,0\n")
    fails("b.csv, line 3", "0xe9", "is not UTF-8", train=str(tmp_path / "b.csv"), choice_columns=["one", "two"])
    write(tmp_path / "c.jsonl", "")
    fails("c.jsonl is empty", train=str(tmp_path / "c.jsonl"))
    write(tmp_path / "d.csv", "question,answer\n")
    fails("d.csv has no rows", train=str(tmp_path / "d.csv"))


def test_made_splits_keep_a_question_whole_and_depend_on_the_seed_alone(tmp_path):
    rows = [{"question": f"q{i % 50}", "choices": [f"{i}a", "b"], "answer": i % 50 % 2} for i in range(100)]
    path = write(tmp_path / "a.jsonl", rows)
    first, again, other = (read(seed, train=path, validation_size=0.2) for seed in (1, 1, 2))
    assert first.splits == again.splits and first.splits != other.splits
    texts = [{item.text for item in part.items} for part in first.splits.values()]
    assert sum(map(len, texts)) == 50 == len(set.union(*texts))
    assert sum(item.answer for item in first.splits["test"].items) == len(first.splits["test"]) / 2


CHOICES = Sequence({"text": Value("string"), "label": Value("string")})
EXAM = {"choices": {"text": ["a cat", "a dog"], "label": ["A", "B"]}, "answerKey": "B", "id": "x"}
HUB = {
    "openbookqa": (
        {"id": "string", "question_stem": "string", "choices": CHOICES, "answerKey": "string"},
        {"question_stem": "what barks?", **EXAM},
        ("what barks?", "", ("a cat", "a dog"), 1),
    ),
    "arc-easy": (
        {"id": "string", "question": "string", "choices": CHOICES, "answerKey": "string"},
        {"question": "what barks?", **EXAM},
        ("what barks?", "", ("a cat", "a dog"), 1),
    ),
    "arc-challenge": (
        {"id": "string", "question": "string", "choices": CHOICES, "answerKey": "string"},
        {"question": "what?", **EXAM, "choices": {"text": ["x", "y", "z"], "label": ["1", "2", "3"]}, "answerKey": "3"},
        ("what?", "", ("x", "y", "z"), 2),
    ),
    "piqa": (
        {"goal": "string", "sol1": "string", "sol2": "string", "label": ClassLabel(names=["0", "1"])},
        {"goal": "to bark", "sol1": "be a cat", "sol2": "be a dog", "label": 1},
        ("to bark", "", ("be a cat", "be a dog"), 1),
    ),
    "hellaswag": (
        {"ind": "int32", "ctx": "string", "endings": Sequence(Value("string")), "label": "string"},
        {"ind": 4, "ctx": "A man sits. he", "endings": ["stands", "flies", "sings", "swims"], "label": "3"},
        ("A man sits. he", "", ("stands", "flies", "sings", "swims"), 3),
    ),
    "winogrande": (
        {"sentence": "string", "option1": "string", "option2": "string", "answer": "string"},
        {"sentence": "Ann helped Bo as _ was ill.", "option1": "Ann", "option2": "Bo", "answer": "2"},
        ("Ann helped Bo as", "", ("Ann was ill.", "Bo was ill."), 1),
    ),
    "boolq": (
        {"question": "string", "answer": "bool", "passage": "string"},
        {"question": "do dogs bark", "answer": True, "passage": "Dogs bark."},
        ("do dogs bark", "Dogs bark.", ("no", "yes"), 1),
    ),
    "copa": (
        {
            **dict.fromkeys(("premise", "choice1", "choice2", "question"), "string"),
            "idx": "int32",
            "label": ClassLabel(names=["choice1", "choice2"]),
        },
        {"premise": "I ran.", "choice1": "I sat.", "choice2": "I was late.", "question": "cause", "idx": 0, "label": 1},
        ("cause", "I ran.", ("I sat.", "I was late."), 1),
    ),
    "social-iqa": (
        dict.fromkeys(("context", "question", "answerA", "answerB", "answerC", "label"), "string"),
        {
            "context": "Al ran.",
            "question": "Why?",
            "answerA": "fun",
            "answerB": "fear",
            "answerC": "fog",
            "label": "2",
        },
        ("Why?", "Al ran.", ("fun", "fear", "fog"), 1),
    ),
}


@pytest.mark.parametrize("name", sorted(HUB))
def test_presets_read_a_local_copy_with_the_columns_of_the_hub(tmp_path, name):
    columns, row, expected = HUB[name]
    features = Features({key: Value(kind) if isinstance(kind, str) else kind for key, kind in columns.items()})
    spec = default_registry().task(name)
    made = datasets.Dataset.from_list([row], features=features)
    secret = {"label": -1} if isinstance(columns.get("label"), ClassLabel) else {"label": ""} if "label" in row else {}
    hidden = datasets.Dataset.from_list([{**row, **secret}], features=features)
    folder = tmp_path / (spec.defaults.get("config") or "")
    datasets.DatasetDict(
        {"train": made, "validation": made, "test": hidden if "test" in spec.defaults else made}
    ).save_to_disk(str(folder))
    given = spec.configure({"dataset": str(tmp_path), "validation_size": 0})
    task = resolve(spec.implementation)(**given)
    task.read(0)
    assert shown(task.splits["test"]) == shown(task.splits["train"]) == [expected]
    assert ("validation" in task.splits) == ("test" not in spec.defaults)
    assert spec.kind == "preset" and spec.data_licence and spec.reference
    if secret and "test" in spec.defaults:
        with pytest.raises(DataError, match="test=validation"):
            resolve(spec.implementation)(**{**given, "test": "test"}).read(0)


@pytest.mark.skipif(not COMMONSENSE.is_dir(), reason="needs ../shared/data/commonsense")
@pytest.mark.parametrize("name, sizes", [("openbookqa", {4}), ("ARC-Easy", {3, 4, 5}), ("boolq", {2})])
def test_llm_adapters_files_are_read_to_the_last_choice(name, sizes):
    files = {split: str(COMMONSENSE / f"{name}.{split}.json") for split in ("train", "test")}
    spec = default_registry().task("llm-adapters-commonsense")
    task = resolve(spec.implementation)(**spec.configure({**files, "validation_size": 0}))
    task.read(0)
    for split, file in files.items():
        rows, items = json.loads(Path(file).read_text("utf-8")), task.splits[split].items
        assert len(items) == len(rows)
        assert {len(item.choices) for item in items} == sizes or split == "test"
        for row, item in zip(rows, items, strict=True):
            label = row["answer"]
            if label.startswith("answer"):
                own, following = item.choices[item.answer], f"Answer{int(label[6:]) + 1}:"
                after = row["instruction"].partition(f"{label.capitalize()}:")[2]
                assert after.partition(following if following in after else "Answer format")[0].strip() == own
            else:
                assert item.choices == ("true", "false") and item.choices[item.answer] == label
    baselines = task.baselines()
    assert baselines["random"] == pytest.approx(1 / max(sizes) if len(sizes) == 1 else 0.25, abs=0.01)
