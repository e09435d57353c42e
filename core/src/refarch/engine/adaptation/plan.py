"""Build everything that an adaptation needs, without touching the model."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from refarch.architecture import ConfiguredTechnique, ModuleSpec, parse_slot
from refarch.engine.bindings.dispatch import Dispatcher
from refarch.engine.bindings.weight_map import changes_weights
from refarch.engine.functions.experts import mixture
from refarch.engine.functions.function import Function, SlotShape, own_parameters
from refarch.engine.functions.gate import GateModule
from refarch.engine.functions.schedule import Schedule
from refarch.engine.layers.linear import bias_of, matrix, take_part, unreadable_reason, widths
from refarch.engine.layers.offloaded import execution_device
from refarch.engine.slots.resolver import Resolver
from refarch.engine.slots.site import Site
from refarch.errors import PluginError, RefarchError, SlotError, SpecError
from refarch.plugins.registry import resolve

Built = TypeVar("Built", Function, Schedule)


@dataclasses.dataclass
class Insertion:
    """One function built for one site."""

    spec: ModuleSpec
    site: Site
    function: Function
    gate: GateModule | None


@dataclasses.dataclass
class Plan:
    """All insertions of a technique on a model, the schedules over them, and the sites of its selections."""

    technique: ConfiguredTechnique
    insertions: list[Insertion]
    selections: list[tuple[ModuleSpec, list[Site]]]
    schedules: list[Schedule] = dataclasses.field(default_factory=list)

    @property
    def sites(self) -> list[tuple[ModuleSpec, Site]]:
        """Every site with the module spec that works there."""
        own = [(insertion.spec, insertion.site) for insertion in self.insertions]
        return own + [(spec, site) for spec, sites in self.selections for site in sites]


def build(
    resolver: Resolver,
    technique: ConfiguredTechnique,
    seed: int,
    dtype: torch.dtype | None,
    device: torch.device,
    *,
    values: bool = True,
) -> Plan:
    """Resolve the workspaces and build the functions, with random numbers that depend on ``seed`` alone.

    Args:
        resolver: of the model.
        technique: with its options decided.
        seed: decides initial values.
        dtype: of the parameters; float32 when left out.
        device: where they go, unless a site's module is known to compute elsewhere.
        values: False where other values will take the place of the initial ones: a function that starts from the weight
            of the map that it is put around then gets the base's own, which costs nothing to find.

    Raises:
        SlotError: a slot is missing, or a module cannot work at it.
        SpecError: a function refuses an option's value.
        PluginError: a function cannot be imported, or is no :class:`Function`.
    """
    insertions: list[Insertion] = []
    selections: list[tuple[ModuleSpec, list[Site]]] = []
    with seeded(seed), _without_values(device):
        for spec in map(technique.decided, technique.technique.modules):
            sites = resolver.resolve([parse_slot(text) for text in spec.workspace], spec.layers)
            if spec.form == "attention":
                _find_attention(resolver, spec, sites)
            if spec.integration == "selection":
                selections.append((spec, sites))
                continue
            function_class, router = _class(spec.function, Function), technique.router(spec)
            shared: dict[tuple[object, ...], nn.Parameter] = {}
            for site in sites:
                _check(spec, site)
                shape = read_shape(spec, site, values)
                new = functools.partial(_build, function_class, shape, technique, spec, shape.slot)
                function: Function = new() if router is None else mixture(spec, router, shape.d_in, new)
                gate = GateModule(spec.gate, _gate_width(spec, site, shape)) if spec.gate else None
                _check_reading(spec, site, function)
                _place(function, gate, spec, dtype, _device_at(site, device))
                _share(spec, site, function, shared)  # after placing, which may make new parameters
                insertions.append(Insertion(spec, site, function, gate))
    return Plan(technique, insertions, selections, _schedules(technique, insertions))


def _schedules(technique: ConfiguredTechnique, insertions: list[Insertion]) -> list[Schedule]:
    """The schedule of each module that has one."""
    schedules = []
    for spec in technique.technique.modules:
        own = {
            f"{item.site.address}.{prefix}".rstrip("."): function
            for item in insertions
            if item.spec.name == spec.name
            for prefix, function in item.function.members()
        }
        if spec.schedule and own:
            schedules.append(_build(_class(spec.schedule, Schedule), own, technique, spec, "its schedule"))
    return schedules


def read_shape(spec: ModuleSpec, site: Site, so_far: bool = True) -> SlotShape:
    """The site's shape as the function sees it: what it reads and what it returns, given the form and what is there.

    Args:
        spec: the module's.
        site: where it works.
        so_far: whether its weight is that of the map so far, and not the base's own.
    """
    shape = dataclasses.replace(site.shape, weight=lambda: _weight_so_far(site)) if so_far else site.shape
    if site.ref.side == "input":
        return dataclasses.replace(shape, d_out=shape.d_in)
    if spec.insertion == "sequential" and spec.input_type == "hidden":
        return dataclasses.replace(shape, d_in=shape.d_out)
    return shape


@torch.no_grad()
def _weight_so_far(site: Site) -> Tensor:
    """The weight of the map that the adaptations before have made of the layer; the base's own if that map is none."""
    dispatcher = Dispatcher.of(site.end.module)
    before: list[Any] = [b for b in dispatcher.running if b.enabled and changes_weights(b)] if dispatcher else []
    if not before or unreadable_reason(site.end.module) or any(binding.weight_reason() for binding in before):
        return site.shape.weight()
    weight, bias = matrix(site.end.module), bias_of(site.end.module)
    for binding in before:
        weight, bias = binding.merged(weight, bias)
    return take_part(weight, site.end.part, 0).to(torch.float32, copy=True)


def _find_attention(resolver: Resolver, spec: ModuleSpec, sites: list[Site]) -> None:
    """Where the layers of the sites attend; an error like for any slot where that cannot be reached."""
    places = {
        (site.stack.name, site.shape.layer): site.end
        for site in resolver.resolve([parse_slot("attention.key_value")], spec.layers)
        if site.stack
    }
    for site in sites:
        assert site.stack is not None
        site.attends = places[site.stack.name, site.shape.layer]


def _check(spec: ModuleSpec, site: Site) -> None:
    if site.ref.side == "input" and site.end.part is not None:
        raise SlotError(
            f"{site.address}: the input of a fused projection is shared by its parts and cannot be changed for one",
            "use the output side of the slot",
        )
    if spec.projected and not site.projections:
        raise SlotError(
            f"{site.address}: the family's table names no projections that make keys and values there",
            "use a technique that brings keys and values of its own",
        )
    if spec.counted and site.position_bias is None:
        raise SlotError(
            f"{site.address}: the family's table names no position biases, which could count tokens before the first",
            "leave the tokens outside of all positions (counted=false)",
        )
    if spec.gate is not None and spec.gate.by != "learned" and site.ref.slot.kind == "key_value" and not site.entry:
        raise SlotError(
            f"{site.address}: the family's table names no query projection, whose input a gate could be computed from",
            "use a learned gate",
        )
    if spec.form == "linear" and site.ref.slot.kind == "norm" and spec.insertion == "parallel":
        raise SlotError(f"{site.address}: nothing linear stands beside a norm", "insert sequentially, or select it")


def _check_reading(spec: ModuleSpec, site: Site, function: Function) -> None:
    """A transformation that cannot be computed on activations reads the weight in every forward pass."""
    on_activations = function.on_input is not None or function.on_output is not None
    if spec.integration != "transformation" or (on_activations and site.end.part is None):
        return
    reason = unreadable_reason(site.end.module, in_memory=False)
    if reason:
        raise SlotError(
            f"{site.address}: the base weight, which is transformed there, cannot be read as a matrix: {reason}",
            "load the base with plain weights, or choose a technique that does not read them",
        )


def _gate_width(spec: ModuleSpec, site: Site, shape: SlotShape) -> int:
    """The width of what a gate reads: what the function reads; at keys and values, what the attention does."""
    return widths(site.entry.module)[0] if site.ref.slot.kind == "key_value" and site.entry else shape.d_in


def _class(path: str | None, base: type[Built]) -> type[Built]:
    assert path is not None
    found = resolve(path)
    if not (isinstance(found, type) and issubclass(found, base)):
        raise PluginError(f"{path!r} is not a subclass of refarch.{base.__name__}")
    return found


def _build(cls: type[Built], first: Any, technique: ConfiguredTechnique, spec: ModuleSpec, where: str) -> Built:
    """A function from its shape, or a schedule from its functions."""
    arguments = technique.arguments(spec)
    try:
        try:
            return cls(first, **arguments)  # type: ignore[call-arg]
        except (NotImplementedError, RuntimeError):
            if torch.get_default_device().type != "meta":
                raise
            with torch.device("cpu"):  # a constructor that looks at values cannot run without them
                return cls(first, **arguments)  # type: ignore[call-arg]
    except RefarchError:
        raise
    except ValueError as error:
        raise SpecError(f"technique {technique.name!r} at {where}: {error}") from error
    except TypeError as error:
        raise PluginError(f"{cls.__module__}:{cls.__name__} cannot be built with {arguments}: {error}") from error


def _share(spec: ModuleSpec, site: Site, function: Function, shared: dict[tuple[object, ...], nn.Parameter]) -> None:
    """Let insertions within one scope have one parameter. Where shapes differ within it, each shape has its own; and so
    has each expert, which shares with the experts of its number.
    """
    stack = site.stack.name if site.stack else None
    scope: tuple[object, ...] = {
        "within layer": (stack, site.shape.layer),
        "across layers": (stack, str(site.ref)),
    }.get(spec.sharing, ())
    for prefix, own in function.members():
        for name in spec.shared:
            owner, _, leaf = name.rpartition(".")
            module = own.get_submodule(owner)
            parameter = module._parameters.get(leaf)
            if parameter is None:
                raise PluginError(f"{spec.function} shares {name!r}, but has no parameter of that name")
            module._parameters[leaf] = shared.setdefault((*scope, prefix + name, tuple(parameter.shape)), parameter)


def _device_at(site: Site, default: torch.device) -> torch.device:
    """Where a site's module computes, which on a model that is spread over devices differs from module to module.

    Args:
        site: where.
        default: where nothing is known; the meta device if the whole model is there.
    """
    module = site.end.module
    if default.type == "meta":
        return default
    there = next((parameter.device for parameter in module.parameters() if not parameter.is_meta), None)
    if there is not None:
        return there
    return execution_device(module) or default


def _place(
    function: Function, gate: GateModule | None, spec: ModuleSpec, dtype: torch.dtype | None, device: torch.device
) -> None:
    wanted = (device, dtype or torch.float32)
    for module in (function, gate):
        if module is not None and any((t.device, t.dtype) != wanted for t in (*module.parameters(), *module.buffers())):
            module.to(*wanted)
    for verb, names in (("freezes", spec.frozen), ("scales the learning rate of", spec.learning_rate_scale)):
        for name in names:
            if not own_parameters(function, (name,)):
                raise PluginError(f"{spec.function} {verb} {name!r}, but has no parameter of that name")
    for parameter in own_parameters(function, spec.frozen):
        parameter.requires_grad_(False)


def _without_values(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """For a model on the meta device, functions are made there too: an initialisation costs nothing, not even memory.
    For any other they are made on the CPU, so that a seed gives the same values everywhere.
    """
    return torch.device("meta") if device.type == "meta" else contextlib.nullcontext()


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Random numbers from ``seed``, and the caller's generator left as it was."""
    state = torch.get_rng_state()
    torch.default_generator.manual_seed(seed)  # functions are built on the CPU; other devices' generators stay
    try:
        yield
    finally:
        torch.set_rng_state(state)
