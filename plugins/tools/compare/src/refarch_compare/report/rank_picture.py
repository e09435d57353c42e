"""A critical difference diagram (Demsar 2006) as an SVG: names at mean ranks, bars over what is not told apart."""

from __future__ import annotations

from refarch import svg
from refarch_compare.stats.ranks import Ranking

WIDTH, MARGIN, ROW = 760.0, 24.0, 22.0
TOP = 76.0
"""Where the axis lies; above it stands the critical difference."""
BARS = 9.0
"""Between two bars."""


def picture(ranking: Ranking) -> str:
    """The diagram: the best at the left, labels below the axis on the nearer side."""
    k = len(ranking.names)
    beside = max(svg.width_of(_label(ranking, i)) for i in range(k)) + 16
    left, right = MARGIN + min(beside, WIDTH / 2 - 120), WIDTH - MARGIN - min(beside, WIDTH / 2 - 120)
    high = max(2, k)

    def at(place: float) -> float:
        return left + (place - 1) / (high - 1) * (right - left)

    under = TOP + 14 + BARS * len(ranking.groups)
    half = (k + 1) // 2
    height = under + 14 + ROW * (half - 1) + MARGIN
    parts = [f'<path class="line" d="M{left:.1f} {TOP}H{right:.1f}"/>']
    step = max(1, round(high / 12))
    for place in range(1, high + 1, step):
        parts.append(f'<path class="line" d="M{at(place):.1f} {TOP - 6}V{TOP}"/>')
        parts.append(svg.text(at(place), TOP - 11, str(place), "soft", "middle"))
    reach = min(at(1 + ranking.critical_difference), right)
    parts.append(f'<path class="line" d="M{left:.1f} 26V36M{left:.1f} 31H{reach:.1f}M{reach:.1f} 26V36"/>')
    parts.append(svg.text(left, 18, f"critical difference {ranking.critical_difference:.2f}", "soft"))
    for number, group in enumerate(ranking.groups):
        y = TOP + 12 + BARS * number
        ends = [ranking.ranks[ranking.names.index(name)] for name in (group[0], group[-1])]
        parts.append(f'<path class="bar" d="M{at(ends[0]) - 3:.1f} {y:.1f}H{at(ends[1]) + 3:.1f}"/>')
    for i in range(k):
        better = i < half
        y = under + 14 + ROW * (i if better else k - 1 - i)
        edge = left - 8 if better else right + 8
        x = at(ranking.ranks[i])
        parts.append(f'<path class="line" d="M{x:.1f} {TOP}V{y:.1f}H{edge:.1f}"/>')
        anchor = "end" if better else "start"
        parts.append(svg.text(edge + (-5 if better else 5), y + 4.5, _label(ranking, i), "", anchor))
    style = svg.two_schemes(
        ".bar {{ stroke: {bar}; stroke-width: 5; stroke-linecap: round; fill: none; }}", {"bar": svg.HUES[0]}
    )
    return svg.document(WIDTH, height, "Mean ranks and critical difference", parts, style)


def _label(ranking: Ranking, index: int) -> str:
    return f"{ranking.names[index]} {ranking.ranks[index]:.2f}"
