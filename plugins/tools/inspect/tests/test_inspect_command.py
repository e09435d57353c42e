"""``refarch inspect`` as it is used."""

import importlib.util
import json
import sys
import xml.etree.ElementTree as ET

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

import refarch
from refarch import FamilySpec
from refarch.cli import main


def run(capsys, *arguments):
    code = main(["inspect", *arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_a_known_family_by_model_type(capsys):
    code, out, _ = run(capsys, "--model-type", "bert")
    assert code == 0
    assert "BertForMaskedLM (bert): 12 encoder layers; the table of family 'bert'" in out
    (line,) = [line for line in out.splitlines() if line.startswith("encoder") and " ffn.up " in line]
    assert line.split() == ["encoder", "ffn.up", "intermediate.dense", "Linear", "768", "->", "3072", "12"]
    assert "no slot names (encoder): none" in out
    assert "⊕" in out and "● attention.query" in out


def test_a_family_name_and_a_folder(capsys, tmp_path):
    AutoConfig.for_model("gpt2", n_layer=3, n_embd=48, n_head=4).save_pretrained(tmp_path)
    code, out, _ = run(capsys, str(tmp_path), "--json")
    data = json.loads(out)
    assert code == 0
    rows = {row["slot"]: row for row in data["slots"]}
    assert (rows["attention.key"]["entry"], rows["attention.key"]["d_out"]) == ("attn.c_attn[1/3]", 48)
    assert (rows["attention.key"]["layers"], data["proposed"]) == (3, False)
    assert run(capsys, "gpt2", "--json")[0] == 0


@pytest.mark.parametrize("kind", ["t5", "gptj", "bert", "qwen3_moe"])
def test_the_drawing_has_every_slot(capsys, tmp_path, kind):
    path = tmp_path / "layer.svg"
    code, out, _ = run(capsys, "--model-type", kind, "--json", "--svg", str(path))
    assert code == 0
    root = ET.parse(path).getroot()
    text = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    drawn = {row["slot"] for row in json.loads(out)["slots"] if row["module"]}
    assert drawn <= set(text)
    assert "prefers-color-scheme: dark" in path.read_text(encoding="utf-8")
    width, height = float(root.get("width")), float(root.get("height"))
    for box in root.iter("{http://www.w3.org/2000/svg}rect"):
        if box.get("x"):
            assert float(box.get("x")) + float(box.get("width")) <= width
            assert float(box.get("y")) + float(box.get("height")) <= height


def test_a_saved_proposal_works_inline(capsys, tmp_path):
    path = tmp_path / "gptj.json"
    assert run(capsys, "--model-type", "gptj", "--save", str(path))[0] == 0
    family = FamilySpec.from_json(path.read_text(encoding="utf-8"))
    config = AutoConfig.for_model("gptj", **family.tiny.config)
    model = AutoModelForCausalLM.from_config(config)
    adaptation = refarch.attach(model, "lora", family=family, rank=2)
    loss = model(input_ids=torch.tensor([[3, 4, 5]]), labels=torch.tensor([[3, 4, 5]])).loss
    loss.backward()
    assert any(parameter.grad is not None for parameter in adaptation.parameters())


def test_the_source_and_the_package_hold_the_same_table(capsys, tmp_path):
    folder, saved = tmp_path / "refarch-codegen", tmp_path / "codegen.json"
    assert run(capsys, "codegen", "--package", str(folder), "--save", str(saved))[0] == 0
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert {"pyproject.toml", "README.md", "src/refarch_codegen/__init__.py"} <= names
    spec = importlib.util.spec_from_file_location("refarch_codegen", folder / "src/refarch_codegen/__init__.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.refarch_backbones() == [FamilySpec.from_json(saved.read_text(encoding="utf-8"))]
    code, _, err = run(capsys, "codegen", "--package", str(folder))
    assert (code, "not empty" in err) == (2, True)


def test_wrong_use_is_said_in_words(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert run(capsys)[0] == 2
    code, _, err = run(capsys, "--model-type", "brt")
    assert (code, "'bert'" in err) == (2, True)
    code, _, err = run(capsys, "--model-type", "bert", "--save", str(tmp_path / "x.yaml"))
    assert (code, ".json or as .py" in err) == (2, True)
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    code, _, err = run(capsys, str(tmp_path))
    assert (code, "cannot be read" in err) == (2, True)


def test_the_plugin_is_light():
    import subprocess

    code = "import sys, refarch_inspect; refarch_inspect.refarch_commands(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
