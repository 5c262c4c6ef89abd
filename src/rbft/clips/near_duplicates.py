"""Near duplicates: clips that were encoded again, cropped, sped up, brightened or given a logo.

A fixed camera makes all its clips look alike, so what is compared first is what changes over time: each small picture
of a clip less the mean of all, as one vector. A logo, a brighter picture or another codec leave it as it is; a crop is
found by trying windows. Clips that move alike must also stand before the same background: most of its parts must agree.
The thresholds and what they were measured on are in docs/decisions/0019-near-duplicates.md.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from rbft.clips.thumbnails import COUNT, SIDE

MOTION, BACKGROUND, LEAST_MOTION = 0.93, 0.9, 1.0
"""Least correlation of what moves, of the background's parts, and least change over time, in grey levels (RMS)."""
_CANDIDATE = 0.7
"""Least correlation of what moves at half the resolution without windows; no copy measured lies below."""
_CROPS, _PLACES = (0.975, 0.95), (0.0, 0.5, 1.0)
_PART = SIDE // 4
_PARTS_LEFT_OUT = 4
"""Of the sixteen parts of a background those that agree least: a logo in a corner lies over as many."""
_BLOCK = 1_024

Floats = npt.NDArray[np.float32]


class Pair(NamedTuple):
    """Two clips by their places in the list; `alike` is the correlation of what moves in them, at most 1."""

    first: int
    second: int
    alike: float


def near_duplicates(clips: Sequence[bytes], others: Sequence[bytes] | None = None) -> list[Pair]:
    """Pairs of a clip of each list (without `others`: of two of the first) that show nearly the same.

    Clips come as `thumbnails`. One in which next to nothing moves is like no other: empty rooms are all the same.
    """
    left = _Moving.of(clips)
    right = left if others is None else _Moving.of(others)
    candidates: dict[int, list[int]] = defaultdict(list)
    for start in range(0, len(left.places), _BLOCK):
        likeness = left.coarse[start : start + _BLOCK] @ right.coarse.T
        for row, column in np.argwhere(likeness >= _CANDIDATE).tolist():
            if right is not left or start + row < column:
                candidates[start + row].append(column)
    turned: dict[int, list[int]] = defaultdict(list)
    for row, columns in candidates.items():
        for column in columns:
            turned[column].append(row)
    best = {(row, column): alike for row, column, alike in _compared(left, right, candidates)}
    for column, row, alike in _compared(right, left, turned):
        best[row, column] = max(best.get((row, column), 0.0), alike)
    return [Pair(left.places[row], right.places[column], alike) for (row, column), alike in sorted(best.items())]


class _Moving:
    """The clips of a list in which something moves; `places` are theirs in the list."""

    def __init__(self, places: list[int], pictures: list[npt.NDArray[np.uint8]]) -> None:
        self.places, self._pictures = places, pictures
        vectors = [_unit(_blurred(_halved(_changes(self.pictures(i))))) for i in range(len(places))]
        self.coarse: Floats = np.stack(vectors) if vectors else np.zeros((0, COUNT * SIDE**2 // 4), np.float32)

    @classmethod
    def of(cls, clips: Sequence[bytes]) -> _Moving:
        pictures = [np.frombuffer(clip, np.uint8).reshape(COUNT, SIDE, SIDE) for clip in clips]
        moving = [i for i, p in enumerate(pictures) if np.sqrt((_changes(_blurred(p)) ** 2).mean()) >= LEAST_MOTION]
        return cls(moving, [pictures[i] for i in moving])

    def pictures(self, number: int) -> Floats:
        return _blurred(self._pictures[number])


def _compared(whole: _Moving, cut: _Moving, candidates: dict[int, list[int]]) -> list[tuple[int, int, float]]:
    """Pairs of candidates that are alike where the second is a window of the first."""
    found = []
    windows = _windows()
    for number, partners in candidates.items():
        seen = np.stack([down @ whole.pictures(number) @ across.T for down, across in windows])
        moving = np.stack([_unit(_changes(pictures)) for pictures in seen])
        for start in range(0, len(partners), _BLOCK):
            some = partners[start : start + _BLOCK]
            alike = np.stack([_unit(_changes(cut.pictures(partner))) for partner in some]) @ moving.T
            for partner, likeness, window in zip(some, alike.max(1), alike.argmax(1), strict=True):
                if likeness >= MOTION and _same_background(seen[window], cut.pictures(partner)):
                    found.append((number, partner, min(float(likeness), 1.0)))
    return found


def _same_background(a: Floats, b: Floats) -> bool:
    parts = _correlations(_parts(a.mean(0)), _parts(b.mean(0)))
    return bool(np.sort(parts)[_PARTS_LEFT_OUT] >= BACKGROUND)


def _correlations(a: Floats, b: Floats) -> Floats:
    """Of each row of `a` with that of `b`; an even row agrees with an even one."""
    a, b = a - a.mean(1, keepdims=True), b - b.mean(1, keepdims=True)
    size = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    even = _PART**2 * 0.25
    together: Floats = ((a * b).sum(1) + even) / (size + even)
    return together


def _parts(image: Floats) -> Floats:
    """An image [SIDE, SIDE] as its sixteen parts, a row each."""
    return image.reshape(4, _PART, 4, _PART).swapaxes(1, 2).reshape(16, -1)


def _changes(pictures: Floats) -> Floats:
    """What changes over time in pictures [T, H, W]: without their mean, and without what changes everywhere at once."""
    moved = pictures - pictures.mean(0)
    changes: Floats = moved - moved.mean((1, 2), keepdims=True)
    return changes


def _unit(pictures: Floats) -> Floats:
    vector = pictures.reshape(-1)
    return np.asarray(vector / max(float(np.linalg.norm(vector)), 1e-6), np.float32)


def _halved(pictures: Floats) -> Floats:
    count, height, width = pictures.shape
    return np.asarray(pictures.reshape(count, height // 2, 2, width // 2, 2).mean((2, 4)), np.float32)


def _blurred(pictures: npt.NDArray[np.uint8] | Floats) -> Floats:
    """Weights 1, 2, 1 down and across; edges repeat."""
    soft: Floats = pictures.astype(np.float32)
    for axis in (1, 2):
        wide = np.pad(soft, [(int(axis == a), int(axis == a)) for a in range(3)], "edge")
        size = soft.shape[axis]
        before, here, after = (np.take(wide, np.arange(size) + shift, axis) for shift in range(3))
        soft = np.asarray((before + 2 * here + after) / 4, np.float32)
    return soft


def _windows() -> list[tuple[Floats, Floats]]:
    """Matrices that scale a part of an image to its full size, down and across; the whole image first."""
    windows = [(_scaling(1.0, 0.0), _scaling(1.0, 0.0))]
    for size in _CROPS:
        places = [_scaling(size, place * (1 - size)) for place in _PLACES]
        windows += [(down, across) for down in places for across in places]
    return windows


def _scaling(size: float, start: float) -> Floats:
    """[SIDE, SIDE]: pixels of a window of that size and start, in shares of the side, by linear interpolation."""
    at = np.clip(((np.arange(SIDE) + 0.5) / SIDE * size + start) * SIDE - 0.5, 0, SIDE - 1)
    before = np.minimum(at.astype(np.int64), SIDE - 2)
    matrix = np.zeros((SIDE, SIDE), np.float32)
    matrix[np.arange(SIDE), before] = 1 - (at - before)
    matrix[np.arange(SIDE), before + 1] += at - before
    return matrix
