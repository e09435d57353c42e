"""Entries: what is added is found, shown, checked, shared and removed; what is damaged is refused."""

import json
import subprocess
import sys
import time

import pytest
import torch
import yaml
from refarch_library import adding, checking, moving
from refarch_library.base import load_base
from refarch_library.entry import Entry
from refarch_library.searching import Query, search
from refarch_library.store import Library
from transformers import AutoModelForSequenceClassification

from refarch import RunRecord, default_registry
from refarch.engine import read_description
from refarch.errors import RunError, UnknownNameError, UsageError
from refarch.files import read_json


@pytest.fixture
def added(library, make_run):
    return adding.add(library, make_run("polarity"), name="polarity", licence="MIT", description="Good *or* bad")


def test_an_entry_says_all_about_itself(library, added, make_run, root):
    assert library.names() == ["polarity"] and library.get("polarity") == added
    record = RunRecord.parse(read_json(make_run("polarity") / "record.json"))
    assert added.record == record and added.licence == "MIT"
    assert added.base.auto_class == "AutoModelForSequenceClassification" and added.base.labels == {0: "bad", 1: "good"}
    part = added.parts[0]
    assert (part.technique, part.workspace, part.head) == ("lora", ("attention.query", "attention.value"), True)
    assert (part.distribution, part.insertions) == ("refarch-lora", 4)
    saved = read_description(library.folder(added) / part.folder)
    assert added.base.fingerprint == saved.base and saved.shapes and saved.slot_map
    assert part.parameters == record.trainable_parameters


def test_the_card_is_one_that_the_hub_can_read(library, added):
    _, header, body = (library.folder(added) / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    found = yaml.safe_load(header)
    assert found["license"] == "MIT" and found["pipeline_tag"] == "text-classification"
    assert found["library_name"] == "refarch" and "lora" in found["tags"]
    metric = found["model-index"][0]["results"][0]["metrics"][0]
    assert metric == {"type": "accuracy", "value": added.record.score}
    assert "Good \\*or\\* bad" in body and "base_model" not in found  # a local folder is no hub id


def test_what_an_entry_says_cannot_become_something_else_in_its_card(library, make_run):
    text = "x\n---\nlicense: other\n<script>alert(1)</script> [a](javascript:b)"
    entry = adding.add(library, make_run("polarity"), name="odd", licence='MIT\ntags: ["y"]', description=text)
    card = (library.folder(entry) / "README.md").read_text(encoding="utf-8")
    found = yaml.safe_load(card.split("---\n", 2)[1])
    assert found["license"] == 'MIT\ntags: ["y"]' and found["tags"][0] == "refarch"
    assert "<script>" not in card.replace("\\<", "") and card.count("\n---\n") == 1


def test_loading_gives_the_model_of_the_run(library, added, make_run, root):
    run = make_run("polarity")
    model, tokenizer = load_base(added, default_registry(), device="cpu")
    (adaptation,) = library.load(model, "polarity")
    assert adaptation.name == "lora"
    inputs = tokenizer(["good k"], return_tensors="pt")
    plain = AutoModelForSequenceClassification.from_pretrained(root / "bert", num_labels=2).eval()
    import refarch

    refarch.load(plain, run / "adaptations" / "lora")
    assert torch.equal(model(**inputs).logits, plain(**inputs).logits)


def test_a_run_of_several_adaptations_is_one_entry(library, make_run):
    entry = adding.add(library, make_run("topic", ("lora", "adapter")))
    assert [part.technique for part in entry.parts] == ["lora", "adapter"]
    assert [part.head for part in entry.parts] == [True, False]
    model, _ = load_base(entry, default_registry(), device="cpu")
    assert [adaptation.name for adaptation in library.load(model, entry.name)] == ["lora", "adapter"]


def test_what_is_no_finished_run_is_refused(library, tmp_path, make_run):
    with pytest.raises(UsageError, match="holds no run"):
        adding.add(library, tmp_path)
    (tmp_path / "pipeline.json").write_text("{}")
    with pytest.raises(UsageError, match="not finished"):
        adding.add(library, tmp_path)
    adding.add(library, make_run("polarity"), name="a")
    with pytest.raises(UsageError, match="has an entry 'a' already"):
        adding.add(library, make_run("polarity"), name="a")
    with pytest.raises(UsageError, match="cannot be an entry's name"):
        adding.add(library, make_run("polarity"), name="../b")
    adding.add(library, make_run("polarity"), name="a", description="new", replace=True)
    assert library.get("a").description == "new"
    assert sorted(path.name for path in library.path.iterdir()) == ["a"]


def test_entries_are_found_by_what_they_are(library, make_run):
    for task, technique in (("polarity", "lora"), ("polarity", "ia3"), ("topic", "adapter")):
        adding.add(library, make_run(task, technique), name=f"{task}-{technique}")
    entries, problems = library.entries()
    assert not problems

    def names(**conditions):
        return {entry.name for entry in search(entries, Query(**conditions))}

    assert names(technique="lora") == {"polarity-lora"} and names(technique="*a*") == set(library.names())
    assert names(slot="attention.key") == {"polarity-ia3"} and names(slot="ffn.down") == {"topic-adapter"}
    assert names(backbone="bert") == names(backbone="BERT") == set(library.names()) and not names(backbone="gpt2")
    assert names(task="text-*") == set(library.names()) and names(text="topic adapter") == {"topic-adapter"}
    best = max(entry.record.score for entry in entries)
    assert names(score=f">={best}") == {entry.name for entry in entries if entry.record.score == best}
    assert not names(score=f">{best}") and names(score="0") == set(library.names())
    for wrong in ("good", ">=", "0..5", ">=1 or 1"):
        with pytest.raises(UsageError, match="not understood"):
            names(score=wrong)


def test_thousands_of_entries_are_listed_fast(library, added):
    text = (library.folder(added) / "entry.json").read_text(encoding="utf-8")
    data = json.loads(text)
    for number in range(2_000):
        folder = library.path / f"e{number:04}"
        folder.mkdir()
        (folder / "entry.json").write_text(json.dumps({**data, "name": folder.name}), encoding="utf-8")
    began = time.process_time()
    entries, problems = library.entries()
    found = search(entries, Query(technique="lora", score=">=0"))
    seconds = time.process_time() - began
    assert len(found) == 2_001 and not problems
    one = time.process_time()
    for _ in range(50):
        json.loads(text)
        Entry.from_json(text)
    assert seconds < 2_001 * 4 * (time.process_time() - one) / 50  # next to nothing beside reading each once


def test_listing_and_searching_import_no_torch(library, added):
    code = """
import sys
from refarch.cli import main
main(["library", "list"])
main(["library", "search", "--technique", "lora"])
print(sorted({"torch", "transformers", "fsspec"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]" and done.stdout.count("1 of 1 entries") == 2


def test_checking_tells_problems_from_changes(library, added):
    levels = [finding.level for finding in checking.check(library, "polarity")]
    assert set(levels) == {"ok"} and checking.check_loading(library, "polarity").level == "ok"
    path = library.folder(added) / "adaptations" / "lora" / "adaptation.json"
    data = json.loads(path.read_text())
    data["versions"]["refarch-lora"] = "0.0.1"
    path.write_text(json.dumps(data))
    assert next(f.text for f in checking.check(library, "polarity")).startswith(str(path))  # altered
    entry = library.get("polarity")
    files = {**entry.files, "adaptations/lora/adaptation.json": adding.described(path)}
    (library.folder(added) / "entry.json").write_text(entry.model_copy(update={"files": files}).to_json())
    notes = [f.text for f in checking.check(library, "polarity") if f.level == "note"]
    assert notes == ["lora: made with refarch-lora 0.0.1, here it is 0.1.0"]


def test_removing_and_unknown_names(library, added, refarch):
    with pytest.raises(UnknownNameError, match="no entry 'polarty'"):
        library.get("polarty")
    code, _, err = refarch("library", "remove", "polarty", "--yes")
    assert code == 2 and "did you mean 'polarity'?" in err
    code, out, _ = refarch("library", "remove", "polarity", "--yes")
    assert code == 0 and out == "removed polarity\n" and not list(library.path.iterdir())


def test_an_entry_goes_away_and_comes_back(library, added, tmp_path):
    told: list[str] = []
    for url in (f"{tmp_path}/there", "memory://there/polarity"):
        assert moving.push(library, "polarity", url) == url
        with pytest.raises(UsageError, match="holds an entry already"):
            moving.push(library, "polarity", url)
        moving.push(library, "polarity", url, replace=True)
        other = Library(tmp_path / f"other-{url[:6].replace('/', '-')}")
        told.clear()
        entry = moving.pull(other, url, progress=lambda name, size: told.append(name))
        assert entry == added and set(told) >= set(added.files)
        for path in [*added.files, "README.md", "entry.json"]:
            assert (other.path / "polarity" / path).read_bytes() == (library.path / "polarity" / path).read_bytes()
        assert moving.pull(other, url, name="second").name == "second"
        assert {f.level for f in checking.check(other, "second")} == {"ok"}
        with pytest.raises(UsageError, match="has an entry 'polarity' already"):
            moving.pull(other, url)


def test_what_cannot_be_reached_is_said(library, added, tmp_path):
    with pytest.raises(RunError, match=r"failed: .*entry\.json"):
        moving.pull(library, str(tmp_path / "nowhere"))
    with pytest.raises(UsageError, match="cannot be reached"):
        moving.pull(library, "nosuchprotocol://x")
    with pytest.raises(RunError, match="failed"):
        moving.push(library, "polarity", "/proc/nowhere/x")
    assert library.names() == ["polarity"] and len(list(library.path.iterdir())) == 1


def test_the_hub_gets_one_commit(library, added, monkeypatch):
    import huggingface_hub

    class Api:
        calls = []

        def create_repo(self, repository, **how):
            self.calls.append((repository, how))

        def upload_folder(self, **how):
            self.calls.append(how)
            return "the commit"

    class System:
        protocol = ("hf",)

        def exists(self, path):
            return False

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(moving, "place", lambda url: moving.Place(url, System(), url.partition("://")[2]))
    assert moving.push(library, "polarity", "hf://me/mine@next/inner", private=False) == "the commit"
    assert Api.calls[0] == ("me/mine", {"private": False, "exist_ok": True})
    how = Api.calls[1]
    assert (how["repo_id"], how["revision"], how["path_in_repo"]) == ("me/mine", "next", "inner")
    assert set(how["allow_patterns"]) == {*added.files, "README.md", "entry.json"}
    with pytest.raises(UsageError, match="names no model repository"):
        moving.hub_place("hf://datasets/me")


def test_the_commands_teach_and_answer(library, make_run, refarch, tmp_path):
    code, out, err = refarch("library", "add", make_run("polarity"), "--name", "polarity")
    assert code == 0 and "added polarity: " in out and "no licence is stated" in err
    code, out, _ = refarch("library", "list")
    assert code == 0 and "polarity" in out and "lora" in out and "1 of 1 entries" in out
    code, out, _ = refarch("library", "search", "--technique", "lora", "--score", ">=0", "--json")
    assert code == 0 and json.loads(out)["entries"][0]["name"] == "polarity"
    code, out, _ = refarch("library", "show", "polarity")
    assert code == 0 and "attention.query, attention.value, 4 insertions" in out and "rank=8" in out
    code, out, _ = refarch("library", "show", "polarity", "--json")
    shown = json.loads(out)
    assert (
        shown["checkpoints"]["lora"]["slot_map"] and shown["record"]["score"] == shown["record"]["metrics"]["accuracy"]
    )
    code, out, _ = refarch("library", "check", "--load")
    assert code == 0 and "loads onto BertForSequenceClassification" in out
    code, _, err = refarch("library", "push", "polarity", tmp_path / "p")
    assert code == 0 and "backbone is a local path" in err
    code, out, _ = refarch("library", "pull", tmp_path / "p", "--name", "again")
    assert code == 0 and "pulled again" in out
    (library.path / "again" / "entry.json").write_text("{}")
    code, out, err = refarch("library", "list")
    assert code == 0 and "1 of 1 entries" in out and "cannot read again" in err
    code, out, _ = refarch("library", "check", "again")
    assert code == 1 and "problem" in out
    for name in ("add", "check", "list", "pull", "push", "remove", "search", "show"):
        code, out, _ = refarch("library", name, "--help")
        assert code == 0 and len(out.splitlines()) > 8
    assert "did you mean" in refarch("library", "serch")[2]


LISTING = """
import sys
from refarch.cli import main
assert main(sys.argv[1:]) == 0
assert not {"torch", "transformers", "numpy"} & sys.modules.keys()
"""


@pytest.mark.parametrize("line", ["list", "list --json", "search polarity", "show polarity", "show polarity --json"])
def test_entries_are_listed_and_shown_without_torch(line, library, added):
    done = subprocess.run(
        [sys.executable, "-c", LISTING, "library", *line.split()], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "polarity" in done.stdout
