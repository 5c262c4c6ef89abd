"""Attention within chunks of one row: a vision tower's windows and frames, or packed clips, in one call a layer.

transformers' own path for every implementation but the flash ones calls attention once for each chunk of a vision
layer: 135 times for a clip of 18 frames of 280x504. An implementation whose name holds "flash" is handed the whole row
with the bounds of its chunks instead; `one_call_a_layer` registers ours and gives it to the vision tower. On a GPU in
half precision that is one `varlen_attn`, where GPU and torch have it; elsewhere chunks of one length become one batch
of exact attention.
"""

from __future__ import annotations

import inspect
from functools import cache
from typing import Any

import torch
from torch.nn.attention.varlen import varlen_attn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

_TOLD = inspect.signature(varlen_attn).parameters
TAKES_WINDOWS = "scale" in _TOLD and "window_size" in _TOLD
"""Whether this torch's `varlen_attn` is told scale and window; that of 2.10 is not."""
TAKES_GROUPS = "enable_gqa" in _TOLD
"""The same of several queries to one key, as language models have them; that of 2.11 is not."""
LEAST_CAPABILITY = (8, 0)
"""Of a GPU with flash attention: Ampere and newer."""
MOST_WIDE = 256
"""Numbers in a head that flash attention takes."""
NAME = "rbft_flash_varlen"
"""What the vision tower's configuration says in memory; it is never written to disk."""


def one_call_a_layer(model: Any) -> None:
    """Let the vision tower of a loaded model attend through `chunked_attention`; the language model stays as it is."""
    register()
    model.set_attn_implementation({"vision_config": NAME})


def register() -> None:
    """Make `chunked_attention` known to transformers under its name; again is no matter."""
    AttentionInterface.register(NAME, chunked_attention)


def chunked_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: None,
    *,
    scaling: float,
    cu_seq_lens_q: torch.Tensor,
    max_length_q: int,
    dropout: float = 0.0,
    is_causal: bool | None = None,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of every token to its own chunk: transformers' attention interface, for rows that are cut in chunks.

    query [1, H, S, D], key and value [1, K, S, D] with H a multiple of K; `cu_seq_lens_q` int32 [N+1] are the chunks'
    bounds and `max_length_q` is the longest; `is_causal` None: as the module says. Returns [1, S, H, D], under autocast
    of the type that the library's SDPA gives.
    """
    assert attention_mask is None and sliding_window is None and len(query) == 1, (sliding_window, query.shape)
    is_causal = bool(module.is_causal) if is_causal is None else is_causal
    query, key, value = (_autocast(part)[0].transpose(0, 1) for part in (query, key, value))
    in_groups = query.shape[1] != key.shape[1]
    if _one_kernel(query) and not dropout and TAKES_WINDOWS and (TAKES_GROUPS or not in_groups):
        window = (-1, 0 if is_causal else -1)
        bounds = cu_seq_lens_q.to(query.device)
        out = varlen_attn(
            query, key, value, bounds, bounds, max_length_q, max_length_q,
            scale=scaling, window_size=window, **_groups(in_groups),
        )  # fmt: skip
        assert isinstance(out, torch.Tensor)
        return out[None], None
    return _by_length(query, key, value, cu_seq_lens_q.diff().tolist(), scaling, dropout, is_causal)[None], None


def _groups(in_groups: bool) -> dict[str, Any]:
    """Said only where there are any, since not every torch knows the word."""
    return {"enable_gqa": True} if in_groups else {}


def _by_length(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    lengths: list[int],
    scaling: float,
    dropout: float,
    is_causal: bool,
) -> torch.Tensor:
    """One batch of attention for each length of chunks; query and result [S, H, D], key and value [S, K, D]."""
    distinct = sorted(set(lengths))
    order = None
    if len(distinct) > 1:
        order = _sorted_by_length(lengths).to(query.device)
        query, key, value = (part.index_select(0, order) for part in (query, key, value))
    made, start = [], 0
    for length in distinct:
        count = lengths.count(length)
        q, k, v = (
            part[start : start + count * length].unflatten(0, (count, length)).transpose(1, 2)
            for part in (query, key, value)
        )
        out = scaled_dot_product_attention(
            q, k, v, dropout_p=dropout, scale=scaling, is_causal=is_causal, enable_gqa=q.shape[1] != k.shape[1]
        )
        made.append(out.transpose(1, 2).flatten(0, 1))
        start += count * length
    return made[0] if order is None else torch.cat(made).index_select(0, order.argsort())


def _sorted_by_length(lengths: list[int]) -> torch.Tensor:
    """Places of the tokens, int64 [S], so that chunks of one length stand together, short ones first."""
    each = torch.tensor(lengths)
    return each.repeat_interleave(each).argsort(stable=True)


def _autocast(part: torch.Tensor) -> torch.Tensor:
    """The type that autocast gives to attention; `varlen_attn` is not on its list."""
    kind = part.device.type
    return part.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else part


def _one_kernel(query: torch.Tensor) -> bool:
    """Whether `varlen_attn` takes this: on a GPU that has it, in half precision, with heads of a multiple of 8."""
    half, width = query.dtype in (torch.bfloat16, torch.float16), query.shape[-1]
    return query.is_cuda and half and width % 8 == 0 and width <= MOST_WIDE and _has_flash(query.device.index)


@cache
@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _has_flash(index: int) -> bool:
    """Whether the GPU of that number has flash attention; others (T4, V100) raise when they are asked for it."""
    return torch.cuda.get_device_capability(index) >= LEAST_CAPABILITY
