"""Clips that the benchmarks read, made here: H.264 of a textured scene, panned, with a moving block and noise."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory

import av
import numpy as np


def make_clip(
    path: Path,
    *,
    seconds: float,
    width: int,
    height: int,
    fps: int = 25,
    b_frames: bool = True,
    group: int | None = None,
    seed: int = 0,
) -> Path:
    """An H.264 clip as a camera sees it: 2 to 4 Mbit/s at 720p and 25 frames a second.

    `b_frames`: with pictures that are shown before one that they refer to, as encoders make them unless told otherwise.
    `group`: frames from one key frame to the next; the encoder's own choice (some 10 s) unless told.
    """
    random = np.random.default_rng(seed)
    scene = random.integers(60, 180, (height // 8, width // 8, 3), np.uint8).repeat(8, 0).repeat(8, 1)[:height, :width]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.options = {"preset": "veryfast", "crf": "24", "bf": "3" if b_frames else "0"}
        if group:
            stream.codec_context.options |= {"g": str(group)}
        for number in range(round(seconds * fps)):
            image = np.roll(scene, -(number % width), axis=1)
            left = number * 5 % (width - width // 6)
            image[height // 3 : height // 2, left : left + width // 6] = (200, 60, 60)
            image ^= random.integers(0, 28, image.shape, np.uint8)
            frame = av.VideoFrame.from_ndarray(image, "rgb24")
            frame.pts, frame.time_base = number, Fraction(1, fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@contextmanager
def folder() -> Iterator[Path]:
    """A folder that is gone afterwards."""
    with TemporaryDirectory(prefix="rbft-speed-") as name:
        yield Path(name)
