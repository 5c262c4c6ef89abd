"""Where an answer looks: attention from the answer's positions to the clip's tokens, plain and weighted by gradient.

The prompt runs once as in prediction; only the answer's own rows are computed with eager attention, on the kept keys
and values. So memory grows with the clip's tokens, not with their square, and nothing is approximated: a row of an
answer position can reach the answer's log-probability through answer positions only.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from rbft.errors import UserError
from rbft.models.vlm import VLM, Encoded

FloatArray = npt.NDArray[np.float64]
_PER_TOKEN = ("input_ids", "attention_mask", "mm_token_type_ids")
"""Inputs of the model that have a column for every token of the prompt."""


@dataclass(frozen=True, eq=False)
class AnswerRows:
    """Attention of the positions that predict an answer, and the gradient of its log-probability by that attention.

    `attention` and `gradient` are float64 [layers, heads, answer tokens, keys]; the keys are the prompt, then the
    answer but its last token; rows of `attention` sum to 1. `log_probability` is the answer's in nats, without its end
    of turn.
    """

    attention: torch.Tensor
    gradient: torch.Tensor
    log_probability: float

    def __post_init__(self) -> None:
        assert self.attention.ndim == 4 and self.attention.shape == self.gradient.shape, self.attention.shape

    def __repr__(self) -> str:
        return f"AnswerRows({list(self.attention.shape)}, log_probability={self.log_probability:.3f})"


@dataclass(frozen=True, eq=False)
class VisualAttention:
    """What an answer attends to in a clip, by place: float64 [layers, steps, rows, columns], means over heads.

    `attention` is the share of all attention; `gradient` is attention times the positive gradient of the answer's
    log-probability (Chefer et al., arXiv 2103.15679, eq. 5, for one layer). Steps are temporal patches.
    """

    attention: FloatArray
    gradient: FloatArray

    def __post_init__(self) -> None:
        assert self.attention.ndim == 4 and self.attention.shape == self.gradient.shape, self.attention.shape

    def __repr__(self) -> str:
        return f"VisualAttention({list(self.attention.shape)})"


def visual_attention(vlm: VLM, encoded: Encoded, answer: str) -> VisualAttention:
    """Where `answer` looks after the prompt of `encoded`, averaged over its tokens; raises as `answer_rows`."""
    rows = answer_rows(vlm, encoded, answer)
    places = visual_positions(vlm, encoded)
    shape = (len(rows.attention), *visual_grid(vlm, encoded))
    weighted = rows.attention * rows.gradient.clamp_min(0.0)
    maps = [values.mean(dim=(1, 2))[:, places].reshape(shape).numpy() for values in (rows.attention, weighted)]
    return VisualAttention(attention=maps[0], gradient=maps[1])


def answer_rows(vlm: VLM, encoded: Encoded, answer: str) -> AnswerRows:
    """Attention rows of the positions that predict the tokens of `answer`, one clip.

    The model's attention implementation is the one it was loaded with before and after. Raises UserError for an answer
    without tokens or with control tokens.
    """
    tokens = vlm.answer_ids(answer)[:-1]
    if not len(tokens):
        raise UserError(f"{answer!r} has no tokens; name one of the labels")
    inputs = vlm.inputs([encoded])
    mask = inputs["attention_mask"]
    queries = torch.cat([encoded.input_ids[-1:], tokens[:-1]])[None].to(vlm.device)
    before = {name: t[:, :-1] if name in _PER_TOKEN else t for name, t in inputs.items()}
    with torch.no_grad():
        prefill = vlm.model(**before, use_cache=True, logits_to_keep=1)
    mask = torch.cat([mask, mask.new_ones(1, len(tokens) - 1)], dim=1)
    with torch.enable_grad(), _eager(vlm.model):
        output = vlm.model(
            input_ids=queries,
            attention_mask=mask,
            position_ids=_positions(vlm, mask.shape[1], len(tokens)),
            past_key_values=prefill.past_key_values,
            use_cache=True,
            output_attentions=True,
        )
        log_probabilities = torch.log_softmax(output.logits[0].double(), dim=-1)
        total = log_probabilities.gather(-1, tokens.to(vlm.device)[:, None]).sum()
        gradients = torch.autograd.grad(total, output.attentions)
    return AnswerRows(
        attention=torch.cat([a.detach() for a in output.attentions]).double().cpu(),
        gradient=torch.cat(gradients).double().cpu(),
        log_probability=float(total.detach()),
    )


def visual_positions(vlm: VLM, encoded: Encoded) -> torch.Tensor:
    """Where the clip's tokens stand in the prompt, int64 [steps·rows·columns], in the order of the grid."""
    name = "video_token_id" if vlm.family.pixels == "patches" else "image_token_id"
    return (encoded.input_ids == getattr(vlm.model.config, name)).nonzero()[:, 0]


def visual_grid(vlm: VLM, encoded: Encoded) -> tuple[int, int, int]:
    """Temporal steps, rows and columns of the clip's tokens: token i stands at that place in row-major order."""
    thw = encoded.visual.grid_thw
    if thw is not None:
        steps, height, width = (int(n) for n in thw)
        return steps, height // vlm.grid.merge_size, width // vlm.grid.merge_size
    steps = len(encoded.visual.pixels)
    side = math.isqrt(len(visual_positions(vlm, encoded)) // steps)
    return steps, side, side


def scaled(values: FloatArray) -> FloatArray:
    """Linearly onto 0..1 over the whole array; an array of one value becomes zeros."""
    low, high = float(values.min()), float(values.max())
    return (values - low) / (high - low) if high > low else np.zeros_like(values)


def _positions(vlm: VLM, length: int, count: int) -> torch.Tensor:
    """Position ids of the last `count` of `length` tokens, [1, count] or for M-RoPE [3, 1, count]."""
    positions = torch.arange(length - count, length, device=vlm.device)[None]
    if not vlm.family.mrope:
        return positions
    return (positions + vlm.model.model.rope_deltas.to(positions.device))[None].expand(3, -1, -1)


@contextmanager
def _eager(model: Any) -> Iterator[None]:
    """Eager attention of the language model inside the block, since only it gives weights; afterwards as loaded."""
    loaded_with = model.config._attn_implementation
    model.set_attn_implementation({"": "eager", "text_config": "eager"})
    try:
        yield
    finally:
        model.set_attn_implementation({"": loaded_with, "text_config": loaded_with})
