"""Floating-point operations of Qwen2.5-VL, counted from its configuration: what a clip must cost.

A multiply-add counts two. Norms, softmax and rotations are left out; attention is counted causally in the language
model. Training is three forwards; recomputation under gradient checkpointing is not counted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

TRAINING = 3
"""Forward and backward, in forwards."""


@dataclass(frozen=True)
class Clip:
    """Frames of height x width pixels, and how many text tokens stand around them; `head_rows` get logits."""

    frames: int
    height: int
    width: int
    text_tokens: int
    head_rows: int


def forward_flops(config: Any, clip: Clip) -> float:
    """Operations of one forward over one clip, with what it is asked and answers."""
    tokens = visual_tokens(config, clip) + clip.text_tokens
    return vision_flops(config, clip) + language_flops(config, tokens) + head_flops(config, clip.head_rows)


def generation_flops(config: Any, clip: Clip, new_tokens: int) -> float:
    """Operations of a forward over the prompt, one row of logits, and `new_tokens` - 1 steps with what was kept."""
    prompt = visual_tokens(config, clip) + clip.text_tokens
    whole = language_flops(config, prompt + new_tokens - 1)
    return vision_flops(config, clip) + whole + head_flops(config, new_tokens)


def visual_tokens(config: Any, clip: Clip) -> int:
    """Tokens of the language model that the clip becomes."""
    steps, rows, columns = _grid(config, clip)
    return steps * rows * columns // config.vision_config.spatial_merge_size**2


def vision_flops(config: Any, clip: Clip) -> float:
    """Operations of the vision tower and its merger; attention stays in a step of time, mostly in windows."""
    vision = config.vision_config
    steps, rows, columns = _grid(config, clip)
    patches, width = steps * rows * columns, vision.hidden_size
    merged = width * vision.spatial_merge_size**2
    inputs = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
    layer = 4 * width**2 + 3 * width * vision.intermediate_size
    linear = 2 * patches * (vision.depth * layer + inputs * width)
    merger = 2 * visual_tokens(config, clip) * (merged**2 + merged * vision.out_hidden_size)
    full = len(vision.fullatt_block_indexes)
    side = vision.window_size // vision.patch_size
    windowed = sum(n * n for n in _cuts(rows, side)) * sum(n * n for n in _cuts(columns, side))
    attention = 4 * width * steps * ((vision.depth - full) * windowed + full * (rows * columns) ** 2)
    return float(linear + merger + attention)


def language_flops(config: Any, tokens: int) -> float:
    """Operations of the language layers over one row of tokens, the head not counted."""
    text = config.text_config
    width = text.hidden_size
    keys = width * text.num_key_value_heads // text.num_attention_heads
    layer = 2 * width**2 + 2 * width * keys + 3 * width * text.intermediate_size
    return float(text.num_hidden_layers * (2 * layer * tokens + 2 * width * tokens**2))


def head_flops(config: Any, rows: int) -> float:
    """Operations of the logits of so many rows."""
    return 2.0 * config.text_config.hidden_size * config.text_config.vocab_size * rows


def _grid(config: Any, clip: Clip) -> tuple[int, int, int]:
    vision = config.vision_config
    steps = math.ceil(clip.frames / vision.temporal_patch_size)
    return steps, clip.height // vision.patch_size, clip.width // vision.patch_size


def _cuts(length: int, side: int) -> list[int]:
    """A length cut into pieces of `side`, the last being what is left."""
    return [min(side, length - start) for start in range(0, length, side)]
