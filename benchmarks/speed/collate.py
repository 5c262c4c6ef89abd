"""Frames to model input: uint8 patches and one affine on the device, against the checkpoint's own video processor.

    python -m benchmarks.speed.collate

One clip of 18 frames of 280x504, as the paper samples it. Ours is timed with the affine; bytes are what travels from
the loader to the device. Equal to the processor's floats within 1e-5.
"""

from __future__ import annotations

import argparse
import sys
import warnings

import numpy as np
import torch
from benchmarks.speed.measuring import Row, check_close, in_turn, main

from rbft.models.pixels import affine_to, normalised, patchify
from rbft.records import Grid

FRAMES, HEIGHT, WIDTH = 18, 280, 504


def rows(options: argparse.Namespace) -> list[Row]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor

        processor = Qwen2VLVideoProcessor(do_sample_frames=False, do_resize=False)
    torch.set_num_threads(1)
    grid = Grid()
    frames = np.random.default_rng(0).integers(0, 256, (FRAMES, HEIGHT, WIDTH, 3), np.uint8)
    scale, shift = affine_to(processor.image_mean, processor.image_std, grid)

    def mine() -> torch.Tensor:
        return normalised(patchify(frames, grid).pixels, scale, shift)

    def other() -> torch.Tensor:
        video = torch.from_numpy(frames).permute(0, 3, 1, 2)
        made: torch.Tensor = processor([video], return_tensors="pt")["pixel_values_videos"]
        return made

    equal = check_close("largest difference", float((mine() - other()).abs().max()), 1e-5)
    our_ms, their_ms = in_turn(mine, other, repeats=options.repeats, cpu=True)
    case = f"{FRAMES} frames of {HEIGHT}x{WIDTH}"
    against = "HF video processor"
    our_bytes, their_bytes = float(patchify(frames, grid).pixels.nbytes), float(other().nbytes)
    made = {"phase": "frames to input", "against": against, "equal": equal}
    return [
        Row(case=case, ours=our_ms, theirs=their_ms, unit="CPU ms", promised=3.0, **made),
        Row(case="bytes to the device", ours=our_bytes, theirs=their_bytes, unit="bytes", promised=4.0, **made),
    ]


if __name__ == "__main__":
    sys.exit(main(__doc__, rows))
