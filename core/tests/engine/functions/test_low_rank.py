"""The fused node equals the plain composition, and steps aside where it must."""

from typing import Any

import engine_models as em
import pytest
import torch
import torch.nn.functional as F
from accelerate.hooks import ModelHook, add_hook_to_module, remove_hook_from_module
from torch import Tensor, nn

import refarch
from refarch.engine.functions import low_rank as fused
from refarch.engine.functions.low_rank import FusedLowRank, can_fuse


def _parts(bias: bool, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
    weight, offset = torch.randn(5, 4, dtype=dtype), torch.randn(5, dtype=dtype)
    down = torch.randn(2, 4, dtype=dtype, requires_grad=True)
    up = torch.randn(5, 2, dtype=dtype, requires_grad=True)
    return weight, offset if bias else None, down, up


@pytest.mark.parametrize("shape", [(4,), (3, 4), (2, 3, 4), (2, 2, 3, 4), (0, 4)])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("needs_x", [True, False])
def test_outputs_and_gradients(needs_x: bool, bias: bool, shape: tuple[int, ...]) -> None:
    weight, offset, down, up = _parts(bias)
    x = torch.randn(*shape, dtype=torch.float64, requires_grad=needs_x)
    found = FusedLowRank.apply(x, weight, offset, down, up, 0.7)
    wanted = F.linear(x, weight, offset) + 0.7 * (x @ down.t() @ up.t())
    torch.testing.assert_close(found, wanted)
    leaves = [down, up, *([x] if needs_x else [])]
    outer = torch.randn_like(wanted)
    for a, b in zip(torch.autograd.grad(found, leaves, outer), torch.autograd.grad(wanted, leaves, outer), strict=True):
        torch.testing.assert_close(a, b)


def test_gradcheck_and_frozen_factors() -> None:
    weight, offset, down, up = _parts(True)
    x = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda *a: FusedLowRank.apply(a[0], weight, offset, a[1], a[2], 1.5), (x, down, up))
    up.requires_grad_(False)
    y = FusedLowRank.apply(x.transpose(0, 1), weight, offset, down, up, 1.5)  # not contiguous
    (given,) = torch.autograd.grad(y.sum(), down)
    (wanted,) = torch.autograd.grad((1.5 * (x.transpose(0, 1) @ down.t() @ up.t())).sum(), down)
    torch.testing.assert_close(given, wanted)


def _lora(model: Any, **options: Any) -> refarch.Adaptation:
    adaptation = refarch.attach(model, "lora", rank=3, **options)
    with torch.no_grad():
        for _, function in adaptation.functions():
            function.up.normal_(std=0.3)
    return adaptation


def _calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Counts the uses of the fused node."""
    used: list[int] = []
    original = FusedLowRank.forward

    def forward(ctx: Any, *args: Any) -> Any:
        used.append(1)
        return original(ctx, *args)

    monkeypatch.setattr(fused.FusedLowRank, "forward", staticmethod(forward))
    return used


def test_it_is_used_for_plain_layers_and_only_then(monkeypatch: pytest.MonkeyPatch) -> None:
    used = _calls(monkeypatch)
    model, values = em.tiny("bert"), em.batch("bert")
    adaptation = _lora(model)
    expected = model(**values).logits
    assert len(used) == len(adaptation.insertions) == 4
    used.clear()
    with torch.no_grad():
        torch.testing.assert_close(model(**values).logits, expected, rtol=1e-6, atol=1e-6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        model(**values)
    adaptation.detach()
    _lora(model, dropout=0.5)
    model.train()(**values)
    assert not used


class _Wrapped(nn.Linear):
    """A layer with a forward of its own, as quantisation libraries have."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, (self.weight * 8).round() / 8, self.bias)


def test_a_layer_of_another_class_computes_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    used = _calls(monkeypatch)
    model, values = em.tiny("bert"), em.batch("bert")
    for layer in model.bert.encoder.layer:
        layer.attention.self.query.__class__ = _Wrapped
    plain = model(**values).logits
    adaptation = _lora(model, slots=("attention.query",))
    with torch.no_grad():
        for _, function in adaptation.functions():
            function.up.zero_()
    torch.testing.assert_close(model(**values).logits, plain, rtol=1e-6, atol=1e-6)
    assert not used


@pytest.mark.parametrize("change", ["dtype", "trainable", "tensor scale", "subclass", "parametrised"])
def test_what_it_refuses(change: str) -> None:
    from engine_functions import Narrow
    from torch.nn.utils.parametrizations import weight_norm

    leaf: Any = nn.Linear(4, 5).requires_grad_(False)
    function = Narrow(refarch.SlotShape("x", 4, 5, 0, 1, None, lambda: leaf.weight))
    x = torch.randn(2, 4)
    assert can_fuse(leaf, function, x)
    if change == "dtype":
        leaf.to(torch.bfloat16)
    elif change == "trainable":
        leaf.weight.requires_grad_(True)
    elif change == "tensor scale":
        function.scale = torch.tensor(0.5)
    elif change == "subclass":
        leaf.__class__ = _Wrapped
    else:
        leaf = weight_norm(leaf)
    assert not can_fuse(leaf, function, x)


def test_hooks_of_others_on_the_layer_run() -> None:
    model, values = em.tiny("bert"), em.batch("bert")
    leaf = model.bert.encoder.layer[0].attention.self.query
    seen: dict[str, Tensor] = {}
    leaf.register_forward_pre_hook(lambda _, args: (args[0] * 2,))
    adaptation = _lora(model, slots=("attention.query",), layers=[0])
    leaf.register_forward_hook(lambda _, args, out: seen.update(x=args[0], y=out))
    leaf.register_full_backward_hook(lambda _, gx, gy: seen.update(g=gy[0]))
    model(**values).loss.backward()
    ((_, f),) = adaptation.functions()
    wanted = F.linear(seen["x"], leaf.weight, leaf.bias) + f.scale * (seen["x"] @ f.down.t() @ f.up.t())
    torch.testing.assert_close(seen["y"], wanted, rtol=1e-5, atol=1e-6)
    assert seen["g"].shape == wanted.shape


def test_functional_transforms_see_the_same_gradients() -> None:
    model, values = em.tiny("bert"), em.batch("bert")
    adaptation = _lora(model)
    own = {key: p for key, p in model.named_parameters() if p.requires_grad}
    found = torch.func.grad(lambda p: torch.func.functional_call(model, p, kwargs=values).loss)(own)  # type: ignore[operator]
    model(**values).loss.backward()
    assert len(found) == len(list(adaptation.parameters()))
    for key, parameter in own.items():
        torch.testing.assert_close(found[key], parameter.grad, rtol=1e-4, atol=1e-6)


class _Doubles(ModelHook):
    """Stands for accelerate's device hooks: wraps forward, changes input and output."""

    def pre_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return (args[0] * 2, *args[1:]), kwargs

    def post_forward(self, module: nn.Module, output: Any) -> Any:
        return output * 3


@pytest.mark.parametrize("when", ["before", "after"])
def test_accelerate_hooks_before_and_after_attaching(when: str) -> None:
    model, values = em.tiny("bert"), em.batch("bert")
    plain = model(**values).logits
    leaf = model.bert.encoder.layer[0].attention.self.query
    seen: dict[str, Tensor] = {}
    if when == "before":
        add_hook_to_module(leaf, _Doubles())
    hooked = model(**values).logits if when == "before" else None
    adaptation = _lora(model, slots=("attention.query",), layers=[0])
    ((_, f),) = adaptation.functions()
    if when == "after":
        add_hook_to_module(leaf, _Doubles())
    leaf.register_forward_hook(lambda _, args, out: seen.update(x=args[0], y=out))
    model(**values)
    x, low = seen["x"], lambda x: f.scale * (x @ f.down.t() @ f.up.t())
    if when == "before":  # ours is outside of theirs
        wanted = 3 * F.linear(2 * x, leaf.weight, leaf.bias) + low(x)
    else:
        wanted = 3 * (F.linear(2 * x, leaf.weight, leaf.bias) + low(2 * x))
    torch.testing.assert_close(seen["y"], wanted, rtol=1e-5, atol=1e-5)
    adaptation.detach()
    if hooked is not None:
        assert torch.equal(model(**values).logits, hooked)
    remove_hook_from_module(leaf)
    assert torch.equal(model(**values).logits, plain)
    again = _lora(model, slots=("attention.query",), layers=[0])
    assert not torch.allclose(model(**values).logits, plain, atol=1e-4)
    again.detach()
    assert torch.equal(model(**values).logits, plain) and "_refarch_dispatcher" not in vars(leaf)


def test_a_hook_that_takes_the_adaptation_along_when_it_goes_is_an_error() -> None:
    model, values = em.tiny("bert"), em.batch("bert")
    plain = model(**values).logits
    leaf = model.bert.encoder.layer[0].attention.self.query
    add_hook_to_module(leaf, _Doubles())
    adaptation = _lora(model, slots=("attention.query",), layers=[0])
    model(**values)
    remove_hook_from_module(leaf)  # puts the forward back that it found, from before the adaptation
    with pytest.raises(refarch.RefarchError, match="would be left out"):
        model(**values)
    adaptation.detach()
    assert torch.equal(model(**values).logits, plain) and "_refarch_dispatcher" not in vars(leaf)
    _lora(model, slots=("attention.query",), layers=[0])
    assert not torch.allclose(model(**values).logits, plain, atol=1e-4)
