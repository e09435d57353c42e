"""The predictor answers as the run's own model does, holds no more than it may, and keeps entries apart."""

import json
import threading

import pytest
import torch
from refarch_library import adding
from refarch_library.predict.mixing import Mixture
from refarch_library.predict.predictor import Predictor
from refarch_library.store import Library
from transformers import AutoModelForCausalLM, AutoModelForTokenClassification, AutoTokenizer

import refarch as platform
from refarch import PipelineSpec, RunRecord, default_registry
from refarch.errors import CheckpointError, CompositionError, RefarchError, UsageError
from refarch.files import read_json
from refarch.pipeline import assemble
from refarch.tasks import Task

TEXTS = ["good k", "bbbb a", "dog wall", "a", "ann saw rome"]


def record_of(run):
    return RunRecord.parse(read_json(run / "record.json"))


def own_model(run):
    """The run's pipeline put together again by the core, with what it saved."""
    parts = assemble(PipelineSpec.parse(read_json(run / "pipeline.json")))
    for adaptation in reversed(parts.adaptations):
        adaptation.detach()
    for name in record_of(run).adaptations:
        platform.load(parts.model, run / name)
    return parts, parts.model.eval()


@pytest.mark.parametrize("technique", ["lora", "prefix-tuning", "bitfit", ("prompt-tuning", "adapter")])
def test_labels_and_probabilities_are_those_of_the_run(technique, library, make_run):
    run = make_run("topic", technique)
    parts, model = own_model(run)
    encoded = parts.tokenizer(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = model(**encoded).logits.softmax(dim=-1)
    answers = Predictor(library, device="cpu").ask(str(run), TEXTS)
    names = ["art", "law", "war"]
    for row, answer in zip(expected, answers, strict=True):
        assert answer["label"] == names[int(row.argmax())]
        assert answer["scores"] == pytest.approx(dict(zip(names, row.tolist(), strict=True)), abs=1e-5)


def test_the_score_on_the_test_split_comes_out_again(library, make_run):
    run = make_run("polarity", "lora", max_steps=12)
    parts, _ = own_model(run)
    test = parts.task.splits.test
    answers = Predictor(library, device="cpu").ask(str(run), test.texts)
    right = sum(answer["label"] == label for answer, label in zip(answers, test.labels, strict=True))
    assert right / len(test.labels) == record_of(run).score


def test_words_are_tagged_as_by_the_run(library, make_run, root):
    run = make_run("names", "adapter", max_steps=30)
    entry = adding.add(library, run)
    names = list(entry.base.labels.values())
    model = AutoModelForTokenClassification.from_pretrained(root / "bert", num_labels=len(names))
    platform.load(model, run / "adaptations" / "adapter")
    tokenizer = AutoTokenizer.from_pretrained(root / "bert")
    (answer,) = Predictor(library, device="cpu").ask(entry.name, ["ann saw rome7"])
    words = ["ann", "saw", "rome7"]
    encoded = tokenizer(words, is_split_into_words=True, return_tensors="pt")
    best = model.eval()(**encoded).logits[0].argmax(dim=-1).tolist()
    firsts = [encoded.word_ids().index(word) for word in range(3)]
    assert answer["words"] == words and answer["tags"] == [names[best[place]] for place in firsts]
    for found in answer["entities"]:
        assert found["text"] == " ".join(words[found["start"] : found["stop"]])
        assert answer["tags"][found["start"]].endswith(found["kind"])


def test_texts_are_written_as_by_the_run(library, make_run, root):
    run = make_run("writing", "lora", backbone="gpt2")
    model = AutoModelForCausalLM.from_pretrained(root / "gpt2").eval()
    platform.load(model, run / "adaptations" / "lora")
    tokenizer = AutoTokenizer.from_pretrained(root / "gpt2")
    answers = Predictor(library, device="cpu").ask(str(run), ["ak", "bl"])
    for text, answer in zip(["ak", "bl"], answers, strict=True):
        ids = tokenizer(f"{text}\n", return_tensors="pt")["input_ids"][:, :-1]  # without the end
        written = ids
        for _ in range(8):  # greedily, without a cache
            best = model(written).logits[:, -1:].argmax(dim=-1)
            if int(best) == 3:
                break
            written = torch.cat([written, best], dim=1)
        assert answer == {"text": tokenizer.decode(written[0, ids.shape[1] :], skip_special_tokens=True).strip()}


def test_a_batch_may_mix_entries_with_any_heads(library, make_run):
    runs = {
        "a": make_run("polarity"),
        "b": make_run("topic", "adapter"),
        "c": make_run("names", "adapter", max_steps=30),
        "d": make_run("polarity", "ia3"),
    }
    for name, run in runs.items():
        adding.add(library, run, name=name)
    alone = {name: Predictor(library, device="cpu").ask(name, TEXTS) for name in runs}
    predictor = Predictor(library, device="cpu")
    requests = [(name, text) for text in TEXTS for name in runs]
    answers = predictor.ask_each(requests)
    for (name, text), answer in zip(requests, answers, strict=True):
        expected = alone[name][TEXTS.index(text)]
        if "scores" in expected:
            assert answer["scores"] == pytest.approx(expected["scores"], abs=1e-5)
        else:
            assert answer == expected
    assert alone["a"] != alone["d"]
    bodies = [view.model.base_model.get_input_embeddings().weight for view in predictor._views.values()]
    assert len(bodies) == 3 and all(body is bodies[0] for body in bodies)  # three heads on one backbone


MIXED = {
    "a": ("lora", 0),
    "b": ("lora", 1),
    "c": ("adapter", 0),
    "d": (("ia3", "lora"), 0),
    "e": ("prefix-tuning", 0),
    "f": ("prompt-tuning", 0),
}


def test_written_texts_of_several_entries_share_batches(library, make_run, monkeypatch):
    for name, (technique, seed) in MIXED.items():
        adding.add(library, make_run("writing", technique, seed, backbone="gpt2"), name=name)
    texts = ["ak", "bl", "cmn", "d", "ef"]
    predictor = Predictor(library, device="cpu", batch_size=8)
    generator = torch.Generator().manual_seed(0)
    for name in MIXED:  # other values than a short training gives, so that each writes something else
        for adaptation in predictor.load(name).adaptations:
            for parameter in adaptation.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.4)
    alone = {name: predictor.ask(name, texts) for name in MIXED}
    assert len({json.dumps(answers) for answers in alone.values()}) == len(MIXED)
    calls = []
    held = predictor.load("a").view.model
    whole = held.generate
    monkeypatch.setattr(held, "generate", lambda **given: calls.append(len(given["input_ids"])) or whole(**given))
    requests = [(name, text) for text in texts for name in MIXED]
    answers = predictor.ask_each(requests)
    for (name, text), answer in zip(requests, answers, strict=True):
        assert answer == alone[name][texts.index(text)], (name, text)
    assert calls == [8, 8, 8, 6]  # 30 rows of 6 entries, and not 6 times 5
    calls.clear()
    assert predictor.ask("c", texts) == alone["c"] and calls == [5]
    assert predictor.ask_each(requests[:7]) == [alone[name][texts.index(text)] for name, text in requests[:7]]
    saved = Predictor(library, device="cpu").ask_each(requests)
    small = Predictor(library, device="cpu", limit=3)  # there is no room for all of them at once
    assert small.ask_each(requests) == saved and len(small.held) == 3


def test_what_cannot_share_a_batch_is_answered_all_the_same(library, make_run, monkeypatch):
    from refarch_library.predict import mixing

    for name in "ab":
        technique, seed = MIXED[name]
        adding.add(library, make_run("writing", technique, seed, backbone="gpt2"), name=name)
    predictor = Predictor(library, device="cpu")
    expected = {name: predictor.ask(name, ["ak", "bl"]) for name in "ab"}

    def refuse(*_, **__):
        raise CompositionError("impossible")

    monkeypatch.setattr(mixing, "compose", refuse)
    answers = predictor.ask_each([("a", "ak"), ("b", "ak"), ("a", "bl"), ("b", "bl")])
    assert answers == [expected["a"][0], expected["b"][0], expected["a"][1], expected["b"][1]]
    assert not any(a.enabled for name in "ab" for a in predictor.load(name).adaptations)


def test_entries_of_one_task_share_forward_passes(library, make_run, monkeypatch):
    """Where all that they have trained can be told apart by rows; other tasks and trained heads take turns."""
    runs = {
        "a": make_run("writing", "lora", backbone="gpt2"),
        "b": make_run("writing", "ia3", backbone="gpt2"),
        "c": make_run("writing", "lora", seed=1, backbone="gpt2"),
        "d": make_run("writing", ["prefix-tuning", "adapter"], backbone="gpt2"),
    }
    for name, run in runs.items():
        adding.add(library, run, name=name)
    texts = ["ak", "bl", "a"]
    alone = {name: Predictor(library, device="cpu").ask(name, texts) for name in runs}
    asked = []
    own = Mixture.ask
    monkeypatch.setattr(
        Mixture, "ask", lambda self, owners, *rest: asked.append(len(owners)) or own(self, owners, *rest)
    )
    predictor = Predictor(library, device="cpu", batch_size=5)
    requests = [(name, text) for text in texts for name in runs]
    for _ in range(2):
        answers = predictor.ask_each(requests)
        assert answers == [alone[name][texts.index(text)] for name, text in requests]
    assert asked == [12, 12]
    assert len({str(alone[name]) for name in runs}) > 1
    assert predictor.ask("b", texts) == alone["b"] and asked == [12, 12, 3]
    small = Predictor(library, device="cpu", limit=2)
    assert small.ask_each(requests) == answers
    assert len(small.held) == 2


def test_no_more_is_held_than_may_be(library, make_run):
    for name, task, technique in (("a", "polarity", "lora"), ("b", "polarity", "ia3"), ("c", "topic", "adapter")):
        adding.add(library, make_run(task, technique), name=name)
    predictor = Predictor(library, limit=2, device="cpu")
    before = {name: predictor.ask(name, TEXTS) for name in "abc"}
    assert predictor.held == ("b", "c")
    assert predictor.ask("b", TEXTS) == before["b"] and predictor.held == ("c", "b")
    assert predictor.ask("a", TEXTS) == before["a"] and predictor.held == ("b", "a")
    attached = sum(len(platform.adaptations(view.model)) for view in predictor._views.values())
    assert attached == 2
    small = Predictor(library, max_bytes=predictor.load("b").bytes + 1, device="cpu")
    for name in "bac":
        assert small.ask(name, TEXTS) == before[name]
        assert len(small.held) == 1 and small.held == (name,)
    with pytest.raises(UsageError, match="can answer nothing"):
        Predictor(library, limit=0)
    predictor.close()
    assert predictor.held == () and predictor.bytes == 0


def test_a_damaged_entry_is_refused_and_the_others_still_answer(library, make_run):
    for name, technique in (("a", "lora"), ("b", "ia3")):
        adding.add(library, make_run("polarity", technique), name=name)
    predictor = Predictor(library, device="cpu")
    before = predictor.ask("a", TEXTS)
    next((library.path / "b").rglob("*.safetensors")).write_bytes(b"x")
    with pytest.raises(CheckpointError, match="truncated or altered"):
        predictor.ask("b", TEXTS)
    assert predictor.ask("a", TEXTS) == before and predictor.held == ("a",)


def test_another_backbone_is_refused(library, make_run):
    predictor = Predictor(library, device="cpu")
    predictor.ask(str(make_run("polarity")), TEXTS)
    with pytest.raises(CheckpointError, match=r"belongs to another backbone, .*gpt2, than"):
        predictor.ask(str(make_run("writing", "lora", backbone="gpt2")), TEXTS)


def test_an_entry_cannot_have_code_run(library, make_run):
    entry = adding.add(library, make_run("polarity"), name="a")

    def rewrite(**fields):
        backbone = entry.record.pipeline.backbone.model_copy(update=fields)
        pipeline = entry.record.pipeline.model_copy(update={"backbone": backbone})
        changed = entry.model_copy(update={"record": entry.record.model_copy(update={"pipeline": pipeline})})
        (library.path / "a" / "entry.json").write_text(changed.to_json())

    rewrite(trust_remote_code=True)
    with pytest.raises(UsageError, match="asks to run code"):
        Predictor(library, device="cpu").ask("a", TEXTS)
    rewrite(config={"weights_only": False})
    with pytest.raises(UsageError, match="overrides weights_only, which the backbone's configuration does not have"):
        Predictor(library, device="cpu").ask("a", TEXTS)
    rewrite(config={"hidden_dropout_prob": 0.0})
    assert Predictor(library, device="cpu").ask("a", TEXTS)


def test_a_task_that_takes_no_texts_is_said(library, make_run, monkeypatch):
    monkeypatch.setattr(Task, "answers_texts", False)
    with pytest.raises(UsageError, match="does not say how new texts are asked"):
        Predictor(library, device="cpu").ask(str(make_run("polarity")), TEXTS)


def test_threads_take_turns(library, make_run):
    for name, technique in (("a", "lora"), ("b", "ia3"), ("c", "adapter")):
        adding.add(library, make_run("polarity", technique), name=name)
    predictor = Predictor(library, limit=2, device="cpu")
    expected = {name: predictor.ask(name, TEXTS) for name in "abc"}
    wrong = []

    def work(name):
        for _ in range(5):
            if predictor.ask(name, TEXTS) != expected[name]:
                wrong.append(name)

    threads = [threading.Thread(target=work, args=(name,)) for name in "abcab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_the_command(library, make_run, refarch, tmp_path):
    adding.add(library, make_run("polarity"), name="polarity")
    topic = make_run("topic", "adapter")
    code, out, _ = refarch("predict", "--adaptation", "polarity", "--adaptation", topic, "--text", "good k", "--json")
    rows = json.loads(out)
    assert code == 0 and [row["adaptation"] for row in rows] == ["polarity", str(topic)]
    assert rows[0]["label"] in ("good", "bad") and sum(rows[1]["scores"].values()) == pytest.approx(1)
    questions = tmp_path / "q.jsonl"
    questions.write_text('{"text": "bad", "adaptation": "polarity"}\n\n{"text": "law"}\n')
    code, out, _ = refarch("predict", "--adaptation", "polarity", "--adaptation", topic, "--file", questions)
    assert code == 0 and len(out.split("\n law ")) == 3 and len(out.split("\n bad ")) == 2
    (tmp_path / "q.txt").write_text("one k\ntwo l\n")
    code, out, _ = refarch("predict", "--adaptation", "polarity", "--file", tmp_path / "q.txt", "--json")
    assert code == 0 and [row["text"] for row in json.loads(out)] == ["one k", "two l"]
    for arguments, reason in (
        ([], "there is no text to ask"),
        (["--pair", "a", "b", "--text", "c"], "some texts are pairs"),
        (["--file", tmp_path / "none.txt"], "none.txt"),
    ):
        code, _, err = refarch("predict", "--adaptation", "polarity", *arguments)
        assert code == 2 and reason in err
    questions.write_text('{"text": "bad", "adaptation": "polaritee"}\n')
    code, _, err = refarch("predict", "--adaptation", "polarity", "--file", questions)
    assert code == 2 and "did you mean 'polarity'?" in err
    code, _, err = refarch("predict", "--adaptation", "polarty", "--text", "x")
    assert code == 2 and "did you mean 'polarity'?" in err


def test_errors_are_the_platforms(library, make_run):
    folder = make_run("polarity") / "adaptations" / "lora"
    with pytest.raises(UsageError, match="says nothing of the task"):
        Predictor(library).ask(str(folder), TEXTS)
    assert issubclass(CheckpointError, RefarchError) and default_registry() and Library(None).path == library.path
