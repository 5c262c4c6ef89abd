"""Near duplicates: clips that were encoded again, cropped, sped up, brightened or given a logo.

A fixed camera makes all its clips look alike, so what is compared first is what changes over time: each small picture
of a clip less the mean of all, as one vector. A logo, a brighter picture or another codec leave it as it is; a crop is
found by trying windows. Clips that move alike must also stand before the same background: most of its parts must agree.
The thresholds and what they were measured on are in docs/decisions/0019-near-duplicates.md.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from rbft.clips.thumbnails import COUNT, SIDE

MOTION, BACKGROUND, LEAST_MOTION = 0.9, 0.9, 1.0
"""Least correlation of what moves, of the background's parts, and least change over time, in grey levels (RMS)."""
_CANDIDATE = 0.75
"""Least correlation of what moves at half the resolution and without windows, for a pair to be looked at."""
_CROPS = ((0.975, 3), (0.95, 5))
"""Sizes of windows that are tried, and in how many places down and across."""
_PART = SIDE // 4
_PARTS_LEFT_OUT = 4
"""Of the sixteen parts of a background those that agree least: a logo in a corner lies over as many."""
_BLOCK = 1_024

Floats = npt.NDArray[np.float32]
Halves = npt.NDArray[np.float16]


class Pair(NamedTuple):
    """Two clips by their places in the list; `alike` is the correlation of what moves in them, at most 1."""

    first: int
    second: int
    alike: float


def near_duplicates(clips: Sequence[bytes], others: Sequence[bytes] | None = None) -> list[Pair]:
    """Pairs of a clip of each list (without `others`: of two of the first) that show nearly the same.

    Clips come as `thumbnails`. One in which next to nothing moves is like no other: empty rooms are all the same.
    """
    left = _Moving(clips)
    right = left if others is None else _Moving(others)
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
    """The clips of a list in which something moves; `places` are theirs in the list, `changes` and `coarse` a row each.

    At 24 kB a clip, 5,000 clips are 120 MB.
    """

    def __init__(self, clips: Sequence[bytes]) -> None:
        self.places: list[int] = []
        self.changes: list[Halves] = []
        coarse: list[Floats] = []
        self._clips = clips
        for place, clip in enumerate(clips):
            changes = _changes(_pictures(clip))
            if np.sqrt((changes**2).mean()) >= LEAST_MOTION:
                self.places.append(place)
                self.changes.append(_units(changes[None])[0].astype(np.float16))
                coarse.append(_units(_blurred(_halved(changes))[None])[0].astype(np.float32))
        self.coarse = np.stack(coarse) if coarse else np.zeros((0, COUNT * SIDE**2 // 4), np.float32)

    def pictures(self, number: int) -> Floats:
        """The pictures of a clip, [COUNT, SIDE, SIDE]."""
        return _pictures(self._clips[self.places[number]])


def _compared(whole: _Moving, cut: _Moving, candidates: dict[int, list[int]]) -> list[tuple[int, int, float]]:
    """Pairs of candidates that are alike where the second is a window of the first."""
    found = []
    for number, partners in candidates.items():
        moving = _units(_in_windows(_changes(whole.pictures(number)))).T
        for start in range(0, len(partners), _BLOCK):
            some = partners[start : start + _BLOCK]
            alike = np.stack([cut.changes[partner] for partner in some]).astype(np.float32) @ moving
            for partner, likeness in zip(some, alike, strict=True):
                window = int(likeness.argmax())
                if likeness[window] < MOTION:
                    continue
                background = _in_windows(whole.pictures(number).mean(0)[None])[window, 0]
                if _same_background(background, cut.pictures(partner).mean(0)):
                    found.append((number, partner, min(float(likeness[window]), 1.0)))
    return found


def _pictures(clip: bytes) -> Floats:
    return _blurred(np.frombuffer(clip, np.uint8).reshape(COUNT, SIDE, SIDE))


def _same_background(a: Floats, b: Floats) -> bool:
    parts = _correlations(_parts(a), _parts(b))
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


def _units(pictures: Floats) -> Floats:
    """Pictures [N, T, H, W] as vectors of length 1 without what changes everywhere at once, [N, T x H x W]."""
    vectors = (pictures - pictures.mean((2, 3), keepdims=True)).reshape(len(pictures), -1)
    units: Floats = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-6)
    return units


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


def _in_windows(pictures: Floats) -> Floats:
    """Pictures [T, SIDE, SIDE] scaled up from windows of theirs, the whole first: [windows, T, SIDE, SIDE]."""
    found: list[Floats] = [pictures[None]]
    for scaling in _scalings():
        both: Floats = np.matmul(np.matmul(scaling, pictures), scaling.T)
        both = both.reshape(len(pictures), -1, SIDE, len(scaling) // SIDE, SIDE)
        found.append(both.transpose(1, 3, 0, 2, 4).reshape(-1, *pictures.shape))
    return np.concatenate(found)


@cache
def _scalings() -> list[Floats]:
    """For each size of a crop the matrix that scales a line of pixels from each place, one below the other."""
    return [
        np.concatenate([_scaling(size, start) for start in np.linspace(0, 1 - size, places)]) for size, places in _CROPS
    ]


def _scaling(size: float, start: float) -> Floats:
    """[SIDE, SIDE]: pixels of a window of that size and start, in shares of the side, by linear interpolation."""
    at = np.clip(((np.arange(SIDE) + 0.5) / SIDE * size + start) * SIDE - 0.5, 0, SIDE - 1)
    before = np.minimum(at.astype(np.int64), SIDE - 2)
    matrix = np.zeros((SIDE, SIDE), np.float32)
    matrix[np.arange(SIDE), before] = 1 - (at - before)
    matrix[np.arange(SIDE), before + 1] += at - before
    return matrix
