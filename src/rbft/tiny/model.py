"""The embedded model's shape, and the two fast paths that its training uses.

The model is transformers' own `Qwen2_5_VLForConditionalGeneration`; nothing in it is changed. Training from scratch on
a processor goes through `see`, here, and `answer_loss`, in `lessons`: they compute what the library's forward computes
for a batch of equal grids, without its loop over clips. Tests hold both to the library.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, scaled_dot_product_attention
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

PATCH = 14
TEMPORAL_PATCH = 2
MERGE = 2
TOKENS_PER_SECOND = 2
_WORD_STD = 0.06
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


def build_config(vocab_size: int, token_ids: dict[str, int]) -> Qwen2_5_VLConfig:
    """The configuration: 4 language layers of 192, 4 vision layers of 128, all of them with full attention."""
    language = {
        "vocab_size": vocab_size,
        "hidden_size": 192,
        "intermediate_size": 512,
        "num_hidden_layers": 4,
        "num_attention_heads": 6,
        "num_key_value_heads": 3,
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-6,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 6, 6]},
        "bos_token_id": None,
        "eos_token_id": token_ids["<|im_end|>"],
        "pad_token_id": token_ids["<|endoftext|>"],
        "tie_word_embeddings": True,
    }
    vision = {
        "depth": 4,
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_heads": 4,
        "out_hidden_size": 192,
        "fullatt_block_indexes": [0, 1, 2, 3],
        "patch_size": PATCH,
        "temporal_patch_size": TEMPORAL_PATCH,
        "spatial_merge_size": MERGE,
        "tokens_per_second": TOKENS_PER_SECOND,
    }
    return Qwen2_5_VLConfig(
        text_config=language,
        vision_config=vision,
        image_token_id=token_ids["<|image_pad|>"],
        video_token_id=token_ids["<|video_pad|>"],
        vision_start_token_id=token_ids["<|vision_start|>"],
        vision_end_token_id=token_ids["<|vision_end|>"],
        tie_word_embeddings=True,
    )


def build_model(config: Qwen2_5_VLConfig, seed: int) -> Qwen2_5_VLForConditionalGeneration:
    """Fresh float32 weights, the same for the same seed.

    Word vectors start larger than the library's 0.02, so that a word outweighs what the first layers mix in.
    """
    torch.manual_seed(seed)
    model = Qwen2_5_VLForConditionalGeneration(config).float()
    nn.init.normal_(model.model.language_model.embed_tokens.weight, std=_WORD_STD)
    return model


def normalised(frames: Tensor) -> Tensor:
    """Frames 0..255 `[B, T, H, W, 3]` to the processor's normalised float32 `[B, T, 3, H, W]`."""
    mean, std = torch.tensor(MEAN) * 255, torch.tensor(STD) * 255
    return ((frames.float() - mean) / std).permute(0, 1, 4, 2, 3)


def patchify(video: Tensor) -> tuple[Tensor, Tensor]:
    """Cuts normalised frames `[B, T, 3, H, W]` into patches, in the order of the Qwen2-VL video processor.

    Returns patches `[B * T/2 * H/14 * W/14, 1176]` and `video_grid_thw` `[B, 3]`. T is even; H and W divide by 28.
    """
    batch, frames, channels, height, width = video.shape
    steps, rows, columns = frames // TEMPORAL_PATCH, height // PATCH, width // PATCH
    cut = video.reshape(
        batch, steps, TEMPORAL_PATCH, channels, rows // MERGE, MERGE, PATCH, columns // MERGE, MERGE, PATCH
    ).permute(0, 1, 4, 7, 5, 8, 3, 2, 6, 9)
    grid = torch.tensor([[steps, rows, columns]]).expand(batch, 3)
    return cut.reshape(batch * steps * rows * columns, -1), grid


def patch_positions(rows: int, columns: int) -> Tensor:
    """Row and column of each patch of one frame in merge order, `[2, rows * columns]`."""
    place = (
        torch.arange(rows * columns).view(rows // MERGE, MERGE, columns // MERGE, MERGE).permute(0, 2, 1, 3).flatten()
    )
    return torch.stack([place // columns, place % columns])


def _turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position embedding on `[..., S, D]`."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


def _rotary(positions: Tensor, dim: int, theta: float = 10000.0) -> tuple[Tensor, Tensor]:
    """cos and sin `[S, dim]` for positions `[2, S]`: half of the frequencies for rows, half for columns."""
    inverse = 1.0 / theta ** (torch.arange(0, dim // 2, 2).float() / (dim // 2))
    angles = (positions.float()[..., None] * inverse).transpose(0, 1).flatten(1)
    return torch.cat((angles.cos(),) * 2, -1), torch.cat((angles.sin(),) * 2, -1)


def see(visual: Any, patches: Tensor, grid: Tensor) -> Tensor:
    """The vision tower and merger on a batch of equal grids of at most 112 pixels a side (one window a frame).

    `patches` `[B * T * R * C, 1176]`, `grid` `[B, 3]`; returns merged tokens `[B, T * R/2 * C/2, hidden]`.
    """
    steps, rows, columns = (int(n) for n in grid[0])
    hidden = linear(patches, visual.patch_embed.proj.weight.flatten(1))
    heads = visual.blocks[0].attn.num_heads
    num_patches, width = rows * columns, hidden.shape[-1]
    cos, sin = _rotary(patch_positions(rows, columns), width // heads)
    hidden = hidden.view(-1, num_patches, width)
    for block in visual.blocks:
        mixed = block.attn.qkv(block.norm1(hidden)).view(-1, num_patches, 3, heads, width // heads)
        query, key, value = mixed.permute(2, 0, 3, 1, 4).unbind(0)
        out = scaled_dot_product_attention(_turned(query, cos, sin), _turned(key, cos, sin), value)
        hidden = hidden + block.attn.proj(out.transpose(1, 2).flatten(2))
        hidden = hidden + block.mlp(block.norm2(hidden))
    merged: Tensor = visual.merger(hidden.reshape(-1, width))
    return merged.view(len(grid), steps * num_patches // MERGE**2, -1)


def prefix_positions(lead: int, grid: Tensor) -> Tensor:
    """3D positions `[3, lead + V]` of `lead` text tokens followed by the V visual tokens of `grid` `[3]`.

    Two frames a second, so one temporal step lasts a second: `get_rope_index` of the library with that time step.
    """
    steps, rows, columns = int(grid[0]), int(grid[1]) // MERGE, int(grid[2]) // MERGE
    text = torch.arange(lead).expand(3, lead)
    time = (torch.arange(steps) * TOKENS_PER_SECOND).view(-1, 1, 1).expand(steps, rows, columns)
    row = torch.arange(rows).view(1, -1, 1).expand(steps, rows, columns)
    column = torch.arange(columns).view(1, 1, -1).expand(steps, rows, columns)
    return torch.cat([text, torch.stack([time, row, column]).flatten(1) + lead], dim=1)
