"""The vision tower: one attention call for every length of chunk, against transformers' loop over chunks.

Processor time of forward and backward of the tower alone, float32, both ways in turn on the same weights: the embedded
model on a training batch of 16 clips, and a narrow tower of Qwen2.5-VL on one clip of 18 frames of 280 x 504, which it
cuts into 135 windows a layer. On a processor the arithmetic is nearly all of the time, and both take the same; on a GPU
every call costs a launch, and one `varlen_attn` a layer replaces all of them. Times on a GPU have not been taken yet.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from benchmarks.speed.measuring import Row, check_close, in_turn, main
from transformers import Qwen2_5_VLForConditionalGeneration

from rbft.models.varlen import NAME, one_call_a_layer
from rbft.models.vlm import VLM
from rbft.tiny.model import build_config

AGAINST = "transformers' sdpa path"
TOKEN_IDS = {f"<|{name}|>": i for i, name in enumerate(
    ("im_end", "endoftext", "image_pad", "video_pad", "vision_start", "vision_end")
)}  # fmt: skip


def rows(options: argparse.Namespace) -> list[Row]:
    """Both cases."""
    embedded = VLM.load("embedded", device=torch.device("cpu")).model
    windowed = _windowed()
    return [
        _row("16 clips, 8 frames 56x84", embedded, torch.tensor([[4, 4, 6]] * 16), options.repeats),
        _row("1 clip, 18 frames 280x504, windows", windowed, torch.tensor([[9, 20, 36]]), options.repeats),
    ]


def _windowed() -> Any:
    """A random narrow tower with windows of 8 x 8 patches in seven of eight layers, as Qwen2.5-VL has them."""
    config = build_config(512, TOKEN_IDS)
    config.vision_config.depth = 8
    config.vision_config.fullatt_block_indexes = [7]
    torch.manual_seed(0)
    model = Qwen2_5_VLForConditionalGeneration(config).float()
    one_call_a_layer(model)
    return model


def _row(case: str, model: Any, grid_thw: torch.Tensor, repeats: int) -> Row:
    tower = model.model.visual
    patches = torch.randn(int(grid_thw.prod(1).sum()), 1176, generator=torch.Generator().manual_seed(0))

    def step(implementation: str) -> tuple[torch.Tensor, torch.Tensor]:
        model.set_attn_implementation({"vision_config": implementation})
        model.zero_grad(set_to_none=True)
        seen = tower(patches, grid_thw=grid_thw).pooler_output
        seen.square().mean().backward()
        return seen.detach(), tower.blocks[0].attn.qkv.weight.grad

    differences = [float((a - b).abs().max()) for a, b in zip(step(NAME), step("sdpa"), strict=True)]
    equal = check_close("outputs and gradients", max(differences), 1e-5)
    ours, theirs = in_turn(lambda: step(NAME), lambda: step("sdpa"), repeats=repeats, cpu=True)
    return Row(
        phase="vision tower",
        case=case,
        against=AGAINST,
        ours=ours,
        theirs=theirs,
        unit="CPU ms",
        promised=None,
        equal=equal,
    )


if __name__ == "__main__":
    raise SystemExit(main(__doc__, rows))
