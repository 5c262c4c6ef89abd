"""The clips of a night yard: which ones there are, what their cameras see, and their files and rows."""

import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from rbft.records import Record
from rbft.tiny.language import describe, words_of
from rbft.tiny.shift import Shift
from rbft.tiny.world import CLIP_SECONDS, DIMENSIONS, SceneSpec, render
from rbft.tiny.yard_dials import YardDials
from rbft.tiny.yard_rules import Kinds

SIDE = 168
FRAMES_PER_SECOND = 8
CRF = 20
_GROUPS = {"train": 8, "test": 4, "unlabelled": 4}
_GOLDEN = (math.sqrt(5) - 1) / 2
DEFAULT_DIALS = YardDials()


@dataclass(frozen=True)
class YardClip:
    """One clip to write: where, what, from which camera."""

    path: str
    spec: SceneSpec
    split: str
    group: str
    noise_seed: int


class YardRow(Record):
    """One line of the manifest: `boxes` is JSON, `rationale` the renderer's truth."""

    path: str
    label: str
    split: str
    group: str
    boxes: str
    rationale: str


def sample_yard_spec(
    rng: np.random.Generator, dials: YardDials = DEFAULT_DIALS, point: float | None = None
) -> SceneSpec:
    """A spec of the yard: a label by its share, then a kind of clip that has it; `rest` clips are near misses.

    The label is the one that lies at `point` of the shares, 0..1; without a point it is drawn.
    """
    rule = dials.label_rule
    wanted = _label_at(float(rng.random()) if point is None else point, dials)
    fixed = _kind(rule.kinds_of(wanted), rng)
    while True:
        words = {name: str(rng.choice(values)) for name, values in DIMENSIONS.items()} | fixed
        lamps, sign = int(rng.integers(0, 3)), f"{rng.integers(0, 100):02d}" if rng.random() < 0.2 else ""
        spec = SceneSpec(**words, lamps=lamps, sign=sign, seed=int(rng.integers(0, 2**31)))
        if rule.label_of(words) == wanted:
            return spec


def _label_at(point: float, dials: YardDials) -> str:
    """The label at `point` in 0..1 when shares lie side by side, the last label first."""
    rest, *others = dials.shares.items()
    end = 0.0
    for label, share in reversed(others):
        end += share
        if point < end:
            return label
    return rest[0]


def _kind(kinds: Kinds, rng: np.random.Generator) -> dict[str, str]:
    return kinds[int(rng.choice(len(kinds), p=[share for share, _ in kinds]))][1]


def plan_yard(
    num_train: int, num_test: int, num_unlabelled: int, seed: int, dials: YardDials = DEFAULT_DIALS
) -> list[YardClip]:
    """Every clip of a set; a camera belongs to one split.

    A set with fewer clips is the beginning of one with more, split by split. Severity and distractor change how clips
    look, not which ones there are. Labels of even shares are drawn; those of uneven ones come by turns (steps of the
    golden ratio through the shares), so that a rare label has its share of the first 50 clips too.
    """
    clips = []
    for split, count in (("train", num_train), ("test", num_test), ("unlabelled", num_unlabelled)):
        rng = np.random.default_rng([seed, len(split), 31])
        chance = np.random.default_rng([seed, len(split), 37])
        start = None if dials.even else float(chance.random())
        for index in range(count):
            camera = f"camera-{split}-{index % _GROUPS[split] + 1}"
            spec = sample_yard_spec(rng, dials, None if start is None else (start + index * _GOLDEN) % 1)
            noise_seed = int(rng.integers(2**31))
            if split != "test" and chance.random() < dials.distractor:
                spec = _distracting(spec, dials)
            clips.append(YardClip(f"clips/{split}-{index:05d}.mp4", spec, split, camera, noise_seed))
    return clips


def _distracting(spec: SceneSpec, dials: YardDials) -> SceneSpec:
    """The spec with the distractor's value for its label."""
    value = dials.distracting_value(dials.label_rule.label_of(words_of(spec)))
    return replace(spec, lamps=value) if isinstance(value, int) else replace(spec, light=value)


def frame_seconds() -> list[float]:
    """The times of a file's frames."""
    return [index / FRAMES_PER_SECOND for index in range(round(CLIP_SECONDS * FRAMES_PER_SECOND))]


def yard_frames(clip: YardClip, severity: float, seconds: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """The clip as its camera sees it: frames uint8 `[T, 168, 168, 3]` and true boxes `[T, 4]`."""
    frames, boxes = render(clip.spec, seconds, SIDE)
    return Shift(severity).apply(frames, np.random.default_rng(clip.noise_seed)), boxes


def write_clip(path: Path, frames: np.ndarray) -> None:
    """Encodes uint8 `[T, S, S, 3]` as H.264 beside `path`, then renames; the same frames give the same bytes."""
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.mp4")
    with av.open(str(temporary), "w") as container:
        stream = container.add_stream("libx264", rate=FRAMES_PER_SECOND)
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], "yuv420p"
        stream.time_base = Fraction(1, FRAMES_PER_SECOND)
        stream.options = {"crf": str(CRF), "preset": "superfast", "threads": "1"}
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    temporary.replace(path)


def write_row(folder: Path, clip: YardClip, dials: YardDials) -> YardRow:
    """Writes the file of one clip below `folder` and returns its row. About 90 ms."""
    seconds = frame_seconds()
    frames, boxes = yard_frames(clip, dials.severity, seconds)
    write_clip(folder / clip.path, frames)
    marks = [{"t": t, "box": [round(float(x), 4) for x in box]} for t, box in zip(seconds, boxes, strict=True)]
    return YardRow(
        path=clip.path,
        label="" if clip.split == "unlabelled" else dials.label_rule.label_of(words_of(clip.spec)),
        split="test" if clip.split == "test" else "train",
        group=clip.group,
        boxes=json.dumps(marks),
        rationale=describe(clip.spec),
    )
