"""General-world clips as H.264 files with their true descriptions: where a fine-tuned model shows what it forgot."""

import csv
import io
from pathlib import Path

from rbft.files import write_text
from rbft.tiny.language import describe
from rbft.tiny.pool import spec_at
from rbft.tiny.world import render
from rbft.tiny.yard_clips import frame_seconds, write_clip

HELD_OUT_SEED = 1_000_003
"""The seed of `tiny.evaluate`: the pools that the embedded model learnt from use others."""


def write_general(folder: Path, num: int, seed: int = HELD_OUT_SEED) -> Path:
    """Write `num` clean clips and `clips.csv` with the columns path and rationale; returns it. About 90 ms a clip."""
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["path", "rationale"])
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(num):
        spec, _ = spec_at(seed, index)
        name = f"general-{index:04d}.mp4"
        write_clip(folder / name, render(spec, frame_seconds())[0])
        writer.writerow([name, describe(spec)])
    write_text(folder / "clips.csv", buffer.getvalue())
    return folder / "clips.csv"
