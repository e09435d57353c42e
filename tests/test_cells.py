"""Which cells of the conformance matrix run in every run of the tests, and when one of the table is out of date."""

import subprocess
import textwrap
from pathlib import Path
from types import SimpleNamespace

import pytest
from cells import Cell, Matrix
from digests import ROOT, Digests, of_code, touched

from refarch.plugins import default_registry
from refarch.testing import PROBE_CHECKS, Tiny, covering, forms, missing

REGISTRY = default_registry()
TECHNIQUES = [REGISTRY.technique(name) for name in REGISTRY.names("technique")]
FAMILIES = REGISTRY.families()
BERT = REGISTRY.backbone("bert")


def test_the_sample_has_each_technique_on_each_kind_and_each_form_on_each_family():
    applies = Matrix.read().applies
    cells = covering(TECHNIQUES, FAMILIES, applies)
    assert missing(cells, TECHNIQUES, FAMILIES, applies) == []
    assert {technique for technique, _ in cells} == {spec.name for spec in TECHNIQUES}
    assert {family for _, family in cells} == {spec.name for spec in FAMILIES}
    assert all(applies(*cell) for cell in cells)
    assert len(cells) < len(TECHNIQUES) * len(FAMILIES) / 3
    assert cells == covering(TECHNIQUES[::-1], FAMILIES[::-1], applies), "it depends on the order"


def test_what_a_choice_misses_is_said():
    cells = covering(TECHNIQUES, FAMILIES)
    technique, family = TECHNIQUES[0], FAMILIES[0]
    without = {cell for cell in cells if cell[0] != technique.name}
    assert any(
        f"technique {technique.name!r} on no family of kind encoder" == said
        for said in missing(without, TECHNIQUES, FAMILIES)
    )
    without = {cell for cell in cells if cell[1] != family.name}
    said = " ".join(missing(without, TECHNIQUES, FAMILIES))
    for kind, form in set().union(*map(forms, TECHNIQUES)):
        assert f"family {family.name!r} with no technique of {kind} {form}" in said


def sample(request, *, args=(), cells=frozenset(), touched=frozenset()):
    """The house's own choice, as pytest's configuration would make it."""
    house = request.config.pluginmanager.get_plugin(str(ROOT / "conftest.py"))
    where = SimpleNamespace(dir=ROOT)
    found = house.Sample(SimpleNamespace(args=list(args), invocation_params=where, getoption=lambda name: None))
    found.touched = set(touched)
    found.__dict__["cells"] = cells
    return found


def chosen(sample, technique, families=None, check="identity_at_start"):
    """The families of the cases that a conformance class would run, each as often as it has heads there."""
    cls = type("TestIt", (), {"technique": technique, "families": families})
    tiny = [Tiny(family, head) for family in FAMILIES for head in family.tiny.auto_classes]
    found = [each for each in tiny if sample(cls, check, SimpleNamespace(tiny=each))]
    return sorted(each.family.name for each in found)


EVERY = sorted(family.name for family in FAMILIES for _ in family.tiny.auto_classes)


def test_a_session_runs_the_sample_and_all_of_what_is_touched_or_named(request):
    cells = frozenset({("lora", "bert"), ("ia3", "gpt2")})
    assert chosen(sample(request, cells=cells), "lora") == ["bert"], "on one head"
    assert chosen(sample(request, cells=cells, touched={"lora"}), "lora") == EVERY
    assert chosen(sample(request, cells=cells, touched={"t5", "gpt2"}), "lora") == ["bert", "gpt2", "gpt2", "t5"]
    named = sample(request, args=["plugins/techniques/lora/tests/test_lora.py::TestLora"], cells=cells)
    assert chosen(named, "lora") == EVERY
    assert chosen(named, "ia3") == ["gpt2"]
    everything = sample(request, args=["tests", "core/tests", "plugins"], cells=cells)
    assert chosen(everything, "lora") == ["bert"]
    assert chosen(sample(request), "lora", families=("bert",)) == sorted({*EVERY}), "its author chose the families"


def test_both_heads_of_a_family_are_in_the_sample(request):
    """Which one a technique has is decided by hash."""
    heads = {
        head
        for technique in TECHNIQUES
        for head in BERT.tiny.auto_classes
        if sample(request, cells=frozenset({(technique.name, "bert")}))(
            type("TestIt", (), {"technique": technique.name}), "", SimpleNamespace(tiny=Tiny(BERT, head))
        )
    }
    assert heads == set(BERT.tiny.auto_classes)


def test_what_is_no_cell_of_the_matrix_always_runs(request):
    assert chosen(sample(request), None) == EVERY, "a family's or a task's own checks"
    assert chosen(sample(request), TECHNIQUES[0]) == EVERY, "a spec that is no plugin"


def test_kin_have_the_checks_of_the_table_and_one_probe_each(request):
    llama = REGISTRY.backbone("llama")
    cls, kin = type("TestIt", (), {"family": "llama"}), [llama, *llama.relatives()]

    def probed(choice, check):
        cases = [SimpleNamespace(tiny=Tiny(member, member.tiny.auto_classes[0])) for member in kin]
        return [case.tiny.family.tiny.model_type for case in cases if choice(cls, check, case)]

    everyone = [member.tiny.model_type for member in kin]
    assert probed(sample(request), "every_entry_exists") == everyone
    assert probed(sample(request, touched={"llama"}), "probe_line_works") == everyone
    each = [model for check in PROBE_CHECKS for model in probed(sample(request), check) if model != "llama"]
    assert sorted(each) == sorted(everyone[1:]), "one each"
    assert all("llama" in probed(sample(request), check) for check in PROBE_CHECKS)


CODE = '''
"""A module."""
from refarch import Function
from refarch.engine.forms import LowRank
import torch


def f(x):
    """A function."""
    return x + 1  # one more
'''


def test_a_digest_is_of_code_and_not_of_words_or_places():
    same = (
        CODE.replace("A module", "Another").replace("# one more", "").replace("refarch.engine.forms", "refarch.linear")
    )
    assert of_code(same.replace("x + 1", "(x\n        + 1)")) == of_code(CODE)
    for old, new in (("x + 1", "x + 2"), ("x + 1", "x - 1"), ("import torch", "import numpy"), ("f(x)", "g(x)")):
        assert of_code(CODE.replace(old, new)) != of_code(CODE), new
    assert of_code("from refarch_lora import A") != of_code("from refarch_ia3 import A")
    assert of_code("x = 1") != of_code("x = 1.0") != of_code("x = '1'")
    assert of_code("f(a, [b])") != of_code("f(a, b)") != of_code("f([a, b])")


def package(root: Path, kind: str, name: str, needs: str = "") -> None:
    folder = root / "plugins" / f"{kind}s" / name
    source = folder / "src" / f"refarch_{name}" / "__init__.py"
    source.parent.mkdir(parents=True)
    source.write_text(f'"""{name}."""\nSPEC = "{name}"\n')
    (folder / "pyproject.toml").write_text(
        textwrap.dedent(f"""
            [project]
            name = "refarch-{name}"
            dependencies = ["refarch"{f', "refarch-{needs}"' if needs else ""}]
            [project.entry-points."refarch.{kind}"]
            {name} = "refarch_{name}"
        """)
    )


@pytest.fixture
def house(tmp_path):
    """A small house with three techniques, one of them made from another, and a family; under git."""
    for kind, name, needs in (
        ("technique", "plain", ""),
        ("technique", "made", "plain"),
        ("technique", "alone", ""),
        ("backbone", "fam", ""),
    ):
        package(tmp_path, kind, name, needs)
    for path in ("engine/forms.py", "testing/kit.py", "cli/main.py"):
        (tmp_path / "core/src/refarch" / path).parent.mkdir(parents=True)
        (tmp_path / "core/src/refarch" / path).write_text(f'WHERE = "{path}"\n')
    git = ["git", "-C", str(tmp_path), "-c", "user.name=x", "-c", "user.email=x@example.org"]
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "all"]):
        subprocess.run([*git, *command], check=True)
    return tmp_path


def source(house: Path, kind: str, name: str) -> Path:
    return house / f"plugins/{kind}s/{name}/src/refarch_{name}/__init__.py"


def append(path: Path, text: str) -> None:
    path.write_text(path.read_text() + text)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda house: append(source(house, "technique", "plain"), "# a comment\n"), (set(), False)),
        (lambda house: append(source(house, "technique", "plain"), "MORE = 1\n"), ({"plain", "made"}, False)),
        (lambda house: append(source(house, "backbone", "fam"), "MORE = 1\n"), ({"fam"}, False)),
        (lambda house: append(house / "core/src/refarch/engine/forms.py", "MORE = 1\n"), (set(), True)),
        (lambda house: (house / "plugins/techniques/alone/new.py").write_text("NEW = 1\n"), ({"alone"}, False)),
        (lambda house: source(house, "technique", "made").unlink(), ({"made"}, False)),
    ],
    ids=["words", "technique", "family", "core", "new file", "file gone"],
)
def test_a_change_touches_what_its_code_is_part_of(house, change, expected):
    change(house)
    assert touched("HEAD", house) == expected


def outdated(house: Path, matrix: Matrix) -> dict:
    return {" x ".join(place): reasons for place, reasons in matrix.outdated(list(matrix.cells), Digests(house))}


def test_a_cell_is_out_of_date_when_what_it_ran_on_has_changed(house):
    places = [(technique, where) for technique in ("plain", "made", "alone") for where in ("plugin", "fam")]
    now = Digests(house)
    matrix = Matrix({place: Cell(*place, passed=1, ran_on=now.cell(*place)) for place in places})
    assert outdated(house, matrix) == {}
    append(source(house, "technique", "plain"), "# words\n")
    (house / "core/src/refarch/engine").rename(house / "core/src/refarch/forms")
    append(house / "core/src/refarch/cli/main.py", "MORE = 1\n")
    assert outdated(house, matrix) == {}, "by words, a move, or a part of the core that no cell runs through"
    append(source(house, "technique", "plain"), "MORE = 1\n")
    assert outdated(house, matrix) == {
        f"{technique} x {where}": ["technique"] for technique in ("plain", "made") for where in ("plugin", "fam")
    }
    append(source(house, "backbone", "fam"), "MORE = 1\n")
    assert outdated(house, matrix)["made x fam"] == ["technique", "family"]
    assert outdated(house, matrix)["alone x fam"] == ["family"]
    assert "alone x plugin" not in outdated(house, matrix)
    append(house / "core/src/refarch/testing/kit.py", "MORE = 1\n")
    assert outdated(house, matrix)["alone x plugin"] == ["kit"]
    append(house / "core/src/refarch/forms/forms.py", "MORE = 1\n")
    assert outdated(house, matrix)["alone x plugin"] == ["kit", "core"]


def test_the_options_of_its_own_tests_are_part_of_what_a_cell_ran_on(house):
    matrix = Matrix({("alone", "fam"): Cell("alone", "fam", passed=1, ran_on=Digests(house).cell("alone", "fam"))})
    tests = house / "plugins/techniques/alone/tests"
    tests.mkdir()
    (tests / "test_alone.py").write_text("class TestIt(TechniqueConformance):\n    technique = 'alone'\n")
    assert outdated(house, matrix) == {}
    append(tests / "test_alone.py", "    options = {'rank': 2}\n")
    assert outdated(house, matrix) == {"alone x fam": ["technique"]}


def test_a_cell_that_failed_is_never_up_to_date(house):
    now = Digests(house).cell("alone", "fam")
    matrix = Matrix({("alone", "fam"): Cell("alone", "fam", error="it died", ran_on=now)})
    assert outdated(house, matrix) == {"alone x fam": ["failed"]}
