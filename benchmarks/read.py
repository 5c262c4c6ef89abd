"""What the frame cache buys: reading a clip's frames from it against decoding the clip again.

Both sides run in this process, in turn, on the same clips, after their outputs were found equal. Reading means every
byte of the mapped frames is touched. The promise is 20 times or more.

    python benchmarks/read.py                  on two clips made here (18 s at 720p, 4 s at 360p)
    python benchmarks/read.py CLIP... --json   on clips of yours
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from rich.console import Console
from rich.table import Table

from rbft.clips.cache import FrameCache
from rbft.clips.decode import decode
from rbft.clips.frames import Frames, plan_frames
from rbft.clips.probe import examine
from rbft.experiment import ClipLimits, Sampling
from rbft.files import sha256_of
from rbft.records import Grid

PROMISED_RATIO = 20.0


def make_clip(path: Path, *, seconds: int, width: int, height: int, fps: int = 25) -> Path:
    """An H.264 clip of a textured background with moving blocks and some noise, as a camera would see."""
    random = np.random.default_rng(0)
    scene = random.integers(60, 180, (height // 8, width // 8, 3), np.uint8).repeat(8, 0).repeat(8, 1)[:height, :width]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.options = {"preset": "veryfast", "crf": "26"}
        for number in range(seconds * fps):
            image = scene.copy()
            left = number * 5 % (width - width // 6)
            image[height // 3 : height // 2, left : left + width // 6] = (200, 60, 60)
            image ^= random.integers(0, 4, image.shape, np.uint8)
            frame = av.VideoFrame.from_ndarray(image, "rgb24")
            frame.pts, frame.time_base = number, Fraction(1, fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def compare(clip: Path, cache: FrameCache, repeats: int) -> dict[str, object]:
    """Median milliseconds of both ways for one clip; raises SystemExit where they do not give the same frames."""
    limits = ClipLimits(seconds=3_600)
    probe, index = examine(clip, limits)
    plan = plan_frames(probe, Sampling(), Grid())
    key = cache.write(sha256_of(clip), plan, decode(clip, plan, probe, limits, index=index))

    def again() -> Frames:
        return decode(clip, plan, probe, limits, index=index)

    def cached() -> Frames:
        frames = cache.read(key)
        frames.data.max()  # touches every byte
        return frames

    fresh, kept = again(), cached()
    if not (np.array_equal(fresh.data, kept.data) and np.array_equal(fresh.seconds, kept.seconds)):
        raise SystemExit(f"{clip}: the cache and the decoder give different frames")
    times: dict[str, list[float]] = {"decode": [], "cache": []}
    for _ in range(repeats):
        times["decode"].append(_milliseconds(again))
        times["cache"].append(_milliseconds(cached))
    decode_ms, cache_ms = statistics.median(times["decode"]), statistics.median(times["cache"])
    return {
        "clip": clip.name,
        "seconds": round(probe.duration_seconds, 3),
        "size": f"{probe.width}x{probe.height}",
        "frames": "x".join(map(str, fresh.data.shape)),
        "decode_ms": round(decode_ms, 3),
        "cache_ms": round(cache_ms, 3),
        "ratio": round(decode_ms / cache_ms, 1),
    }


def _milliseconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return 1_000 * (time.perf_counter() - start)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", nargs="*", type=Path)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", action="store_true", dest="as_json")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="rbft-read-") as folder:
        root = Path(folder)
        clips = options.clips or [
            make_clip(root / "18s-720p.mp4", seconds=18, width=1280, height=720),
            make_clip(root / "4s-360p.mp4", seconds=4, width=640, height=360),
        ]
        rows = [compare(clip, FrameCache(root / "cache"), options.repeats) for clip in clips]
    ratios = [float(str(row["ratio"])) for row in rows]
    kept = min(ratios) >= PROMISED_RATIO
    if options.as_json:
        print(json.dumps({"benchmark": "read", "promised_ratio": PROMISED_RATIO, "kept": kept, "clips": rows}))
    else:
        table = Table(*rows[0], title="one clip: decoded again, or read from the cache (median milliseconds)")
        for row in rows:
            table.add_row(*map(str, row.values()))
        Console().print(table)
        print(f"smallest ratio {min(ratios):.0f}, promised {PROMISED_RATIO:.0f}: {'kept' if kept else 'NOT KEPT'}")
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
