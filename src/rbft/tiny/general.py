"""General-world clips as H.264 files with their true descriptions: where a fine-tuned model shows what it forgot."""

import csv
import io
from pathlib import Path

from rbft.errors import UserError
from rbft.files import write_text
from rbft.tiny.language import describe
from rbft.tiny.pool import spec_at
from rbft.tiny.world import render
from rbft.tiny.yard_clips import frame_seconds, write_clip

HELD_OUT_SEED = 1_000_003
"""The seed of `tiny.evaluate`: the pools that the embedded model learnt from use others."""


def write_general(folder: Path, num: int, seed: int = HELD_OUT_SEED) -> Path:
    """Write `num` clean clips and `clips.csv` with the columns path and rationale; returns it. About 90 ms a clip.

    A folder that lists exactly these is left as it is: the list is written last. Fewer or more of the same clips
    replace the list; raises UserError where it is another one, or where the folder cannot be written.
    """
    specs = {f"general-{index:04d}.mp4": spec_at(seed, index)[0] for index in range(num)}
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["path", "rationale"])
    writer.writerows([name, describe(spec)] for name, spec in specs.items())
    text, listed = buffer.getvalue().encode(), folder / "clips.csv"
    try:
        before = listed.read_bytes() if listed.is_file() else b""
        if not (text.startswith(before) or before.startswith(text)):
            raise UserError(f"{listed} lists other clips than these; remove it, or name another folder")
        if before == text and all((folder / name).is_file() for name in specs):
            return listed
        folder.mkdir(parents=True, exist_ok=True)
        for name, spec in specs.items():
            write_clip(folder / name, render(spec, frame_seconds())[0])
    except OSError as error:
        raise UserError(f"{folder}: cannot be written: {error.strerror}; name another folder") from None
    write_text(listed, buffer.getvalue())
    return listed
