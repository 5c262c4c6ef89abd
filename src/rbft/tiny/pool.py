"""A pool of rendered training clips: uint8 frames in one memory-mapped file, written once by a few processes."""

import json
import multiprocessing
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from rbft.tiny.shift import Shift
from rbft.tiny.world import DIMENSIONS, SceneSpec, middle_of, render, sample_seconds, sample_spec

SIDE = 84
NUM_FRAMES = 4
_RENDERED_SIDE = 168
_CHUNK = 500
_VERSION = 1


@dataclass(frozen=True)
class Pool:
    """Clips of the general world: `frames` uint8 `[N, 4, 84, 84, 3]`, one spec and one mean x (0..100) a clip."""

    frames: np.ndarray
    specs: list[SceneSpec]
    middles: np.ndarray

    def __len__(self) -> int:
        return len(self.specs)

    def targets(self) -> np.ndarray:
        """Class numbers for the vision heads, int64 `[N, 10]`, in the order of `HEADS`."""
        rows = []
        for spec, middle in zip(self.specs, self.middles, strict=True):
            words = [values.index(getattr(spec, name)) for name, values in DIMENSIONS.items()]
            figures = [int(spec.sign[0]), int(spec.sign[1])] if spec.sign else [10, 10]
            rows.append([*words, spec.lamps, *figures, min(int(middle) // 10, 9)])
        return np.asarray(rows, np.int64)


HEADS: dict[str, int] = {
    **{name: len(values) for name, values in DIMENSIONS.items()},
    "lamps": 5,
    "tens": 11,
    "ones": 11,
    "middle": 10,
}
"""What the vision tower is taught to name first, and how many answers each has."""


def spec_at(seed: int, index: int) -> tuple[SceneSpec, list[float]]:
    """The spec and the frame times of clip `index` in the pool drawn from `seed`."""
    rng = np.random.default_rng([seed, index])
    return sample_spec(rng), sample_seconds(rng, NUM_FRAMES)


def small_frames(frames: np.ndarray, side: int = SIDE) -> np.ndarray:
    """Frames `[T, H, W, 3]` scaled to `side` by the bicubic filter that the video processor uses too."""
    return np.stack([np.asarray(Image.fromarray(f).resize((side, side), Image.Resampling.BICUBIC)) for f in frames])


Severities = tuple[float, float]
"""The mildest and the hardest domain shift of a pool."""
_Task = tuple[str, int, int, Severities | None, int, int]


def _render_chunk(task: _Task) -> int:
    path, num, seed, severities, start, stop = task
    frames = np.memmap(path, np.uint8, "r+", shape=(num, NUM_FRAMES, SIDE, SIDE, 3))
    middles = np.memmap(Path(path).with_name("middles.u8"), np.uint8, "r+", shape=(num,))
    for index in range(start, stop):
        spec, seconds = spec_at(seed, index)
        drawn, boxes = render(spec, seconds, _RENDERED_SIDE)
        if severities is not None:
            rng = np.random.default_rng([seed, index, 53])
            drawn = Shift(rng.uniform(*severities), overlay=bool(rng.random() < 0.8)).apply(drawn, rng)
        frames[index] = small_frames(drawn)
        middles[index] = middle_of(boxes)
    frames.flush()
    middles.flush()
    return stop - start


def open_pool(folder: Path, num: int, seed: int, workers: int = 2, severities: Severities | None = None) -> Pool:
    """Renders the pool into `folder` unless it is there already, then maps it. About 10 ms a clip and process.

    With `severities` every clip is seen through `Shift`, at a severity drawn between the two.
    """
    folder.mkdir(parents=True, exist_ok=True)
    note: dict[str, object] = {"version": _VERSION, "num": num, "seed": seed, "side": SIDE}
    if severities is not None:
        note["severities"] = list(severities)
    done = folder / "pool.json"
    path = folder / "frames.u8"
    if not (done.is_file() and json.loads(done.read_text()) == note):
        done.unlink(missing_ok=True)
        for name, bytes_a_clip in (("frames.u8", NUM_FRAMES * SIDE * SIDE * 3), ("middles.u8", 1)):
            with (folder / name).open("wb") as file:
                file.truncate(num * bytes_a_clip)
        tasks = [(str(path), num, seed, severities, start, min(start + _CHUNK, num)) for start in range(0, num, _CHUNK)]
        _run(tasks, num, workers)
        done.write_text(json.dumps(note))
    frames = np.memmap(path, np.uint8, "r", shape=(num, NUM_FRAMES, SIDE, SIDE, 3))
    middles = np.fromfile(folder / "middles.u8", np.uint8)
    return Pool(frames, [spec_at(seed, index)[0] for index in range(num)], middles)


def _run(tasks: list[_Task], num: int, workers: int) -> None:
    rendered = 0
    if workers <= 1:
        for task in tasks:
            rendered += _render_chunk(task)
        return
    with multiprocessing.get_context("spawn").Pool(workers, initializer=os.nice, initargs=(10,)) as processes:
        for count in processes.imap_unordered(_render_chunk, tasks):
            rendered += count
            if rendered % 5000 < _CHUNK:
                print(f"rendered {rendered} of {num} clips", flush=True)
