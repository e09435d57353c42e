"""One bad plugin is that plugin's problem: it is listed with its error, using it says what to do, all others work."""

from __future__ import annotations

from typing import Any

import pytest

from refarch.errors import PluginError, UnknownNameError
from refarch.plugins import Registry, Settings

BROKEN = {
    "raises on import": ("raise RuntimeError('the sky fell')", "RuntimeError: the sky fell"),
    "is no Python": ("def (", "SyntaxError"),
    "needs what is not there": ("import no_such_module_anywhere", "ModuleNotFoundError: No module named"),
    "exits on import": ("import sys; sys.exit(3)", "SystemExit: 3"),
    "has no hook": ("x = 1", "announces a technique but implements no refarch_techniques()"),
    "has a hook that raises": (
        "from refarch import hookimpl\n@hookimpl\ndef refarch_techniques():\n    raise KeyError('oops')",
        "KeyError: 'oops'",
    ),
    "returns another type": (
        "from refarch import hookimpl\n@hookimpl\ndef refarch_techniques():\n    return ['quokka']",
        "refarch_techniques() must return a list of TechniqueSpec, but returned a list with 'quokka'",
    ),
    "returns no list": (
        "from refarch import hookimpl\n@hookimpl\ndef refarch_techniques():\n    return None",
        "refarch_techniques() must return a list of TechniqueSpec, but returned None",
    ),
    "lacks the name": (
        "from refarch import hookimpl\n@hookimpl\ndef refarch_techniques():\n    return []",
        "returns no spec named 'quokka'",
    ),
    "has a hook of another signature": (
        "from refarch import hookimpl\n@hookimpl\ndef refarch_techniques(registry):\n    return []",
        "hook 'refarch_techniques'",
    ),
    "has a spec that is not valid": (
        "from refarch import ModuleSpec\nModuleSpec(name='x', workspace=('attention.querry',))",
        "attention.querry",
    ),
}


def registry(**settings: Any) -> Registry:
    return Registry(Settings(**settings))


@pytest.mark.parametrize(("source", "cause"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_plugin_is_isolated(site: Any, source: str, cause: str) -> None:
    site.plugin("quokka", source=source)
    site.plugin("wombat")
    plugins = registry()
    assert plugins.technique("wombat").name == "wombat"
    checked = {item.name: item for item in plugins.check()}
    assert checked["wombat"].status == "ok"
    assert checked["quokka"].status == "error"
    assert cause in checked["quokka"].problem
    with pytest.raises(PluginError) as caught:
        plugins.technique("quokka")
    assert "technique 'quokka' (refarch-quokka 1.0) does not load" in caught.value.message
    assert cause in caught.value.message
    assert "pip install --upgrade refarch-quokka" in str(caught.value.hint)
    assert caught.value.__cause__ is not None
    assert caught.value.exit_code == 2


def test_an_entry_without_target_does_not_load(site: Any) -> None:
    site.install("refarch-quokka", "[refarch.technique]\nquokka\n")
    with pytest.raises(PluginError, match="names no module"):
        registry().technique("quokka")


def test_the_target_may_be_an_attribute(site: Any) -> None:
    module = site.plugin("quokka")
    site.install("refarch-attribute", f"[refarch.technique]\nattribute = {module}:nothing.here\n")
    with pytest.raises(PluginError, match="has no attribute 'nothing'"):
        registry().technique("attribute")
    assert registry().technique("quokka").name == "quokka"


def test_an_unknown_name_answers_with_the_nearest(site: Any) -> None:
    site.plugin("quokka")
    with pytest.raises(UnknownNameError) as caught:
        registry().technique("quoka")
    assert caught.value.message == "no technique named 'quoka' is installed"
    assert "did you mean 'quokka'?" in str(caught.value.hint)
    assert "pip install refarch-quoka" in str(caught.value.hint)


def test_a_name_of_another_kind_says_so(site: Any) -> None:
    site.plugin("quokka", "task")
    with pytest.raises(UnknownNameError, match="there is a task of this name"):
        registry().technique("quokka")


def test_a_conflict_is_an_error_only_when_it_is_used(site: Any) -> None:
    site.plugin("quokka")
    site.plugin("quokka", distribution="other-quokka")
    site.plugin("wombat")
    plugins = registry()
    assert plugins.technique("wombat").name == "wombat"
    assert [item.status for item in plugins.check() if item.name == "quokka"] == ["CONFLICT", "CONFLICT"]
    with pytest.raises(PluginError) as caught:
        plugins.technique("quokka")
    assert "is provided by other-quokka 1.0 and refarch-quokka 1.0" in caught.value.message
    assert "REFARCH_BLOCK=other-quokka" in str(caught.value.hint)
    assert registry(block=("other-quokka",)).technique("quokka").name == "quokka"


@pytest.mark.parametrize(
    ("settings", "reason"),
    [({"block": ("quokka",)}, "blocked by REFARCH_BLOCK"), ({"allow": ("wombat",)}, "not in REFARCH_PLUGINS")],
)
def test_a_blocked_plugin_is_never_imported(site: Any, settings: dict[str, Any], reason: str) -> None:
    site.plugin("quokka", source="raise RuntimeError('was imported')")
    plugins = registry(**settings)
    assert "quokka" not in plugins.names("technique")
    assert [item.problem for item in plugins.check() if item.name == "quokka"] == [reason]
    with pytest.raises(PluginError, match=reason) as caught:
        plugins.technique("quokka")
    assert "refarch-quokka" in caught.value.message
    assert caught.value.hint == "change REFARCH_PLUGINS or REFARCH_BLOCK"


def test_strict_mode_makes_a_conflict_an_error_at_once(site: Any) -> None:
    site.plugin("quokka")
    site.plugin("quokka", distribution="other-quokka")
    with pytest.raises(PluginError, match="plugins conflict: technique 'quokka'"):
        registry(strict=True, allow=("quokka",))


def test_strict_mode_makes_a_broken_plugin_an_error_for_all(site: Any) -> None:
    site.plugin("quokka", source="raise RuntimeError('the sky fell')")
    allow = ("quokka",)
    assert registry(allow=allow).check()
    with pytest.raises(PluginError, match="'quokka' does not load: the sky fell"):
        registry(strict=True, allow=allow).check()


def test_an_older_contract_is_reported_and_works(site: Any) -> None:
    site.plugin("quokka", contract=0)
    plugins = registry()
    assert plugins.technique("quokka").contract == 0
    record = next(item for item in plugins.check() if item.name == "quokka")
    assert (record.status, record.problem) == ("older contract", "speaks contract 0, refarch speaks 1")


def test_a_newer_contract_is_refused_with_the_cure(site: Any) -> None:
    site.plugin("quokka", contract=99)
    plugins = registry()
    assert next(item.status for item in plugins.check() if item.name == "quokka") == "newer contract"
    with pytest.raises(PluginError, match="speaks contract 99") as caught:
        plugins.technique("quokka")
    assert caught.value.hint == "update refarch: pip install --upgrade refarch"


def test_a_broken_family_is_named_when_a_model_has_none(site: Any) -> None:
    site.plugin("quokka", "backbone", source="raise RuntimeError('the sky fell')")
    with pytest.raises(UnknownNameError, match="the plugin 'quokka' is broken"):
        registry().family_for("quokka")


def test_a_family_is_found_by_model_type(site: Any) -> None:
    site.plugin("quokka", "backbone")
    assert registry().family_for("quokka").name == "quokka"
    site.plugin(
        "wombat",
        "backbone",
        source=(site.path / "refarch_quokka.py").read_text().replace('name="quokka', 'name="wombat'),
    )
    with pytest.raises(PluginError, match="both serve model type 'quokka'"):
        registry().family_for("quokka")
