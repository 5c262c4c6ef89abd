"""Clips with their objects covered, or random patches of the same sizes: does an answer hang on the objects?

Where objects come from is one interface, `ObjectSource`: the manifest's boxes, what moves, or a detector
(`rbft.models.detect`). Boxes are float64 [T, objects, 4], corners x0, y0, x1, y1 from 0 to 1, nan where an object is
not there; rectangles are the same in whole pixels, int64, all zero where there is nothing.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
import numpy.typing as npt
from pydantic import Field
from scipy import ndimage

from rbft.clips.frames import Frames
from rbft.files import read_yaml
from rbft.records import Box, Clip, FramePlan, Record
from rbft.results import FoundObjects

if TYPE_CHECKING:
    from rbft.models.vlm import FrameSource

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
Pixels = npt.NDArray[np.uint8]
_Boxes = tuple[tuple[tuple[float, float, float, float] | None, ...], ...]

MAX_OBJECTS = 3
"""How many objects are covered: the paper's three most salient."""
_CANDIDATES = 200
_BLUR, _NOISE_FACTOR, _PEAK_SHARE, _MERGE = 0.02, 5.0, 0.2, 0.06
"""Of motion saliency: blur and merging distance as shares of the longer side, thresholds over noise and of the peak."""


class ObjectSource(Protocol):
    """Finds the objects of a clip. `name` says how, and belongs into the fingerprint of what follows from it."""

    @property
    def name(self) -> str:
        """How objects are found, with the version of what finds them."""

    def find(self, clip: Clip, frames: Frames) -> FloatArray:
        """Boxes [T, objects, 4] of at most `MAX_OBJECTS` objects, the most salient; nan where one is not there."""


# -- where objects come from ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ManifestObjects:
    """The boxes that the manifest gives, interpolated over time; the largest objects first."""

    name: str = "manifest boxes"

    def find(self, clip: Clip, frames: Frames) -> FloatArray:
        """As `ObjectSource.find`; a clip without boxes has no objects."""
        return most_salient(boxes_over_time(clip.boxes, frames.seconds))


def boxes_over_time(marks: Sequence[Box], seconds: FloatArray) -> FloatArray:
    """Boxes [T, objects, 4] at `seconds` [T], from marked times. The i-th box of a time is the i-th object.

    Between two marked times that both hold an object its box moves linearly; where only one of them does, the object is
    there in the half that is nearer to it. Before the first and after the last marked time everything stays as it is.
    """
    times = sorted({mark.t for mark in marks})
    at = [[mark.box for mark in marks if mark.t == t] for t in times]
    found = np.full((len(seconds), max(map(len, at), default=0), 4), np.nan)
    for frame, second in enumerate(seconds if times else ()):
        after = int(np.searchsorted(times, second))
        left, right = max(after - 1, 0), min(after, len(times) - 1)
        span = times[right] - times[left]
        share = 0.0 if span == 0 else float(np.clip((second - times[left]) / span, 0, 1))
        for i in range(found.shape[1]):
            ends = [np.array(at[k][i]) if i < len(at[k]) else None for k in (left, right)]
            if ends[0] is not None and ends[1] is not None:
                found[frame, i] = (1 - share) * ends[0] + share * ends[1]
            elif (nearer := ends[0] if share < 0.5 else ends[1]) is not None:
                found[frame, i] = nearer
    return found


def most_salient(boxes: FloatArray, count: int = MAX_OBJECTS) -> FloatArray:
    """The `count` objects of boxes [T, objects, 4] that cover most over the clip, largest first."""
    area = np.nansum((boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1]), axis=0)
    return boxes[:, np.argsort(-area, kind="stable")[:count]]


def listed(boxes: FloatArray) -> _Boxes:
    """Boxes [T, objects, 4] as `FoundObjects` holds them: None for nan, six decimals."""
    return tuple(
        tuple(None if np.isnan(box).any() else _corners(round(float(x), 6) for x in box) for box in frame)
        for frame in boxes
    )


def _corners(values: Iterable[float]) -> tuple[float, float, float, float]:
    x0, y0, x1, y1 = values
    return x0, y0, x1, y1


def box_array(found: FoundObjects) -> FloatArray:
    """The boxes of a record, [T, objects, 4]; nan where an object is not there."""
    nothing = (np.nan,) * 4
    rows = [[nothing if box is None else box for box in frame] for frame in found.boxes]
    return np.array(rows, dtype=np.float64).reshape(len(rows), -1, 4)


@dataclass(frozen=True)
class MovingRegions:
    """What moves, frame by frame: the regions that differ most from the clip's median frame. For fixed cameras."""

    name: str = "motion saliency 1"

    def find(self, clip: Clip, frames: Frames) -> FloatArray:
        """As `ObjectSource.find`; a region is not followed over time: place i is the i-th strongest of its frame."""
        return moving_regions(frames.data)


def motion_saliency(frames: Pixels) -> FloatArray:
    """How far each pixel is from its median over time, float64 [T, H, W], in grey levels, after a light blur."""
    grey = frames.astype(np.float64).mean(axis=-1)
    blur = _BLUR * max(grey.shape[1:])
    soft = ndimage.gaussian_filter(grey, (0, blur, blur))
    difference: FloatArray = np.abs(soft - np.median(soft, axis=0))
    return difference


def moving_regions(frames: Pixels, count: int = MAX_OBJECTS) -> FloatArray:
    """Boxes [T, count, 4] of the strongest moving regions of frames uint8 [T, H, W, 3], strongest first; nan: no more.

    A region is what rises above the clip's noise (median and MAD) and above a fifth of the frame's peak; parts that lie
    closer than 12 % of the longer side are one region.
    """
    saliency = motion_saliency(frames)
    middle = float(np.median(saliency))
    floor = middle + _NOISE_FACTOR * 1.4826 * float(np.median(np.abs(saliency - middle)))
    _, height, width = saliency.shape
    reach = max(1, round(_MERGE * max(height, width)))
    found = np.full((len(saliency), count, 4), np.nan)
    for boxes, level in zip(found, saliency, strict=True):
        moving = level > max(floor, _PEAK_SHARE * float(level.max()))
        near = ndimage.maximum_filter(moving, size=2 * reach + 1)
        regions = ndimage.label(near)[0] * moving
        strength = ndimage.sum_labels(level, regions, np.arange(1, regions.max() + 1))
        places = ndimage.find_objects(regions)
        for i, region in enumerate(np.argsort(-strength, kind="stable")[:count]):
            rows, columns = places[region]
            boxes[i] = columns.start / width, rows.start / height, columns.stop / width, rows.stop / height
    return found


class ObjectWords(Record):
    """`prompts/objects.yaml`: the words by which objects are read off a rationale."""

    schema_version: Literal[1] = Field(alias="schema")
    longest_phrase: int
    most_phrases: int
    determiners: frozenset[str]
    ends: frozenset[str]
    not_objects: frozenset[str]


def load_object_words() -> ObjectWords:
    """The built-in words."""
    path = Path(str(resources.files("rbft"))) / "prompts" / "objects.yaml"
    return ObjectWords.model_validate(read_yaml(path))


def noun_phrases(text: str, words: ObjectWords) -> list[str]:
    """What a rationale speaks of, to prompt an open-vocabulary detector with; in order, each once.

    >>> noun_phrases("Subjects: a black bear. A man is running past the trash can.", load_object_words())
    ['black bear', 'man', 'trash can']
    """
    found: list[str] = []
    for clause in re.split(r"[.,;:!?()\n]+", text.lower()):
        spoken = re.findall(r"[a-z][a-z'-]*", clause)
        for i, word in enumerate(spoken):
            if word not in words.determiners:
                continue
            phrase: list[str] = []
            for following in spoken[i + 1 : i + 1 + words.longest_phrase]:
                ends = following in words.ends or following in words.determiners
                if ends or (phrase and following.endswith("ing")):
                    break
                phrase.append(following)
            if phrase and phrase[-1] not in words.not_objects and " ".join(phrase) not in found:
                found.append(" ".join(phrase))
    return found[: words.most_phrases]


# -- covering ------------------------------------------------------------------------------------------------------


def rectangles(boxes: FloatArray, height: int, width: int) -> IntArray:
    """Boxes [T, N, 4] as whole pixels of a frame, rounded outwards and cut at its edges; zeros for nan."""
    size = np.array([width, height, width, height])
    pixels = np.nan_to_num(boxes) * size
    outwards = np.concatenate([np.floor(pixels[..., :2] + 1e-6), np.ceil(pixels[..., 2:] - 1e-6)], axis=-1)
    cut: IntArray = np.clip(outwards, 0, size).astype(np.int64)
    empty = np.isnan(boxes).any(axis=-1) | (cut[..., 2] <= cut[..., 0]) | (cut[..., 3] <= cut[..., 1])
    cut[empty] = 0
    return cut


def masked_frames(frames: Pixels, rectangles_per_frame: IntArray) -> Pixels:
    """Frames uint8 [T, H, W, 3] with each rectangle [T, N, 4] filled with its frame's mean colour."""
    covered = np.array(frames)
    means = np.round(frames.mean(axis=(1, 2))).astype(np.uint8)
    for frame, colour, places in zip(covered, means, rectangles_per_frame, strict=True):
        for x0, y0, x1, y1 in places:
            frame[y0:y1, x0:x1] = colour
    return covered


def random_patches(objects: IntArray, height: int, width: int, rng: np.random.Generator) -> IntArray:
    """Patches [T, N, 4] of the sizes of `objects`, in the same frames, elsewhere.

    A patch moves as its object does, displaced by a random way; where that cannot be without touching an object, it
    lies still at a random place; where that cannot be either, the candidate that touches objects least is taken.
    Patches keep off each other as they keep off objects.
    """
    placed = np.zeros_like(objects)
    for i in range(objects.shape[1]):
        taken = np.concatenate([objects, placed[:, :i]], axis=1)
        candidates = _candidates(objects[:, i], height, width, rng)
        touched = _overlap(candidates[:, :, None], taken[None]).sum(axis=(1, 2))
        placed[:, i] = candidates[int(touched.argmin())]
    return placed


def _candidates(track: IntArray, height: int, width: int, rng: np.random.Generator) -> IntArray:
    """Tracks [C, T, 4] of the sizes of one: displaced ones first, then still ones; the first untouched is taken."""
    there = (track[:, 2] > track[:, 0])[:, None]
    if not there.any():
        return track[None]
    seen = track[there[:, 0]]
    low, high = -seen[:, :2].min(axis=0), np.array([width, height]) - seen[:, 2:].max(axis=0)
    moves = rng.integers(low, high, size=(_CANDIDATES, 2), endpoint=True)
    displaced = track[None] + np.concatenate([moves, moves], axis=1)[:, None]
    sizes = np.where(there, track[:, 2:] - track[:, :2], 0)
    corners = rng.integers(0, np.array([width, height]) - sizes.max(axis=0), size=(_CANDIDATES, 2), endpoint=True)
    still = np.concatenate([np.broadcast_to(corners[:, None], (_CANDIDATES, *sizes.shape)),
                            corners[:, None] + sizes[None]], axis=2)  # fmt: skip
    both: IntArray = np.where(there[None], np.concatenate([displaced, still]), 0)
    return both


def _overlap(a: IntArray, b: IntArray) -> IntArray:
    """Pixels that rectangles [..., 4] share, elementwise with broadcasting."""
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    shared: IntArray = np.clip(sides, 0, None).prod(axis=-1)
    return shared


def covered_share(places: IntArray, height: int, width: int) -> float:
    """Share of all pixels of all frames that rectangles [T, N, 4] cover."""
    return float(_painted(places, height, width).mean())


def touched_share(patches: IntArray, objects: IntArray, height: int, width: int) -> float:
    """Share of the patches' pixels that lie on an object: 0 where patches could be placed beside them."""
    on, objects_on = (_painted(places, height, width) for places in (patches, objects))
    return float((on & objects_on).sum() / on.sum()) if on.any() else 0.0


def _painted(places: IntArray, height: int, width: int) -> npt.NDArray[np.bool_]:
    painted = np.zeros((len(places), height, width), dtype=np.bool_)
    for frame, here in zip(painted, places, strict=True):
        for x0, y0, x1, y1 in here:
            frame[y0:y1, x0:x1] = True
    return painted


# -- clips ---------------------------------------------------------------------------------------------------------


class MaskedClips:
    """A frame source whose clips are covered by rectangles [T, N, 4], by clip id; others are as they were."""

    def __init__(self, frames: FrameSource, places: Mapping[str, IntArray]) -> None:
        self._frames, self._places = frames, places

    def read(self, clip_id: str) -> Frames:
        """The clip's frames, covered."""
        frames = self._frames.read(clip_id)
        if clip_id not in self._places:
            return frames
        return Frames(masked_frames(frames.data, self._places[clip_id]), frames.seconds)

    def plan(self, clip_id: str) -> FramePlan:
        """The clip's plan, which covering does not change."""
        return self._frames.plan(clip_id)


def clip_rng(seed: int, clip_id: str) -> np.random.Generator:
    """Random numbers of one clip: the same for all checkpoints, whatever the order of clips."""
    return np.random.default_rng([seed, int.from_bytes(hashlib.sha256(clip_id.encode()).digest()[:8], "big")])
