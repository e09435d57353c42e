"""One technique in one layer, drawn: the base's boxes from top to bottom, the technique's where its slots are."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from refarch_inspect.diagram import Drawing, Sublayer
from refarch_inspect.looked import Row

from refarch import ConfiguredTechnique, svg
from refarch.architecture import ModuleSpec
from refarch_compare.diagram.place import Joint, joints

FORMS = (
    "direct addition",
    "scaled addition",
    "gated addition",
    "rescaling",
    "concatenation",
    "transformation",
    "selection",
)
"""Integration forms, each in the colour of its place here."""
SIGNS = {"direct addition": "+", "scaled addition": "+", "gated addition": "+", "rescaling": "×", "concatenation": "‖"}
FACTORS = {"scaled addition": "s", "gated addition": "g"}
"""What stands at the line from a module to where it is added."""
STREAM, RAIL, LEFT, CELL, GAP = 22, 40, 56, 164, 10
"""x of the residual stream, of what passes by a sublayer, of the boxes; width of a box, space between two."""
INNER = 3 * CELL + 2 * GAP
MIDDLE = LEFT + INNER / 2
LANE = 132
"""Width of what stands beside a whole sublayer."""
WIDTH = LEFT + INNER + 14
BOX, STEP = 42, 16
"""Height of a box, and of the line between two."""


class Panel:
    """Shapes, and how far down they go.

    Args:
        technique: whose modules are drawn.
        left: x of its left edge.
        top: y of the first shape.
    """

    def __init__(self, technique: ConfiguredTechnique, left: float, top: float) -> None:
        self.technique, self.left, self.y = technique, left, top
        self.parts: list[str] = []
        self.lane = False

    def joints(self, row: Row) -> list[Joint]:
        """Of the technique at a slot."""
        return list(joints(self.technique, row))

    def draw(self, drawing: Drawing) -> None:
        """A layer with what is above and below it."""
        start = self.y
        for row in _with_inputs(drawing.above):
            self.stage([row], on_stream=True)
        top = self.y + 4
        self.y += 30
        name = "a layer" if not drawing.stack.count else f"a layer of the {drawing.stack.name}"
        self.text(LEFT, top + 20, name, "name")
        if drawing.stack.count:
            self.text(WIDTH - 16, top + 20, f"{drawing.stack.count} ×", "soft", "end")
        parallel = drawing.stack.parallel
        for group in [drawing.sublayers] if parallel else [[one] for one in drawing.sublayers]:
            self._group(group)
        self._whole(Row(drawing.stack.name, "layer", "layer", ""))
        right = WIDTH + (LANE if self.lane else 0)
        size = f'width="{right - 8:g}" height="{self.y - top:g}"'
        self.parts.insert(0, f'<rect class="panel" x="{self.left + 4:g}" y="{top:g}" {size} rx="10"/>')
        self.y += 12
        for row in drawing.below:
            self.stage([row], on_stream=True)
        self.parts.insert(1, self._line(f"M{self._x(STREAM)} {start:g}V{self.y:g}", "line stream", arrow=True))
        self.y += 10

    # sublayers -----------------------------------------------------------------------------------------------------

    def _group(self, group: Sequence[Sublayer]) -> None:
        """Sublayers that read the stream at one place and join it at one place."""
        ends = []
        for sublayer in group:
            self.text(LEFT, self.y + 10, sublayer.name, "soft")
            self.y += 18
            self.add(self._line(f"M{self._x(STREAM)} {self.y + 21:g}H{self._x(LEFT - 2)}", arrow=True))
            norm = sublayer.norm
            stages = [[norm]] if norm and sublayer.place == "before" else []
            reads = len(stages)
            stages += [sublayer.first, sublayer.inner]
            stages += [[row] for row in (sublayer.middle, sublayer.last, sublayer.post) if row]
            stages += [[norm]] if norm and sublayer.place == "inside" else []
            entry = self.y
            above = 0
            for number, rows in enumerate(stages):
                if number == reads:
                    entry = self.y - (STEP if reads else 0)
                if rows:
                    self.stage(rows, above)
                    above = len(rows)
            self._beside(Row("", sublayer.name, "sublayer", ""), entry)
            self._whole(Row("", sublayer.name, "sublayer", ""))
            ends.append(self.y - STEP)
            self.y += 6
        join = self.y + 4
        for end in ends[:-1]:
            self.add(self._line(f"M{self._x(MIDDLE)} {end:g}v8H{self._x(RAIL)}V{join:g}"))
        self.add(self._line(f"M{self._x(MIDDLE)} {ends[-1]:g}V{join:g}H{self._x(STREAM + 10)}", arrow=True))
        self.sign(STREAM, join, "+", "plus")
        self.y = join + 16
        for sublayer in group:
            if sublayer.norm and sublayer.place == "after":
                self.stage([sublayer.norm], on_stream=True)

    def _beside(self, row: Row, entry: float) -> None:
        """Modules parallel to a whole sublayer: they read what its first projections read."""
        for joint in [joint for joint in self.joints(row) if joint.how == "beside"]:
            self.lane = True
            module, middle = joint.module, WIDTH + LANE / 2 - 14
            end = self.y - STEP + 12
            top = (entry + end) / 2 - BOX / 2
            colour = _colour(module)
            self.add(self._line(f"M{self._x(MIDDLE)} {entry + 4:g}H{self._x(middle)}V{top:g}", colour, arrow=True))
            self.box(module, WIDTH - 8, top, LANE - 12)
            down = f"M{self._x(middle)} {top + BOX:g}V{end:g}H{self._x(MIDDLE + 10)}"
            self.add(self._line(down, colour, arrow=True))
            self.add(self._line(f"M{self._x(MIDDLE)} {self.y - STEP:g}V{end + 10:g}"))
            self.sign(MIDDLE, end, SIGNS[module.integration], colour)
            self.text(middle + 6, end - 6, FACTORS.get(module.integration, ""), "name")
            self.y = end + 10 + STEP

    def _whole(self, row: Row) -> None:
        """Modules in the flow after a whole sublayer, or after the layer."""
        for joint in [joint for joint in self.joints(row) if joint.how == "after"]:
            on_stream = row.kind == "layer"
            x, width = (8, INNER / 2) if on_stream else (LEFT + CELL / 2, INNER - CELL)
            middle = STREAM if on_stream else MIDDLE
            if on_stream:
                self.y += 6
            self.y = self._after(joint.module, x, self.y - (0 if on_stream else STEP), width, middle) + STEP

    # stages --------------------------------------------------------------------------------------------------------

    def stage(self, rows: Sequence[Row], above: int = 0, on_stream: bool = False) -> None:
        """Slots side by side, joined to those above them."""
        count = len(rows)
        width = INNER / 2 if on_stream else (INNER - GAP * (count - 1)) / count
        x = 8.0 if on_stream else LEFT
        lines = max(above, count) if above else 0
        for position in range(lines):
            middle = LEFT + (INNER + GAP) / lines * (position + 0.5) - GAP / 2
            self.add(self._line(f"M{self._x(middle)} {self.y - STEP:g}v{STEP}", arrow=True))
        parts, start, ends = self.parts, self.y, []
        for position, row in enumerate(rows):
            at = x + position * (width + GAP)
            ends.append(self.cell(row, at, start, width, STREAM if on_stream else at + width / 2))
        bottom = max(ends)
        for position, end in enumerate(ends):
            if end < bottom and not on_stream:
                middle = x + position * (width + GAP) + width / 2
                parts.append(self._line(f"M{self._x(middle)} {end:g}V{bottom:g}"))
        self.y = bottom + STEP

    def cell(self, row: Row, x: float, y: float, width: float, middle: float) -> float:
        """A slot with what joins there; returns where it ends."""
        found = self.joints(row)
        for joint in [joint for joint in found if joint.how == "before"]:
            y = self._rescaling(joint.module, x, y, width, middle)
        beside = [joint.module for joint in found if joint.how == "beside"]
        tokens = [joint.module for joint in found if joint.how == "tokens"]
        inside = [joint for joint in found if joint.how in ("weight", "trained")]
        share = len(beside) + 1
        own = (width - GAP * (share - 1)) / share if beside else width
        if beside:
            right = x + width - own / 2
            if row.kind == "key_value":  # it reads three
                self.add(self._line(f"M{self._x(x + CELL / 2)} {y:g}v2H{self._x(x + width - CELL / 2)}v-2"))
            self.add(self._line(f"M{self._x(x + own / 2)} {y + 10:g}V{y + 2:g}H{self._x(right)}V{y + 10:g}"))
            y += 10
        self.slot(row, x, y, own, inside, len(tokens))
        end = y + BOX
        for number, module in enumerate(tokens, 1):
            part = own / (len(tokens) + 1)
            self._tokens(module, x + number * part, y + 5, part - 6)
        for number, module in enumerate(beside, 1):
            at = x + number * (own + GAP)
            self.box(module, at, y, own)
            end = self._added(module, x + own / 2, at + own / 2, y + BOX)
        if beside and end > y + BOX and abs(middle - x - own / 2) > 1:
            self.add(self._line(f"M{self._x(x + own / 2)} {end:g}v6H{self._x(middle)}v4"))
            end += 10
        for joint in [joint for joint in found if joint.how == "after"]:
            end = self._after(joint.module, x, end, width, middle)
        return end

    def _tokens(self, module: ModuleSpec, x: float, y: float, width: float) -> None:
        """Tokens of the module's own, within the box of the sequence."""
        height, gate = BOX - 10, " × g" if module.gate else ""
        place = f'x="{self._x(x)}" y="{y:g}" width="{width:g}" height="{height}"'
        self.add(f'<rect class="own {_colour(module)}" {place} rx="4"/>')
        self.text(x + width / 2, y + height / 2 + 5, f"{module.name}{gate}", "name", "middle")
        self.sign(x, y + height / 2, SIGNS[module.integration], _colour(module))

    def _added(self, module: ModuleSpec, base: float, beside: float, y: float) -> float:
        """From a module beside the base to their sum."""
        join = y + 18
        self.add(self._line(f"M{self._x(base)} {y:g}V{join + 12:g}"))
        path = f"M{self._x(beside)} {y:g}V{join:g}H{self._x(base + 10)}"
        self.add(self._line(path, _colour(module), arrow=True))
        self.sign(base, join, SIGNS[module.integration], _colour(module))
        self.text(beside + 6, join - 3, FACTORS.get(module.integration, ""), "name")
        return join + 12

    def _after(self, module: ModuleSpec, x: float, y: float, width: float, middle: float) -> float:
        """A module in the flow: it reads what the base gives, and is added to that or multiplies it."""
        if module.integration == "rescaling":
            return self._rescaling(module, x, y + STEP, width, middle) - STEP
        by = middle if middle == STREAM else x + 14
        left = by + 18
        top, colour = y + 16, _colour(module)
        join = top + BOX + 14
        centre = left + (x + width - left) / 2
        self.add(self._line(f"M{self._x(middle)} {y:g}v6H{self._x(by)}V{join + 10:g}"))
        self.add(self._line(f"M{self._x(by)} {y + 6:g}H{self._x(centre)}V{top:g}", colour, arrow=True))
        self.box(module, left, top, x + width - left)
        path = f"M{self._x(centre)} {top + BOX:g}V{join:g}H{self._x(by + 10)}"
        self.add(self._line(path, colour, arrow=True))
        self.sign(by, join, SIGNS[module.integration], colour)
        self.text(centre + 6, join - 3, FACTORS.get(module.integration, ""), "name")
        if by != middle:
            self.add(self._line(f"M{self._x(by)} {join + 10:g}v4H{self._x(middle)}v4"))
        return join + (18 if by != middle else 12)

    def _rescaling(self, module: ModuleSpec, x: float, y: float, width: float, middle: float) -> float:
        """Factors that multiply what flows by."""
        centre = y + BOX / 2
        self.add(self._line(f"M{self._x(middle)} {y - STEP:g}V{y + BOX + STEP:g}"))
        wide = min(width / 2 - 24, CELL)
        start = middle + 26
        self.box(module, start, y, wide)
        self.add(self._line(f"M{self._x(start)} {centre:g}H{self._x(middle + 10)}", _colour(module), arrow=True))
        self.sign(middle, centre, SIGNS[module.integration], _colour(module))
        return y + BOX + STEP

    # shapes --------------------------------------------------------------------------------------------------------

    def slot(self, row: Row, x: float, y: float, width: float, inside: Sequence[Joint] = (), tokens: int = 0) -> None:
        """The base's own box, with room at its right for modules that are tokens in its sequence."""
        kind = "base" if row.module else "missing"
        second = row.shape.replace("->", "→") if row.module else row.reason
        if inside:
            module = inside[0].module
            kind = f"own {_colour(module)}"
            names = ", ".join("all" if name == "*" else name for name in module.parameters)
            second = f"trains {names}" if inside[0].how == "trained" else f"{module.name}(W)"
        name = row.slot.rpartition(".")[2]
        self._rect(kind, x, y, width, row.slot, BOX / 2 if row.kind == "norm" else 5, name, second, tokens)

    def box(self, module: ModuleSpec, x: float, y: float, width: float) -> None:
        """A module of the technique's."""
        second = module.form + (f", {module.routing}" if module.routing != "none" else "")
        self._rect(
            f"own {_colour(module)}", x, y, width, f"{module.name}: {module.integration}", 5, module.name, second
        )

    def _rect(
        self,
        kind: str,
        x: float,
        y: float,
        width: float,
        title: str,
        radius: float,
        name: str,
        second: str,
        tokens: int = 0,
    ) -> None:
        self.add(
            f'<g><title>{escape(title)}</title><rect class="under" x="{self._x(x)}" y="{y:g}" width="{width:g}"'
            f' height="{BOX}" rx="{radius:g}"/><rect class="{kind}" x="{self._x(x)}" y="{y:g}" width="{width:g}"'
            f' height="{BOX}" rx="{radius:g}"/>'
        )
        room = width / (tokens + 1)
        self.text(x + room / 2, y + (18 if second else 26), name, "name", "middle")
        self.text(x + room / 2, y + 34, _short(second, room - 10), "small", "middle")
        self.add("</g>")

    def sign(self, x: float, y: float, sign: str, kind: str) -> None:
        """A circle where two flows become one."""
        self.add(f'<circle class="plus {kind}" cx="{self._x(x)}" cy="{y:g}" r="9"/>')
        self.text(x, y + 4.5, sign, "name", "middle")

    def text(self, x: float, y: float, content: str, kind: str = "", anchor: str = "start") -> None:
        """A line of text."""
        if content:
            self.add(svg.text(self.left + x, y, content, kind, anchor))

    def add(self, part: str) -> None:
        """Append an element."""
        self.parts.append(part)

    def _line(self, points: str, kind: str = "", arrow: bool = False) -> str:
        end = ' marker-end="url(#arrow)"' if arrow else ""
        return f'<path class="line {kind}" d="{points}"{end}/>'

    def _x(self, x: float) -> str:
        return f"{self.left + x:g}"


def _with_inputs(above: Sequence[Row]) -> list[Row]:
    """What is above the first stack, with the sequence that the table of embeddings gives."""
    rows = list(above)
    if rows:
        rows.insert(1, Row("", "inputs", "inputs", "", "any"))
    return rows


def _colour(module: ModuleSpec) -> str:
    return f"join{FORMS.index(module.integration)}"


def _short(content: str, room: float) -> str:
    """What fits."""
    if svg.width_of(content, 11.5) > room:
        content = content.replace(" → ", "→")
    while content and svg.width_of(content, 11.5) > room:
        content = content[:-2].rstrip(" …") + "…"
    return content
