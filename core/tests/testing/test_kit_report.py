"""The kit's report, its exemptions and its skips."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from torch import Tensor

from refarch.architecture import ModuleSpec, TechniqueSpec
from refarch.errors import UsageError
from refarch.testing import CHECKS, TechniqueConformance, run_checks
from refarch.testing.probes import LINE, PROBES, Line
from refarch.testing.sample import CHOICE


class WrongDelta(Line):
    """delta() forgets a factor."""

    def delta(self) -> Tensor:
        return 0.5 * super().delta()


def changed(**changes: object) -> TechniqueSpec:
    module = ModuleSpec.parse({**LINE.modules[0].model_dump(), **changes})
    return LINE.model_copy(update={"modules": (module,)})


WRONG = changed(function=f"{__name__}:WrongDelta")
NOWHERE = changed(workspace=("cross_attention.query",))


def test_a_report_is_plain_data() -> None:
    exempt = {name: "not today" for name in CHECKS if name != "delta_matches_forward"}
    report = run_checks(WRONG, families=["bert"], exempt=exempt)
    assert type(report).from_json(report.to_json()) == report
    assert not report.passed
    assert {result.check for result in report.failures()} == {"delta_matches_forward"}
    assert {result.outcome for result in report.results} == {"exempt", "failed"}


def test_a_slot_that_is_not_there_is_a_skip_with_the_reason() -> None:
    report = run_checks(NOWHERE, families=["bert"])
    skipped = [result for result in report.results if result.check == "identity_at_start"]
    assert {result.outcome for result in skipped} == {"skipped"}
    assert "cross_attention.query" in skipped[0].message


def test_an_exemption_of_no_test_is_an_error() -> None:
    with pytest.raises(UsageError, match="identity_at_start"):

        class Misspelt(TechniqueConformance):
            technique = "lora"
            exempt = {"identity_at_strat": "because"}


def test_an_exemption_needs_a_reason() -> None:
    with pytest.raises(UsageError, match="reason"):

        class Silent(TechniqueConformance):
            technique = "lora"
            exempt = {"test_identity_at_start": " "}


def test_a_conformance_class_says_what_it_tests() -> None:
    with pytest.raises(UsageError, match="technique"):

        class Nothing(TechniqueConformance):
            pass


class TestExempted(TechniqueConformance):
    """An exemption shows as a skip; everything else runs."""

    technique = WRONG
    families = ("bert",)
    exempt = {
        "test_delta_matches_forward": "its matrix is wrong, on purpose",
        "merge_equals_attached": "its matrix is wrong, on purpose",
    }


class OnThree(TechniqueConformance):
    """Not collected; asked for its tests below."""

    technique = WRONG
    families = ("bert", "gpt2", "t5")


def generated(stash: pytest.Stash, test: str) -> list[str]:
    """What a session with these choices would run of one test."""
    found: list[str] = []
    metafunc: Any = SimpleNamespace(
        fixturenames=["case"],
        config=SimpleNamespace(stash=stash),
        function=getattr(OnThree, test),
        parametrize=lambda name, cases, ids: found.extend(ids),
    )
    OnThree().pytest_generate_tests(metafunc)
    return found


def test_a_class_runs_all_its_cases_unless_the_session_chooses() -> None:
    stash = pytest.Stash()
    everything = generated(stash, "test_identity_at_start")
    assert {label.partition("-")[0] for label in everything} == {"bert", "gpt2", "t5"}
    stash[CHOICE] = lambda cls, name, case: cls is OnThree and case.tiny.family.name == "gpt2"
    gpt2 = [label for label in everything if label.startswith("gpt2-")]
    assert generated(stash, "test_identity_at_start") == gpt2
    assert generated(stash, "test_eval_is_deterministic") == gpt2[:1], "any head will do there"
    assert generated(stash, "test_light_import") == ["plugin"]
    stash[CHOICE] = lambda cls, name, case: name == "identity_at_start"
    assert generated(stash, "test_identity_at_start") == everything
    assert generated(stash, "test_eval_is_deterministic") == []


@pytest.mark.parametrize("probe", PROBES, ids=[probe.name for probe in PROBES])
def test_every_integration_form_passes(probe: TechniqueSpec) -> None:
    report = run_checks(probe, families=["bert", "gpt2"])
    assert report.passed, [f"{result.check} on {result.model}: {result.message}" for result in report.failures()]
