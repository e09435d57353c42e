"""Conversations from files and data sets, and what is said of bad ones."""

import json
from pathlib import Path

import datasets
import pytest
from refarch_instruction_tuning import SPEC
from refarch_instruction_tuning.conversations import read_conversations
from refarch_instruction_tuning.task import InstructionTuning

from refarch.errors import DataError, SpecError, UsageError
from refarch.testing import tiny_tokenizer

DATA = Path(__file__).resolve().parents[4].parent / "shared" / "data"


def read(**options):
    return read_conversations(SPEC.configure(options))


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def test_messages(jsonl, dialogue):
    rows = [
        {"messages": dialogue, "n": 1},
        {"messages": [{"role": "user", "content": "hi", "name": None}, dialogue[1]]},
    ]
    found = read(train=jsonl(rows))["train"]
    assert found.messages == [dialogue, [user("hi"), dialogue[1]]]
    assert found.places[1].endswith("train.jsonl, line 2")
    assert found.asked(0) == "what is 2 + 2?\nand 3 + 3?"


def test_prompts_and_completions(jsonl, tmp_path):
    expected = [[user("2+2"), assistant("4")]]
    assert read(train=jsonl([{"prompt": "2+2", "completion": "4"}]))["train"].messages == expected
    (tmp_path / "a.csv").write_text("prompt,completion\n2+2,4\n")
    assert read(train=str(tmp_path / "a.csv"))["train"].messages == expected
    named = jsonl([{"asked": "2+2", "said": "4", "messages": 3}])
    assert read(train=named, prompt_column="asked", answer_column="said")["train"].messages == expected


def test_instructions_with_and_without_an_input(tmp_path):
    rows = [
        {"instruction": "Add.", "input": "2 and 2", "output": "4"},
        {"instruction": "Greet.", "input": "", "output": "Hi"},
        {"instruction": "Greet.", "output": "Hi"},
    ]
    (tmp_path / "alpaca.json").write_text(json.dumps(rows, indent=1))
    found = read(train=str(tmp_path / "alpaca.json"))["train"]
    greeting = [user("Greet."), assistant("Hi")]
    assert found.messages == [[user("Add.\n\n2 and 2"), assistant("4")], greeting, greeting]


def test_a_system_message_is_put_before_conversations_that_have_none(jsonl, dialogue):
    own = [{"role": "system", "content": "Own."}, *dialogue]
    found = read(train=jsonl([{"messages": dialogue}, {"messages": own}]), system="Be brief.")["train"]
    assert found.messages == [[{"role": "system", "content": "Be brief."}, *dialogue], own]


def test_a_data_set_of_messages(tmp_path, dialogue):
    parts = {
        "train_sft": datasets.Dataset.from_list([{"prompt": "x", "messages": dialogue}] * 3),
        "test_sft": datasets.Dataset.from_list([{"prompt": "y", "messages": dialogue[:2]}]),
    }
    datasets.DatasetDict(parts).save_to_disk(str(tmp_path / "ultrachat"))
    from refarch_instruction_tuning import PRESETS

    ultrachat = next(preset for preset in PRESETS if preset.name == "ultrachat")
    found = read_conversations(ultrachat.configure({"dataset": str(tmp_path / "ultrachat")}))
    assert [list(map(dict, m)) for m in found["train"].messages] == [dialogue] * 3
    assert list(map(dict, found["test"].messages[0])) == dialogue[:2]


def test_a_folder_for_a_preset(tmp_path):
    from refarch_instruction_tuning import PRESETS

    folder = tmp_path / "gsm8k"
    for split, count in (("train", 3), ("test", 2)):
        rows = [{"question": f"{split} {n}?", "answer": f"#### {n}"} for n in range(count)]
        (folder / "main").mkdir(parents=True, exist_ok=True)
        (folder / "main" / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    gsm8k = next(preset for preset in PRESETS if preset.name == "gsm8k")
    found = read_conversations(gsm8k.configure({"dataset": str(folder)}))
    assert [len(found["train"]), len(found["test"])] == [3, 2]
    assert found["test"].messages[1] == [user("test 1?"), assistant("#### 1")]


BAD = [
    ([{"messages": "hi"}], r"train.jsonl, line 1: column 'messages' should hold a list of messages, but has 'hi'"),
    ([{"messages": [user("a"), assistant("b")]}, {"n": 1}], r"line 2: column 'messages' .* has None"),
    ([{"messages": []}], r"line 1: column 'messages' should hold a list"),
    ([{"messages": [user("a")]}], r"line 1: no message is by 'assistant'"),
    ([{"messages": [user("a"), "b"]}], r"line 1, message 2: a message is an object, but this is 'b'"),
    ([{"messages": [{"from": "human", "value": "a"}]}], r"message 1 has no 'role'; it has 'from', 'value'"),
    ([{"messages": [user("a"), {"role": "assistant", "content": 4}]}], r"message 2: 'content' is text, but this is 4"),
    ([{"messages": [user("a"), {"role": "assistant", "content": None}]}], r"message 2 has no 'content'"),
    ([{"messages": [user("a"), assistant(" ")]}], r"message 2: the answer is empty"),
    (
        [{"prompt": "a", "completion": "b"}, {"prompt": "a", "completion": ""}],
        r"line 2: no text in column 'completion'",
    ),
    ([{"prompt": "a", "completion": 4}], r"line 1: column 'completion' should hold text, but has 4"),
    ([{"prompt": None, "completion": "b"}], r"line 1: no text in column 'prompt'"),
    ([{"instruction": "a", "input": 3, "output": "b"}], r"line 1: column 'input' should hold text, but has 3"),
    ([{"message": [], "n": 1}], r"train.jsonl has neither a column 'messages'[\s\S]* is it 'message'"),
    ([{"promt": "a", "completion": "b"}], r"has neither[\s\S]*is it 'promt' or 'completion'"),
]


@pytest.mark.parametrize(("rows", "message"), BAD)
def test_bad_rows_are_refused_with_their_line(jsonl, rows, message):
    with pytest.raises(DataError, match=message) as caught:
        read(train=jsonl(rows))
    assert caught.value.hint


def test_bad_files_and_options(jsonl, tmp_path, dialogue):
    good = jsonl([{"messages": dialogue, "id": 1}, {"messages": dialogue, "id": 1}])
    with pytest.raises(DataError, match=r"line 2: id 1 stands already at .*line 1"):
        read(train=good, id_column="id")
    with pytest.raises(DataError, match=r"no column 'message'[\s\S]*did you mean 'messages'"):
        read(train=good, messages_column="message")
    with pytest.raises(UsageError, match="belong together"):
        read(train=good, prompt_column="messages")
    with pytest.raises(UsageError, match="has no data"):
        read()
    with pytest.raises(SpecError, match=r"max_lenght[\s\S]*max_length"):
        InstructionTuning(max_lenght=3)
    (tmp_path / "latin.jsonl").write_bytes(b'{"prompt": "a", "completion": "b"}\n{"prompt": "caf\xe9"}\n')
    with pytest.raises(DataError, match=r"latin.jsonl, line 2: byte .* is not UTF-8"):
        read(train=str(tmp_path / "latin.jsonl"))
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(DataError, match="is empty"):
        read(train=str(tmp_path / "empty.jsonl"))
    with pytest.raises(DataError, match="does not exist"):
        read(train=good, test=str(tmp_path / "nowhere.jsonl"))


def test_splits_keep_what_asks_the_same_together_and_depend_on_the_seed_alone(jsonl):
    rows = [{"prompt": f"q{n // 2}", "completion": f"a{n}"} for n in range(40)]
    found = []
    for seed in (1, 1, 2):
        task = InstructionTuning(train=jsonl(rows), test_size=0.3)
        task.read(seed)
        asked = {name: {m[0]["content"] for m in part.messages} for name, part in task.splits.items()}
        assert set(asked) == {"train", "validation", "test"}
        assert sum(len(part) for part in task.splits.values()) == 40
        assert not (asked["train"] & asked["test"] or asked["train"] & asked["validation"])
        found.append([part.messages for part in task.splits.values()])
    assert found[0] == found[1] != found[2]


def test_too_few_rows_for_a_test_split(jsonl):
    task = InstructionTuning(train=jsonl([{"prompt": "a", "completion": "b"}]))
    with pytest.raises(DataError, match="too few to make a test split"):
        task.read(0)


def test_numbers_are_matched_only_where_there_are_some(jsonl):
    rows = [{"prompt": "a", "completion": "one"}, {"prompt": "b", "completion": "1"}]
    task = InstructionTuning(train=jsonl(rows[1:] * 3), test=jsonl(rows, "test.jsonl"), match="number", max_answer=4)
    task.read(0)
    with pytest.raises(DataError, match=r"test.jsonl, line 1: the last answer holds no number"):
        task.encode(tiny_tokenizer())


def test_a_score_of_matches_needs_a_match_and_packing_a_decoder(jsonl):
    task = InstructionTuning(train=jsonl([{"prompt": "a", "completion": "b"}]))
    task.metric = "exact_match"
    with pytest.raises(UsageError, match="match is not set"):
        task.read(0)
    task = InstructionTuning(train="x.jsonl", packing=True)
    task.formulation = "text-to-text"
    with pytest.raises(UsageError, match="for decoders alone"):
        task.read(0)


@pytest.mark.skipif(not (DATA / "gsm8k").is_dir(), reason="needs ../shared/data/gsm8k")
def test_gsm8k_is_read_whole_and_every_answer_has_its_number():
    from refarch_instruction_tuning import PRESETS
    from refarch_instruction_tuning.answers import number

    gsm8k = next(preset for preset in PRESETS if preset.name == "gsm8k")
    files = {name: str(DATA / "gsm8k" / f"{name}.jsonl") for name in ("train", "test")}
    found = read_conversations(gsm8k.configure(files))
    assert [len(found["train"]), len(found["test"])] == [7473, 1319]
    for part in found.values():
        for messages in part.messages:
            final = messages[1]["content"].rpartition("#### ")[2]
            assert number(messages[1]["content"]) == int(final.replace(",", ""))


@pytest.mark.skipif(not (DATA / "commonsense").is_dir(), reason="needs ../shared/data/commonsense")
def test_instruction_files_of_the_real_kind():
    found = read(train=str(DATA / "commonsense" / "openbookqa.train.json"))["train"]
    assert len(found) == 4957
    assert found.messages[0][0]["content"].startswith("Please choose the correct answer")
    assert found.places[1].endswith("line 8")  # the second object of the list
