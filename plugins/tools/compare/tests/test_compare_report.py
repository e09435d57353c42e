"""The report's content: results, figures, curves, verdicts, and what is written as HTML, Markdown and CSV."""

from __future__ import annotations

import base64
import csv
import io
import json
import math
import re
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st
from refarch_compare.evidence.peft_comparison import import_results
from refarch_compare.report import figures
from refarch_compare.report.curves import MOST, curves
from refarch_compare.report.page import html
from refarch_compare.report.report import make
from refarch_compare.report.text import csv as csv_text, markdown
from refarch_compare.stats.intervals import mean_interval
from refarch_compare.stats.pscp import Cost, pscp

from refarch import PipelineSpec, default_registry
from refarch.cli import main
from refarch.errors import DataError, UsageError

PUBLISHED = Path(__file__).resolve().parents[5] / "shared" / "evidence" / "peft-method-comparison"
SCORES = {"lora": (0.85, 0.86, 0.87, 0.86), "ia3": (0.84, 0.86, 0.86, 0.87), "bitfit": (0.70, 0.71, 0.72, 0.70)}
EVIL = "</script><script>alert(1)</script>|<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def study(make_run, tmp_path_factory):
    """A study of three techniques and four seeds, one result of others, a corrupt record and a failed cell."""
    root = tmp_path_factory.mktemp("study")
    for technique, scores in SCORES.items():
        for seed, score in enumerate(scores):
            path = make_run(
                root / "runs" / f"{technique}-{seed}",
                technique,
                score=score,
                seed=seed,
                trainable=1000 * len(technique),
            )
            lines = [
                {
                    "step": step,
                    "split": "validation",
                    "seconds": step / 10,
                    "accuracy": score - 1 / step,
                    "runtime": 1.0,
                }
                for step in (10, 20, 40)
            ]
            path.with_name("metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (root / "runs" / "broken").mkdir()
    (root / "runs" / "broken" / "record.json").write_text("{")
    (root / "runs" / "dead").mkdir()
    (root / "runs" / "dead" / "failure.json").write_text(
        json.dumps({"what": "dead", "message": "the loss was not finite"})
    )
    (root / "study.json").write_text("{}")
    (root / "plan.json").write_text(json.dumps({"notes": ["left out: bitfit cannot have 5 parameters"]}))
    row = {
        "technique": "them/method",
        "backbone": "minilm",
        "task": "lexicon-polarity",
        "metric": "accuracy",
        "score": 0.9,
    }
    (root / "theirs.evidence.json").write_text(
        json.dumps({**row, "seed": 0, "origin": "imported: them", "provenance": "a paper"})
    )
    return root


@pytest.fixture(scope="module")
def report(study):
    return make([study], default_registry())


class Page(HTMLParser):
    """The elements of a page with their attributes, and the text of each script."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.scripts, self.inside = [], [], None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self.inside = tag

    def handle_endtag(self, tag):
        self.inside = None

    def handle_data(self, data):
        if self.inside == "script":
            self.scripts.append(data)


# --- results ---


def test_a_result_is_the_mean_over_its_seeds(report):
    lora = next(result for result in report.results.results if result.name == "lora")
    assert lora.interval == mean_interval(SCORES["lora"], 0.95)
    assert lora.seeds == [0, 1, 2, 3] and lora.figures["trainable_parameters"] == 4000
    assert lora.figures["seconds_per_step"] == 0.2 and lora.figures["baseline majority"] == 0.5
    assert lora.properties["insertion form"] == ("parallel",)
    assert lora.properties["workspace"] == ("attention.query", "attention.value")
    theirs = next(result for result in report.results.results if result.setting.imported)
    assert (theirs.interval.mean, theirs.interval.low, theirs.properties) == (0.9, None, {})


def test_results_of_one_name_are_told_apart_by_what_differs(make_run, tmp_path):
    for rank_of, rate in ((2, 0.001), (8, 0.001), (8, 0.01)):
        path = make_run(tmp_path / f"{rank_of}{rate}", "lora", options={"rank": rank_of})
        data = json.loads(path.read_text())
        data["pipeline"]["training"]["learning_rate"] = rate
        path.write_text(json.dumps(data))
    found = make([tmp_path], default_registry())
    names = {result.name for result in found.results.results}
    assert names == {
        "lora (rank 2, learning rate 0.001)",
        "lora (learning rate 0.001)",  # rank 8 is the default
        "lora (learning rate 0.01)",
    }


def test_which_way_a_measure_is_better_is_told_by_its_name(report):
    less = {figure.label: figure.less for figure in report.results.figures}
    assert less["trainable parameters"] and less["loss"] and less["load seconds"]
    assert not figures._measure("macro_f1").less and not figures._measure("dino_similarity").less


# --- curves ---


def write_curve(folder, steps, shift=0.0, split="validation"):
    folder.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"step": s, "split": split, "seconds": s * 2.0, "loss": s + shift}) for s in steps]
    (folder / "metrics.jsonl").write_text("\n".join([*lines, '{"step": 99, "spl']) + "\n")
    return folder / "record.json"


def test_curves_are_means_over_the_steps_that_all_runs_have(make_run, tmp_path, report):
    rows = [
        row.model_copy(update={"path": str(write_curve(tmp_path / str(i), steps, shift))})
        for i, (steps, shift, row) in enumerate(
            [([1, 2, 3], 0.0, report.evidence.rows[0]), ([2, 3, 4], 1.0, report.evidence.rows[1])]
        )
    ]
    (curve,) = curves([*rows, rows[0].model_copy(update={"path": str(tmp_path / "none" / "record.json")})])
    assert (curve.label, curve.steps, curve.seconds) == ("loss (validation)", (2, 3), (4.0, 6.0))
    assert (curve.mean, curve.low, curve.high, curve.runs) == ((2.5, 3.5), (2.0, 3.0), (3.0, 4.0), 2)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 2000))
def test_long_curves_are_thinned_and_keep_their_ends(tmp_path_factory, count):
    from refarch_compare.evidence.row import Row

    folder = tmp_path_factory.mktemp("curve")
    path = write_curve(folder, range(1, count + 1))
    row = Row(technique="t", backbone="b", task="k", metric="m", score=1.0, path=str(path))
    (curve,) = curves([row])
    assert len(curve.steps) == min(count, MOST) and (curve.steps[0], curve.steps[-1]) == (1, count)
    assert list(curve.steps) == sorted(set(curve.steps))


# --- statistics ---


def test_verdicts_say_what_is_noise(report):
    own = next(found for found in report.comparisons if not found.setting.imported)
    assert own.results[0].name == "lora"
    assert own.verdict == (
        "lora has the best mean, 0.86: told apart from bitfit; within noise of ia3. In all, 2 of 3 pairs are told apart"
    )
    theirs = next(found for found in report.comparisons if found.setting.imported)
    assert theirs.verdict == "them/method has the best mean, 0.9; there is nothing to compare it with"
    assert [found.ranking is not None for found in report.ranks] == [True, False]


def test_two_seeds_are_not_ranked(make_run, tmp_path):
    for technique in ("lora", "ia3"):
        for seed in (0, 1):
            make_run(tmp_path / f"{technique}{seed}", technique, seed=seed, score=0.8 + 0.05 * (technique == "lora"))
    found = make([tmp_path], default_registry())
    assert found.ranks[0].ranking is None and "3 are needed" in found.ranks[0].why
    assert "no two results share the 3 seeds" in found.comparisons[0].verdict


def test_pscp_takes_operations_where_they_were_counted(make_run, tmp_path, report):
    own = next(found for found in report.comparisons if not found.setting.imported)
    weights = {"trainable_parameters": Cost(5e8), "peak_memory_gigabytes": Cost(94)}
    lora = own.results[0]
    costs = {"trainable_parameters": 4000, "peak_memory_gigabytes": 1.0}
    assert own.pscp[lora.id] == pytest.approx(pscp(lora.interval.mean, costs, weights))
    assert "without operations" in own.pscp_note
    path = make_run(tmp_path / "a")
    path.with_name("measures.json").write_text('{"extra_teraoperations": 10.0}')
    (counted,) = make([tmp_path], default_registry()).comparisons
    assert counted.pscp_note == "" and next(iter(counted.pscp.values())) == pytest.approx(
        0.8 / 2 / (1 + 1e4 / 5e8) / (1 + 1 / 94)
    )


# --- the files ---


def test_the_page_needs_nothing_from_outside(report):
    page = Page(html(report))
    sources = [
        value for _, attributes in page.elements for name, value in attributes.items() if name in ("src", "href")
    ]
    assert sources and all(value.startswith(("#", "data:")) for value in sources)
    assert not [tag for tag, attributes in page.elements if tag == "link" or (tag == "script" and "src" in attributes)]
    policy = next(a["content"] for tag, a in page.elements if tag == "meta" and "http-equiv" in a)
    assert policy.startswith("default-src 'none'")
    assert "@import" not in html(report) and "url(" not in html(report)


def test_each_technique_is_drawn_in_its_layer(report):
    image = r'<img src="data:image/svg\+xml;base64,([^"]+)" alt="A [^"]+ of ([^"]+)"'
    drawn = re.findall(image, html(report))
    assert [unescape(name) for _, name in drawn] == [name for name, _ in report.techniques] != []
    for layer, name in drawn:
        assert name in base64.b64decode(layer).decode()


def test_the_page_says_what_is_missing_and_what_is_of_others(report):
    text = html(report)
    assert "1 result is of others (imported: them), marked so" in text
    assert "1 record could not be read" in text and "broken/record.json" in text
    assert "1 run ended without a result" in text and "the loss was not finite" in text
    assert "left out: bitfit cannot have 5 parameters" in text
    assert text.count('<span class="badge">imported</span>') >= 4  # findings, results, statistics, reproduction


def test_what_records_hold_cannot_run_in_the_page(make_run, tmp_path):
    make_run(tmp_path / "a", [{"name": "lora", "label": EVIL}])
    make_run(tmp_path / "b", "ia3")
    found = make([tmp_path], default_registry(), title=EVIL)
    page = Page(html(found))
    assert not [tag for tag, attributes in page.elements if "onerror" in attributes]
    assert len(page.scripts) == 2 and not any(script.startswith("alert") for script in page.scripts)
    assert any(result["name"] == EVIL for result in json.loads(page.scripts[0])["results"])
    outside = re.sub(r"```.*?```", "", markdown(found), flags=re.S)
    assert "alert(1)" in outside and "<img" not in outside and "<script" not in outside


def test_a_pipeline_in_the_page_makes_the_run_again(report, tmp_path):
    page = Page(html(report))
    links = {a["download"]: a["href"] for tag, a in page.elements if tag == "a" and "download" in a}
    assert len(links) == 3
    name, link = next((n, h) for n, h in links.items() if n.startswith("lora-r"))
    data = json.loads(base64.b64decode(link.partition(",")[2]))
    assert PipelineSpec.parse(data).techniques[0].name == "lora" and "seed" not in data
    assert f"refarch run {name} --seed 3 --out again/{name.removesuffix('.json')}-seed3" in html(report)
    (tmp_path / name).write_text(json.dumps(data))
    assert main(["run", str(tmp_path / name), "--seed", "3", "--dry-run"]) == 0


def test_the_markdown_has_the_tables(report):
    text = markdown(report)
    assert re.search(r"^\| lora \| 0\.86 \| 0\.847 to 0\.873 \| 4 \| 4 k \|", text, re.M)
    assert "| them/method (imported) | 0.9 |" in text
    assert re.search(r"^\| lora against ia3 \| within noise \|", text, re.M)
    widths = {}
    for line in text.splitlines():  # a table's lines have as many cells as its head
        if line.startswith("|"):
            cells = len(re.findall(r"(?<!\\)\|", line))
            assert widths.setdefault("now", cells) == cells, line
        else:
            widths.clear()


def test_the_csv_has_a_line_a_result(report):
    lines = {line["result"]: line for line in csv.DictReader(io.StringIO(csv_text(report)))}
    assert set(lines) == {*SCORES, "them/method"}
    assert float(lines["lora"]["score"]) == pytest.approx(0.86) and lines["lora"]["runs"] == "4"
    assert lines["lora"]["insertion form"] == "parallel" and lines["them/method"]["low"] == ""
    assert lines["them/method"]["origin"] == "imported: them"
    assert math.isclose(float(lines["ia3"]["low"]), mean_interval(SCORES["ia3"]).low)


# --- the command ---


def test_the_command_writes_what_is_asked_for(study, tmp_path, capsys):
    outs = [tmp_path / "a.html", tmp_path / "deep" / "b.md", tmp_path / "c.csv"]
    assert main(["compare", "report", str(study), *(word for out in outs for word in ("--out", str(out)))]) == 0
    shown = capsys.readouterr()
    assert all(out.is_file() and f"wrote {out}" in shown.out for out in outs)
    assert "lora has the best mean" in shown.out and "skipped 1 record" in shown.err
    copied = tmp_path / "only"
    copied.mkdir()
    (copied / "record.json").write_text((study / "runs" / "lora-0" / "record.json").read_text())
    assert main(["compare", "report", str(copied), "--json", "--title", "Mine"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert (
        data["files"] == [str(copied / "report.html")] and "<title>Mine</title>" in (copied / "report.html").read_text()
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--out", "x.pdf"], "HTML, Markdown or CSV"),
        (["--where", "score > 2"], "none of the 13 records meets"),
        (["--where", "scor > 2"], "'score'"),
    ],
)
def test_wrong_use_is_said_in_words(study, tmp_path, capsys, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    assert main(["compare", "report", str(study), *arguments]) == 2
    assert said in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_nothing_to_report_is_an_error(tmp_path):
    with pytest.raises(DataError, match="no record below"):
        make([tmp_path], default_registry())
    with pytest.raises(UsageError):
        make([tmp_path / "nowhere"], default_registry())


@pytest.mark.slow
@pytest.mark.skipif(not PUBLISHED.is_dir(), reason="needs shared/evidence/peft-method-comparison beside the repository")
def test_the_published_comparison_is_reported_and_ranks_nothing(tmp_path):
    import_results(PUBLISHED, tmp_path)
    report = make([tmp_path], default_registry())
    assert report.imported == len(report.results.results) == 94 and len(report.comparisons) == 2
    assert all("no two results share the 3 seeds" in found.verdict for found in report.comparisons)
    assert all(found.ranking is None for found in report.ranks)
    data = json.loads(Page(html(report)).scripts[0])
    assert len(data["curves"]) == 94 and all(result["imported"] for result in data["results"])
    assert len(html(report)) < 2_000_000
