"""A transfer matrix as SVG, readable on light and dark pages, without scripts."""

from __future__ import annotations

from html import escape

from refarch import svg
from refarch_library.transfer.matrix import Matrix

CELL, HEIGHT, TOP = 136, 34, 96
STYLE = """.cell {{ fill: {cell}; stroke: {edge}; }} .own {{ fill: none; stroke: {own}; stroke-width: 2; }}
"""
COLOURS = {"cell": svg.HUES[0], "own": svg.HUES[1], "edge": svg.COLOURS["edge"]}


def draw(matrix: Matrix) -> str:
    """A cell for each entry and task: the score, and by its shade how it stands among those of its column. The cells of
    the tasks that entries were trained on have a frame.
    """
    left = 24 + int(max(map(len, matrix.entries)) * 7.6)
    width = left + CELL * len(matrix.tasks) + 24
    parts = [_column(matrix, place, left) for place in range(len(matrix.tasks))]
    for row, name in enumerate(matrix.entries):
        y = TOP + row * HEIGHT
        parts.append(f'<text x="{left - 10}" y="{y + 22}" text-anchor="end">{escape(name)}</text>')
        parts += [_cell(matrix, row, place, left + place * CELL, y) for place in range(len(matrix.tasks))]
    height = TOP + HEIGHT * len(matrix.entries) + 24
    return svg.document(width, height, "The score of each module on each task", parts, svg.two_schemes(STYLE, COLOURS))


def _column(matrix: Matrix, place: int, left: int) -> str:
    x, name = left + place * CELL + CELL / 2, matrix.tasks[place]
    above, _, below = name.partition(":") if ":" in name else (name, "", "")
    lines = [(above, ""), (below, ""), (matrix.metrics[place], "soft")]
    texts = [
        f'<text x="{x:g}" y="{TOP - 48 + 17 * number}" text-anchor="middle" class="{kind}">{escape(_fit(text))}</text>'
        for number, (text, kind) in enumerate(lines)
    ]
    return "".join(texts)


def _fit(text: str) -> str:
    return text if len(text) <= 18 else text[:17] + "…"


def _cell(matrix: Matrix, row: int, place: int, x: int, y: int) -> str:
    score = matrix.scores[row][place]
    frame = f'x="{x + 1}" y="{y + 1}" width="{CELL - 2}" height="{HEIGHT - 2}" rx="3"'
    own = f'<rect {frame} class="own"/>' if matrix.own[row][place] else ""
    text = "–" if score is None else f"{score:.3f}"
    shade = f'<rect {frame} class="cell" fill-opacity="{_shade(matrix, row, place):.2f}"/>'
    title = f"<title>{escape(matrix.reasons[row][place])}</title>" if score is None else ""
    return f'<g>{title}{shade}{own}<text x="{x + CELL / 2:g}" y="{y + 22}" text-anchor="middle">{text}</text></g>'


def _shade(matrix: Matrix, row: int, place: int) -> float:
    """From faint for the worst of a column to half for the best; none where there is no score."""
    column = [scores[place] for scores in matrix.scores]
    known = [score for score in column if score is not None]
    score = column[row]
    if score is None:
        return 0.0
    low, high = min(known), max(known)
    part = 1.0 if high == low else (score - low) / (high - low)
    return 0.05 + 0.45 * (part if matrix.greater[place] else 1 - part)
