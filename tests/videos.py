"""Clips made on the spot by PyAV's encoder. Nothing here uses rbft: these are the references it is measured against."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np


def picture(number: int, width: int = 64, height: int = 48) -> np.ndarray:
    """uint8 [H, W, 3]: grey by number, red top left, blue bottom right, so that every orientation looks different."""
    image = np.full((height, width, 3), 30 + (number * 37) % 160, np.uint8)
    image[: height // 3, : width // 3] = (220, 30, 30)
    image[-(height // 3) :, -(width // 3) :] = (30, 30, 220)
    return image


@contextlib.contextmanager
def _same_priority() -> Iterator[None]:
    """The encoder of AV1 gives root's processes real-time priority, with which others on their processor starve."""
    if not hasattr(os, "sched_getscheduler"):
        yield
        return
    before = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        yield
    finally:
        if (os.sched_getscheduler(0), os.sched_getparam(0)) != before:
            os.sched_setscheduler(0, *before)


@_same_priority()
def write_clip(
    path: Path,
    images: Sequence[np.ndarray],
    *,
    milliseconds: Sequence[int] | None = None,
    fps: int = 10,
    codec: str = "libx264",
    pixel_format: str = "yuv420p",
    options: dict[str, str] | None = None,
    encoder: dict[str, str] | None = None,
    rotation: tuple[float, bool] | None = None,
    sample_aspect: Fraction | None = None,
    audio: bool = False,
    form: str | None = None,
) -> Path:
    """Encode images [H, W, 3], at `fps` or at the given times; `rotation` is clockwise degrees and mirroring."""
    ticks, tick = (range(len(images)), Fraction(1, fps)) if milliseconds is None else (milliseconds, Fraction(1, 1000))
    with av.open(str(path), "w", format=form, options=options or {}) as container:
        stream = container.add_stream(codec, rate=fps)
        stream.height, stream.width = images[0].shape[:2]
        stream.pix_fmt = pixel_format
        stream.codec_context.time_base = tick
        stream.codec_context.options = encoder or ({"crf": "10", "bf": "2"} if codec == "libx264" else {})
        if sample_aspect is not None:
            stream.codec_context.sample_aspect_ratio = sample_aspect
        if rotation is not None:
            stream.set_display_rotation(-rotation[0], hflip=rotation[1])
        sound = container.add_stream("aac", rate=16_000, layout="mono") if audio else None
        for image, pts in zip(images, ticks, strict=True):
            frame = av.VideoFrame.from_ndarray(image, "rgb24")
            frame.pts, frame.time_base = pts, tick
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        if sound is not None:
            _add_sound(container, sound, seconds=float(max(ticks) * tick))
    return path


def _add_sound(container: av.container.OutputContainer, sound: av.AudioStream, seconds: float) -> None:
    for number in range(int(seconds * 16_000 / 1024) + 1):
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 16_000, number * 1024, Fraction(1, 16_000)
        container.mux(sound.encode(frame))
    container.mux(sound.encode())


def reference_frames(path: Path) -> tuple[list[float], list[av.VideoFrame]]:
    """Every frame by PyAV alone, decoded from the start, with seconds from the first shown."""
    with av.open(str(path)) as container:
        frames = [frame for frame in container.decode(video=0) if frame.time is not None]
    first = min(frame.time for frame in frames)
    return [frame.time - first for frame in frames], frames


def signal_to_noise(a: np.ndarray, b: np.ndarray) -> float:
    """Peak signal-to-noise ratio in decibels."""
    error = np.mean((a.astype(np.float64) - b.astype(np.float64)) ** 2)
    return float("inf") if error == 0 else 10 * np.log10(255**2 / error)
