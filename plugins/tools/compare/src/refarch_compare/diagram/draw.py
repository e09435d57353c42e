"""Transformer layers with the modules of techniques in their slots, side by side, as one SVG."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from refarch import ConfiguredTechnique, FamilySpec, Registry, default_registry, svg
from refarch_compare import naming
from refarch_compare.diagram.panel import FORMS, LANE, WIDTH, Panel
from refarch_compare.diagram.place import Layer, of_backbone, of_vocabulary, refusal, words

if TYPE_CHECKING:
    from transformers import PretrainedConfig

COLUMNS = 3
"""So many panels stand side by side at most."""
MARGIN, BETWEEN = 20, 24
STYLE = """.base {{ fill: {base}; stroke: {edge_of_base}; }}
.missing {{ fill: none; stroke: {line}; stroke-dasharray: 4 3; }}
.own {{ fill-opacity: 0.2; stroke-width: 1.6; }} .under {{ fill: {page}; }} .small {{ fill: {soft}; }}
"""
MORE = """.small { font-size: 11.5px; } .stream { stroke-width: 2.6; } .plus { stroke-width: 1.4; }
"""


def diagram(
    specs: Sequence[ConfiguredTechnique | tuple[str, ConfiguredTechnique]],
    family: FamilySpec | PretrainedConfig | None = None,
    registry: Registry | None = None,
) -> str:
    """Draw techniques in a layer.

    Args:
        specs: techniques, or pairs of a label and a technique.
        family: a backbone's configuration, or a family, which stands for the default configuration of its first model
            type; without one the layer is that of the slot vocabulary.
        registry: where a configuration's family is looked up.

    Returns:
        An SVG file's content, which follows the reader's light or dark setting.
    """
    registry = registry or default_registry()
    named = [item if isinstance(item, tuple) else (naming.label(item), item) for item in specs]
    layer = _layer([technique for _, technique in named], family, registry)
    parts: list[str] = []
    x, y, bottom, right = float(MARGIN), 58.0, 0.0, 0.0
    per_row = max(1, COLUMNS // len(layer.stacks))
    for number, (label, technique) in enumerate(named):
        if number and number % per_row == 0:
            x, y = float(MARGIN), bottom + 26
        x, low = _technique(parts, label, technique, layer, x, y, registry)
        bottom, right = max(bottom, low), max(right, x - BETWEEN + MARGIN)
    title = ", ".join(label for label, _ in named) + (f" on {layer.name}" if layer.name else "")
    forms = {module.integration for _, technique in named for module in technique.technique.modules}
    parts += _legend(bottom + 28, [form for form in FORMS if form in forms])
    parts.insert(0, svg.text(MARGIN, 32, title, "title"))
    parts.insert(0, _marker())
    return svg.document(max(right, 640), bottom + 48, title, parts, _style())


def _layer(
    techniques: list[ConfiguredTechnique], family: FamilySpec | PretrainedConfig | None, registry: Registry
) -> Layer:
    if family is None:
        return of_vocabulary(techniques)
    if isinstance(family, FamilySpec):
        from transformers import AutoConfig

        family = AutoConfig.for_model(family.model_types[0])
    return of_backbone(family, registry)


def _technique(
    parts: list[str], label: str, technique: ConfiguredTechnique, layer: Layer, x: float, y: float, registry: Registry
) -> tuple[float, float]:
    """One technique in all stacks; returns where the next one begins, and how far down it goes."""
    refused = refusal(technique, layer, registry)
    lines = [f"not here: {refused}"] if refused else [words(module) for module in technique.technique.modules]
    parts.append(svg.text(x, y + 10, label, "name"))
    for part in [part for line in lines for part in textwrap.wrap(line, 84)]:
        y += 17
        parts.append(svg.text(x, y + 12, part, "soft"))
    if refused:
        technique = technique.model_copy(update={"technique": technique.technique.model_copy(update={"modules": ()})})
    bottom = y
    for stack in layer.stacks:
        panel = Panel(technique, x, y + 26)
        panel.draw(stack)
        parts += panel.parts
        x += WIDTH + (LANE if panel.lane else 0) + BETWEEN
        bottom = max(bottom, panel.y)
    return x, bottom


def _legend(y: float, forms: list[str]) -> list[str]:
    """The colours of integration forms."""
    parts, x = [], float(MARGIN)
    for form in forms:
        kind = f"own join{FORMS.index(form)}"
        parts.append(f'<rect class="{kind}" x="{x:g}" y="{y - 11:g}" width="20" height="14" rx="3"/>')
        parts.append(svg.text(x + 27, y, form, "soft"))
        x += 48 + svg.width_of(form, 12)
    return parts


def _marker() -> str:
    return (
        '<defs><marker id="arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="6" markerHeight="6" orient="auto">'
        '<path class="head" d="M0 0L8 4L0 8z"/></marker></defs>'
    )


def _style() -> str:
    colours = {
        "base": ("#e9edf4", "#262e3b"),
        "edge_of_base": ("#6d778a", "#929db0"),
        **{name: svg.COLOURS[name] for name in ("page", "line", "soft")},
        **{f"h{i}": svg.HUES[i] for i in range(len(FORMS))},
    }
    rule = "rect.join{i} {{{{ fill: {{h{i}}}; stroke: {{h{i}}}; }}}}\n"
    rule += "path.join{i}, circle.join{i} {{{{ stroke: {{h{i}}}; }}}}\n"
    joins = "".join(rule.format(i=i) for i in range(len(FORMS)))
    return svg.two_schemes(STYLE + joins, colours) + MORE
