"""The model and the clips of these benchmarks: shapes of real ones, random contents, nothing downloaded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from benchmarks.gpu.flops import Clip
from transformers import AutoModelForImageTextToText, Qwen2_5_VLConfig

from rbft.models.patches import PatchProjection, patches_as_rows
from rbft.models.pixels import patchify
from rbft.models.varlen import NAME, one_call_a_layer
from rbft.models.vlm import VLM, Encoded
from rbft.tiny.model import build_config

TOKENS = ("im_end", "endoftext", "image_pad", "video_pad", "vision_start", "vision_end")
Size = Literal["7b", "tiny"]


@dataclass(frozen=True)
class Shape:
    """Sizes of clips and texts: `median_frames` to `most_frames` where lengths are mixed (log-normal, sigma 0.6)."""

    height: int
    width: int
    median_frames: int
    most_frames: int
    prompt_tokens: int
    rationale_tokens: int
    new_tokens: int


SHAPES: dict[Size, Shape] = {
    "7b": Shape(280, 504, 18, 80, prompt_tokens=147, rationale_tokens=170, new_tokens=200),
    "tiny": Shape(56, 84, 4, 8, prompt_tokens=20, rationale_tokens=12, new_tokens=8),
}


def build(size: Size, device: torch.device, dtype: torch.dtype) -> VLM:
    """A model of random weights made on the device, with the embedded model's processor and token ids."""
    donor = VLM.load("embedded", device=torch.device("cpu"))
    ids = {f"<|{name}|>": donor.tokenizer.convert_tokens_to_ids(f"<|{name}|>") for name in TOKENS}
    config = build_config(len(donor.tokenizer), ids)
    torch.manual_seed(0)
    with torch.device(device):
        made = AutoModelForImageTextToText.from_config(seven_billion(config) if size == "7b" else config, dtype=dtype)
    made.generation_config.eos_token_id = ids["<|im_end|>"]
    patches_as_rows(made)
    one_call_a_layer(made)
    return VLM(made.to(device).eval(), donor.processor, donor.source)


def seven_billion(small: Qwen2_5_VLConfig) -> Qwen2_5_VLConfig:
    """Qwen2.5-VL-7B's configuration, with the token ids of the small one."""
    text = {
        "vocab_size": 152_064, "hidden_size": 3584, "intermediate_size": 18_944, "num_hidden_layers": 28,
        "num_attention_heads": 28, "num_key_value_heads": 4, "max_position_embeddings": 128_000, "rms_norm_eps": 1e-6,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
        "bos_token_id": None, "eos_token_id": small.text_config.eos_token_id,
        "pad_token_id": small.text_config.pad_token_id, "tie_word_embeddings": False,
    }  # fmt: skip
    vision = {
        "depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16, "out_hidden_size": 3584,
        "fullatt_block_indexes": [7, 15, 23, 31], "patch_size": 14, "temporal_patch_size": 2, "spatial_merge_size": 2,
        "window_size": 112, "tokens_per_second": 2,
    }  # fmt: skip
    names = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
    ids = {name: getattr(small, name) for name in names}
    return Qwen2_5_VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=False, **ids)


@dataclass(frozen=True)
class Question:
    """A clip under a prompt, with the answer that is learnt or scored after it, int64 [A]."""

    encoded: Encoded
    answer: torch.Tensor
    clip: Clip


def questions(vlm: VLM, shape: Shape, count: int, *, answer_tokens: int, mixed: bool) -> list[Question]:
    """Clips of noise: all of the median length, or a log-normal mix of lengths, the same at every call."""
    random = np.random.default_rng(0)
    frames = np.full(count, shape.median_frames)
    if mixed:
        drawn = shape.median_frames * np.exp(0.6 * random.standard_normal(count))
        frames = np.clip(drawn.round().astype(int), 2, shape.most_frames)
    return [_question(vlm, shape, int(number), answer_tokens, random) for number in frames]


def _question(vlm: VLM, shape: Shape, frames: int, answer_tokens: int, random: np.random.Generator) -> Question:
    pixels = random.integers(0, 256, (frames, shape.height, shape.width, 3), dtype=np.uint8)
    visual = patchify(pixels, vlm.grid).with_seconds_per_grid(2.0)
    special = set(vlm.tokenizer.all_special_ids)
    words = [token for token in range(len(vlm.tokenizer)) if token not in special]
    config = vlm.model.config
    video = [config.video_token_id] * (len(visual.pixels) // vlm.grid.merge_size**2)
    prompt = random.choice(words, shape.prompt_tokens - 2).tolist()
    ids = [*prompt[:8], config.vision_start_token_id, *video, config.vision_end_token_id, *prompt[8:]]
    answer = [*random.choice(words, answer_tokens - 1).tolist(), vlm.end_of_turn]
    return Question(
        encoded=Encoded(torch.tensor(ids), visual, text=""),
        answer=torch.tensor(answer),
        clip=Clip(frames, shape.height, shape.width, shape.prompt_tokens + answer_tokens, answer_tokens),
    )


def in_order(batch: Sequence[Question]) -> list[Question]:
    """Clips of like length together."""
    return sorted(batch, key=lambda q: len(q.encoded.input_ids))


@contextmanager
def librarys_tower(model: Any) -> Iterator[None]:
    """Inside the block the vision tower is transformers' own: a convolution over patches, attention chunk by chunk."""
    embed = model.model.visual.patch_embed
    ours = embed.proj
    embed.proj = librarys_projection(ours, embed)
    model.set_attn_implementation({"vision_config": "sdpa"})
    try:
        yield
    finally:
        embed.proj = ours
        model.set_attn_implementation({"vision_config": NAME})


def librarys_projection(ours: PatchProjection, embed: Any) -> torch.nn.Conv3d:
    """The convolution that transformers has in the place of our matrix, with the very same parameters."""
    kernel = (embed.temporal_patch_size, embed.patch_size, embed.patch_size)
    with torch.device("meta"):
        made = torch.nn.Conv3d(embed.in_channels, embed.embed_dim, kernel, stride=kernel, bias=ours.bias is not None)
    made.weight, made.bias = ours.weight, ours.bias
    return made
