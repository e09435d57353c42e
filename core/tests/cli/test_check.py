from __future__ import annotations

import json
from typing import Any

import pytest

BLOCK_PYTEST = """
import sys
sys.modules["pytest"] = None
from refarch.cli import main
sys.exit(main(sys.argv[1:]))
"""
WRONG = """
from refarch import ModuleSpec, TechniqueSpec, hookimpl
from refarch.testing.probes import RESCALING

MODULE = RESCALING.modules[0].model_copy(update={"function": "quokka_function:Twos"})
SPEC = RESCALING.model_copy(update={"name": "quokka", "modules": (MODULE,)})


@hookimpl
def refarch_techniques():
    return [SPEC]
"""
TWOS = """
import torch
from refarch import Function


class Twos(Function):
    def __init__(self, shape):
        super().__init__()
        self.factors = torch.nn.Parameter(torch.full((shape.d_out,), 2.0))

    def forward(self):
        return self.factors
"""


@pytest.fixture
def wrong(site: Any) -> Any:
    """A technique that changes the output at the start, which its spec denies."""
    site.plugin("quokka", source=WRONG)
    site.module("quokka_function", TWOS)
    return site


@pytest.mark.slow
def test_a_technique_without_pytest(site: Any) -> None:
    done = site.process("-c", BLOCK_PYTEST, "check", "ia3", "--family", "bert", warmed=True)
    assert done.code == 0, done.out + done.err
    assert "technique ia3, on 2 models: bert-AutoModelForMaskedLM, bert-AutoModelForSequenceClassification" in done.out
    assert "identity_at_start" in done.out
    assert done.out.splitlines()[-1].startswith("passed: ")
    assert "it merges exactly" in done.out  # why a check does not apply


def test_a_failure_is_named_with_its_message_and_exits_with_1(wrong: Any) -> None:
    done = wrong.refarch("check", "quokka", "--family", "bert")
    assert done.code == 1
    line = next(line for line in done.out.splitlines() if " identity_at_start " in line)
    assert line.split()[:2] == ["FAILED", "2/2"]
    assert "changes the output before any training" in done.out
    assert done.out.splitlines()[-1].startswith("FAILED: ")
    assert "FAILED identity_at_start on bert-AutoModelForMaskedLM" in done.err


def test_json_has_every_result(wrong: Any) -> None:
    done = wrong.refarch("check", "quokka", "--family", "bert", "--json", "--quiet")
    report = json.loads(done.out)
    assert done.code == 1 and report["passed"] is False and done.err == ""
    assert (report["kind"], report["name"]) == ("technique", "quokka")
    assert sum(report["counts"].values()) == len(report["results"])
    failed = {result["check"] for result in report["results"] if result["outcome"] in ("failed", "error")}
    assert "identity_at_start" in failed and report["counts"]["failed"] >= 2


def test_an_exemption_needs_a_check_and_a_reason(wrong: Any) -> None:
    assert "did you mean" in wrong.refarch("check", "quokka", "--family", "bert", "--exempt", "identity=why").err
    done = wrong.refarch("check", "quokka", "--family", "bert", "--exempt", "identity_at_start=")
    assert done.code == 2 and "without a reason" in done.err


def test_options_reach_the_technique(site: Any) -> None:
    done = site.refarch(
        "check", "lora", "--family", "bert", "--options", "rank=3", "--options", "slots=[ffn.up]", "--json"
    )
    report = json.loads(done.out)
    assert done.code == 0, done.err
    assert report["options"] == {"rank": 3, "slots": ["ffn.up"]}
    assert site.refarch("check", "lora", "--options", "rnak=3").code == 2


@pytest.mark.slow
def test_a_backbone_family(site: Any) -> None:
    done = site.refarch("check", "bert")
    assert done.code == 0, done.out
    assert "key_value_is_where_attention_happens" in done.out


@pytest.mark.slow
def test_a_task(site: Any, tmp_path: Any) -> None:
    rows = ["text,label", *(f"a {word} film number {i},{word}" for i in range(20) for word in ("good", "bad"))]
    (tmp_path / "data.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    done = site.refarch("check", "text-classification", "--options", f"train={tmp_path / 'data.csv'}")
    assert done.code == 0, done.out
    assert "labels_in_range" in done.out and ", on " not in done.out.splitlines()[0]
    done = site.refarch("check", "text-classification", "--options", f"train={tmp_path / 'none.csv'}")
    assert done.code == 1 and done.out.count("none.csv") == 2  # in the title, and once for all checks


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["lroa"], "lora"),
        (["minilm"], "not a pretrained model"),
        (["bert", "--family", "bert"], "is a backbone"),
        (["bert", "--options", "rank=1"], "has no options"),
        (["lora", "--options", "rank"], "KEY=VALUE"),
        (["lora", "--options", "rank=1", "--options", "rank=2"], "given twice"),
        (["lora", "--family", "brt"], "bert"),
        (["lora", "--kind", "task"], "no task named"),
    ],
)
def test_wrong_use(site: Any, arguments: list[str], said: str) -> None:
    done = site.refarch("check", *arguments)
    assert done.code == 2
    assert said in done.err


def test_a_command_has_no_checks(site: Any) -> None:
    site.plugin("quokka", "command")
    done = site.refarch("check", "quokka")
    assert done.code == 2 and "is a command" in done.err


def test_without_a_family_nothing_is_claimed(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REFARCH_PLUGINS", "lora")
    done = site.refarch("check", "lora")
    assert done.code == 2 and "no backbone family" in done.err
