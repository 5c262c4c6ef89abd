"""Eight small grey pictures of a clip, from its first frame to its last: what near duplicates are found by.

They stand at relative times, so that a clip played faster has the same ones, and are kept beside the clip's frames.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from rbft.clips.frames import Frames
from rbft.records import FramePlan

COUNT, SIDE = 8, 32
"""Pictures a clip, and pixels along the side of each."""
NUM_BYTES = COUNT * SIDE * SIDE
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601


def with_instants(plan: FramePlan) -> FramePlan:
    """The plan with the instants of the pictures among its own, so that one decoding gives both."""
    times = plan.times_seconds
    between = np.linspace(times[0], times[-1], COUNT)[1:-1].tolist()
    return plan.model_copy(update={"times_seconds": tuple(sorted([*times, *between]))})


def planned(frames: Frames, wide: FramePlan, plan: FramePlan) -> Frames:
    """Those frames of the wider plan that the plan asks for, moved together in place: a long clip is not held twice."""
    places = np.searchsorted(wide.times_seconds, plan.times_seconds)
    for number, place in enumerate(places):
        frames.data[number] = frames.data[place]
    return Frames(frames.data[: len(places)], frames.seconds[places])


def thumbnails(frames: Frames) -> bytes:
    """The pictures of a clip, uint8 [COUNT, SIDE, SIDE] as bytes; between two frames their mix."""
    seconds, places = np.unique(frames.seconds, return_index=True)
    if len(seconds) == 1:
        return np.repeat(_small(frames.data[0])[None], COUNT, 0).round().astype(np.uint8).tobytes()
    wanted = np.linspace(seconds[0], seconds[-1], COUNT)
    after = np.clip(np.searchsorted(seconds, wanted), 1, len(seconds) - 1)
    share = (wanted - seconds[after - 1]) / (seconds[after] - seconds[after - 1])
    small = {int(i): _small(frames.data[places[i]]) for i in np.unique([after - 1, after])}
    mixed = [(1 - s) * small[int(i) - 1] + s * small[int(i)] for i, s in zip(after, share, strict=True)]
    return np.stack(mixed).round().astype(np.uint8).tobytes()


def _small(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """An image [H, W, 3] as the mean brightness of SIDE x SIDE blocks; of a large one every other pixel will do."""
    if min(image.shape[:2]) >= 4 * SIDE:
        image = image[::2, ::2]
    height, width, _ = image.shape
    brightness = image.astype(np.float32) @ _LUMA
    small: npt.NDArray[np.float32] = _blocks(height) @ brightness @ _blocks(width).T
    return small


@lru_cache(maxsize=16)
def _blocks(length: int) -> npt.NDArray[np.float32]:
    """[SIDE, length]: the weights of the mean over each block of a line of pixels; of a short line a pixel is one."""
    starts = np.arange(SIDE) * length // SIDE
    ends = np.maximum(np.arange(1, SIDE + 1) * length // SIDE, starts + 1)
    places = np.arange(length)
    inside = (places >= starts[:, None]) & (places < ends[:, None])
    return np.asarray(inside / inside.sum(1, keepdims=True), np.float32)
