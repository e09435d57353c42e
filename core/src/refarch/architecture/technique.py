"""A technique spec: module specs and the options that a user may set. Plain data, serialisable as JSON."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, StringConstraints, ValidationError, create_model, model_validator

from refarch.architecture.module import ModuleSpec
from refarch.architecture.module_fields import Identifier, Positions, Router
from refarch.architecture.slots import Layers
from refarch.architecture.spec import CONTRACT, PlainData, PlainValue, Spec, explain
from refarch.errors import SpecError, did_you_mean

PluginName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]*$")]
"""Lower case, digits and hyphens."""

OptionType = Literal["integer", "number", "boolean", "string", "integers", "strings"]
_PYTHON: dict[str, Any] = {
    "integer": int,
    "number": float,
    "boolean": bool,
    "string": str,
    "integers": tuple[int, ...],
    "strings": tuple[str, ...],
}


class Option(Spec):
    """One hyperparameter that a user may set: its type, default, bounds and help text."""

    name: Identifier
    type: OptionType
    default: PlainValue = None
    """None means: not set (the function, or the task, decides)."""
    help: str
    choices: tuple[str, ...] | None = None
    minimum: float | None = None
    maximum: float | None = None
    exclusive_minimum: float | None = None
    size: bool = False
    """Whether it is the technique's size: the option that a budget of trainable parameters is solved for."""

    @model_validator(mode="after")
    def _default_is_valid(self) -> Option:
        if self.default is not None:
            validate_options((self,), {self.name: self.default}, f"the default of option {self.name!r}")
        return self

    def field(self) -> tuple[Any, Any]:
        """The pydantic field that validates this option."""
        kind = Literal[self.choices] if self.choices else _PYTHON[self.type]
        optional = kind | None if self.default is None else kind
        limits = {"ge": self.minimum, "le": self.maximum, "gt": self.exclusive_minimum}
        set_limits: dict[str, Any] = {key: value for key, value in limits.items() if value is not None}
        return optional, Field(default=self.default, description=self.help, **set_limits)


@functools.lru_cache(maxsize=256)
def options_model(options: tuple[Option, ...], name: str = "Options") -> type[BaseModel]:
    """A strict pydantic model with one field an option; its JSON schema documents a technique's or task's options."""
    fields: dict[str, Any] = {option.name: option.field() for option in options}
    return create_model(name, __config__={"extra": "forbid", "frozen": True, "strict": False}, **fields)


def validate_options(options: tuple[Option, ...], given: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Check ``given`` against ``options`` and fill in the defaults.

    Numbers given as text (from a command line) are converted; true and false are never taken for numbers.

    Raises:
        SpecError: a misspelt option (with the nearest name), a wrong type or a value out of bounds.
    """
    types = {option.name: option.type for option in options}
    for key, value in given.items():
        if isinstance(value, bool) and types.get(key) in ("integer", "number"):
            raise SpecError(f"{where} is not valid: {key}: should be a number, but got {value!r}")
    model = options_model(options)
    try:
        return model.model_validate(dict(given)).model_dump()
    except ValidationError as error:
        raise explain(error, model, where) from None


class TechniqueSpec(Spec):
    """A named finetuning technique."""

    name: PluginName
    summary: str = Field(min_length=1, max_length=120)
    """One line."""
    modules: tuple[ModuleSpec, ...] = Field(min_length=1)
    options: tuple[Option, ...] = ()
    reference: str = ""
    """The paper: authors, year, arXiv number."""
    presets: dict[str, PlainData] = {}
    """Named settings of the options, and of ``modules``, that the field knows under names of their own."""
    training: dict[str, Any] = {}
    """Fields of the training spec that suit this technique (full finetuning wants a lower learning rate); they win over
    the task's, and a pipeline's own values win over both."""
    contract: int = CONTRACT

    @model_validator(mode="after")
    def _consistent(self) -> TechniqueSpec:
        names = [module.name for module in self.modules]
        if len(set(names)) != len(names):
            raise ValueError(f"technique {self.name!r}: two modules have one name: {names}")
        known = {option.name for option in self.options}
        for module in self.modules:
            counts = [part.model_dump() for part in (module.positions, module.router) if part]
            values = (module.arguments, module.learning_rate_scale, *counts)
            for value in (value for part in values for value in part.values()):
                if isinstance(value, str) and value.startswith("$") and value[1:] not in known:
                    raise ValueError(f"technique {self.name!r}: module {module.name!r} uses {value}, but has no option")
        clash = known & {"slots", "layers", "preset"}
        if clash:
            raise ValueError(f"options {sorted(clash)} exist for every technique and cannot be declared again")
        return self

    def configure(self, choice: Mapping[str, Any]) -> ConfiguredTechnique:
        """Bind the spec to a user's choices.

        Args:
            choice: option values, and optionally ``slots``, ``layers`` and ``preset``. Slots are for all of the
                technique's modules, or by the name of the module: ``{"prefix": ["attention.key_value"]}``.

        Raises:
            SpecError: an unknown preset or module, a misspelt option, a wrong type, a slot that the technique cannot
                work at.
        """
        given = dict(choice)
        preset = given.pop("preset", None)
        spec, defaults = self._with_preset(preset) if preset else (self, {})
        slots, layers = given.pop("slots", None), given.pop("layers", None)
        where = f"technique {self.name!r}"
        options = validate_options(spec.options, {**defaults, **given}, where)
        modules = spec.modules
        if slots is not None or layers is not None:
            chosen = _workspaces(slots, [module.name for module in modules], where)
            change: dict[str, Any] = {}
            if layers is not None:
                change["layers"] = layers.model_dump() if isinstance(layers, Layers) else _layers(layers)
            changes = {name: {**change, "workspace": workspace} for name, workspace in chosen.items()}
            modules = tuple(
                ModuleSpec.parse({**module.model_dump(), **changes.get(module.name, change)}, where)
                for module in modules
            )
        return ConfiguredTechnique(technique=spec.model_copy(update={"modules": modules}), options=options)

    def _with_preset(self, preset: str) -> tuple[TechniqueSpec, dict[str, Any]]:
        if preset not in self.presets:
            hint = did_you_mean(preset, self.presets)
            raise SpecError(f"technique {self.name!r} has no preset {preset!r}", hint)
        values = dict(self.presets[preset])
        modules = values.pop("modules", None)
        if modules is None:
            return self, values
        return TechniqueSpec.parse({**self.model_dump(), "modules": modules}, f"preset {preset!r}"), values

    def module(self, name: str, *, preset: str | None = None, **changes: Any) -> ModuleSpec:
        """One of the modules, to be a part of another technique: a union, or a variant under a router or a gate.

        Args:
            name: the module's.
            preset: the preset that it is taken from.
            changes: fields that are others there. What the function is built with is the defaults here, but for what
                ``arguments`` say: values, or options of the other technique (``{"rank": "$rank"}``).

        Raises:
            SpecError: there is no such module or preset, or the changes do not fit.
        """
        spec, defaults = self._with_preset(preset) if preset else (self, {})
        own = {module.name: module for module in spec.modules}
        if name not in own:
            raise SpecError(f"technique {self.name!r} has no module {name!r}", did_you_mean(name, own))
        options = {option.name: defaults.get(option.name, option.default) for option in spec.options}
        built = {key: options.get(str(value)[1:], value) for key, value in own[name].arguments.items()} or options
        arguments = {**built, **changes.pop("arguments", {})}
        fields = own[name].changed(**{**changes, "arguments": arguments})
        return ModuleSpec.parse(fields, f"module {name!r} of technique {self.name!r}")

    def options_schema(self) -> dict[str, Any]:
        """JSON schema of the options."""
        return options_model(self.options, f"{self.name} options").model_json_schema()


def _workspaces(slots: Any, names: list[str], where: str) -> dict[str, tuple[str, ...]]:
    """The slots that a user has chosen, by module."""
    by_module = slots if isinstance(slots, Mapping) else {} if slots is None else dict.fromkeys(names, slots)
    unknown = [name for name in by_module if name not in names]
    if unknown:
        raise SpecError(f"slots: {where} has no module {unknown[0]!r}", did_you_mean(str(unknown[0]), names))
    return {name: (own,) if isinstance(own, str) else tuple(own) for name, own in by_module.items()}


def _layers(value: Any) -> Mapping[str, Any]:
    if isinstance(value, Mapping):
        return value
    if isinstance(value, int):
        value = [value]
    if isinstance(value, (list, tuple)):
        return {"indices": list(value)}
    raise SpecError(
        f"layers: expected layer indices or a choice, but got {value!r}",
        'give a list of indices, or one of {"first": n}, {"last": n}, {"every": k}, {"indices": [...]}',
    )


class ConfiguredTechnique(Spec):
    """A technique with every option decided: what is attached, saved and compared."""

    technique: TechniqueSpec
    options: dict[str, Any] = {}

    @model_validator(mode="after")
    def _options_are_complete(self) -> ConfiguredTechnique:
        options = validate_options(self.technique.options, self.options, f"technique {self.technique.name!r}")
        object.__setattr__(self, "options", options)
        return self

    @property
    def name(self) -> str:
        """The technique's name."""
        return self.technique.name

    @property
    def selects_head(self) -> bool:
        """Whether it trains the whole head by itself, as full finetuning does; its biases alone are not the head."""
        return any({"head", "model"} & set(m.workspace) and "*" in m.parameters for m in self.technique.modules)

    def arguments(self, module: ModuleSpec) -> dict[str, Any]:
        """The keyword arguments with which ``module``'s function is built."""
        if not module.arguments:
            routed = set((module.router.model_dump() if module.router else {}).values())
            return {name: value for name, value in self.options.items() if f"${name}" not in routed}
        return self._decided(module.arguments)

    def learning_rate_scale(self, module: ModuleSpec) -> dict[str, float]:
        """Parameters of ``module``'s function that train at a multiple of the learning rate, and that multiple."""
        return self._decided(module.learning_rate_scale)

    def decided(self, module: ModuleSpec) -> ModuleSpec:
        """``module`` with numbers for the positions at which it works.

        Raises:
            SpecError: there are none.
        """
        if module.positions is None:
            return module
        counts = self._decided(module.positions.model_dump())
        if not any(counts.values()):
            raise SpecError(
                f"technique {self.name!r}: module {module.name!r} would work at no token: its positions are {counts}",
                "ask for one token at least, at the beginning or at the end of the sequence",
            )
        return module.model_copy(update={"positions": Positions.parse(counts, f"positions of {module.name!r}")})

    def router(self, module: ModuleSpec) -> Router | None:
        """The router of ``module``, with numbers in place of options.

        Raises:
            SpecError: these numbers make no router.
        """
        if module.router is None:
            return None
        where = f"technique {self.name!r}: the router of module {module.name!r}"
        router = Router.parse(self._decided(module.router.model_dump()), where)
        assert isinstance(router.experts, int) and not isinstance(router.top, str)
        if router.experts < 2:
            raise SpecError(f"{where} has {router.experts} expert; there is nothing to mix", "give it two or more")
        if router.top is not None and router.top > router.experts:
            raise SpecError(f"{where} chooses {router.top} of {router.experts} experts", "choose fewer")
        if router.top == 1 and router.renormalise:
            raise SpecError(
                f"{where} gives the one expert that it chooses the weight 1, whatever the input, so nothing trains it",
                "choose two or more, or do not renormalise",
            )
        return router

    def _decided(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The values with options in place of their names."""
        return {
            key: self.options[value[1:]] if isinstance(value, str) and value.startswith("$") else value
            for key, value in values.items()
        }
