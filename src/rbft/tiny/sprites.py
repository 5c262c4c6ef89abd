"""Silhouettes of the ten subjects: RGBA pictures on a transparent ground, facing right, cropped to what is drawn."""

from collections.abc import Callable
from functools import lru_cache

from PIL import Image, ImageDraw, ImageFilter

Rgb = tuple[int, int, int]
_SIDE = 128

_RGB: dict[str, Rgb] = {
    "red": (214, 38, 40),
    "blue": (42, 84, 224),
    "green": (30, 150, 60),
    "yellow": (250, 210, 30),
    "white": (244, 244, 244),
    "black": (26, 26, 30),
}
_SKIN: Rgb = (232, 184, 148)
_GLASS: Rgb = (170, 214, 236)
_WHEEL: Rgb = (34, 34, 38)
_HUB: Rgb = (196, 196, 200)


def _mix(colour: Rgb, other: Rgb, share: float) -> Rgb:
    mixed = [round(a * (1 - share) + b * share) for a, b in zip(colour, other, strict=True)]
    return mixed[0], mixed[1], mixed[2]


class _Pen:
    """Draws on a square canvas in coordinates 0..100."""

    def __init__(self, colour: Rgb) -> None:
        self.image = Image.new("RGBA", (_SIDE, _SIDE))
        self.main = colour
        self.dark = _mix(colour, (0, 0, 0), 0.38)
        self.light = _mix(colour, (255, 255, 255), 0.35)
        self._draw = ImageDraw.Draw(self.image)

    def _scaled(self, values: tuple[float, ...]) -> list[float]:
        return [value * _SIDE / 100 for value in values]

    def oval(self, *box: float, fill: Rgb) -> None:
        self._draw.ellipse(self._scaled(box), fill=fill)

    def ring(self, *box: float, fill: Rgb, width: float) -> None:
        self._draw.ellipse(self._scaled(box), outline=fill, width=round(width * _SIDE / 100))

    def slab(self, *box: float, fill: Rgb, radius: float = 0) -> None:
        self._draw.rounded_rectangle(self._scaled(box), radius * _SIDE / 100, fill=fill)

    def shape(self, *points: float, fill: Rgb) -> None:
        self._draw.polygon(self._scaled(points), fill=fill)

    def line(self, *points: float, fill: Rgb, width: float) -> None:
        self._draw.line(self._scaled(points), fill=fill, width=round(width * _SIDE / 100), joint="curve")

    def wheel(self, x: float, y: float, radius: float) -> None:
        self.oval(x - radius, y - radius, x + radius, y + radius, fill=_WHEEL)
        self.oval(x - radius / 2, y - radius / 2, x + radius / 2, y + radius / 2, fill=_HUB)


def _person(pen: _Pen, step: int) -> None:
    spread = 12 if step else 5
    pen.line(50, 58, 50 - spread, 97, fill=pen.dark, width=9)
    pen.line(50, 58, 50 + spread, 97, fill=pen.dark, width=9)
    pen.line(42, 30, 28 if step else 32, 56, fill=_SKIN, width=7)
    pen.line(58, 30, 72 if step else 68, 56, fill=_SKIN, width=7)
    pen.slab(37, 25, 63, 64, fill=pen.main, radius=8)
    pen.oval(39, 2, 61, 24, fill=_SKIN)
    pen.slab(39, 1, 61, 9, fill=(60, 40, 30), radius=4)


def _dog(pen: _Pen, step: int) -> None:
    lean = 6 if step else 0
    for x in (24, 34, 60, 70):
        pen.line(x, 62, x + (lean if x in (24, 60) else -lean), 90, fill=pen.dark, width=7)
    pen.line(22, 46, 6, 26, fill=pen.main, width=6)
    pen.slab(18, 42, 76, 68, fill=pen.main, radius=12)
    pen.slab(68, 22, 90, 50, fill=pen.main, radius=8)
    pen.slab(82, 34, 100, 48, fill=pen.light, radius=5)
    pen.slab(64, 22, 74, 46, fill=pen.dark, radius=5)
    pen.oval(95, 34, 101, 40, fill=(20, 20, 20))


def _cat(pen: _Pen, step: int) -> None:
    pen.line(30, 88, 8, 80, 8 + 4 * step, 52, fill=pen.main, width=7)
    pen.shape(26, 98, 36, 44, 64, 44, 74, 98, fill=pen.main)
    pen.oval(24, 66, 76, 100, fill=pen.main)
    pen.shape(27, 30, 28, 2, 48, 16, fill=pen.main)
    pen.shape(73, 30, 72, 2, 52, 16, fill=pen.main)
    pen.oval(25, 12, 75, 54, fill=pen.main)
    for x in (39, 61):
        pen.oval(x - 6, 26, x + 6, 38, fill=(160, 230, 110))
        pen.oval(x - 2, 27, x + 2, 37, fill=(10, 10, 10))
    pen.slab(42, 62, 58, 96, fill=pen.light, radius=6)


def _bird(pen: _Pen, step: int) -> None:
    rise = 0 if step else 12
    pen.shape(40, 52, 12, rise, 2, rise + 20, 30, 62, fill=pen.dark)
    pen.shape(60, 52, 88, rise, 98, rise + 20, 70, 62, fill=pen.dark)
    pen.shape(36, 60, 64, 60, 60, 92, 50, 84, 40, 92, fill=pen.main)
    pen.oval(34, 34, 66, 78, fill=pen.main)
    pen.oval(38, 20, 62, 44, fill=pen.light)
    pen.shape(58, 28, 76, 34, 58, 40, fill=(246, 150, 30))


def _car(pen: _Pen, _step: int) -> None:
    pen.shape(24, 44, 36, 24, 68, 24, 82, 44, fill=pen.dark)
    pen.shape(30, 43, 39, 29, 50, 29, 50, 43, fill=_GLASS)
    pen.shape(54, 43, 54, 29, 65, 29, 74, 43, fill=_GLASS)
    pen.slab(2, 42, 98, 66, fill=pen.main, radius=9)
    pen.oval(90, 46, 98, 54, fill=(255, 246, 190))
    pen.wheel(24, 66, 11)
    pen.wheel(76, 66, 11)


def _truck(pen: _Pen, _step: int) -> None:
    pen.slab(2, 8, 64, 72, fill=pen.main)
    pen.line(18, 10, 18, 70, fill=pen.dark, width=3)
    pen.line(34, 10, 34, 70, fill=pen.dark, width=3)
    pen.line(50, 10, 50, 70, fill=pen.dark, width=3)
    pen.slab(67, 32, 98, 72, fill=pen.dark, radius=4)
    pen.slab(80, 36, 97, 52, fill=_GLASS, radius=2)
    for x in (16, 42, 82):
        pen.wheel(x, 76, 11)


def _bicycle(pen: _Pen, _step: int) -> None:
    for x in (22, 78):
        pen.ring(x - 21, 42, x + 21, 84, fill=_WHEEL, width=5)
    pen.line(22, 63, 38, 28, 70, 28, 48, 63, 22, 63, fill=pen.main, width=7)
    pen.line(38, 28, 48, 63, fill=pen.main, width=7)
    pen.line(78, 63, 66, 16, 80, 12, fill=pen.main, width=7)
    pen.line(28, 22, 46, 22, fill=pen.dark, width=7)


def _box(pen: _Pen, _step: int) -> None:
    pen.slab(6, 10, 94, 94, fill=pen.main)
    pen.slab(6, 10, 94, 26, fill=pen.dark)
    pen.slab(42, 10, 58, 94, fill=(206, 170, 116))
    pen.line(8, 12, 8, 92, fill=pen.light, width=4)


def _ball(pen: _Pen, step: int) -> None:
    pen.oval(4, 4, 96, 96, fill=pen.main)
    pen.slab(8, 40, 92, 60, fill=pen.light if step else _mix(pen.light, (255, 255, 255), 0.3))
    pen.ring(4, 4, 96, 96, fill=pen.dark, width=5)
    pen.oval(22, 14, 42, 32, fill=pen.light)


def _bear(pen: _Pen, step: int) -> None:
    lean = 4 if step else 0
    for x in (10, 30, 56, 74):
        shift = lean if x in (10, 56) else -lean
        pen.slab(x + shift, 62, x + 15 + shift, 96, fill=pen.dark, radius=5)
    pen.oval(2, 24, 78, 84, fill=pen.main)
    pen.oval(58, 10, 70, 24, fill=pen.dark)
    pen.oval(80, 10, 92, 24, fill=pen.dark)
    pen.oval(56, 14, 96, 54, fill=pen.main)
    pen.oval(76, 32, 100, 54, fill=_mix(pen.light, (222, 190, 150), 0.6))
    pen.oval(90, 36, 99, 43, fill=(15, 15, 15))


_DRAWN: dict[str, Callable[[_Pen, int], None]] = {
    "person": _person,
    "dog": _dog,
    "cat": _cat,
    "bird": _bird,
    "car": _car,
    "truck": _truck,
    "bicycle": _bicycle,
    "box": _box,
    "ball": _ball,
    "bear": _bear,
}


@lru_cache(maxsize=256)
def draw(subject: str, colour: str, step: int) -> Image.Image:
    """The subject in one of two leg poses (`step` 0 or 1), with an outline that stands out from any ground."""
    pen = _Pen(_RGB[colour])
    _DRAWN[subject](pen, step)
    wide = Image.new("RGBA", (_SIDE + 8, _SIDE + 8))
    wide.paste(pen.image, (4, 4))
    edge = wide.getchannel("A").filter(ImageFilter.MaxFilter(5))
    outline = (205, 205, 205) if colour == "black" else (18, 18, 22)
    framed = Image.new("RGBA", wide.size, (*outline, 0))
    framed.paste((*outline, 255), (0, 0), edge)
    framed.alpha_composite(wide)
    return framed.crop(framed.getchannel("A").getbbox())
