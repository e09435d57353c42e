from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from refarch.plugins.discovery import Found, Settings, scan


def mine(name: str = "quokka", settings: Settings | None = None) -> list[Found]:
    return [item for item in scan(settings or Settings()) if item.name.startswith(name)]


def test_reads_every_field_from_metadata(site: Any) -> None:
    site.install("refarch-quokka", "[refarch.technique]\nquokka = nowhere:thing [extra]\n", "small: and round", "2.1")
    assert mine() == [
        Found("quokka", "technique", "nowhere:thing", "refarch-quokka", "2.1", "small: and round", "ok", "")
    ]


def test_reads_all_groups_and_passes_over_others(site: Any) -> None:
    site.install(
        "refarch-quokka",
        """
        # a comment
        [console_scripts]
        quokka-script = a:b

        [refarch.technique]
        quokka-t = a
        ; another comment
        [refarch.backbone]
        quokka-b = a
        [refarch.task]
        quokka-k=a
        [refarch.command]
        quokka-c = a
        [refarch.observer]
        quokka-o = a
        [refarch.future]
        quokka-f = a
        """,
    )
    kinds = [(item.kind, item.name) for item in mine()]
    assert kinds == [
        ("technique", "quokka-t"),
        ("backbone", "quokka-b"),
        ("task", "quokka-k"),
        ("command", "quokka-c"),
        ("observer", "quokka-o"),
    ]


def test_one_distribution_found_twice_is_no_conflict(
    site: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with an editable install whose build folder is on the path too; the first on the path wins."""
    site.install("refarch-quokka", "[refarch.technique]\nquokka = new\n", version="2.0")
    first = site.path
    site.path = tmp_path / "later"
    site.install("Refarch_Quokka", "[refarch.technique]\nquokka = old\n", version="1.0")
    monkeypatch.syspath_prepend(str(site.path))
    monkeypatch.syspath_prepend(str(first))
    assert [(item.version, item.status) for item in mine()] == [("2.0", "ok")]


def test_egg_info_of_an_editable_install_is_read(site: Any) -> None:
    folder = site.path / "refarch_quokka.egg-info"
    folder.mkdir()
    (folder / "PKG-INFO").write_text("Name: refarch-quokka\nVersion: 3\nSummary: an egg\n")
    (folder / "entry_points.txt").write_text("[refarch.task]\nquokka = here\n")
    assert [(item.kind, item.version, item.summary) for item in mine()] == [("task", "3", "an egg")]


def test_two_of_one_name_conflict_and_both_say_so(site: Any) -> None:
    site.install("refarch-quokka", "[refarch.technique]\nquokka = a\n")
    site.install("other-quokka", "[refarch.technique]\nquokka = b\n[refarch.task]\nquokka = b\n")
    rows = [(item.kind, item.distribution, item.status, item.problem) for item in mine()]
    assert rows == [
        ("technique", "other-quokka", "CONFLICT", "refarch-quokka provides this name too"),
        ("technique", "refarch-quokka", "CONFLICT", "other-quokka provides this name too"),
        ("task", "other-quokka", "ok", ""),
    ]


@pytest.mark.parametrize("pattern", ["refarch-quokka", "technique:quokka", "refarch-q*"])
def test_blocking_one_of_two_ends_the_conflict(site: Any, pattern: str) -> None:
    site.install("refarch-quokka", "[refarch.technique]\nquokka = a\n")
    site.install("other-quokka", "[refarch.task]\nquokka = b\n")
    rows = {item.kind: (item.status, item.problem) for item in mine(settings=Settings(block=(pattern,)))}
    assert rows == {"technique": ("blocked", "blocked by REFARCH_BLOCK"), "task": ("ok", "")}


def test_an_allow_list_blocks_the_rest(site: Any) -> None:
    site.install("refarch-quokka", "[refarch.technique]\nquokka = a\nquokka-two = b\n")
    rows = {item.name: item.status for item in mine(settings=Settings(allow=("quokka",)))}
    assert rows == {"quokka": "ok", "quokka-two": "blocked"}


def test_settings_are_read_from_the_environment() -> None:
    settings = Settings.from_environment({"REFARCH_PLUGINS": "a, b*", "REFARCH_BLOCK": ",", "REFARCH_STRICT": "True"})
    assert settings == Settings(("a", "b*"), (), True)


def test_damaged_metadata_of_others_is_passed_over(site: Any) -> None:
    site.install("refarch-quokka", "[refarch.technique]\nquokka = a\n")
    broken = site.path / "broken-1.0.dist-info"
    broken.mkdir()
    (broken / "entry_points.txt").write_bytes(b"\xff\xfe[refarch.technique]\n\x00")
    assert [item.status for item in mine()] == ["ok"]


def test_a_malformed_entry_is_that_plugins_problem(site: Any) -> None:
    site.install("refarch-quokka", "[refarch.technique]\nquokka-bad\nquokka-good = a\n")
    assert [(item.name, item.target) for item in mine()] == [("quokka-bad", ""), ("quokka-good", "a")]


def test_a_distribution_without_metadata_file_is_listed(site: Any) -> None:
    folder = site.path / "refarch_quokka-1.0.dist-info"
    folder.mkdir()
    (folder / "entry_points.txt").write_text("[refarch.technique]\nquokka = a\n")
    assert [(item.distribution, item.version) for item in mine()] == [("?", "?")]
