"""``refarch compare structure``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from refarch_compare.structure.distance import Nearest
    from refarch_compare.structure.features import Module, Structure
    from refarch_compare.structure.picture import Map


@click.command("structure")
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--map", "drawing", type=click.Path(dir_okay=False, path_type=Path), help="Write the map as SVG.")
@click.option("--all-properties", is_flag=True, help="Show the properties in which all agree, too.")
@click.option("--json", "as_json", is_flag=True, help="Print features, distances and relations as JSON.")
def command(names: tuple[str, ...], drawing: Path | None, all_properties: bool, as_json: bool) -> None:
    """Show the typology of techniques side by side, how far apart they are, and what turns one into another.

    NAME is a technique, with a preset or options if need be: adapter:pfeiffer, lora:slots=[ffn.up, ffn.down]. Without
    names, all installed techniques are compared. Differences are marked with an asterisk. The structural distance lies
    between 0 (equal in all properties) and 1; docs/compare.md defines it.

    \b
    Examples:
      refarch compare structure lora ia3 prefix-tuning
      refarch compare structure adapter:houlsby adapter:pfeiffer adapter:parallel mam
      refarch compare structure lora --json
      refarch compare structure --map map.svg
    """  # noqa: D301 - click reads \b as: keep these lines as they are
    from refarch import default_registry, terminal
    from refarch.files import write_text
    from refarch_compare import naming

    registry = default_registry()
    named = [naming.parse(name, registry) for name in dict.fromkeys(names)]
    from refarch_compare.structure.distance import matrix, nearest  # load scipy
    from refarch_compare.structure.features import structure
    from refarch_compare.structure.picture import picture, survey

    everything = naming.variants(registry)
    chosen = named or [item for item in everything if ":" not in item.label]
    structures = [structure(item.technique, item.label) for item in chosen]
    others = {
        item.label: [
            structure(other.technique, other.label)
            for other in everything
            if other.technique.technique.modules != item.technique.technique.modules
            or other.technique.name != item.technique.name
        ]
        for item in chosen
    }
    relations = [nearest(item, others[item.label]) for item in structures]
    found = survey([structure(item.technique, item.label) for item in everything]) if drawing or as_json else None
    if drawing and found:
        write_text(drawing, picture(found))
        click.echo(f"wrote {drawing}", err=True)
    distances = matrix(structures).tolist()
    if as_json:
        assert found is not None
        click.echo(terminal.as_json(_data(structures, distances, relations, found)))
    elif names or not drawing:
        _print(structures, distances, relations, all_properties)


def _data(
    structures: Sequence[Structure],
    distances: list[list[float]],
    relations: Sequence[Nearest | None],
    found: Map,
) -> dict[str, Any]:
    labels = [item.label for item in structures]
    return {
        "techniques": {item.label: item.plain() for item in structures},
        "distances": {one: dict(zip(labels, row, strict=True)) for one, row in zip(labels, distances, strict=True)},
        "nearest": {
            label: relation and {**relation._asdict(), "changes": [change._asdict() for change in relation.changes]}
            for label, relation in zip(labels, relations, strict=True)
        },
        "map": {
            "stress": found.plane.stress,
            "points": {
                item.label: point for item, point in zip(found.structures, found.plane.points.tolist(), strict=True)
            },
            "groups": {item.label: group for item, group in zip(found.structures, found.tree.groups, strict=True)},
        },
    }


def _print(
    structures: Sequence[Structure],
    distances: list[list[float]],
    relations: Sequence[Nearest | None],
    everything: bool,
) -> None:
    from refarch import terminal

    columns = [(item, module) for item in structures for module in item.modules]
    rows, equal = _rows([module for _, module in columns])
    head = ["", "property"]
    head += [item.label if len(item.modules) == 1 else f"{item.label} / {module.name}" for item, module in columns]
    if len(columns) <= 8:
        terminal.table(head, rows + equal if everything or len(structures) == 1 else rows)
        if equal and not everything and len(structures) > 1:
            click.echo("equal in all: " + "; ".join(f"{row[1]} {row[2]}" for row in equal))
    else:  # too wide to stand side by side: properties become columns
        turned = rows + equal if everything else rows
        wide = [[name, *(row[position + 2] for row in turned)] for position, name in enumerate(head[2:])]
        terminal.table(["technique", *(row[1] for row in turned)], wide)
    labels = [item.label for item in structures]
    if 1 < len(labels) <= 12:
        click.echo()
        body = [
            [label, *(float(f"{value:.3f}") for value in row)] for label, row in zip(labels, distances, strict=True)
        ]
        terminal.table(["distance", *labels], body)
    click.echo()
    for label, relation in zip(labels, relations, strict=True):
        if relation is not None:
            click.echo(f"{relation.text(label)}  [distance {relation.distance:.3f}]")


def _rows(modules: Sequence[Module]) -> tuple[list[list[str]], list[list[str]]]:
    """A row a property: those in which modules differ, and those in which all agree."""
    differing: list[list[str]] = []
    equal: list[list[str]] = []
    for name in dict.fromkeys(name for module in modules for name in module.features):
        own = [module.features.get(name) for module in modules]
        label = next(feature.label for feature in own if feature)
        values = [feature.text if feature else "-" for feature in own]
        same = len(set(values)) == 1
        (equal if same else differing).append(["" if same else "*", label, *values])
    return differing, equal
