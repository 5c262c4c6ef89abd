"""The vision tower: one attention call for every length of chunk and one matrix over patches, against transformers'.

    python -m benchmarks.speed.vision

transformers calls attention once for each chunk of a layer, and cuts patches by a convolution of three dimensions.
Processor time of forward and backward of the tower alone, float32: the embedded model's on a training batch of 16
clips, and a narrow tower of Qwen2.5-VL on one clip of 18 frames of 280 x 504, which it cuts into 135 windows a layer.
On a processor arithmetic is nearly all of the time, so that calls count little; on a GPU every call costs a launch, and
one `varlen_attn` a layer replaces all of them. Times on a GPU have not been taken yet.
"""

from __future__ import annotations

import argparse
import copy
import sys
from typing import Any

import torch
from benchmarks.speed.measuring import Row, check_close, in_turn, main
from benchmarks.speed.model import EMBEDDED
from transformers import AutoModelForImageTextToText, Qwen2_5_VLForConditionalGeneration

from rbft.models.patches import patches_as_rows
from rbft.models.varlen import one_call_a_layer
from rbft.tiny.model import build_config

TOKEN_IDS = {f"<|{name}|>": i for i, name in enumerate(
    ("im_end", "endoftext", "image_pad", "video_pad", "vision_start", "vision_end")
)}  # fmt: skip


def rows(options: argparse.Namespace) -> list[Row]:
    torch.set_num_threads(1)
    embedded = AutoModelForImageTextToText.from_pretrained(EMBEDDED, dtype=torch.float32, attn_implementation="sdpa")
    return [
        tower_row("16 clips, 8 frames of 56x84", embedded, torch.tensor([[4, 4, 6]] * 16), options.repeats),
        tower_row("1 clip, 18 frames of 280x504", windowed(), torch.tensor([[9, 20, 36]]), options.repeats),
    ]


def windowed() -> Any:
    """A random narrow tower with windows of 8 x 8 patches in seven of eight layers, as Qwen2.5-VL has them."""
    config = build_config(512, TOKEN_IDS)
    config.vision_config.depth = 8
    config.vision_config.fullatt_block_indexes = [7]
    torch.manual_seed(0)
    return Qwen2_5_VLForConditionalGeneration(config).float()


def tower_row(case: str, library: Any, grid_thw: torch.Tensor, repeats: int) -> Row:
    """One model's tower, ours and the library's."""
    changed = copy.deepcopy(library)
    patches_as_rows(changed)
    one_call_a_layer(changed)
    patches = torch.randn(int(grid_thw.prod(1).sum()), 1176, generator=torch.Generator().manual_seed(0))

    def step(model: Any) -> tuple[torch.Tensor, torch.Tensor]:
        tower = model.model.visual
        model.zero_grad(set_to_none=True)
        seen = tower(patches, grid_thw=grid_thw).pooler_output
        seen.square().mean().backward()
        return seen.detach(), tower.blocks[0].attn.qkv.weight.grad

    differences = [float((a - b).abs().max()) for a, b in zip(step(changed), step(library), strict=True)]
    equal = check_close("outputs and gradients", max(differences), 1e-5)
    ours, theirs = in_turn(lambda: step(changed), lambda: step(library), repeats=repeats, cpu=True)
    return Row(phase="vision tower", case=case, against="transformers, sdpa", ours=ours, theirs=theirs, unit="CPU ms",
               promised=None, equal=equal)  # fmt: skip


if __name__ == "__main__":
    sys.exit(main(__doc__, rows))
