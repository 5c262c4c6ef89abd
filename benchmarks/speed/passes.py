"""Reading clips again: the frame cache against decoding, and a whole recipe's four passes against qwen-vl-utils.

    python -m benchmarks.speed.passes

A recipe reads every clip four times: for its rationale, in both stages, and to be evaluated (more with more epochs and
arms). rbft decodes once, keeps the frames as bytes and maps them; qwen-vl-utils' `fetch_video` is called in each pass,
as its users' training and evaluation scripts do. Reading from the cache means that every byte is touched.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import torch
from benchmarks.speed.clips import folder, make_clip
from benchmarks.speed.measuring import Row, check_close, in_turn, main
from benchmarks.speed.read import LIMITS, MEAN_LEVELS, ours, qwen_vl_utils

from rbft.clips.cache import FrameCache
from rbft.clips.frames import Frames, plan_frames
from rbft.clips.probe import examine
from rbft.experiment import Sampling
from rbft.files import sha256_of
from rbft.records import Grid

NUM_PASSES = 4


def fill(clip: Path, cache: FrameCache) -> str:
    """The first read of a clip, with its hash and the writing of its frames; returns their key."""
    plan = plan_frames(examine(clip, LIMITS)[0], Sampling(), Grid())
    return cache.write(sha256_of(clip), plan, ours(clip))


def touched(cache: FrameCache, key: str) -> Frames:
    """The frames of the cache, every byte of them read."""
    frames = cache.read(key)
    frames.data.max()
    return frames


def cache_row(clip: Path, root: Path, repeats: int) -> Row:
    """One clip read from the cache against decoded again."""
    cache = FrameCache(root / "cache")
    key = fill(clip, cache)
    fresh, kept = ours(clip), touched(cache, key)
    if not (np.array_equal(fresh.data, kept.data) and np.array_equal(fresh.seconds, kept.seconds)):
        raise SystemExit(f"{clip}: the cache and the decoder give different frames")
    mine, other = in_turn(lambda: touched(cache, key), lambda: ours(clip), repeats=repeats)
    return Row(phase="second read", case="18 s, 720p", against="decoding it again", ours=mine, theirs=other, unit="ms",
               promised=300.0, equal="equal bytes")  # fmt: skip


def passes_row(clips: list[Path], root: Path, repeats: int) -> Row:
    """Four passes over several clips, the first from files that were never seen."""
    plans = [plan_frames(examine(clip, LIMITS)[0], Sampling(), Grid()) for clip in clips]
    levels = [
        np.abs(ours(c).data.astype(np.int16) - qwen_vl_utils(c, p)).mean() for c, p in zip(clips, plans, strict=True)
    ]
    equal = check_close("mean grey levels", float(max(levels)), MEAN_LEVELS)

    def mine() -> None:
        shutil.rmtree(root / "passes", ignore_errors=True)
        cache = FrameCache(root / "passes")
        keys = [fill(clip, cache) for clip in clips]
        for _ in range(NUM_PASSES):
            for key in keys:
                touched(cache, key)

    def other() -> None:
        for _ in range(NUM_PASSES):
            for clip, plan in zip(clips, plans, strict=True):
                qwen_vl_utils(clip, plan)

    our_ms, their_ms = in_turn(mine, other, repeats=repeats, cpu=True)
    return Row(phase="four passes", case=f"{len(clips)} clips of 18 s, 720p", against="qwen-vl-utils each pass",
               ours=our_ms, theirs=their_ms, unit="CPU ms", promised=4.0, equal=equal)  # fmt: skip


def rows(options: argparse.Namespace) -> list[Row]:
    os.environ["FORCE_QWENVL_VIDEO_READER"] = "decord"
    torch.set_num_threads(1)
    with folder() as root:
        clips = [
            make_clip(root / f"{n}.mp4", seconds=18, width=1280, height=720, b_frames=n % 2 == 0, seed=n)
            for n in range(4)
        ]
        return [cache_row(clips[0], root, options.repeats), passes_row(clips, root, options.repeats)]


if __name__ == "__main__":
    sys.exit(main(__doc__, rows))
