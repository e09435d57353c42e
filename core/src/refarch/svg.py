"""What all pictures share: an SVG document that follows the reader's light or dark setting, without scripts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

SANS = 'system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif'
HUES = (
    ("#3f73d1", "#7fa8f5"),
    ("#b3560f", "#e8995a"),
    ("#2f8f57", "#66c690"),
    ("#a03f9a", "#d98bd4"),
    ("#8a7200", "#d3b93f"),
    ("#b3384a", "#ee8592"),
    ("#15808a", "#5bc4ce"),
    ("#5f5bb5", "#a9a5f0"),
)
"""Colours of groups, each for light and for dark pages."""
COLOURS = {
    "page": ("#ffffff", "#12161d"),
    "ink": ("#1c2330", "#e8ecf3"),
    "soft": ("#5b6577", "#a3adbd"),
    "line": ("#8b95a7", "#76839a"),
    "panel": ("#f5f7fa", "#1a202a"),
    "edge": ("#d5dbe5", "#323c4c"),
}
"""What everything else is drawn in."""
RULES = """.page {{ fill: {page}; }} text {{ fill: {ink}; }} .soft {{ fill: {soft}; }}
.panel {{ fill: {panel}; stroke: {edge}; }} .line {{ stroke: {line}; }} .edge {{ stroke: {edge}; }}
.head {{ fill: {line}; }} .plus {{ fill: {page}; stroke: {line}; }}
"""
SHAPES = f"""text {{ font: 13px {SANS}; }} .title {{ font-size: 17px; font-weight: 600; }} .soft {{ font-size: 12px; }}
.name {{ font-weight: 600; }} .line, .edge {{ fill: none; }} .line {{ stroke-width: 1.4; }}
"""


def two_schemes(rules: str, colours: Mapping[str, tuple[str, str]]) -> str:
    """Style rules for light pages, and again for dark ones.

    Colours are written out, not as CSS variables, which viewers other than browsers do not know.

    Args:
        rules: CSS with ``{name}`` for a colour, and doubled braces.
        colours: each colour for light and for dark pages.
    """
    light, dark = ({name: pair[side] for name, pair in colours.items()} for side in (0, 1))
    return f"{rules.format(**light)}@media (prefers-color-scheme: dark) {{\n{rules.format(**dark)}}}\n"


def hues() -> str:
    """Style rules for the classes ``fill0``, ``stroke0`` ... in the colours of groups."""
    rules = "".join(
        f".fill{i} {{{{ fill: {{h{i}}}; }}}} .stroke{i} {{{{ stroke: {{h{i}}}; }}}}\n" for i in range(len(HUES))
    )
    return two_schemes(rules, {f"h{i}": pair for i, pair in enumerate(HUES)})


def document(width: float, height: float, title: str, parts: Sequence[str], style: str = "") -> str:
    """A whole SVG file with a page of its own behind the drawing."""
    rules = f"{SHAPES}{two_schemes(RULES, COLOURS)}{style}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}"'
        f' height="{height:g}" role="img"><title>{escape(title)}</title><style>{rules}</style>'
        '<rect width="100%" height="100%" class="page"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def text(x: float, y: float, content: str, kind: str = "", anchor: str = "start") -> str:
    """A line of text."""
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}" text-anchor="{anchor}">{escape(content)}</text>'


def width_of(content: str, size: float = 13.0) -> float:
    """About how wide a line of text is: a generous estimate, since the reader's font is unknown."""
    return sum(0.36 if c in "iIjl.,:;|!'() " else 0.92 if c in "mwMW@%" else 0.6 for c in content) * size
