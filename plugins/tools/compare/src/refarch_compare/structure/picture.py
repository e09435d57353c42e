"""The map of techniques as an SVG: a plane in which near means structurally alike, and the tree of likeness."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from refarch import svg
from refarch_compare.structure.distance import matrix
from refarch_compare.structure.features import Structure
from refarch_compare.structure.plane import Plane, Tree, plane, tree

WIDTH, MARGIN = 980, 28
PLANE = 560
"""Height of the plane."""
ROW = 19
"""Height of a leaf of the tree."""
CUT = 0.3
"""Techniques that are joined in the tree below this distance have one colour."""
SIZE = 13.0
LEAST = 3.0
"""Labels keep so far from each other."""


class Box(NamedTuple):
    """A rectangle."""

    x: float
    y: float
    width: float
    height: float

    def meets(self, other: Box, gap: float = 0.0) -> bool:
        """Whether two rectangles overlap, or are nearer than ``gap``."""
        return (
            self.x < other.x + other.width + gap
            and other.x < self.x + self.width + gap
            and self.y < other.y + other.height + gap
            and other.y < self.y + self.height + gap
        )


class Map(NamedTuple):
    """All techniques by their distances."""

    structures: list[Structure]
    distances: list[list[float]]
    plane: Plane
    tree: Tree


def survey(structures: Sequence[Structure]) -> Map:
    """Distances, plane and tree of some techniques."""
    distances = matrix(structures)
    return Map(list(structures), distances.tolist(), plane(distances), tree(distances, CUT))


def picture(found: Map) -> str:
    """The map as SVG."""
    height = MARGIN + 52 + PLANE + 64 + ROW * len(found.structures) + 40
    title = f"{len(found.structures)} techniques by their structure"
    parts = [
        svg.text(MARGIN, 36, title, "title"),
        svg.text(
            MARGIN,
            58,
            "Near means alike in the properties of the reference architecture. Positions are approximate (stress"
            f" {found.plane.stress:.2f}); the tree below is by average distance.",
            "soft",
        ),
    ]
    parts += _plane(found, MARGIN + 52)
    parts += _tree(found, MARGIN + 52 + PLANE + 64)
    return svg.document(WIDTH, height, title, parts, svg.hues())


def _hue(group: int) -> int:
    return group % len(svg.HUES)


def _plane(found: Map, top: float) -> list[str]:
    """Points with labels; techniques at one point share it."""
    parts = [f'<rect class="panel" x="{MARGIN}" y="{top}" width="{WIDTH - 2 * MARGIN}" height="{PLANE}" rx="10"/>']
    spots = _spots(found, top)
    dots = [Box(x - 6, y - 6, 12, 12) for x, y, _ in spots]
    frame = Box(MARGIN + 4, top + 4, WIDTH - 2 * MARGIN - 8, PLANE - 8)
    taken = list(dots)
    for x, y, members in sorted(spots, key=lambda spot: -sum(len(found.structures[i].label) for i in spot[2])):
        lines = _lines([found.structures[i].label for i in members])
        box = _free(x, y, max(svg.width_of(line, SIZE) for line in lines), 16.0 * len(lines), taken, frame)
        taken.append(box)
        hue = _hue(found.tree.groups[members[0]])
        end_x, end_y = min(max(x, box.x), box.x + box.width), min(max(y, box.y), box.y + box.height)
        if (end_x - x) ** 2 + (end_y - y) ** 2 > 14**2:
            parts.append(f'<path class="line" d="M{x:.1f} {y:.1f}L{end_x:.1f} {end_y:.1f}"/>')
        parts.append(f'<circle class="fill{hue}" cx="{x:.1f}" cy="{y:.1f}" r="{4.5 + 0.8 * (len(members) - 1):.1f}"/>')
        for number, line in enumerate(lines):
            parts.append(svg.text(box.x, box.y + 12.5 + 16 * number, line))
    return parts


def _spots(found: Map, top: float) -> list[tuple[float, float, list[int]]]:
    """Where points stand in the picture, and which techniques each stands for (those at a distance of 0)."""
    points = found.plane.points
    same: list[list[int]] = []
    for i in range(len(points)):
        own = next((members for members in same if found.distances[members[0]][i] < 1e-12), None)
        if own is None:
            same.append([i])
        else:
            own.append(i)
    low, high = points.min(axis=0), points.max(axis=0)
    span = [max(float(s), 1e-9) for s in high - low]
    room = (WIDTH - 2 * MARGIN - 260, PLANE - 90)
    scale = min(room[0] / span[0], room[1] / span[1])
    spots = []
    for members in same:
        x, y = ((points[members[0]] - (low + high) / 2) * scale).tolist()
        spots.append((WIDTH / 2 + x, top + PLANE / 2 + y, members))
    return spots


def _lines(labels: Sequence[str]) -> list[str]:
    """Labels that share a point, in lines of about 40 characters."""
    lines = [""]
    for label in labels:
        if lines[-1] and len(lines[-1]) + len(label) > 40:
            lines[-1] += ","
            lines.append("")
        lines[-1] += f", {label}" if lines[-1] else label
    return lines


def _free(x: float, y: float, width: float, height: float, taken: Sequence[Box], frame: Box) -> Box:
    """The nearest place beside a point where a label meets nothing; farther out where the near ones are taken."""
    best: tuple[float, Box] | None = None
    for ring in range(1, 30):
        reach = 9.0 + 9.0 * (ring - 1)
        for across, along in ((1, 0), (-1, 0), (0, -1), (0, 1), (0.7, -0.7), (0.7, 0.7), (-0.7, -0.7), (-0.7, 0.7)):
            left = x + reach * across - (width if across < 0 else width / 2 if not across else 0)
            upper = y + reach * along - (height if along < 0 else 0 if along else height / 2)
            box = Box(left, upper, width, height)
            inside = (
                frame.x <= left
                and left + width <= frame.x + frame.width
                and frame.y <= upper
                and upper + height <= frame.y + frame.height
            )
            clashes = sum(box.meets(other, LEAST) for other in taken)
            if inside and not clashes:
                return box
            if inside and (best is None or clashes < best[0]):
                best = (clashes, box)
    return best[1] if best else Box(x, y, width, height)


def _tree(found: Map, top: float) -> list[str]:
    """The dendrogram, leaves at the left with their labels, joins to the right by their distance."""
    labels = [found.structures[i].label for i in found.tree.order]
    left = MARGIN + max(svg.width_of(label, SIZE) for label in labels) + 16
    highest = max([join[4] for join in found.tree.joins], default=0.0) or 1.0
    room = WIDTH - MARGIN - 10 - left

    def at(height: float) -> float:
        return left + height / highest * room

    parts = [svg.text(MARGIN, top - 26, "The tree of likeness", "name")]
    marks = [step / 10 for step in range(11) if step / 10 <= highest]
    for mark in marks[:: 2 if len(marks) > 6 else 1]:
        bottom = top + ROW * len(labels)
        parts.append(f'<path class="edge" d="M{at(mark):.1f} {top - 6:.1f}V{bottom:.1f}"/>')
        parts.append(svg.text(at(mark), bottom + 16, f"{mark:.1f}", "soft", "middle"))
    parts.append(svg.text(WIDTH - MARGIN, top - 26, "distance at which groups join", "soft", "end"))
    for one, other, above, below, joined in found.tree.joins:
        upper, lower = top + ROW * (above + 0.5), top + ROW * (below + 0.5)
        path = f"M{at(one):.1f} {upper:.1f}H{at(joined):.1f}V{lower:.1f}H{at(other):.1f}"
        parts.append(f'<path class="line" d="{path}"/>')
    for position, index in enumerate(found.tree.order):
        y = top + ROW * (position + 0.5)
        hue = _hue(found.tree.groups[index])
        parts.append(f'<circle class="fill{hue}" cx="{left - 8:.1f}" cy="{y:.1f}" r="4"/>')
        parts.append(svg.text(left - 16, y + 4.5, labels[position], "", "end"))
    return parts
