"""The diagram as SVG: follows the reader's light or dark setting, needs no fonts or scripts."""

from __future__ import annotations

import textwrap
from html import escape

from refarch import svg as page
from refarch_inspect.diagram import Drawing, Sublayer, drawings
from refarch_inspect.looked import Looked, Row

WIDTH, GAP, LINE, LEFT = 700, 40, 56, 104
"""Width of a stack, space between stacks, x of the residual stream, x of what joins it."""
INNER = WIDTH - LEFT - 36
COLOURS = {
    "linear": ("#dfeafd", "#1d3157"),
    "linear_edge": page.HUES[0],
    "norm": ("#fdf0d2", "#40330f"),
    "norm_edge": ("#b98205", "#e0b348"),
    "key_value": ("#dcf3e4", "#173a27"),
    "key_value_edge": page.HUES[2],
    "other": ("#e9ebf0", "#272e3a"),
    "other_edge": ("#6d778a", "#929db0"),
    **{name: page.COLOURS[name] for name in ("page", "soft", "line")},
}
RULES = """.path {{ fill: {soft}; }} .flow {{ stroke: {line}; }} .missing {{ stroke: {soft}; }}
.linear {{ fill: {linear}; stroke: {linear_edge}; }} .norm {{ fill: {norm}; stroke: {norm_edge}; }}
.key_value {{ fill: {key_value}; stroke: {key_value_edge}; }} .other {{ fill: {other}; stroke: {other_edge}; }}
.plus {{ fill: {page}; }}
"""
SHAPES = """.path { font: 11.5px ui-monospace, Menlo, "DejaVu Sans Mono", monospace; }
.flow { fill: none; stroke-width: 1.6; } .stream { stroke-width: 3; }
.missing { fill: none; stroke-dasharray: 4 3; }
"""
MARKER = (
    '<defs><marker id="arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
    '<path class="head" d="M0 0L8 4L0 8z"/></marker></defs>'
)


class Canvas:
    """Shapes of one stack, and how far down they go."""

    def __init__(self, left: float) -> None:
        self.left, self.y = left, 0.0
        self.parts: list[str] = []

    def add(self, part: str) -> None:
        """Append an element."""
        self.parts.append(part)

    def text(self, x: float, y: float, content: str, kind: str = "", anchor: str = "start") -> None:
        """A line of text."""
        self.add(page.text(self.left + x, y, content, kind, anchor))

    def slot(self, row: Row, x: float, y: float, width: float, height: float = 44) -> None:
        """A slot's box: its name, its module's path, its shape."""
        kind = row.kind if row.kind in ("linear", "norm", "key_value") else "other"
        kind = kind if row.module else "missing"
        detail = row.entry if row.module else row.reason
        full = f"{row.slot}: {row.entry or row.reason} {row.module} {row.shape}"
        radius, inset = (height / 2, 20 if width > 200 else 12) if row.kind == "norm" else (6, 11)
        self.add(
            f'<g><title>{escape(full.strip())}</title><rect class="{kind}" x="{self.left + x:g}" y="{y:g}"'
            f' width="{width:g}" height="{height:g}" rx="{radius:g}"/>'
        )
        self.text(x + inset, y + 18, row.slot, "name")
        room = int((width - 2 * inset) / 7)
        self.text(x + inset, y + 35, _short(detail, room), "path")
        shape = row.shape.replace("->", "→")
        if height > 44:
            self.text(x + inset, y + 52, shape, "soft")
        elif len(detail) + len(shape) + 2 <= room:
            self.text(x + width - inset, y + 35, shape, "soft", "end")
        elif len(row.slot) + len(shape) + 3 < room:
            self.text(x + width - inset, y + 18, shape, "soft", "end")
        self.add("</g>")


def svg(looked: Looked) -> str:
    """The drawing of all stacks of a model, side by side."""
    canvases = []
    for position, drawing in enumerate(drawings(looked.rows, looked.stacks)):
        canvas = Canvas(20 + position * (WIDTH + GAP))
        _stack(canvas, drawing)
        canvases.append(canvas)
    width = 40 + len(canvases) * WIDTH + (len(canvases) - 1) * GAP
    height = max(canvas.y for canvas in canvases) + 44
    origin = "proposed table" if looked.proposed else f"family {looked.family.name}"
    title = f"{looked.model}: the slots of one layer ({origin})"
    parts = [part for canvas in canvases for part in canvas.parts]
    parts = [MARKER, page.text(20, 32, title, "title"), *parts, _legend(height - 20)]
    return page.document(width, height, title, parts, SHAPES + page.two_schemes(RULES, COLOURS))


def _stack(canvas: Canvas, drawing: Drawing) -> None:
    stack = drawing.stack
    canvas.y = 64
    start = canvas.y
    for row in drawing.above:
        canvas.slot(row, 20, canvas.y, 330)
        canvas.y += 58
    if not drawing.above:
        canvas.y += 6
        canvas.text(LINE + 12, canvas.y + 4, "embedded tokens", "soft")
        canvas.y += 14
    top = canvas.y
    canvas.y += 34
    canvas.text(LEFT, top + 22, f"{stack.name} layer", "name")
    canvas.text(WIDTH - 18, top + 22, f"{stack.count} × {stack.layers}", "path", "end")
    groups = [drawing.sublayers] if stack.parallel else [[sublayer] for sublayer in drawing.sublayers]
    for group in groups:
        _group(canvas, group)
    for line in _wrapped("named by no slot: " + ", ".join(stack.uncovered), 82) if stack.uncovered else []:
        canvas.text(LEFT, canvas.y + 14, line, "path")
        canvas.y += 18
    canvas.y += 8
    size = f'width="{WIDTH - 8}" height="{canvas.y - top:g}"'
    panel = f'<rect class="panel" x="{canvas.left + 8:g}" y="{top:g}" {size} rx="12"/>'
    bottom = canvas.y + 14 + 58 * len(drawing.below)
    stream = f'<path class="flow stream" d="M{canvas.left + LINE:g} {start:g}V{bottom:g}" marker-end="url(#arrow)"/>'
    canvas.parts[0:0] = [panel, stream]
    canvas.y += 14
    for row in drawing.below:
        canvas.slot(row, 20, canvas.y, 330)
        canvas.y += 58
    canvas.y = max(canvas.y, bottom) + 6


def _group(canvas: Canvas, group: list[Sublayer]) -> None:
    """Sublayers that read the stream at one place and join it at one place."""
    canvas.y += 22
    after, ends = [], []
    for sublayer in group:
        canvas.text(LEFT, canvas.y + 8, sublayer.name, "soft")
        if sublayer.name == "cross_attention":
            canvas.text(LEFT + INNER, canvas.y + 8, "keys and values read the encoder's output", "soft", "end")
        canvas.y += 18
        middle = canvas.left + LEFT - 2
        canvas.add(_flow(f"M{canvas.left + LINE:g} {canvas.y + 22:g}H{middle:g}"))
        inside = [[sublayer.norm]] if sublayer.norm and sublayer.place == "inside" else []
        before = [[sublayer.norm]] if sublayer.norm and sublayer.place == "before" else []
        if sublayer.norm and sublayer.place == "after":
            after.append(sublayer.norm)
        single = [[row] for row in (sublayer.middle, sublayer.last, sublayer.post) if row]
        if not before and sublayer.place == "shared":
            canvas.text(LEFT + INNER, canvas.y - 10, "reads attention.norm", "soft", "end")
        above = 0
        for rows in (*before, sublayer.first, sublayer.inner, *single, *inside):
            if rows:
                columns = above if rows is sublayer.inner else len(rows)  # a norm stands below its projection
                _row_of(canvas, rows, above, columns)
                above = columns
        ends.append(canvas.y - 14)
        canvas.y += 10 if sublayer is not group[-1] else 0
    _out(canvas, ends, join := canvas.y + 6)
    canvas.add(f'<circle class="plus flow" cx="{canvas.left + LINE:g}" cy="{join:g}" r="9"/>')
    canvas.text(LINE, join + 5, "+", "", "middle")
    canvas.y = join + 18
    for row in after:
        canvas.slot(row, 20, canvas.y, 330)
        canvas.y += 58
    canvas.y += 4


def _out(canvas: Canvas, ends: list[float], join: float) -> None:
    """From each sublayer's last row to the sum; past the others at their right."""
    right, rail = canvas.left + LEFT + INNER, canvas.left + LEFT + INNER + 14
    for end in ends[:-1]:
        canvas.add(f'<path class="flow" d="M{right:g} {end - 22:g}H{rail:g}V{join:g}H{right - INNER / 2:g}"/>')
    canvas.add(_flow(f"M{right - INNER / 2:g} {ends[-1]:g}V{join:g}H{canvas.left + LINE + 11:g}"))


def _flow(points: str) -> str:
    return f'<path class="flow" d="{points}" marker-end="url(#arrow)"/>'


def _row_of(canvas: Canvas, rows: list[Row], above: int, columns: int) -> None:
    """Boxes in so many columns, joined to the row above; a column without a box is passed through."""
    gap = 10
    width, height = (INNER - gap * (columns - 1)) / columns, 60 if len(rows) > 2 else 44
    lines = max(above, columns) if above else 0
    for position in range(lines):
        through = 14 if position < len(rows) or columns == 1 else 14 + height
        middle = LEFT + (INNER + gap) / lines * (position + 0.5) - gap / 2
        canvas.add(f'<path class="flow" d="M{canvas.left + middle:g} {canvas.y - 14:g}v{through:g}"/>')
    for position, row in enumerate(rows):
        canvas.slot(row, LEFT + position * (width + gap), canvas.y, width, height)
    canvas.y += height + 14


def _wrapped(line: str, width: int) -> list[str]:
    return textwrap.wrap(line, width)


def _short(content: str, room: int) -> str:
    """What fits: the middle is left out, but not which part of a fused projection it is."""
    path, bracket, part = content.partition("[")
    if bracket and len(content) > room:
        suffix = f"[{part}" if len(part) < 6 else f"[{part[:3]}…]"
        return _short(path, room - len(suffix)) + suffix
    return content if len(content) <= room else f"{content[: room // 2 - 1]}…{content[-(room - room // 2) :]}"


def _legend(y: float) -> str:
    parts, x = [], 28
    for kind, label in (
        ("linear", "linear slot"),
        ("norm", "norm"),
        ("key_value", "keys and values"),
        ("other", "once"),
    ):
        radius = 7 if kind == "norm" else 3
        parts.append(f'<rect class="{kind}" x="{x}" y="{y - 12:g}" width="22" height="14" rx="{radius}"/>')
        parts.append(f'<text class="soft" x="{x + 29}" y="{y:g}">{label}</text>')
        x += 44 + 8 * len(label)
    return "".join(parts)
