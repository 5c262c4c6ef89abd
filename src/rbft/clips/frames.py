"""Which instants of a clip to read, and at what size: pure arithmetic, and `Frames`, what a reading gives.

The rules are the ones of Qwen's own reader (`smart_nframes` and `smart_resize` of qwen-vl-utils), by time instead of by
index, with one addition: a clip that has fewer frames than `min_frames` repeats its last one, or is refused.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rbft.errors import ClipError
from rbft.experiment import Sampling
from rbft.records import FramePlan, Grid, Probe

MAX_ASPECT_RATIO = 200
SLACK_SECONDS, SLACK_SHARE = 0.5, 0.05
"""How far the end of a window may lie behind the end of its clip: rounding in annotations, not other clips."""
_NOISE = 1e-6


@dataclass(frozen=True, eq=False)
class Frames:
    """Frames of one clip, as the model sees them. `data` is uint8 [T, H, W, 3] RGB, `seconds` float64 [T].

    `seconds` are the real time stamps of the frames shown, from the first frame of the file; they never go back.
    """

    data: npt.NDArray[np.uint8]
    seconds: npt.NDArray[np.float64]

    def __post_init__(self) -> None:
        data, seconds = self.data, self.seconds
        if data.dtype != np.uint8 or data.ndim != 4 or data.shape[3] != 3 or 0 in data.shape:
            raise ValueError(f"frames are uint8 [T, H, W, 3], these are {data.dtype} {list(data.shape)}")
        if seconds.dtype != np.float64 or seconds.shape != data.shape[:1]:
            raise ValueError(f"frames need float64 [{len(data)}] seconds, these are {seconds.dtype} {seconds.shape}")
        if not np.isfinite(seconds).all() or (np.diff(seconds) < 0).any():
            raise ValueError(f"seconds of frames are finite and never go back, these are {seconds}")

    def __repr__(self) -> str:
        shape = "x".join(map(str, self.data.shape))
        return f"Frames({shape} uint8, {self.seconds[0]:.3f} to {self.seconds[-1]:.3f} s)"


def smart_size(height: int, width: int, *, factor: int, min_pixels: int, max_pixels: int) -> tuple[int, int]:
    """Height and width to resize to: multiples of `factor`, area within the bounds, aspect ratio as near as possible.

    >>> smart_size(720, 1280, factor=28, min_pixels=100_352, max_pixels=151_200)
    (280, 504)

    Follows `smart_resize` of qwen-vl-utils to the letter. Raises ClipError where the sides differ more than 200 times.
    """
    if max(height, width) / min(height, width) > MAX_ASPECT_RATIO:
        raise ClipError(
            "clip", "unsupported", f"a {width}x{height} frame is too narrow; sides may differ {MAX_ASPECT_RATIO} times"
        )
    rows, columns = max(1, round(height / factor)), max(1, round(width / factor))
    if rows * columns * factor**2 > max_pixels:
        shrink = math.sqrt(height * width / max_pixels)
        rows = max(1, math.floor(height / shrink / factor))
        columns = max(1, math.floor(width / shrink / factor))
    elif rows * columns * factor**2 < min_pixels:
        grow = math.sqrt(min_pixels / (height * width))
        rows, columns = math.ceil(height * grow / factor), math.ceil(width * grow / factor)
    return rows * factor, columns * factor


def frame_count(duration_seconds: float, num_frames: int, sampling: Sampling, *, temporal_patch_size: int = 2) -> int:
    """How many frames to take from a clip of `num_frames` frames.

    duration x fps, clamped to `min_frames`, `max_frames` and what the clip has, floored to whole temporal patches.
    A clip with fewer frames than `min_frames` gets `min_frames` (its last is repeated), or a ClipError `too_short`.

    >>> frame_count(18.0, 540, Sampling()), frame_count(2.0, 16, Sampling())
    (18, 4)
    """
    patch = temporal_patch_size
    least = math.ceil(sampling.min_frames / patch) * patch
    most = max(patch, sampling.max_frames // patch * patch)
    if num_frames < least:
        if sampling.too_few_frames == "error":
            raise ClipError(
                "clip",
                "too_short",
                f"{num_frames} frames; at least {least} are needed (sampling.min_frames), "
                "or set sampling.too_few_frames to repeat-last",
            )
        return least
    wanted = min(max(duration_seconds * sampling.fps, least), most, num_frames)
    return math.floor((wanted + _NOISE) / patch) * patch


def plan_frames(
    probe: Probe, sampling: Sampling, grid: Grid, *, start: float | None = None, end: float | None = None
) -> FramePlan:
    """The frames to read from a clip, or from its window `start` to `end` (seconds from the first frame).

    Instants are spread evenly from the first to the last frame of the window. `frames_per_second` is the rate that
    results: distinct frames over the seconds they stand for. Raises ClipError too_short, zero_length, unsupported.
    """
    if probe.num_frames < 1 or probe.duration_seconds <= 0:
        raise ClipError("clip", "zero_length", f"{probe.num_frames} frames in {probe.duration_seconds} s")
    rate = probe.num_frames / probe.duration_seconds
    first, last = _window(probe, rate, start, end)
    available = last - first + 1
    seconds = available / rate
    count = frame_count(seconds, available, sampling, temporal_patch_size=grid.temporal_patch_size)
    distinct = min(count, available)
    times = np.linspace(first, last, distinct) / rate if distinct > 1 else np.array([first / rate])
    times = np.concatenate([times, np.repeat(times[-1:], count - distinct)])
    height, width = smart_size(
        probe.height, probe.width, factor=grid.pixels, min_pixels=sampling.min_pixels, max_pixels=sampling.max_pixels
    )
    return FramePlan(
        times_seconds=tuple(round(float(t), 6) for t in times),
        width=width,
        height=height,
        frames_per_second=distinct / seconds,
        short_clip_policy=sampling.too_few_frames,
    )


def _window(probe: Probe, rate: float, start: float | None, end: float | None) -> tuple[int, int]:
    """First and last frame of a window as indices at the mean rate, both inside it."""
    duration = probe.duration_seconds
    if (start or 0.0) >= duration:
        raise ClipError("clip", "zero_length", f"the window starts at {start:g} s; the clip ends at {duration:g} s")
    if end is not None and end > duration + max(SLACK_SECONDS, SLACK_SHARE * duration):
        raise ClipError("clip", "too_short", f"the window ends at {end:g} s; the clip ends at {duration:g} s")
    first = math.ceil((start or 0.0) * rate - _NOISE)
    last = probe.num_frames - 1
    if end is not None:
        last = min(last, math.floor(end * rate + _NOISE))
    if last < first:
        raise ClipError("clip", "zero_length", f"no frame lies between {start:g} and {end or duration:g} s")
    return first, last
