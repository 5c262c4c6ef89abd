"""Clips changed the way copies are: encoded again, cropped, sped up, brightened, with a logo. Only PyAV and PIL."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image

CHANGES = ("encoded", "cropped", "faster", "logo", "brightness")
FASTER = 1.1


def save(path: Path, frames: Sequence[np.ndarray], fps: float = 8.0, *, codec: str = "libx264", **options: str) -> Path:
    """Write frames [H, W, 3] as a clip."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=Fraction(fps).limit_denominator(1_000))
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.options = options
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), "rgb24")))
        container.mux(stream.encode())
    return path


def changed(how: str, folder: Path, frames: Sequence[np.ndarray], rng: np.random.Generator, fps: float = 8.0) -> Path:
    """Write a changed copy of a clip into the folder."""
    height, width = frames[0].shape[:2]
    path, fast = folder / f"{how}.mp4", {"preset": "superfast", "crf": str(rng.integers(18, 30))}
    match how:
        case "encoded":
            codec = int(rng.integers(3))
            if codec == 0:
                return save(path.with_suffix(".avi"), frames, fps, codec="mpeg4", qscale="8")
            if codec == 1:
                return save(path, frames, fps, preset="superfast", crf="34")
            scale = float(rng.choice([0.5, 0.75, 1.5]))
            size = (int(width * scale) // 2 * 2, int(height * scale) // 2 * 2)
            return save(path, [np.asarray(Image.fromarray(f).resize(size)) for f in frames], fps, **fast)
        case "cropped":
            left, top = int(rng.integers(0, width // 20 + 1)), int(rng.integers(0, height // 20 + 1))
            wide, high = int(width * 0.95) // 2 * 2, int(height * 0.95) // 2 * 2
            return save(path, [f[top : top + high, left : left + wide] for f in frames], fps, **fast)
        case "faster":
            return save(path, frames, fps * FASTER, **fast)
        case "logo":
            side = int(0.15 * min(height, width))
            logo = np.asarray(Image.fromarray(rng.integers(0, 255, (4, 4, 3), np.uint8)).resize((side, side)))
            y, x = int(rng.choice([4, height - side - 4])), int(rng.choice([4, width - side - 4]))
            marked = [f.copy() for f in frames]
            for frame in marked:
                frame[y : y + side, x : x + side] = logo
            return save(path, marked, fps, **fast)
        case "brightness":
            gain = float(rng.choice([0.75, 0.85, 1.2, 1.35]))
            return save(path, [np.clip(f * gain, 0, 255).astype(np.uint8) for f in frames], fps, **fast)
    raise ValueError(how)


def walkers(number: int, *, seed: int, frames: int = 24, side: int = 96) -> list[list[np.ndarray]]:
    """Clips of one fixed camera: the same scene, and in each one or two things that move their own way."""
    scene = np.random.default_rng(seed).uniform(60, 160, (6, 6, 3)).astype(np.uint8)
    backdrop = np.asarray(Image.fromarray(scene).resize((side, side), Image.Resampling.BICUBIC))
    y, x = np.mgrid[:side, :side]
    clips = []
    for clip in range(number):
        rng = np.random.default_rng([seed, clip])
        shown = [backdrop.astype(np.float64) for _ in range(frames)]
        for _ in range(int(rng.integers(1, 3))):
            ends, size, grey = rng.uniform(0, side, (3, 2)), rng.uniform(6, 14), float(rng.choice([-70, 80]))
            for step in range(frames):
                t = step / (frames - 1)
                at = (1 - t) ** 2 * ends[0] + 2 * t * (1 - t) * ends[1] + t**2 * ends[2]
                inside = (np.abs(y - at[0]) < size) & (np.abs(x - at[1]) < size / 2)
                shown[step][inside] += grey
        clips.append([np.clip(f + rng.normal(0, 2, f.shape), 0, 255).astype(np.uint8) for f in shown])
    return clips
