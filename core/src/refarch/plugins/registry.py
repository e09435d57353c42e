"""The registry: finds plugins by name, loads each in isolation, and keeps what went wrong on its record."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Iterator
from functools import lru_cache
from types import ModuleType
from typing import Any, TypeVar

import pluggy

from refarch.architecture import CONTRACT, FamilySpec, InterchangeSpec, ModelSpec, Spec, TaskSpec, TechniqueSpec
from refarch.errors import PluginError, RefarchError, UnknownNameError, UsageError, did_you_mean
from refarch.plugins import hooks
from refarch.plugins.command import CommandSpec
from refarch.plugins.discovery import Found, Kind, Settings, Status, scan

logger = logging.getLogger(__name__)

_SPEC_TYPES: dict[Kind, tuple[type[Spec], ...]] = {
    "technique": (TechniqueSpec,),
    "backbone": (FamilySpec, ModelSpec),
    "task": (TaskSpec,),
    "command": (CommandSpec,),
}
T = TypeVar("T")


class Loaded:
    """A plugin that was imported, or the error that its import raised."""

    def __init__(self, found: Found, plugin: ModuleType | Any, spec: Spec | None, error: BaseException | None) -> None:
        self.found = found
        self.plugin = plugin
        self.spec = spec
        self.error = error

    @property
    def record(self) -> Found:
        """The metadata record with the status that loading showed."""
        if self.error is not None:
            return self.found._replace(status="error", problem=f"{type(self.error).__name__}: {self.error}")
        contract = getattr(self.spec, "contract", CONTRACT)
        if contract != CONTRACT:
            age: Status = "older contract" if contract < CONTRACT else "newer contract"
            return self.found._replace(status=age, problem=f"speaks contract {contract}, refarch speaks {CONTRACT}")
        return self.found


class Registry:
    """All plugins that are installed, as one environment sees them.

    Args:
        settings: allow, block and strict; read from the environment when left out.
        found: the plugins; scanned when left out.

    Raises:
        PluginError: in strict mode, when plugins conflict.
    """

    def __init__(self, settings: Settings | None = None, found: list[Found] | None = None) -> None:
        self.settings = settings or Settings.from_environment()
        self.found = scan(self.settings) if found is None else found
        self.manager = pluggy.PluginManager(hooks.PROJECT)
        self.manager.add_hookspecs(hooks)
        self._loaded: dict[Found, Loaded] = {}
        conflicts = [item for item in self.found if item.status == "CONFLICT"]
        if self.settings.strict and conflicts:
            names = ", ".join(f"{item.kind} {item.name!r} ({item.distribution})" for item in conflicts)
            raise PluginError(f"plugins conflict: {names}", "uninstall one of each pair, or name it in REFARCH_BLOCK")

    def names(self, kind: Kind) -> list[str]:
        """The usable names of a kind."""
        return sorted({item.name for item in self.found if item.kind == kind and item.status != "blocked"})

    def technique(self, name: str) -> TechniqueSpec:
        """The technique of this name.

        Raises:
            UnknownNameError: none is installed; the nearest names are given.
            PluginError: its plugin is broken, blocked, or one of two of this name.
        """
        return self._spec("technique", name, TechniqueSpec)

    def task(self, name: str) -> TaskSpec:
        """The task of this name; raises as :meth:`technique` does."""
        return self._spec("task", name, TaskSpec)

    def command(self, name: str) -> CommandSpec:
        """The command of this name; raises as :meth:`technique` does."""
        return self._spec("command", name, CommandSpec)

    def backbone(self, name: str) -> FamilySpec | ModelSpec:
        """The family or named model of this name; raises as :meth:`technique` does."""
        spec = self.load(self.find("backbone", name)).spec
        assert isinstance(spec, (FamilySpec, ModelSpec))
        return spec

    def family(self, name: str) -> FamilySpec:
        """The family of this name; raises as :meth:`technique` does.

        Raises:
            UsageError: the name is that of a pretrained model.
        """
        spec = self.backbone(name)
        if not isinstance(spec, FamilySpec):
            raise UsageError(f"{name!r} is no backbone family", "name a family, not a pretrained model")
        return spec

    def families(self) -> list[FamilySpec]:
        """The tables of all working family plugins."""
        return [spec for spec in self._working("backbone") if isinstance(spec, FamilySpec)]

    def models(self) -> list[ModelSpec]:
        """All named models of working plugins."""
        return [spec for spec in self._working("backbone") if isinstance(spec, ModelSpec)]

    def family_for(self, model_type: str) -> FamilySpec:
        """The family whose table serves a transformers ``model_type``.

        Raises:
            UnknownNameError: no installed family does; says which types are served and which plugins are broken.
            PluginError: two families claim it.
        """
        matching = [family for family in self.families() if model_type in family.model_types]
        if len(matching) == 1:
            return matching[0]
        if matching:
            names = " and ".join(repr(family.name) for family in matching)
            raise PluginError(f"families {names} both serve model type {model_type!r}", "block one with REFARCH_BLOCK")
        served = sorted({kind for family in self.families() for kind in family.model_types})
        broken = [item.record for item in self._loaded.values() if item.error and item.found.kind == "backbone"]
        note = "".join(f"; the plugin {item.name!r} is broken ({item.problem})" for item in broken)
        raise UnknownNameError(
            f"no installed backbone family serves model type {model_type!r}{note}",
            f"served: {', '.join(served) or 'none'}. A plugin may exist: pip install refarch-{model_type}",
        )

    def observers(self) -> list[object]:
        """Load all observer plugins; the hook caller then reaches them."""
        return [item.plugin for item in map(self.load_quietly, self._of_kind("observer")) if item.error is None]

    def interchanges(self, format: str) -> list[InterchangeSpec]:
        """What the plugins of techniques say about the files of another library.

        Args:
            format: the library: ``peft``.

        Raises:
            PluginError: one of them returns something else; it is named.
        """
        specs: dict[str, InterchangeSpec] = {}
        for item in self._of_kind("technique"):
            plugin = self.load_quietly(item).plugin
            for spec in getattr(plugin, "refarch_interchanges", list)():
                if not isinstance(spec, InterchangeSpec):
                    raise PluginError(f"refarch_interchanges() of {item.target} returns {spec!r}", "return specs")
                specs.setdefault(spec.name, spec)
        return [spec for spec in specs.values() if spec.format == format]

    def find(self, kind: Kind, name: str) -> Found:
        """The one usable plugin of this kind and name; raises as :meth:`technique` does."""
        matches = [item for item in self.found if (item.kind, item.name) == (kind, name)]
        usable = [item for item in matches if item.status != "blocked"]
        if len(usable) > 1:
            sources = " and ".join(f"{item.distribution} {item.version}" for item in usable)
            raise PluginError(
                f"{kind} {name!r} is provided by {sources}",
                f"uninstall one, or block one: REFARCH_BLOCK={usable[0].distribution}",
            )
        if usable:
            return usable[0]
        if matches:
            raise PluginError(
                f"{kind} {name!r} is installed ({matches[0].distribution}) but {matches[0].problem}",
                "change REFARCH_PLUGINS or REFARCH_BLOCK",
            )
        others = [other.kind for other in self.found if other.name == name]
        note = f" (there is a {others[0]} of this name)" if others else ""
        raise UnknownNameError(
            f"no {kind} named {name!r} is installed{note}",
            f"{did_you_mean(name, self.names(kind))} (or a plugin may provide it: pip install refarch-{name})",
        )

    def load(self, found: Found) -> Loaded:
        """Import one plugin.

        Raises:
            PluginError: its import, its hook or its spec failed; the cause is attached.
        """
        loaded = self.load_quietly(found)
        if loaded.error is not None:
            raise PluginError(
                f"{found.kind} {found.name!r} ({found.distribution} {found.version}) does not load:"
                f" {type(loaded.error).__name__}: {loaded.error}",
                f"reinstall or update it (pip install --upgrade {found.distribution}), or tell its author",
            ) from loaded.error
        if loaded.record.status == "newer contract":
            raise PluginError(
                f"{found.kind} {found.name!r} ({found.distribution} {found.version}) {loaded.record.problem}",
                "update refarch: pip install --upgrade refarch",
            )
        return loaded

    def load_quietly(self, found: Found) -> Loaded:
        """Import one plugin and keep an error on its record (in strict mode it is raised)."""
        if found not in self._loaded:
            try:
                plugin = self._import(found)
                self._loaded[found] = Loaded(found, plugin, self._read_spec(found, plugin), None)
            except (Exception, SystemExit) as error:  # a plugin may raise anything; it must not take the platform down
                logger.debug("plugin %s does not load", found.name, exc_info=True)
                self._loaded[found] = Loaded(found, None, None, error)
        loaded = self._loaded[found]
        if loaded.error is not None and self.settings.strict:
            raise PluginError(f"plugin {found.name!r} does not load: {loaded.error}") from loaded.error
        return loaded

    def check(self) -> list[Found]:
        """Load everything and return all records with what that showed."""
        return [item if item.status == "blocked" else self._checked(item) for item in self.found]

    def _checked(self, item: Found) -> Found:
        record = self.load_quietly(item).record
        return item if item.status == "CONFLICT" and record.status == "ok" else record

    def _of_kind(self, kind: Kind) -> list[Found]:
        return [item for item in self.found if item.kind == kind and item.status == "ok"]

    def _working(self, kind: Kind) -> Iterator[Spec]:
        for item in self._of_kind(kind):
            loaded = self.load_quietly(item)
            if loaded.spec is not None and loaded.record.status != "newer contract":
                yield loaded.spec

    def _spec(self, kind: Kind, name: str, expected: type[T]) -> T:
        spec = self.load(self.find(kind, name)).spec
        assert isinstance(spec, expected)
        return spec

    def _import(self, found: Found) -> Any:
        module_name, _, attribute = found.target.partition(":")
        if not module_name:
            raise PluginError(f"its entry point {found.name!r} names no module; it should read {found.name} = package")
        plugin: Any = importlib.import_module(module_name)
        for part in filter(None, attribute.split(".")):
            plugin = getattr(plugin, part)
        if not self.manager.is_registered(plugin):
            self.manager.register(plugin, name=f"{found.distribution}:{found.target}")
        return plugin

    def _read_spec(self, found: Found, plugin: Any) -> Spec | None:
        if found.kind == "observer":
            return None
        hook = hooks.HOOKS[found.kind]
        implementation = getattr(plugin, hook, None)
        if implementation is None:
            raise PluginError(
                f"{found.target} announces a {found.kind} but implements no {hook}()",
                f"add a function {hook}() marked with @refarch.hookimpl",
            )
        specs = implementation()
        items = specs if isinstance(specs, (list, tuple)) else [specs]
        wrong = [item for item in items if not isinstance(item, _SPEC_TYPES[found.kind])]
        if wrong or items is not specs:
            expected = " or ".join(kind.__name__ for kind in _SPEC_TYPES[found.kind])
            given = f"a list with {wrong[0]!r}" if items is specs else repr(specs)
            raise PluginError(f"{hook}() must return a list of {expected}, but returned {given[:200]}")
        by_name = {spec.name: spec for spec in items}
        if found.name not in by_name:
            raise PluginError(
                f"{hook}() returns no spec named {found.name!r} as the entry point says, only {sorted(by_name)}"
            )
        return by_name[found.name]


def resolve(path: str) -> Any:
    """Import what an import path ``package.module:Name`` names.

    Raises:
        PluginError: the module or the name in it does not exist.
    """
    module_name, _, attribute = path.partition(":")
    try:
        target: Any = importlib.import_module(module_name)
        for part in attribute.split("."):
            target = getattr(target, part)
    except RefarchError:
        raise
    except Exception as error:
        raise PluginError(f"{path!r} cannot be imported: {type(error).__name__}: {error}") from error
    return target


@lru_cache(maxsize=8)
def _registry(settings: Settings) -> Registry:
    return Registry(settings)


def default_registry() -> Registry:
    """The registry of this process's environment; scanned once for each setting of the variables."""
    return _registry(Settings.from_environment())


def forget_plugins() -> None:
    """Scan again at the next use, after a plugin was installed into the running process."""
    _registry.cache_clear()
