"""The report's figures, as a person reads them, and the picture of ranks."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest
from hypothesis import given, settings, strategies as st
from refarch_compare.report import figures
from refarch_compare.report.rank_picture import picture
from refarch_compare.stats.ranks import rank


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (None, "count", ""),
        (37_634, "count", "37.6 k"),
        (999, "count", "999"),
        (999_600, "count", "1 M"),
        (2.2e9, "count", "2.2 G"),
        (512, "bytes", "512 B"),
        (16_500_000, "bytes", "16.5 MB"),
        (0.0123, "seconds", "12.3 ms"),
        (59.0, "seconds", "59 s"),
        (90.0, "seconds", "1.5 min"),
        (7200.0, "seconds", "2 h"),
        (0.00012345, "number", "0.0001234"),
    ],
)
def test_figures_as_a_person_reads_them(value, unit, text):
    assert figures.shown(value, unit) == text


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 20), st.integers(3, 8), st.integers(0, 10**6))
def test_the_rank_picture_shows_every_name_where_it_stands(count, blocks, seed):
    import numpy as np

    numbers = np.random.default_rng(seed).normal(size=(count, blocks))
    ranking = rank({f"technique-{i}": dict(enumerate(map(float, row))) for i, row in enumerate(numbers)})
    root = ET.fromstring(picture(ranking))
    texts = [item.text for item in root.iter("{http://www.w3.org/2000/svg}text")]
    assert all(f"{name} {place:.2f}" in texts for name, place in zip(ranking.names, ranking.ranks, strict=True))
    bars = [item for item in root.iter("{http://www.w3.org/2000/svg}path") if item.get("class") == "bar"]
    assert len(bars) == len(ranking.groups)
    for item in root.iter("{http://www.w3.org/2000/svg}text"):
        assert 0 <= float(item.get("x")) <= float(root.get("width")) and 0 < float(item.get("y")) <= float(
            root.get("height")
        )
