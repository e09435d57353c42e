"""What is pulled was made by others: whatever is wrong is refused and named, and the library stays as it was."""

import hashlib
import json
import os
import pickle
import struct
import sys
from pathlib import Path

import pytest
import torch
from refarch_library import adding, moving
from refarch_library.base import load_base
from refarch_library.store import Library
from safetensors.torch import load_file, save_file

from refarch import default_registry, engine
from refarch.errors import RefarchError
from refarch.testing import Snapshot


class _Bomb:
    def __reduce__(self):
        return exec, ("import sys; sys.modules['refarch_bomb'] = sys",)


LORA = Path("adaptations") / "lora"


def _entry(folder, change):
    path = folder / "entry.json"
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def _tensors(folder):
    return next((folder / LORA).glob("*.safetensors"))


def _agree(folder):
    """Make all digests right again: a forger who is careful."""
    data = json.loads((folder / LORA / "adaptation.json").read_text())
    data["sha256"] = hashlib.sha256(_tensors(folder).read_bytes()).hexdigest()
    (folder / LORA / "adaptation.json").write_text(json.dumps(data))
    names = [path.relative_to(folder).as_posix() for path in (folder / LORA).iterdir()]
    _entry(folder, lambda d: d.update(files={n: adding.described(folder / n).model_dump() for n in names}))


def _bytes(folder, data):
    _tensors(folder).write_bytes(data)
    _agree(folder)


def _retensor(folder, change, shapes=True):
    tensors = load_file(_tensors(folder))
    change(tensors)
    save_file(tensors, _tensors(folder))
    if shapes:
        _saved(folder, lambda d: d.update(shapes={n: list(t.shape) for n, t in tensors.items()}))
    _agree(folder)


def _saved(folder, change):
    path = folder / LORA / "adaptation.json"
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))
    _agree(folder)


def _torch_save(folder):
    torch.save({"x": _Bomb()}, folder / "x")
    _bytes(folder, (folder / "x").read_bytes())


def _renamed(folder, name):
    """Let the entry list its tensors under another name."""
    own = _tensors(folder).relative_to(folder).as_posix()
    _entry(folder, lambda d: d["files"].update({name: d["files"].pop(own)}))


def _link(folder, name):
    path = folder / name
    path.rename(folder.parent / "elsewhere")
    path.symlink_to(folder.parent / "elsewhere")


def _pipe(folder):
    path = _tensors(folder)
    path.unlink()
    os.mkfifo(path)


def _first(tensors):
    return min(tensors)


DAMAGE = {
    "truncated tensors": (lambda f: _tensors(f).write_bytes(_tensors(f).read_bytes()[:-9]), "truncated or altered"),
    "longer tensors": (lambda f: _tensors(f).write_bytes(_tensors(f).read_bytes() + b"x"), "longer than the"),
    "one byte": (lambda f: _tensors(f).write_bytes(_tensors(f).read_bytes()[:-1] + b"x"), "truncated or altered"),
    "tensors missing": (lambda f: _tensors(f).unlink(), "failed: FileNotFoundError"),
    "truncated description": (lambda f: (f / "entry.json").write_text('{"format": 1,'), "not valid JSON"),
    "no description": (lambda f: (f / "entry.json").write_text("[]"), "no description of an entry"),
    "description of a newer format": (lambda f: _entry(f, lambda d: d.update(format=9)), "format 9"),
    "description of another kind": (lambda f: _entry(f, lambda d: d.update(format="1")), "no description"),
    "deep json": (lambda f: (f / "entry.json").write_text("[" * 100_000), "nested too deeply"),
    "nested record": (lambda f: _entry(f, lambda d: d["record"]["pipeline"]["task"]["options"].update(
        x=json.loads('{"a":' * 200 + "1" + "}" * 200))), "nested more than 64 deep"),
    "huge json": (lambda f: (f / "entry.json").write_text(" " * (5 * 2**20)), "longer than the 4,194,304 bytes"),
    "huge number": (lambda f: _entry(f, lambda d: d["files"].update(
        {n: {**v, "bytes": 10**300} for n, v in d["files"].items()})), "out of range"),
    "more than the disk": (lambda f: _entry(f, lambda d: d["files"].update(
        {n: {**v, "bytes": 2**60} for n, v in d["files"].items()})), "has room for"),
    "climbing file": (lambda f: _renamed(f, "adaptations/../../evil.safetensors"), "string should match"),
    "climbing file of the right depth": (lambda f: _renamed(f, "adaptations/../evil.safetensors"), "leads out"),
    "absolute file": (lambda f: _renamed(f, "/tmp/evil.safetensors"), "string should match"),
    "file elsewhere": (lambda f: _renamed(f, "adaptations/lora/x/y"), "string should match"),
    "climbing folder": (lambda f: _entry(f, lambda d: d["parts"][0].update(folder="adaptations/..")), "lists no file"),
    "climbing name": (lambda f: _entry(f, lambda d: d.update(name="../../evil")), "string should match"),
    "climbing tensors": (lambda f: _saved(f, lambda d: d.update(tensors="../../../x.safetensors")), "leads out"),
    "link for a file": (lambda f: _link(f, _tensors(f).relative_to(f)), "a link that leads out of the folder"),
    "link for a folder": (lambda f: _link(f, LORA), "a link that leads out of the folder"),
    "link for the description": (lambda f: _link(f, "entry.json"), "a link that leads out of the folder"),
    "pipe": (_pipe, "no ordinary file"),
    "pickle": (lambda f: _bytes(f, pickle.dumps(_Bomb())), "it is a pickle"),
    "torch.save": (_torch_save, "a zip archive, as torch.save writes"),
    "header bomb": (lambda f: _bytes(f, struct.pack("<Q", 2**60) + b"{}"), "its header would be"),
    "nan": (lambda f: _retensor(f, lambda t: t[_first(t)].view(-1)[:1].fill_(float("nan"))), "not finite"),
    "wrong shapes": (lambda f: _retensor(f, lambda t: t.update({_first(t): torch.ones(2, 3)}), False), "different: "),
    "another number of parameters": (lambda f: _retensor(f, lambda t: t.update(x=torch.ones(7))), "says otherwise"),
    "another technique": (lambda f: _entry(f, lambda d: d["parts"][0].update(technique="ia3")), "says otherwise"),
    "another base": (lambda f: _entry(f, lambda d: d["base"]["fingerprint"].update(dtype="float16")), "says otherwise"),
}  # fmt: skip


@pytest.fixture
def there(library, make_run, tmp_path):
    """An entry somewhere else, and an empty library."""
    adding.add(library, make_run("polarity"), name="polarity")
    moving.push(library, "polarity", str(tmp_path / "there"))
    library.remove("polarity")
    return tmp_path / "there"


@pytest.mark.parametrize("kind", DAMAGE)
def test_what_is_wrong_is_refused_and_nothing_is_left(kind, there, library):
    damage, reason = DAMAGE[kind]
    damage(there)
    around = sorted(path.name for path in library.path.parent.iterdir())
    with pytest.raises(RefarchError, match=reason) as caught:
        moving.pull(library, str(there))
    assert list(library.path.iterdir()) == [] and len(str(caught.value)) < 1_500
    assert sorted(path.name for path in library.path.parent.iterdir()) == around
    assert "refarch_bomb" not in sys.modules


LATER = {
    "other shapes, honestly": (lambda f: _retensor(f, lambda t: t.update({_first(t): torch.ones(2, 3)})), "different"),
    "another base, honestly": (lambda f: _saved(f, lambda d: d["base"].update(content="0" * 32)), "other weights"),
    "code": (
        lambda f: _saved(f, lambda d: d["technique"]["technique"]["modules"][0].update(function="evil:Payload")),
        "evil:Payload, which the installed",
    ),
}


@pytest.mark.parametrize("kind", LATER)
def test_what_only_a_model_shows_is_refused_when_it_is_loaded(kind, there, library, make_run, tmp_path):
    """An entry that agrees with itself, but not with its technique or its base."""
    model, _ = load_base(adding.describe(make_run("polarity")), default_registry(), device="cpu")
    before = Snapshot(model)
    damage, reason = LATER[kind]
    damage(there)
    path = there / LORA / "adaptation.json"
    part = adding.part(engine.read(path.parent)[0], "adaptations/lora").model_dump()
    base = json.loads(path.read_text())["base"]
    _entry(there, lambda d: (d.update(parts=[part]), d["base"].update(fingerprint=base)))
    moving.pull(library, str(there))
    with pytest.raises(RefarchError, match=reason):
        library.load(model, "polarity")
    assert before.differences(model) == [] and "evil" not in sys.modules


def test_an_entry_under_anothers_name_is_refused(there, library):
    Library(library.path)
    moving.pull(library, str(there))
    (library.path / "polarity").rename(library.path / "other")
    with pytest.raises(RefarchError, match="says that its name is 'polarity'"):
        library.get("other")
