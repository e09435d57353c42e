"""The algebra: a linear function's matrix, merging and unmerging."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

from refarch.engine import Adaptation
from refarch.engine.adaptation.plan import read_shape
from refarch.engine.functions.function import own_parameters
from refarch.engine.layers.precision import parameter_dtype
from refarch.errors import CompositionError
from refarch.testing.case import Case, NotApplicable, Snapshot, collect, expect_equal, unchanged
from refarch.testing.models import Batch, outputs


@torch.no_grad()
def delta_matches_forward(case: Case) -> None:
    """A linear function's delta() is the matrix of its forward(): x @ delta.T == function(x)."""
    _, adaptation, _ = case.attached()
    linear = [item for item in adaptation.insertions if item.spec.form == "linear" and item.spec.input_type == "hidden"]
    own = [(item, function.eval()) for item in linear for _, function in item.function.members()]
    if not own:
        raise NotApplicable("no module of it is linear in hidden states")
    for item, function in own:
        shape = read_shape(item.spec, item.site)
        x = torch.randn(2, 3, shape.d_in, generator=torch.Generator().manual_seed(0))
        x = x.to(parameter_dtype(function, torch.float32))
        delta = function.delta()
        assert tuple(delta.shape) == (shape.d_out, shape.d_in), (
            f"{item.spec.function}.delta() has shape {tuple(delta.shape)} at {item.site.address}; a slot that reads"
            f" {shape.d_in} and returns {shape.d_out} needs ({shape.d_out}, {shape.d_in})"
        )
        expect_equal(
            function(x),
            x @ delta.T,
            f"{item.spec.function}.forward(x) is not x @ delta().T at {item.site.address}; neither may hold the scale,"
            " which the engine applies",
            1e-5,
        )


def merge_equals_attached(case: Case) -> None:
    """Merged into the base weights, the technique computes what it computes attached."""
    model, adaptation, batch = _mergeable(case)
    expected = outputs(model, batch)
    adaptation.merge()
    expect_equal(
        outputs(model, batch),
        expected,
        f"merged, {case.spec.name!r} computes something else than attached. Does delta() (or transform()) agree with"
        " forward(), and is 'scale' the factor of a scaled addition and nothing else?",
        1e-5,
    )


def unmerge_restores_bit_exactly(case: Case) -> None:
    """Unmerging gives base weights and outputs back bit for bit, and detaching then the base."""
    plain = case.model()
    before = Snapshot(plain)
    model, adaptation, batch = _mergeable(case)
    expected, values = outputs(model, batch), {n: v.clone() for n, v in adaptation.state_dict().items()}
    adaptation.merge()
    adaptation.unmerge()
    expect_equal(
        outputs(model, batch), expected, f"unmerged, {case.spec.name!r} gives another output than before merging"
    )
    for name, value in adaptation.state_dict().items():
        expect_equal(value, values[name], f"merging and unmerging changes {name}")
    for name, parameter in adaptation.tree.named_parameters():
        trains = parameter.requires_grad
        assert trains or _is_frozen(adaptation, parameter), f"after merging and unmerging, {name} no longer trains"
    adaptation.detach()
    for name, value in before.values.items():
        expect_equal(model.state_dict()[name], value, f"after merge, unmerge and detach the base weight {name} differs")
    left = [key for key in model.__dict__ if key not in plain.__dict__]
    assert not left, f"after merge, unmerge and detach the model still has {', '.join(left)}"


def commit_leaves_a_plain_model(case: Case) -> None:
    """Merging for good leaves an ordinary model: its own class and parameter names, nothing of the platform's."""
    model, adaptation, batch = _mergeable(case)
    plain = case.model()
    adaptation.merge()
    expected = outputs(model, batch)
    adaptation.commit()
    assert type(model) is type(plain) and model.state_dict().keys() == plain.state_dict().keys(), (
        "after merge and commit the model's class or its parameters' names are not the base's"
    )
    left = [
        f"{path}.{key}".lstrip(".")
        for (path, module), (_, other) in zip(model.named_modules(), plain.named_modules(), strict=True)
        for key in module.__dict__
        if key not in other.__dict__
    ]
    assert not left, f"after merge and commit the model still has {', '.join(left)}"
    expect_equal(outputs(model, batch), expected, "after commit the output is not the merged one")


def unmergeable_is_refused(case: Case) -> None:
    """Where the algebra does not allow merging, it is refused: a reason that names the slot, and nothing changed."""
    model, adaptation, batch = case.attached()
    reasons = adaptation.merge_reasons()
    if not reasons:
        raise NotApplicable("it merges exactly")
    snapshot, expected = Snapshot(model), outputs(model, batch)
    places = [*adaptation.copies, *(binding.site.address for binding in adaptation.bindings)]
    try:
        adaptation.merge()
    except CompositionError as error:
        assert any(place in str(error) for place in places), f"the refusal to merge names no slot: {error}"
    else:
        raise AssertionError(f"{case.spec.name!r} was merged, though merge_reasons() says: {'; '.join(reasons[:3])}")
    unchanged(snapshot, model, "after a refused merge the model is not as it was")
    expect_equal(outputs(model, batch), expected, "after a refused merge the output is another one")


def _mergeable(case: Case) -> tuple[PreTrainedModel, Adaptation, Batch]:
    model, adaptation, batch = case.attached()
    reasons = adaptation.merge_reasons()
    if reasons:
        raise NotApplicable(f"it does not merge: {'; '.join(reasons[:2])}")
    return model, adaptation, batch


def _is_frozen(adaptation: Adaptation, parameter: torch.nn.Parameter) -> bool:
    return any(
        other is parameter
        for insertion in adaptation.insertions
        for other in own_parameters(insertion.function, insertion.spec.frozen)
    )


CHECKS = {
    **collect(delta_matches_forward, any_head=True),
    **collect(merge_equals_attached),
    **collect(unmerge_restores_bit_exactly, commit_leaves_a_plain_model, unmergeable_is_refused, any_head=True),
}
