"""The report in a real headless Chromium without a network: sorted, filtered, hovered, and readable at two widths."""

from __future__ import annotations

import base64
import csv
import json
import math
import re
import shutil
import time
from pathlib import Path

import pytest
from refarch_compare.report.figures import shown
from refarch_compare.report.page import html
from refarch_compare.report.report import make

from refarch import default_registry

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="needs chromium and chromedriver (Debian: chromium and chromium-driver)"
)
FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --disable-dev-shm-usage --no-first-run --hide-scrollbars",
    "--disable-background-networking --disable-component-update --disable-sync",
)
TECHNIQUES = {  # score, trainable parameters, peak memory
    "lora": (0.86, 37_000, 9e8),
    "ia3": (0.85, 9_000, 8e8),
    "bitfit": (0.70, 26_000, 7e8),
    "prefix-tuning": (0.66, 92_000, 9.5e8),
    "adapter": (0.87, 150_000, 8.5e8),
    "head-only": (0.60, 770, 5e8),
}
NOISE = (0.004, -0.003, 0.001, -0.002)
READABLE = Path(__file__).with_name("readable.js").read_text(encoding="utf-8")
WIDTHS, SCHEMES = (1280, 400), ("light", "dark")


@pytest.fixture(scope="module")
def report(make_run, tmp_path_factory):
    root = tmp_path_factory.mktemp("study")
    for position, (technique, (score, trainable, memory)) in enumerate(TECHNIQUES.items()):
        for seed in range(4):
            value = score + NOISE[(seed + position) % 4]
            folder = root / f"{technique}-{seed}"
            path = make_run(
                folder, technique, score=value, seed=seed, trainable=trainable, peak_memory_bytes=int(memory)
            )
            lines = [
                {
                    "step": step,
                    "split": "validation",
                    "seconds": step / 5,
                    "accuracy": value - 2 / step,
                    "loss": 9 / step,
                }
                for step in range(10, 101, 10)
            ]
            path.with_name("metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for technique, score in (("lora", 0.9), ("them/other", 0.5)):
        row = {"technique": technique, "backbone": "minilm", "task": "lexicon-polarity", "metric": "accuracy"}
        row |= {"score": score, "seed": 0, "origin": "imported: them", "provenance": "a paper"}
        (root / f"{technique.partition('/')[0]}.evidence.json").write_text(json.dumps(row))
    return make([root], default_registry())


@pytest.fixture(scope="module")
def page(report, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(html(report), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    webdriver = pytest.importorskip("selenium.webdriver")
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*" ".join(FLAGS).split(), f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    driver.set_page_load_timeout(60)
    driver.execute_cdp_cmd("Network.enable", {})
    driver.execute_cdp_cmd("Emulation.setFocusEmulationEnabled", {"enabled": True})
    offline = {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
    driver.execute_cdp_cmd("Network.emulateNetworkConditions", offline)
    yield driver
    driver.quit()


@pytest.fixture
def browser(chromium, page):
    """The page, freshly opened at 1280 pixels in light."""
    return opened(chromium, page, 1280, "light")


def opened(driver, page, width, scheme):
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    feature = {"name": "prefers-color-scheme", "value": scheme}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    driver.get("about:blank")
    driver.get(page.as_uri())
    until(driver, "return document.querySelectorAll('#tradeoff-plot svg').length")
    return driver


def until(driver, script, *arguments, seconds=20):
    """What a script returns, once it is true."""
    end = time.monotonic() + seconds
    while not (found := driver.execute_script(script, *arguments)):
        assert time.monotonic() < end, f"never true: {script}"
        time.sleep(0.05)
    return found


def photograph(driver, path):
    """The whole page as a picture, for people to look at."""
    data = driver.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True})["data"]
    path.write_bytes(base64.b64decode(data))


def find(driver, selector):
    return driver.find_element("css selector", selector)


def move_to(driver, element):
    """Scroll there and, once the page has noticed that, put the pointer on the element."""
    from selenium.webdriver import ActionChains

    driver.execute_async_script(
        "arguments[0].scrollIntoView({block: 'center'});"
        "requestAnimationFrame(() => requestAnimationFrame(arguments[1]))",
        element,
    )
    ActionChains(driver, duration=0).move_to_element(element).perform()


def told(driver):
    """What the tooltip says, once it is there."""
    return until(driver, "const tip = document.querySelector('#tip'); return !tip.hidden && tip.innerText")


def column(driver, key):
    """The words of a column in the rows that are seen."""
    return driver.execute_script(
        "const at = document.querySelector(`#results-table th[data-column='${arguments[0]}']`).cellIndex;"
        "return [...document.querySelectorAll('#results-table tbody tr')].filter((row) => row.offsetParent)"
        ".map((row) => row.cells[at].querySelector('a')?.textContent ?? row.cells[at].textContent)",
        key,
    )


def points(driver):
    return driver.execute_script(
        "return [...document.querySelectorAll('#tradeoff-plot .mark')].map((m) => m.dataset.id)"
    )


def choose(driver, selector, value):
    driver.execute_script(
        "const s = document.querySelector(arguments[0]); s.value = arguments[1];"
        "s.dispatchEvent(new Event('change', { bubbles: true }))",
        selector,
        value,
    )


def test_it_opens_offline_without_a_complaint_or_a_request(browser):
    assert [entry["message"] for entry in browser.get_log("browser")] == []
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    sent = [event["params"] for event in events if event["method"] == "Network.requestWillBeSent"]
    asked = {one["request"]["url"] for one in sent if one["documentURL"] == browser.current_url}
    assert {url for url in asked if not url.startswith("data:")} == {browser.current_url}  # the page and nothing else
    assert len(column(browser, "name")) == len(TECHNIQUES) + 2
    assert find(browser, "#count").text == "8 of 8 results"


def test_columns_sort_both_ways_and_what_is_missing_stands_last(browser):
    own = sorted(TECHNIQUES, key=lambda name: TECHNIQUES[name][1])
    head = find(browser, "th[data-column='figure:trainable_parameters'] button")
    head.click()
    assert column(browser, "name")[:6] == own
    assert column(browser, "figure:trainable_parameters")[6:] == ["", ""]
    head.click()
    assert column(browser, "name")[:6] == own[::-1]
    assert column(browser, "figure:trainable_parameters")[6:] == ["", ""]
    assert find(browser, "th[data-column='figure:trainable_parameters']").get_attribute("aria-sort") == "descending"
    find(browser, "th[data-column='score'] button").click()
    assert column(browser, "name") == [
        "lora",
        "adapter",
        "lora",
        "ia3",
        "bitfit",
        "prefix-tuning",
        "head-only",
        "them/other",
    ]
    find(browser, "th[data-column='name'] button").send_keys("\n")  # by keyboard
    assert column(browser, "name") == sorted(column(browser, "name"))


def test_properties_filter_the_table_and_the_plots(browser, report):
    expected = {r.name for r in report.results.results if "parallel" in r.properties.get("insertion form", ())}
    assert 0 < len(expected) < len(TECHNIQUES)
    find(browser, "#filter-details summary").click()
    box = find(browser, "fieldset[data-property='insertion form'] input[value='parallel']")
    box.click()
    assert set(column(browser, "name")) == expected == {"lora", "prefix-tuning"}
    assert find(browser, "#count").text == "3 of 8 results"  # lora, as it was run and as it was imported
    assert len(points(browser)) == 2
    assert len(browser.execute_script("return document.querySelectorAll('#curves-plot .curve')")) == 2
    assert "(1 chosen)" in find(browser, "#filter-details summary").text
    find(browser, "fieldset[data-property='functional form'] input[value='tokens']").click()  # and
    assert column(browser, "name") == ["prefix-tuning"]
    find(browser, "fieldset[data-property='functional form'] input[value='linear']").click()  # or
    assert set(column(browser, "name")) == {"lora", "prefix-tuning"}
    find(browser, "#filter button[type='reset']").click()
    until(browser, "return document.querySelector('#count').textContent === '8 of 8 results'")
    assert len(points(browser)) == 6


def test_search_and_origin_filter_too(browser):
    find(browser, "#filter-text").send_keys("lora ACCURACY")
    assert column(browser, "name") == ["lora", "lora"]
    choose(browser, "#filter-origin", "run")
    assert find(browser, "#count").text == "1 of 8 results"
    find(browser, "#filter-text").send_keys(" nowhere")
    assert column(browser, "name") == [] and "No result" in find(browser, "#tradeoff-plot").text
    assert "No curve" in find(browser, "#curves-plot").text


def test_a_point_tells_what_it_is_to_pointer_and_keyboard(browser, report):
    lora = next(r for r in report.ordered if r.name == "lora")
    point = find(browser, f"#tradeoff-plot .mark[data-id='{lora.id}']")
    assert not find(browser, "#tip").is_displayed()
    move_to(browser, point)
    text = told(browser)
    assert text.startswith("lora") and "0.86 (" in text and "4 runs" in text and "37 k" in text
    move_to(browser, find(browser, "h1"))
    until(browser, "return document.querySelector('#tip').hidden")
    browser.execute_script("arguments[0].focus()", point)
    assert told(browser) == text and point.get_attribute("aria-label").startswith("lora; ")
    point.click()
    assert until(browser, "return document.querySelector('#of-' + arguments[0]).closest('details').open", lora.id)


def test_curves_are_read_off_and_chosen(browser):
    assert browser.execute_script("return document.querySelectorAll('#curves-plot .curve').length") == 6
    cover = find(browser, "#curves-plot .cover")
    move_to(browser, cover)
    text = told(browser)
    at = int(re.match(r"steps (\d+)", text)[1])
    assert at in range(10, 101, 10) and "4 runs" in text
    assert f"adapter: {float(f'{0.87 - 2 / at:.4g}'):g}" in text
    choose(browser, "#curves-x", "seconds")
    move_to(browser, find(browser, "#curves-plot .cover"))
    assert f"seconds {at / 5:.3g} s" in told(browser)
    choose(browser, "#curves-metric", "loss (validation)")
    assert "loss (validation)" in find(browser, "#curves-plot").text
    find(browser, "#curves-legend button").click()
    assert browser.execute_script("return document.querySelectorAll('#curves-plot .curve').length") == 5
    assert find(browser, "#curves-legend button").get_attribute("aria-pressed") == "false"
    find(browser, "#curves-none").click()
    assert "No curve" in find(browser, "#curves-plot").text
    find(browser, "#curves-all").click()
    assert browser.execute_script("return document.querySelectorAll('#curves-plot .curve').length") == 6


def beats(one, other):
    """Whether costs are lower somewhere and higher nowhere."""
    return one != other and all(a <= b for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("turned", [False, True])
def test_the_front_is_what_nothing_else_beats(browser, report, turned):
    own = [result for result in report.ordered if not result.setting.imported]
    for name in ("trainable_parameters", "peak_memory_bytes", "loss"):
        choose(browser, "#tradeoff-x", f"figure:{name}")
        if turned:
            find(browser, "#tradeoff-less-x").click()
            find(browser, "#tradeoff-less-y").click()
        sign = -1 if turned else 1
        costs = {r.id: (sign * r.figures[name], -sign * r.interval.mean) for r in own if r.figures[name] is not None}
        expected = {one for one, cost in costs.items() if not any(beats(other, cost) for other in costs.values())}
        best = browser.execute_script(
            "return [...document.querySelectorAll('#tradeoff-plot .best')].map((m) => m.dataset.id)"
        )
        assert set(best) == expected, name
        if turned:
            find(browser, "#tradeoff-less-y").click()
    assert "on the front" in find(browser, "#tradeoff-plot .best").get_attribute("aria-label")


def test_columns_are_chosen_and_what_is_shown_is_saved(browser, report, tmp_path):
    browser.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)})
    browser.execute_script("document.querySelector('#columns').closest('details').open = true")
    find(browser, "#columns input[value='property:insertion form']").click()
    assert "sequential" in column(browser, "property:insertion form")
    find(browser, "th[data-column='property:insertion form'] button").click()
    assert column(browser, "property:insertion form") == sorted(
        column(browser, "property:insertion form"), key=lambda v: (not v, v)
    )
    find(browser, "#filter-text").send_keys("ia3")
    find(browser, "#save-csv").click()
    end = time.monotonic() + 20
    while not (tmp_path / "results.csv").exists():
        assert time.monotonic() < end
        time.sleep(0.05)
    (line,) = csv.DictReader((tmp_path / "results.csv").open())
    ia3 = next(result for result in report.ordered if result.name == "ia3")
    assert line["result"] == "ia3" and line["insertion form"] == "sequential" and line["runs"] == "4"
    assert math.isclose(float(line["score"]), ia3.interval.mean) and math.isclose(float(line["low"]), ia3.interval.low)


def test_numbers_read_the_same_in_tables_and_plots(browser):
    script = (
        re.search(r"function precise.*?\n}\n\nfunction shown.*?\n}\n", browser.page_source, re.S)[0]
        .replace("&gt;", ">")
        .replace("&lt;", "<")
        .replace("&amp;", "&")
    )
    for unit in ("count", "bytes", "seconds", "number"):
        for value in (0, -2e-7, 3e-5, 0.00234, 0.5, 1, 12.345, 999.4, 1000, 1234, 99_950, 1e6, 3.2e9, 7200, None):
            assert browser.execute_script(f"{script} return shown(arguments[0], arguments[1])", value, unit) == shown(
                value, unit
            )


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS)
def test_it_is_readable_at_every_width_and_in_every_light(chromium, page, width, scheme):
    driver = opened(chromium, page, width, scheme)
    photograph(driver, page.with_name(f"{width}-{scheme}.png"))
    assert driver.execute_script(READABLE) == []
    page_is = driver.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert (page_is == "rgb(255, 255, 255)") == (scheme == "light")
    assert len(driver.find_elements("css selector", "img")) >= 2


def test_the_plots_follow_the_window(browser):
    before = find(browser, "#tradeoff-plot svg").size["width"]
    metrics = {"width": 500, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    until(browser, "return document.querySelector('#tradeoff-plot svg').clientWidth < 500")
    assert before > 1000


def test_without_scripts_the_tables_can_still_be_read(chromium, page):
    chromium.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        chromium.get("about:blank")
        chromium.get(page.as_uri())
        assert find(chromium, "#results-table").text.count("\n") > len(TECHNIQUES)
        assert not find(chromium, "#tradeoffs").is_displayed() and not find(chromium, "#filter").is_displayed()
    finally:
        chromium.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
