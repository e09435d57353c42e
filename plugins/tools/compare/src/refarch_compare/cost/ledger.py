"""What a computation costs, counted while it runs: operations, and memory that is held.

On the meta device nothing is computed, but every operation is seen with its shapes, those of the backward pass too. So
what a model of any size costs is counted in seconds, without weights.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop, sdpa_flop

_ATEN = torch.ops.aten


def _fft(x: Tensor, *args: Any, **kwargs: Any) -> int:
    return int(5 * x.numel() * math.log2(max(2, x.numel())))  # the usual count of a fast Fourier transform


def _triangular(a: Tensor, b: Tensor, *args: Any, **kwargs: Any) -> int:
    return int(b.numel() * a.shape[-1])


_COUNTED: dict[Any, Callable[..., int]] = {
    **flop_registry,
    _ATEN._scaled_dot_product_flash_attention_for_cpu: sdpa_flop,
    _ATEN._scaled_dot_product_flash_attention_for_cpu_backward: sdpa_backward_flop,
    _ATEN._fft_c2c: _fft,
    _ATEN.linalg_solve_triangular: _triangular,
}
"""Formulas of single operations, from their shapes; torch's own but for those that it lacks."""
_COPIES = (_ATEN.clone,)


class Ledger(TorchDispatchMode):
    """Counts within a ``with`` block.

    An operation is a multiplication or an addition: a product of matrices [m, k] and [k, n] has 2 m k n, an
    element-wise operation one for each element of its result, a sum one for each element that it reads. Moving data is
    none.

    On the meta device, a question that only values answer is answered with yes: models ask whether all tokens are real,
    and whether each row is one sequence.

    Args:
        held: storages that are there already; whatever is made within the block counts beside them.

    Attributes:
        operations: so far.
        live: bytes of the storages that were made in the block and are there now.
        peak: the largest value of ``live``.
    """

    def __init__(self, held: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self.operations = self.live = self.peak = 0
        self._known: dict[int, Any] = {}
        self._results: dict[Any, Any] = {}
        for tensor in held:
            self._known[tensor.untyped_storage()._cdata] = tensor  # kept, so that its place is not given away

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is _ATEN._local_scalar_dense.default and args[0].is_meta and args[0].dtype == torch.bool:
            return True
        out, operations = self._run(func, args, kwargs or {})
        self.operations += operations
        for tensor in _tensors(out):
            self._hold(tensor)
        return out

    def _run(self, func: Any, args: Any, kwargs: Any) -> tuple[Any, int]:
        """The result, and what it takes. On meta a result follows from the arguments' shapes: as layers are alike, most
        operations were seen before, and looking one up is many times faster than working it out again.
        """
        key = _key(func, args, kwargs)
        if key is not None and key in self._results:
            form, operations = self._results[key]
            return _formed(form), operations
        out = func(*args, **kwargs)
        operations = _operations(func, args, kwargs, out)
        if key is not None and (form := _form(out)) is not None:
            self._results[key] = form, operations
        return out, operations

    def restart(self) -> None:
        """Count operations and the peak anew; what is held stays."""
        self.operations, self.peak = 0, self.live

    def _hold(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return

        def release(_: Any) -> None:
            del self._known[key]
            self.live -= size

        self._known[key] = weakref.ref(storage, release)
        self.live += size
        self.peak = max(self.peak, self.live)


def _operations(func: Any, args: Any, kwargs: Any, out: Any) -> int:
    packet = func.overloadpacket
    name = packet.__name__
    if packet not in _COUNTED and name.endswith("_"):  # in place
        packet = getattr(_ATEN, name.removesuffix("_"), packet)
    if packet in _COUNTED:
        return int(_COUNTED[packet](*args, **kwargs, out_val=out))
    if torch.Tag.pointwise in func.tags and packet not in _COPIES:
        return sum(tensor.numel() for tensor in _tensors(out))
    if torch.Tag.reduction in func.tags:
        return sum(tensor.numel() for tensor in _tensors(args))
    return 0


class _Form(NamedTuple):
    """All there is to know of a tensor on meta that shares its storage with no other."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype
    offset: int = 0


def _key(func: Any, args: Any, kwargs: Any) -> Any:
    """What a new tensor on meta depends on; None for views, changes in place, and whatever is not on meta."""
    if torch.Tag.inplace_view in func.tags or any(
        a.alias_info for a in (*func._schema.arguments, *func._schema.returns)
    ):
        return None
    try:
        return func, _described(args), tuple((name, _described(value)) for name, value in sorted(kwargs.items()))
    except _NotMeta:
        return None


class _NotMeta(Exception):
    """A tensor has values, or something has no description."""


def _described(value: Any) -> Any:
    if isinstance(value, Tensor):
        if not value.is_meta or value.is_conj() or value.is_neg():
            raise _NotMeta
        return _Form(tuple(value.shape), value.stride(), value.dtype, int(value.storage_offset()))
    if isinstance(value, (list, tuple)):
        return tuple(map(_described, value))
    if value is None or isinstance(
        value, (int, float, str, torch.dtype, torch.device, torch.layout, torch.memory_format)
    ):
        return type(value), value
    raise _NotMeta


def _form(out: Any) -> Any:
    """A tensor, or several, as forms; None where that is not all there is to know of them."""
    if isinstance(out, (list, tuple)):
        forms = tuple(map(_form, out))
        return None if None in forms else forms
    if not isinstance(out, Tensor) or not out.is_meta or out.is_conj() or out.is_neg() or out.storage_offset():
        return None
    whole = torch.empty_strided(tuple(out.shape), out.stride(), dtype=out.dtype, device="meta").untyped_storage()
    same = whole.nbytes() == out.untyped_storage().nbytes()
    return _Form(tuple(out.shape), out.stride(), out.dtype) if same else None


def _formed(form: Any) -> Any:
    if isinstance(form, _Form):
        return torch.empty_strided(form.shape, form.stride, dtype=form.dtype, device="meta")
    return tuple(map(_formed, form))


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)


class Kernels(TorchFunctionMode):
    """Lets the meta device hold what a real one's kernels would.

    Without it, attention on meta is products and a softmax, and would seem to keep a matrix of scores for every head;
    real devices keep none. A CPU does with dropout on the scores, and its dropout keeps factors in the width of the
    activations where CUDA keeps a byte for each. A product of each row with its own expert's matrix, which torch takes
    on meta in bfloat16 alone and does not count, is as many products with the first one's.

    Args:
        device: the type of the real device, ``cuda`` or ``cpu``.
    """

    def __init__(self, device: str) -> None:
        super().__init__()
        self.device = device

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            found = _attention(self.device, *args, **kwargs)
            return func(*args, **kwargs) if found is None else found
        if func is F.grouped_mm:
            return _grouped(*args, **kwargs)
        if func is F.dropout and self.device != "cpu":
            return _dropout(*args, **kwargs)
        return func(*args, **kwargs)


def _dropout(x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    return torch.native_dropout(x, p, True)[0] if training and p else x


def _grouped(rows: Tensor, experts: Tensor, **kwargs: Any) -> Tensor:
    """rows: [n, d_in], experts: [e, d_in, d_out] -> [n, d_out]."""
    return rows @ experts[0]


def _attention(
    device: str,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor | None:
    """query: [b, h, t, dim], key and value: [b, h or fewer, s, dim] -> [b, h, t, dim]; None where it is not fused: with
    dropout on a CPU, or where a bias of the scores trains.
    """
    if (device == "cpu" and dropout_p) or (attn_mask is not None and attn_mask.requires_grad):
        return None
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        attn_mask = attn_mask.to(query.dtype)  # kernels add it to the scores
    out: Tensor = _ATEN._scaled_dot_product_flash_attention_for_cpu(
        query, key, value, dropout_p, is_causal, attn_mask=attn_mask, scale=scale
    )[0]
    return out
