"""``refarch show``: one plugin in words - its typology, options, slots, metric."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, cast

import click

from refarch.plugins.discovery import GROUPS, Found

if TYPE_CHECKING:
    from rich.console import RenderableType

    from refarch.architecture import FamilySpec, ModelSpec, ModuleSpec, Option, TaskSpec, TechniqueSpec
    from refarch.plugins import CommandSpec, Registry


@click.command("show")
@click.argument("name")
@click.option("--kind", type=click.Choice(list(GROUPS)), help="Only a plugin of this kind.")
@click.option("--json", "as_json", is_flag=True, help="Print the spec as JSON.")
def command(name: str, kind: str | None, as_json: bool) -> None:
    """Show what the plugin NAME is.

    A technique: its place in the typology with the meaning of each value and where the value comes from, its options
    and presets. A backbone: its table of slots, or its source and licence. A task: its options and its metric.
    """
    from refarch.plugins.registry import default_registry

    registry = default_registry()
    shown = [(item, _spec(registry, item)) for item in _named(registry, name, kind)]
    if as_json:
        import json

        data = [{"plugin": item._asdict(), "spec": spec and spec.model_dump(mode="json")} for item, spec in shown]
        click.echo(json.dumps(data, indent=2, ensure_ascii=False))
        return
    from refarch.terminal import rendered

    click.echo(rendered((block for item, spec in shown for block in _blocks(item, spec)), width=120))


def _named(registry: Registry, name: str, kind: str | None) -> list[Found]:
    """The plugins of a name, one of each kind."""
    from refarch.errors import UnknownNameError, did_you_mean

    kinds = list(dict.fromkeys(i.kind for i in registry.found if i.name == name and kind in (None, i.kind)))
    if not kinds:
        known = [item.name for item in registry.found if kind in (None, item.kind)]
        raise UnknownNameError(
            f"no {kind or 'plugin'} named {name!r} is installed",
            f"{did_you_mean(name, known)} (or a plugin may provide it: pip install refarch-{name})",
        )
    return [registry.find(each, name) for each in kinds]


def _spec(registry: Registry, item: Found) -> Any:
    return registry.load(item).spec


def _blocks(item: Found, spec: Any) -> Iterator[RenderableType]:
    yield f"{item.name} ({item.kind}) - {getattr(spec, 'summary', item.summary)}"
    yield f"  from {item.distribution} {item.version}"
    if reference := getattr(spec, "reference", ""):
        yield f"  reference: {reference}"
    if item.kind == "technique":
        yield from _technique(spec)
    elif item.kind == "task":
        yield from _task(spec)
    elif item.kind == "backbone":
        yield from _family(spec) if hasattr(spec, "stacks") else _model(spec)
    elif item.kind == "command":
        yield f"  runs {cast('CommandSpec', spec).command}; refarch {item.name} --help says more"
    else:
        yield "  an observer: its hooks are called while a pipeline runs"
    yield ""


def _technique(spec: TechniqueSpec) -> Iterator[RenderableType]:
    for module in spec.modules:
        yield f"\nmodule {module.name}: works at {', '.join(module.workspace)}; {_layers(module)}"
        if module.function:
            yield f"  function {module.function}"
        if module.parameters:
            yield f"  trains a copy of the parameters {', '.join(module.parameters)}"
        yield _typology(module)
    if spec.training:
        yield f"  training, unless told otherwise: {_values(spec.training)}"
    yield from _options(spec.options)
    if spec.presets:
        rows = ((name, _preset(spec, values)) for name, values in spec.presets.items())
        yield _table("presets", ("preset", "sets"), rows)


def _preset(spec: TechniqueSpec, values: dict[str, Any]) -> str:
    """What a preset sets: of its modules only where they differ from the technique's own."""
    own = {module.name: module.model_dump() for module in spec.modules}
    parts = [
        {key: value for key, value in module.items() if own.get(module["name"], {}).get(key, ...) != value}
        for module in values.get("modules", ())
    ]
    parts.append({key: value for key, value in values.items() if key != "modules"})
    return "; ".join(_values(part) for part in parts if part)


def _typology(module: ModuleSpec) -> RenderableType:
    from refarch.architecture import PROPERTIES, Provenance, describe

    def source(field: str) -> str:
        found = module.provenance.get(field, Provenance())
        return f"{found.source}: {found.reference}" if found.reference else found.source

    rows = [("workspace", ", ".join(module.workspace), "where it works unless told otherwise", source("workspace"))]
    for field, label in PROPERTIES.items():
        value = getattr(module, field)
        rows.append((label, str(value), describe(field, value), source(field)))
    special = {
        "shared": "parameters shared",
        "frozen": "keep their initial values",
        "learning_rate_scale": "train at a multiple of the learning rate",
    }
    for field, meaning in special.items():
        if names := getattr(module, field):
            rows.append((field, ", ".join(names), meaning, source(field)))
    if module.schedule:
        rows.append(("schedule", module.schedule, "acts after each optimizer step", source("schedule")))
    if module.gate:
        rows.append(
            (
                "gate",
                f"{module.gate.by}, {module.gate.activation}",
                "g of the gated addition, or of keys and values",
                source("gate"),
            )
        )
    if module.positions:
        counts = ", ".join(f"{name} {n}" for name, n in module.positions.model_dump().items() if n)
        rows.append(("positions", counts, "tokens of the sequence at which it works", source("positions")))
    if module.router:
        values = _values(module.router.model_dump(exclude_none=True))
        rows.append(("router", values, "how many functions are mixed, by what", source("router")))
    return _table(None, ("property", "value", "meaning", "provenance"), rows)


def _layers(module: ModuleSpec) -> str:
    values = module.layers.model_dump(exclude_none=True)
    return "layers: " + (_values(values) if values else "all")


def _task(spec: TaskSpec) -> Iterator[RenderableType]:
    yield f"  metric: {spec.metric} ({'higher' if spec.greater_is_better else 'lower'} is better)"
    for way in spec.ways():
        head = "a new head" if way.new_head else "with the head that it has"
        what = f"{way.name} ({', '.join(way.kinds)})" if spec.formulations else "model"
        yield f"  {what}: {way.auto_class}, {head}{f'. {way.summary}' if way.summary else ''}"
    if spec.data_licence:
        yield f"  licence of the data: {spec.data_licence}"
    if spec.training:
        yield f"  training, unless told otherwise: {_values(spec.training)}"
    yield from _options(spec.options, spec.defaults)


def _family(spec: FamilySpec) -> Iterator[RenderableType]:
    yield f"  model types: {', '.join(spec.model_types)}"
    rows = [("embedding", spec.embedding), ("head", spec.head)]
    yield _table("once", ("slot", "path"), rows)
    for stack in spec.stacks:
        rows = [*stack.slots.items()]
        if stack.final_norm:
            rows.append(("final_norm", stack.final_norm))
        rows += [(name, f"unreachable: {reason}") for name, reason in stack.unreachable.items()]
        yield _table(f"{stack.name}, layers at {stack.layers}", ("slot", "path"), rows)


def _model(spec: ModelSpec) -> Iterator[RenderableType]:
    yield f"  a pretrained model; its files come from {spec.source}"
    yield f"  licence: {spec.licence or 'not stated'}"


def _options(options: Iterable[Option], preset: dict[str, Any] | None = None) -> Iterator[RenderableType]:
    rows = []
    for option in options:
        default = (preset or {}).get(option.name, option.default)
        shown = "not set" if default is None else _value(default)
        rows.append(
            (option.name, option.type, shown, _bounds(option), option.help + (" [size]" if option.size else ""))
        )
    if rows:
        yield _table("options", ("option", "type", "default", "allowed", "help"), rows)
    else:
        yield "  it has no options"


def _bounds(option: Option) -> str:
    if option.choices:
        return " | ".join(option.choices)
    limits = ((">", option.exclusive_minimum), (">=", option.minimum), ("<=", option.maximum))
    return ", ".join(f"{sign} {value:g}" for sign, value in limits if value is not None)


def _value(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _values(values: dict[str, Any]) -> str:
    return ", ".join(f"{key}={_value(value)}" for key, value in values.items())


def _table(title: str | None, head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> RenderableType:
    from rich.console import Group

    from refarch.terminal import grid

    table = grid(head, rows, cell=str)
    return Group(title, table) if title else table
