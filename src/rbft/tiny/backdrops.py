"""The six scenes, and what every scene may hold: a number sign, lit lamps, a shadow, grain."""

from collections.abc import Callable
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw

Rgb = tuple[int, int, int]

_SEGMENTS = {
    "0": "abcdef", "1": "bc", "2": "abged", "3": "abgcd", "4": "fgbc",
    "5": "afgcd", "6": "afgedc", "7": "abc", "8": "abcdefg", "9": "abcdfg",
}  # fmt: skip
_STROKES = {
    "a": (0, 0, 1, 0), "b": (1, 0, 1, 1), "c": (1, 1, 1, 2), "d": (0, 2, 1, 2),
    "e": (0, 1, 0, 2), "f": (0, 0, 0, 1), "g": (0, 1, 1, 1),
}  # fmt: skip


class _Canvas:
    """Draws in shares of the side, with colours that vary a little from clip to clip."""

    def __init__(self, side: int, rng: np.random.Generator) -> None:
        self.image = Image.new("RGB", (side, side))
        self.rng = rng
        self._side = side
        self._pen = ImageDraw.Draw(self.image)
        self._tone = rng.uniform(0.85, 1.12, 3)

    def colour(self, rgb: Rgb) -> Rgb:
        toned = [min(255, int(value * tone)) for value, tone in zip(rgb, self._tone, strict=True)]
        return toned[0], toned[1], toned[2]

    def _scaled(self, values: tuple[float, ...]) -> list[float]:
        return [value * self._side for value in values]

    def slab(self, *box: float, fill: Rgb) -> None:
        self._pen.rectangle(self._scaled(box), fill=self.colour(fill))

    def oval(self, *box: float, fill: Rgb) -> None:
        self._pen.ellipse(self._scaled(box), fill=self.colour(fill))

    def shape(self, *points: float, fill: Rgb) -> None:
        self._pen.polygon(self._scaled(points), fill=self.colour(fill))

    def line(self, *points: float, fill: Rgb, width: float) -> None:
        self._pen.line(self._scaled(points), fill=self.colour(fill), width=max(1, round(width * self._side)))

    def some(self, low: float, high: float) -> float:
        return float(self.rng.uniform(low, high))


def _garden(c: _Canvas) -> None:
    horizon = c.some(0.36, 0.46)
    c.slab(0, 0, 1, horizon, fill=(150, 205, 240))
    c.slab(0, horizon, 1, 1, fill=(104, 178, 84))
    for x in np.arange(c.some(-0.1, 0), 1, 0.12):
        c.slab(x, horizon - 0.16, x + 0.07, horizon + 0.03, fill=(214, 196, 160))
    c.slab(0, horizon - 0.09, 1, horizon - 0.06, fill=(190, 168, 130))
    for _ in range(int(c.rng.integers(5, 10))):
        x, y = c.some(0, 1), c.some(horizon + 0.08, 1)
        c.oval(x - 0.02, y - 0.02, x + 0.02, y + 0.02, fill=(240, 130, 190))


def _street(c: _Canvas) -> None:
    horizon = c.some(0.46, 0.56)
    c.slab(0, 0, 1, horizon, fill=(188, 204, 216))
    x = c.some(-0.1, 0)
    while x < 1:
        width, top = c.some(0.16, 0.28), c.some(0.06, 0.24)
        c.slab(x, top, x + width - 0.02, horizon, fill=(150, 112, 100))
        for wx in (0.03, 0.1):
            for wy in np.arange(top + 0.05, horizon - 0.08, 0.11):
                c.slab(x + wx, wy, x + wx + 0.04, wy + 0.055, fill=(232, 220, 160))
        x += width
    c.slab(0, horizon, 1, horizon + 0.06, fill=(170, 168, 164))
    c.slab(0, horizon + 0.06, 1, 1, fill=(98, 100, 106))
    for x in np.arange(c.some(-0.2, 0), 1, 0.3):
        c.slab(x, 0.76, x + 0.17, 0.79, fill=(240, 240, 232))


def _room(c: _Canvas) -> None:
    floor = c.some(0.62, 0.7)
    c.slab(0, 0, 1, floor, fill=(226, 208, 176))
    c.slab(0, floor, 1, 1, fill=(164, 112, 76))
    c.slab(0, floor - 0.03, 1, floor, fill=(246, 240, 230))
    x = c.some(0.06, 0.2)
    c.slab(x, 0.12, x + 0.27, 0.4, fill=(250, 250, 246))
    c.slab(x + 0.025, 0.145, x + 0.245, 0.375, fill=(140, 196, 238))
    c.slab(x + 0.125, 0.14, x + 0.145, 0.38, fill=(250, 250, 246))
    x = c.some(0.56, 0.74)
    c.slab(x, 0.16, x + 0.18, 0.36, fill=(120, 70, 50))
    c.slab(x + 0.025, 0.185, x + 0.155, 0.335, fill=(int(c.rng.integers(90, 230)), 160, 120))
    c.oval(0.15, 0.86, 0.85, 1.05, fill=(150, 60, 70))


def _porch(c: _Canvas) -> None:
    floor = c.some(0.68, 0.76)
    c.slab(0, 0, 1, floor, fill=(178, 190, 196))
    for y in np.arange(0.04, floor, 0.085):
        c.slab(0, y, 1, y + 0.012, fill=(140, 152, 160))
    c.slab(0, floor, 1, 1, fill=(140, 100, 66))
    for x in np.arange(c.some(-0.1, 0), 1.2, 0.13):
        c.line(x, floor, x + (x - 0.5) * 0.5, 1, fill=(104, 72, 46), width=0.012)
    x = c.some(0.1, 0.6)
    c.slab(x, 0.16, x + 0.28, floor, fill=(112, 40, 36))
    c.slab(x + 0.05, 0.22, x + 0.23, 0.4, fill=(206, 226, 232))
    c.oval(x + 0.22, 0.5, x + 0.26, 0.54, fill=(236, 206, 90))
    for post in (c.some(0.0, 0.03), c.some(0.92, 0.95)):
        c.slab(post, 0, post + 0.05, 1, fill=(244, 244, 240))


def _beach(c: _Canvas) -> None:
    sea = c.some(0.3, 0.38)
    sand = sea + c.some(0.16, 0.24)
    c.slab(0, 0, 1, sea, fill=(128, 208, 250))
    x = c.some(0.1, 0.85)
    c.oval(x - 0.08, 0.06, x + 0.08, 0.22, fill=(255, 240, 130))
    c.slab(0, sea, 1, sand, fill=(34, 120, 190))
    for y in np.arange(sea + 0.04, sand, 0.05):
        x = c.some(0, 0.7)
        c.slab(x, y, x + 0.25, y + 0.012, fill=(190, 226, 246))
    c.slab(0, sand, 1, 1, fill=(240, 218, 160))
    for _ in range(8):
        x, y = c.some(0, 1), c.some(sand + 0.05, 1)
        c.oval(x - 0.015, y - 0.01, x + 0.015, y + 0.01, fill=(204, 176, 118))


def _forest(c: _Canvas) -> None:
    ground = c.some(0.6, 0.7)
    c.slab(0, 0, 1, ground, fill=(64, 104, 70))
    for _ in range(14):
        x, y, r = c.some(0, 1), c.some(0, 0.35), c.some(0.08, 0.16)
        c.oval(x - r, y - r, x + r, y + r, fill=(40, int(c.rng.integers(80, 124)), 46))
    c.slab(0, ground, 1, 1, fill=(108, 84, 54))
    for x in np.arange(c.some(0, 0.1), 1, 0.2):
        width = c.some(0.06, 0.1)
        c.slab(x, 0, x + width, ground + c.some(0.02, 0.1), fill=(84, 58, 38))
    for _ in range(9):
        x, y = c.some(0, 1), c.some(ground + 0.05, 1)
        c.oval(x - 0.03, y - 0.012, x + 0.03, y + 0.012, fill=(170, 110, 50))


_SCENES: dict[str, Callable[[_Canvas], None]] = {
    "garden": _garden,
    "street": _street,
    "room": _room,
    "porch": _porch,
    "beach": _beach,
    "forest": _forest,
}


def draw(scene: str, side: int, rng: np.random.Generator) -> Image.Image:
    """The empty scene, RGB, `side` pixels square, with its clutter placed at random."""
    canvas = _Canvas(side, rng)
    _SCENES[scene](canvas)
    return canvas.image


@lru_cache(maxsize=4)
def _grain_bank(size: int) -> np.ndarray:
    return np.random.default_rng(7).normal(0, 1, (16, size, size, 1)).astype(np.float32)


def grain(size: int, rng: np.random.Generator) -> np.ndarray:
    """Fixed-pattern texture of one clip, float32 `[size, size, 1]`, a few grey levels strong."""
    tile = _grain_bank(size)[int(rng.integers(16))]
    shift = rng.integers(0, size, 2)
    return np.roll(tile, (int(shift[0]), int(shift[1])), (0, 1)) * rng.uniform(1.0, 6.0)


def shadow(frame: Image.Image, left: float, width: float, ground: float) -> None:
    """A flat dark oval under the subject, in pixels."""
    side = frame.width
    ImageDraw.Draw(frame, "RGBA").ellipse(
        (left + 0.08 * width, ground - 0.02 * side, left + 0.92 * width, ground + 0.02 * side), fill=(0, 0, 0, 90)
    )


def digits(pen: ImageDraw.ImageDraw, text: str, left: float, top: float, height: float, fill: Rgb | int) -> None:
    """Seven-segment digits; other characters leave a gap. `left`, `top` and `height` are pixels."""
    step = height / 2
    for character in text:
        for name in _SEGMENTS.get(character, ""):
            x0, y0, x1, y1 = _STROKES[name]
            points = (left + x0 * step, top + y0 * step, left + x1 * step, top + y1 * step)
            pen.line(points, fill=fill, width=max(1, round(height / 7)))
        left += step * 1.75


def sign(frame: Image.Image, text: str) -> None:
    """A white sign with two digits in the upper right corner; nothing for an empty text."""
    if not text:
        return
    side = frame.width
    pen = ImageDraw.Draw(frame)
    pen.rectangle((0.69 * side, 0.02 * side, 0.985 * side, 0.245 * side), fill=(250, 250, 250), outline=(30, 30, 30))
    digits(pen, text, 0.735 * side, 0.055 * side, 0.155 * side, (10, 10, 10))


def lamps(frames: np.ndarray, count: int) -> None:
    """Lights `count` lamps along the top of uint8 frames `[T, S, S, 3]`, in place; they shine at any hour."""
    side = frames.shape[1]
    radius = 0.032 * side
    y, x = np.mgrid[0:side, 0:side].astype(np.float32)
    for index in range(count):
        centre = (0.07 + 0.105 * index) * side
        away = np.sqrt((x - centre) ** 2 + (y - 0.07 * side) ** 2)
        frames[:, away <= radius * 1.5] = (40, 30, 10)
        frames[:, away <= radius] = (255, 236, 120)
