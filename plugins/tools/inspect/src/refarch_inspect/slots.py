"""What a model has at the slots of a table."""

from __future__ import annotations

from transformers import PretrainedConfig

from refarch import Registry
from refarch.architecture import SLOTS, parse_entry
from refarch.engine import Resolver, Site
from refarch.errors import UnknownNameError, UsageError
from refarch_inspect import source
from refarch_inspect.looked import Looked, Row, Stack
from refarch_inspect.propose import Proposal, propose, uncovered

DERIVED = ("sublayer", "layer", "model", "inputs")
"""Kinds of slots that follow from others or are no module of their own."""


def look(config: PretrainedConfig, registry: Registry, anew: bool = False) -> Looked:
    """Find the slots of a configuration's model.

    Args:
        config: of the model; no weights are needed.
        registry: where a family that serves its type is looked up.
        anew: propose a table even where a family is installed.

    Raises:
        UsageError: no family serves the type and none can be proposed.
    """
    family, proposal, notes = None, None, []
    if not anew:
        try:
            family = registry.family_for(config.model_type)
        except UnknownNameError:
            notes.append(f"no installed family serves {config.model_type!r}: the table is proposed from structure")
    try:
        proposal = propose(config)
    except UsageError as error:
        if family is None:
            raise
        notes.append(f"norms are drawn without their place, which needs a small copy to run: {error.message}")
    if family is None:
        assert proposal is not None
        family = proposal.family
        notes += proposal.notes
    model = source.with_head(config)
    resolver = Resolver(model, family)
    left = uncovered(model, family)
    stacks = [
        Stack(
            stack.name,
            stack.layers,
            resolver.counts[stack.name],
            proposal.placed.get(stack.name, {}) if proposal else {},
            bool(proposal and stack.name in proposal.parallel),
            tuple(left.get(stack.name, ())),
        )
        for stack in resolver.stacks
    ]
    return Looked(
        type(model).__name__,
        config.model_type,
        family,
        proposal is not None and family is proposal.family,
        _rows(resolver, proposal),
        stacks,
        proposal,
        notes,
    )


def _rows(resolver: Resolver, proposal: Proposal | None) -> list[Row]:
    found: dict[tuple[str, str], list[Site]] = {}
    for name, sites in resolver.available().items():
        if SLOTS[name].kind not in DERIVED or any(name in stack.slots for stack in resolver.stacks):
            for site in sites:
                found.setdefault((site.stack.name if site.stack else "", name), []).append(site)
    rows = []
    family = resolver.family
    for name, entry in (("embedding", family.embedding), ("embedding_norm", family.embedding_norm)):
        if entry and ("", name) in found:
            rows.append(_row("", name, entry, found["", name]))
    for stack in resolver.stacks:
        entries = {**stack.slots, **({"final_norm": stack.final_norm} if stack.final_norm else {})}
        for name in SLOTS:
            sites = found.get((stack.name, name), [])
            if name in entries and sites:
                rows.append(_row(stack.name, name, entries[name], sites))
            elif name in entries and not parse_entry(entries[name]).optional:
                rows.append(Row(stack.name, name, SLOTS[name].kind, entries[name], reason="not at every layer"))
            elif name not in entries and stack.obstacle(name) and SLOTS[name].kind not in DERIVED:
                rows.append(Row(stack.name, name, SLOTS[name].kind, "", reason=stack.obstacle(name)))
            elif name not in entries and proposal and family is proposal.family:
                why = [f.reason for f in proposal.findings if (f.stack, f.slot, f.entry) == (stack.name, name, None)]
                rows += [Row(stack.name, name, SLOTS[name].kind, "", reason=reason) for reason in why]
    head = resolver.head()
    if head:
        paths, classes = " + ".join(p.path for p in head), " + ".join(type(p.module).__name__ for p in head)
        rows.append(Row("", "head", "head", paths, classes))
    return rows


def _row(stack: str, name: str, entry: str, sites: list[Site]) -> Row:
    first, slot = sites[-1], SLOTS[name]
    prefix = first.stack.layers.count("{}") if first.stack else 0
    shown = entry.removesuffix("?").strip()
    if "|" in entry:  # the alternative that this model has
        alternatives = [part.strip() for part in shown.split("|")]
        shown = next(part for part in alternatives if first.end.path.endswith(part.partition("[")[0]))
    count = len(sites) if prefix and slot.per == "layer" else 0
    return Row(
        stack, name, slot.kind, shown, type(first.end.module).__name__, first.shape.d_in, first.shape.d_out, count
    )
