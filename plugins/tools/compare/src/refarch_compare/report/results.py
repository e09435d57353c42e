"""Results: what rows of one configuration on one problem, backbone and origin come to, with their properties."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from refarch import Registry
from refarch.errors import RefarchError
from refarch_compare.evidence.row import Row
from refarch_compare.report.figures import Figure, figures, mean_of
from refarch_compare.stats.intervals import Interval, mean_interval
from refarch_compare.structure.features import structure


class Setting(NamedTuple):
    """What results must share to be compared."""

    problem: str
    backbone: str
    metric: str
    greater_is_better: bool
    origin: str

    @property
    def imported(self) -> bool:
        """Whether others measured it."""
        return self.origin != "run"

    @property
    def title(self) -> str:
        """In words, marked where it is imported."""
        return f"{self.problem} on {self.backbone}, {self.metric}" + (f" ({self.origin})" if self.imported else "")


@dataclass(frozen=True)
class Result:
    """One configuration in one setting."""

    id: str
    name: str
    """Its label; with what tells it apart where another configuration in its setting has the same."""
    technique: str
    parts: tuple[str, ...]
    """The options that are not as they are by default, and the training, in words."""
    setting: Setting
    interval: Interval
    """Of its scores over seeds."""
    rows: tuple[Row, ...]
    figures: dict[str, float | None]
    """Means over its rows."""
    properties: dict[str, tuple[str, ...]]
    """Structural properties by their names in the field; empty where the technique is not installed."""

    @property
    def settings(self) -> str:
        """The configuration in words."""
        return ", ".join(self.parts)

    def own(self, common: Sequence[str]) -> str:
        """The configuration in words, without what all have in common."""
        return ", ".join(part for part in self.parts if part not in common)

    @property
    def seeds(self) -> list[int | None]:
        """The seeds, in order."""
        return sorted({row.seed for row in self.rows}, key=lambda seed: (seed is None, seed or 0))


class Results(NamedTuple):
    """All results, and the figures that they have."""

    results: tuple[Result, ...]
    figures: tuple[Figure, ...]

    def by_setting(self) -> dict[Setting, list[Result]]:
        """The results by setting; best mean first, which is no ranking."""
        found: dict[Setting, list[Result]] = {}
        for result in self.results:
            found.setdefault(result.setting, []).append(result)
        for setting, inside in found.items():
            turned = -1 if setting.greater_is_better else 1
            inside.sort(key=lambda result: (turned * result.interval.mean, result.name))
        return found


def gather(rows: Iterable[Row], registry: Registry, level: float = 0.95) -> Results:
    """Rows as results, those of runs before imported ones.

    Args:
        rows: evidence.
        registry: where techniques are looked up, to tell which options are as they are by default.
        level: of the intervals.
    """
    found: dict[tuple[Setting, str, str], list[Row]] = {}
    for row in sorted(rows, key=lambda row: row.imported):
        setting = Setting(row.problem, row.backbone, row.metric, row.greater_is_better, row.origin)
        found.setdefault((setting, row.name, row.configuration), []).append(row)
    every = figures([row for inside in found.values() for row in inside])
    names = _names(found, registry)
    results = [
        Result(
            id=f"r{number}",
            name=names[key],
            technique=inside[0].technique,
            parts=(*_options(inside[0], registry), *_training(inside[0])),
            setting=key[0],
            interval=mean_interval([row.score for row in inside], level),
            rows=tuple(sorted(inside, key=lambda row: (row.seed is None, row.seed or 0, row.path))),
            figures={figure.name: mean_of(figure, inside) for figure in every},
            properties=properties(inside[0]),
        )
        for number, (key, inside) in enumerate(found.items(), 1)
    ]
    return Results(tuple(results), tuple(every))


def _names(found: dict[tuple[Setting, str, str], list[Row]], registry: Registry) -> dict[Any, str]:
    """A name for each configuration; with what tells it apart, where two in one setting have the same."""
    alike: dict[tuple[Setting, str], list[Any]] = {}
    for key in found:
        alike.setdefault(key[:2], []).append(key)
    names: dict[Any, str] = {}
    for (_, label), keys in alike.items():
        if len(keys) == 1:
            names[keys[0]] = label
            continue
        parts = {key: [*_options(found[key][0], registry), *_training(found[key][0])] for key in keys}
        common = set.intersection(*(set(own) for own in parts.values()))
        taken: set[str] = set()
        for key in keys:
            own = ", ".join(part for part in parts[key] if part not in common)
            name = f"{label} ({own or 'defaults'})"
            while name in taken:
                name += "'"
            taken.add(name)
            names[key] = name
    return names


def common(results: Sequence[Result]) -> tuple[str, ...]:
    """What the configurations of several results share, in words."""
    if len(results) < 2:
        return ()
    return tuple(part for part in results[0].parts if all(part in result.parts for result in results))


def _options(row: Row, registry: Registry) -> list[str]:
    """Options that are not as they are by default."""
    default: dict[str, Any] = {}
    if row.spec is not None:
        try:
            default = registry.technique(row.technique).configure({}).options
        except RefarchError:  # of another version by now: all options are shown
            default = {}
    return [f"{name} {_short(value)}" for name, value in row.options.items() if default.get(name) != value]


def _short(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _training(row: Row) -> list[str]:
    parts = [f"learning rate {row.learning_rate:.3g}"] if row.learning_rate else []
    parts += [f"{row.steps:,} steps"] if row.steps else []
    parts += [f"batches of {row.batch_size}"] if row.batch_size else []
    return [*parts, row.device] if row.device else parts


def properties(row: Row) -> dict[str, tuple[str, ...]]:
    """The structural properties of a row's techniques: of each, the values that their modules have."""
    found: dict[str, dict[str, None]] = {}
    for spec in row.specs:
        for module in structure(spec).modules:
            for feature in module.features.values():
                plain = feature.plain() if feature.kind == "set" else None
                values = plain or [feature.text]
                found.setdefault(feature.label, {}).update(dict.fromkeys(map(str, values)))
    return {name: tuple(values) for name, values in found.items()}


def varying(results: Sequence[Result]) -> dict[str, list[str]]:
    """The properties in which results differ, with all their values."""
    values: dict[str, dict[str, None]] = {}
    for result in results:
        for name, own in result.properties.items():
            values.setdefault(name, {}).update(dict.fromkeys(own))
    known = [result for result in results if result.properties]
    return {
        name: sorted(all_values)
        for name, all_values in values.items()
        if len({result.properties.get(name, ()) for result in known}) > 1
    }
