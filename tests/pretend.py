"""A GPU that is not there: tensors that say they are on one, and compute on the processor.

What meets on two devices is refused as a GPU refuses it, autocast of CUDA casts by torch's list, and the kernel for
rows that are cut in chunks has a stand-in that wants what the kernel wants. Processes that read ahead must not touch
the GPU. What a kernel computes to its last bits, what memory it takes and how fast it is cannot be seen here. Models
are loaded before `a_gpu`, and moved by `on_gpu`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.nn.attention.varlen  # registers its operations
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.data import get_worker_info

GPU = torch.device("cuda", 0)
_ATEN = torch.ops.aten
_MAY_MEET = {
    _ATEN._to_copy.default,
    _ATEN.copy_.default,
    _ATEN.index.Tensor,
    _ATEN.index_put.default,
    _ATEN.index_put_.default,
}
"""Operations that take tensors of both devices."""
_WAITS = {_ATEN._local_scalar_dense.default: "item", _ATEN.nonzero.default: "nonzero"}


class OnGpu(torch.Tensor):
    """A tensor that is on the GPU, as far as anybody can see; `inner` holds its numbers."""

    inner: torch.Tensor

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> OnGpu:
        made: OnGpu = torch.Tensor._make_wrapper_subclass(
            cls, inner.shape, strides=inner.stride(), storage_offset=inner.storage_offset(), dtype=inner.dtype,
            layout=inner.layout, device="meta", requires_grad=False,
        )  # fmt: skip
        made.inner = inner
        return made

    def __init__(self, inner: torch.Tensor) -> None:
        pass

    def __repr__(self) -> str:  # type: ignore[override]
        return f"OnGpu({self.inner})"

    def __reduce_ex__(self, protocol: Any) -> Any:
        """On disk it is a plain tensor, as one of a GPU is once it is read back to the processor."""
        return self.inner.__reduce_ex__(protocol)

    device = property(lambda self: GPU)
    is_cuda = property(lambda self: True)
    is_meta = property(lambda self: False)

    def tolist(self) -> Any:
        waits["item"] += 1
        return self.inner.tolist()

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return _run(func, args, kwargs or {})


class _Pretending(TorchDispatchMode):
    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return _run(func, args, kwargs or {})


_HALF = {
    "linear", "matmul", "__matmul__", "__rmatmul__", "bmm", "mm", "addmm", "baddbmm", "einsum", "conv2d", "conv3d",
    "scaled_dot_product_attention",
}  # fmt: skip
_FULL = {
    "softmax", "log_softmax", "logsumexp", "layer_norm", "rms_norm", "cross_entropy", "exp", "log", "pow", "__pow__",
    "rsqrt", "reciprocal", "sum", "prod", "cumsum", "norm", "cosine_similarity",
}  # fmt: skip
"""What autocast computes in half precision and in float32: torch's list of CUDA, as far as models here use it."""


def _cast(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
    """As autocast of CUDA casts, which asks a tensor where it is in a way that cannot be answered from here."""
    name = getattr(func, "__name__", "")
    wanted = torch.get_autocast_dtype("cuda") if name in _HALF else torch.float32 if name in _FULL else None
    if wanted is None:
        return args, kwargs

    def cast(leaf: Any) -> Any:
        is_cast = isinstance(leaf, OnGpu) and leaf.is_floating_point() and leaf.dtype != torch.float64
        return leaf.to(wanted) if is_cast else leaf

    return tree_map(cast, (args, kwargs))  # type: ignore[no-any-return]


def _in_one_kernel(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0, is_causal: bool = False, scale: float | None = None, enable_gqa: bool = False,
) -> torch.Tensor:  # fmt: skip
    """As a GPU does it, without a table of all scores."""
    groups = query.shape[1] // key.shape[1]
    if enable_gqa and groups > 1:
        key, value = (part.repeat_interleave(groups, 1) for part in (key, value))
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        attn_mask = torch.zeros_like(attn_mask, dtype=query.dtype).masked_fill_(~attn_mask, -torch.inf)
    kernel = _ATEN._scaled_dot_product_flash_attention_for_cpu
    made: torch.Tensor = kernel(query, key, value, dropout_p, is_causal, attn_mask=attn_mask, scale=scale)[0]
    return made


class _Made(TorchFunctionMode):
    """Tensors that are made of Python's lists, which no dispatch sees: by `torch.tensor`, and in an index."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func in (torch.Tensor.__getitem__, torch.Tensor.__setitem__) and isinstance(args[0], OnGpu):
            index = args[1] if isinstance(args[1], tuple) else (args[1],)
            made = [OnGpu(torch.tensor(part)) if isinstance(part, list | tuple) else part for part in index]
            return func(args[0], tuple(made), *args[2:])
        if func in (torch.Tensor.to, torch.Tensor.cuda):
            return self._moved(func, args, kwargs)
        if torch.is_autocast_enabled("cuda"):
            args, kwargs = _cast(func, args, kwargs)
        if func is scaled_dot_product_attention:
            return _in_one_kernel(*args, **kwargs)
        if func not in (torch.tensor, torch.as_tensor) or kwargs.get("device") is None:
            return func(*args, **kwargs)
        device = torch.device(kwargs.pop("device"))
        args = tree_map(lambda leaf: leaf.inner if isinstance(leaf, OnGpu) else leaf, args)
        return func(*args, **kwargs).to(GPU if device.type == "cuda" else device)

    @staticmethod
    def _moved(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A move to `cuda` names no GPU, and what is there already stays."""
        tensor, given = args[0], [*args[1:], *kwargs.values()]
        named = any(isinstance(one, str | torch.device) and torch.device(one).type == "cuda" for one in given)
        if not named and func is not torch.Tensor.cuda:
            return func(*args, **kwargs)
        kinds = [one for one in given if isinstance(one, torch.dtype)]
        if isinstance(tensor, OnGpu):
            return func(tensor, *kinds) if kinds else tensor
        return torch.Tensor.to(tensor, GPU, *kinds)


waits: Counter[str] = Counter()
"""How often the processor waited for the GPU: for a number, for a shape, for a tensor that it copies back."""


def _run(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    assert not any(tensor.device.type == "meta" for tensor in tensors), "a tensor that this pretence does not see"
    there = [tensor for tensor in tensors if isinstance(tensor, OnGpu)]
    if there and func not in _MAY_MEET:
        for tensor in tensors:
            if not isinstance(tensor, OnGpu) and tensor.dim():
                raise RuntimeError(f"{func}: a tensor {list(tensor.shape)} of the processor meets one of the GPU")
    place = kwargs.get("device")
    on_gpu = bool(there) if place is None else torch.device(place).type in ("cuda", "meta")
    if on_gpu and get_worker_info() is not None:
        raise RuntimeError(f"{func}: cannot re-initialize CUDA in a forked process")
    if on_gpu and isinstance(kwargs.get("generator"), torch.Generator):
        raise RuntimeError(f"{func}: expected a 'cuda' device type for generator but found 'cpu'")
    if there and not on_gpu:
        waits["copy"] += 1
    elif there and func in _WAITS:
        waits[_WAITS[func]] += 1
    inner_args, inner_kwargs = tree_map(_inner, args), tree_map(_inner, dict(kwargs))
    if place is not None:
        inner_kwargs["device"] = torch.device("cpu")
    made = _STAND_INS.get(func, func)(*inner_args, **inner_kwargs)
    if not on_gpu:
        return made
    made = tree_map(lambda leaf: OnGpu(leaf) if isinstance(leaf, torch.Tensor) else leaf, made)
    return return_and_correct_aliasing(func, args, dict(kwargs), made) if there else made


def _inner(leaf: Any) -> Any:
    return leaf.inner if isinstance(leaf, OnGpu) else leaf


def on_gpu(model: Any, dtype: torch.dtype = torch.float32) -> Any:
    """A model whose parameters, of that type, and buffers are moved; what was tied stays tied."""
    moved: dict[int, Any] = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None and not isinstance(parameter, OnGpu):
                made = moved.get(id(parameter))
                if made is None:
                    made = torch.nn.Parameter(OnGpu(parameter.detach().to(dtype)), parameter.requires_grad)
                    moved[id(parameter)] = made
                module._parameters[name] = made
        for name, buffer in module._buffers.items():
            if buffer is not None and not isinstance(buffer, OnGpu):
                module._buffers[name] = OnGpu(buffer)
    return model


# -- the kernel for chunks of a row --------------------------------------------------------------------------------


def _mask(length: int, bounds: torch.Tensor, *, causal: bool) -> torch.Tensor:
    place = torch.arange(length)
    chunk = torch.bucketize(place, bounds, right=True)
    mask = chunk[:, None] == chunk[None]
    return mask & (place[:, None] >= place[None]) if causal else mask


def _dense(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bounds: torch.Tensor, scale: float, *, causal: bool
) -> torch.Tensor:
    mask = _mask(len(query), bounds, causal=causal)
    q, k, v = (part.transpose(0, 1)[None] for part in (query, key, value))
    out = scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale, enable_gqa=q.shape[1] != k.shape[1])
    return out[0].transpose(0, 1)


def _varlen(query: Any, key: Any, value: Any, bounds: Any, same: Any, longest: Any, longest_key: Any, causal: bool,
            scale: float, window: list[int], *_: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:  # fmt: skip
    waits["varlen"] += 1
    assert bounds is same and bounds.dtype == torch.int32 and type(longest) is type(longest_key) is int
    assert {part.dtype for part in (query, key, value)} <= {torch.bfloat16, torch.float16}, "half precision alone"
    assert all(part.stride(-1) == 1 for part in (query, key, value)), "the numbers of a head stand together"
    assert longest == int(bounds.diff().max()) and window == [-1, 0 if causal else -1]
    out = _dense(query, key, value, bounds, scale, causal=causal)
    return out, torch.zeros(query.shape[1], len(query)), torch.zeros(2, dtype=torch.uint64)


def _varlen_backward(
    grad: Any, query: Any, key: Any, value: Any, out: Any, lse: Any, bounds: Any, same: Any, longest: Any,
    longest_key: Any, causal: bool, state: Any, scale: float, window: list[int], *_: Any,
) -> tuple[torch.Tensor, ...]:  # fmt: skip
    groups = query.shape[1] // key.shape[1]
    q, k, v, g = (part.float().transpose(0, 1) for part in (query, key, value, grad))
    k, v = k.repeat_interleave(groups, 0), v.repeat_interleave(groups, 0)
    shares = (q @ k.mT * scale).masked_fill(~_mask(len(query), bounds, causal=causal), -torch.inf).softmax(-1)
    by_share = g @ v.mT
    by_score = shares * (by_share - (by_share * shares).sum(-1, keepdim=True)) * scale
    key_grad, value_grad = (part.unflatten(0, (-1, groups)).sum(1) for part in (by_score.mT @ q, shares.mT @ g))
    return tuple(part.transpose(0, 1).to(query.dtype) for part in (by_score @ k, key_grad, value_grad))


_STAND_INS = {
    torch.ops.torch_attn._varlen_attn.default: _varlen,
    torch.ops.torch_attn._varlen_attn_backward.default: _varlen_backward,
}


def _backward(loss: torch.Tensor, **_: Any) -> None:
    """With all that is pretended, since layers may be computed again; torch's own sets modes of functions aside."""
    torch.autograd.graph._engine_run_backward(
        (loss,), (torch.ones_like(loss),), False, False, (), allow_unreachable=True, accumulate_grad=True
    )


def _no_grad(self: Any) -> None:
    self.before = torch.is_grad_enabled()
    torch.set_grad_enabled(False)


def _grad_again(self: Any, *_: Any) -> None:
    torch.set_grad_enabled(self.before)


@contextmanager
def a_gpu(capability: tuple[int, int] = (9, 0)) -> Iterator[None]:
    """Inside the block `torch.cuda` has one device of that capability, and tensors can be made on it."""
    waits.clear()
    with pytest.MonkeyPatch.context() as patch:
        cuda = torch.cuda
        for name, value in {
            "is_available": True, "is_initialized": True, "device_count": 1, "current_device": 0,
            "is_bf16_supported": capability >= (8, 0), "get_device_capability": capability, "set_device": None,
            "get_device_name": "pretended", "_lazy_init": None, "empty_cache": None, "synchronize": None,
            "manual_seed": None, "manual_seed_all": None,
            "get_rng_state": torch.zeros(16, dtype=torch.uint8), "set_rng_state": None,
            "get_rng_state_all": [torch.zeros(16, dtype=torch.uint8)], "set_rng_state_all": None,
        }.items():  # fmt: skip
            patch.setattr(cuda, name, lambda *_, value=value, **__: value)
            if hasattr(cuda.random, name):
                patch.setattr(cuda.random, name, lambda *_, value=value, **__: value)
        patch.setattr(torch.Tensor, "backward", _backward)
        patch.setattr(torch.accelerator, "current_device_index", lambda: 0)
        patch.setattr(torch.accelerator, "set_device_index", lambda _: None)
        patch.setattr(torch.Tensor, "pin_memory", lambda self, *_: self)
        patch.setattr(torch.inference_mode, "__enter__", _no_grad)  # which has no tensors within tensors
        patch.setattr(torch.inference_mode, "__exit__", _grad_again)
        patch.setattr(torch.optim.Optimizer, "_accelerator_graph_capture_health_check", lambda _: None)
        patch.setattr(torch.backends.cudnn, "version", lambda: None)
        with _Pretending(), _Made():
            yield
