"""The drawing of techniques in a layer: that everything stands where the spec says, and nothing on anything else."""

from __future__ import annotations

import itertools
import subprocess
import sys
from xml.etree import ElementTree

import pytest
from refarch_compare import naming
from refarch_compare.diagram.draw import diagram

from refarch import default_registry
from refarch.cli import main

REGISTRY = default_registry()
VARIANTS = naming.variants(REGISTRY)
SVG = "{http://www.w3.org/2000/svg}"


def boxes(drawn):
    """Title, x, y, width and height of each box, from top to bottom."""
    root = ElementTree.fromstring(drawn)
    found = []
    for group in root.iter(f"{SVG}g"):
        rect = group.findall(f"{SVG}rect")[-1]
        found.append((group.find(f"{SVG}title").text, *(float(rect.get(k)) for k in ("x", "y", "width", "height"))))
    for rect in root.iter(f"{SVG}rect"):
        if rect.get("x") and rect.get("class") != "under":
            assert float(rect.get("x")) + float(rect.get("width")) <= float(root.get("width"))
            assert float(rect.get("y")) + float(rect.get("height")) <= float(root.get("height"))
    return sorted(found, key=lambda box: (box[2], box[1]))


def drawn(*names, family=None):
    return diagram([naming.parse(name, REGISTRY) for name in names], family, REGISTRY)


def columns(found, *titles):
    """The boxes with these titles."""
    return [box for box in found if box[0] in titles]


def test_a_parallel_module_stands_beside_what_it_is_parallel_to():
    found = boxes(drawn("lora"))
    query, value = columns(found, "attention.query")[0], columns(found, "attention.value")[0]
    first, second = columns(found, "low_rank: scaled addition")
    assert first[2] == query[2] == second[2] == value[2], "side by side"
    assert query[1] + query[3] < first[1] < value[1] and second[1] > value[1] + value[3]


def test_a_sequential_module_stands_after_what_it_reads():
    found = [box[0] for box in boxes(drawn("adapter"))]
    module = "bottleneck: direct addition"
    assert found[found.index("attention.output") + 1] == module == found[found.index("ffn.down") + 1]
    assert found.count(module) == 2


def test_what_joins_an_input_stands_before_the_slot():
    found = [box[0] for box in boxes(drawn("ia3"))]
    assert found[found.index("ffn.up") + 1 : found.index("ffn.down") + 1] == ["factors: rescaling", "ffn.down"]


def test_a_module_beside_a_sublayer_spans_it():
    found = boxes(drawn("adapter:parallel"))
    (module,) = columns(found, "bottleneck: scaled addition")
    up, down = columns(found, "ffn.up", "ffn.down")
    assert up[2] < module[2] < down[2] + down[4] and module[1] > up[1] + up[3]


def test_selections_and_transformations_mark_the_base_itself():
    text = drawn("bitfit", "oft", "prompt-tuning")
    assert text.count("trains bias") == 11, "eight linear layers and norms of a layer, the final norm, the head; title"
    assert text.count("rotation(W)") == 4
    assert ">prompt<" in text and "‖" in text


@pytest.mark.parametrize("family", [None, "bert", "phi", "t5"])
def test_no_two_boxes_overlap_whatever_is_drawn(family):
    spec = None if family is None else REGISTRY.backbone(family)
    chosen = VARIANTS if family is None else [VARIANTS[i] for i in range(0, len(VARIANTS), 5)]
    names = [item.label for item in chosen]
    text = drawn(*names, family=spec)
    found = boxes(text)
    assert all(f">{name}</text>" in text for name in names)
    for a, b in itertools.combinations(found, 2):
        if b[2] >= a[2] + a[4] or a[2] >= b[2] + b[4]:
            continue
        assert a[1] + a[3] <= b[1] or b[1] + b[3] <= a[1], f"{a} on {b}"


def test_a_technique_that_does_not_exist_on_the_backbone_says_why(tmp_path, capsys):
    file = tmp_path / "layer.svg"
    assert main(["diagram", "lora:slots=[ffn.up]", "prefix-tuning", "--backbone", "mixtral", "-o", str(file)]) == 0
    text = file.read_text()
    assert "not here: family &#x27;mixtral&#x27;" in text and "low_rank" not in text and ">prefix<" in text
    assert "prefers-color-scheme: dark" in text
    for wrong, said in ((["lor"], "'lora'"), (["lora", "--backbone", "nowhere/at-all"], "nowhere/at-all")):
        assert main(["diagram", *wrong]) == 2
        assert said in capsys.readouterr().err


def test_without_a_backbone_torch_is_not_imported(tmp_path):
    code = (
        "import sys; from refarch.cli.app import main; main(['diagram', 'lora', '-o', sys.argv[1]]); "
        "print([name for name in ('torch', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "layer.svg")], capture_output=True, text=True, check=False
    )
    assert done.stdout.strip().endswith("[]"), done.stderr
