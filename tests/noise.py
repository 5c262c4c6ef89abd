"""Frames of noise, or of nothing, with their plans: enough for everything about models that is not about seeing."""

from __future__ import annotations

import numpy as np

from rbft.clips.frames import Frames
from rbft.records import FramePlan, Grid


def noise_clip(seed: int, grid: Grid, *, frames: int = 4, rows: int = 2, columns: int = 2) -> tuple[Frames, FramePlan]:
    """Random pixels, `rows` x `columns` merged patches, two frames a second."""
    height, width = rows * grid.pixels, columns * grid.pixels
    data = np.random.default_rng(seed).integers(0, 256, (frames, height, width, 3), dtype=np.uint8)
    seconds = np.arange(frames) * 0.5
    plan = FramePlan(
        times_seconds=tuple(seconds), width=width, height=height, frames_per_second=2.0, short_clip_policy="repeat-last"
    )
    return Frames(data, seconds), plan


class NoiseClips:
    """A frame source whose clip ids are seeds."""

    def __init__(self, grid: Grid) -> None:
        self._grid = grid

    def read(self, clip_id: str) -> Frames:
        return noise_clip(int(clip_id), self._grid)[0]

    def plan(self, clip_id: str) -> FramePlan:
        return noise_clip(int(clip_id), self._grid)[1]

    def read_with_plan(self, clip_id: str) -> tuple[Frames, FramePlan]:
        """Both at once."""
        return noise_clip(int(clip_id), self._grid)


class Still:
    """Every clip has two black frames, at 0 and 2 seconds."""

    def read(self, clip_id: str) -> Frames:
        return Frames(np.zeros((2, 28, 28, 3), np.uint8), np.array([0.0, 2.0]))

    def plan(self, clip_id: str) -> FramePlan:
        return FramePlan(
            times_seconds=(0.0, 2.0), width=28, height=28, frames_per_second=0.5, short_clip_policy="error"
        )
