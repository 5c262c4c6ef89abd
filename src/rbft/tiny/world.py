"""The clip world: what can be seen in a rendered clip, how it moves, and the renderer.

A `SceneSpec` says everything about a clip; `render(spec, seconds, size)` draws it, a pure function of its arguments.
Lengths are shares of the frame's side unless a name says otherwise, angles are degrees, times are seconds.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from rbft.tiny import backdrops, sprites

SUBJECTS = ("person", "dog", "cat", "bird", "car", "truck", "bicycle", "box", "ball", "bear")
COLOURS = ("red", "blue", "green", "yellow", "white", "black")
SIZES = ("small", "medium", "large")
ACTIONS = (
    "standing",
    "running left",
    "running right",
    "jumping",
    "falling",
    "climbing",
    "approaching",
    "shaking",
)
SCENES = ("garden", "street", "room", "porch", "beach", "forest")
LIGHTS = ("day", "dusk", "night")
DIMENSIONS: dict[str, tuple[str, ...]] = {
    "subject": SUBJECTS,
    "size": SIZES,
    "colour": COLOURS,
    "action": ACTIONS,
    "scene": SCENES,
    "light": LIGHTS,
}
"""The six things that a description names, each with its words."""

MAX_LAMPS = 4
CLIP_SECONDS = 2.0
_EXTENT = {"small": 0.37, "medium": 0.51, "large": 0.70}
_LIGHT_GAIN = {"day": (1.0, 1.0, 1.0), "dusk": (0.95, 0.68, 0.56), "night": (0.36, 0.42, 0.62)}
_GROUND = 0.88


@dataclass(frozen=True)
class SceneSpec:
    """One clip of the world. `lamps` counts the lit lamps in the top corner, `sign` is a two-digit text or empty."""

    subject: str
    colour: str
    size: str
    action: str
    scene: str
    light: str
    lamps: int = 0
    sign: str = ""
    seed: int = 0

    def __post_init__(self) -> None:
        for name, words in DIMENSIONS.items():
            if getattr(self, name) not in words:
                raise ValueError(f"{name} is {getattr(self, name)!r}; allowed: {', '.join(words)}")
        if not 0 <= self.lamps <= MAX_LAMPS:
            raise ValueError(f"lamps is {self.lamps}; allowed: 0 to {MAX_LAMPS}")
        if self.sign and not (len(self.sign) == 2 and self.sign.isdigit()):
            raise ValueError(f"sign is {self.sign!r}; allowed: two digits, or empty")


def sample_spec(rng: np.random.Generator) -> SceneSpec:
    """A spec with every dimension drawn evenly; lamps and sign are there in half the clips."""
    words = {name: str(rng.choice(values)) for name, values in DIMENSIONS.items()}
    lamps = int(rng.integers(0, MAX_LAMPS + 1))
    sign = f"{rng.integers(0, 100):02d}" if rng.random() < 0.5 else ""
    return SceneSpec(**words, lamps=lamps, sign=sign, seed=int(rng.integers(0, 2**31)))


@dataclass(frozen=True)
class _Motion:
    """The nuisances of one clip's movement, drawn once from the clip's seed."""

    x: float
    lift: float
    extent: float
    phase: float
    pace: float
    tilt: float
    flip: bool
    turn: float


def _motion(spec: SceneSpec, rng: np.random.Generator) -> _Motion:
    reach = 0.12 if spec.action.startswith("running") else 0.16
    return _Motion(
        x=0.5 + rng.uniform(-reach, reach),
        lift=rng.uniform(-0.03, 0.07),
        extent=_EXTENT[spec.size] * rng.uniform(0.94, 1.06),
        phase=rng.uniform(0, math.pi),
        pace=rng.uniform(0.85, 1.15),
        tilt=rng.uniform(-4, 4),
        flip=bool(rng.random() < 0.5),
        turn=1.0 if rng.random() < 0.5 else -1.0,
    )


@dataclass(frozen=True)
class _Pose:
    """Where the subject is at one moment: centre x, raise above the ground, scale, angle, which of two leg poses."""

    x: float
    up: float
    scale: float
    angle: float
    step: int


def _pose(action: str, motion: _Motion, seconds: float) -> _Pose:
    share = seconds / CLIP_SECONDS
    x, up, scale, angle, step = motion.x, motion.lift, 1.0, motion.tilt, 0
    match action:
        case "standing":
            up += 0.004 * math.sin(3 * seconds + motion.phase)
        case "running left" | "running right":
            sign = -1.0 if action == "running left" else 1.0
            x += sign * 0.52 * motion.pace * (share - 0.5)
            up += 0.02 * abs(math.sin(7 * seconds + motion.phase))
            step = int(seconds * 4 + motion.phase) % 2
        case "jumping":
            up += 0.24 * abs(math.sin(math.pi * seconds / (1.3 * motion.pace) + motion.phase))
        case "falling":
            done = min(1.0, seconds * motion.pace / 1.5)
            up += 0.32 * (1 - done**1.5)
            angle += motion.turn * 95 * done
        case "climbing":
            up += 0.36 * min(1.0, share * motion.pace)
            x += 0.015 * math.sin(9 * seconds + motion.phase)
            step = int(seconds * 3 + motion.phase) % 2
        case "approaching":
            scale = 0.6 + 0.65 * min(1.15, share * motion.pace)
        case "shaking":
            angle += 24 * math.sin(2 * math.pi * seconds / (0.9 * motion.pace) + motion.phase)
    return _Pose(x, up, scale, angle, step)


def _faces_left(action: str, motion: _Motion) -> bool:
    match action:
        case "running left":
            return True
        case "running right":
            return False
        case _:
            return motion.flip


def _place(sprite: Image.Image, pose: _Pose, extent: float, size: int) -> tuple[Image.Image, int, int]:
    """The sprite scaled and turned, and where its top left corner goes, in pixels; it stands on the ground line."""
    longest = max(sprite.size)
    side = extent * pose.scale * size
    width = max(2, round(sprite.width * side / longest))
    height = max(2, round(sprite.height * side / longest))
    small = sprite.resize((width, height), Image.Resampling.BILINEAR, reducing_gap=2.0)
    if abs(pose.angle) > 1:
        small = small.rotate(pose.angle, Image.Resampling.BILINEAR, expand=True)
        bounds = small.getchannel("A").getbbox()
        small = small.crop(bounds) if bounds else small
    left = round(pose.x * size - small.width / 2)
    top = round((_GROUND - pose.up) * size - small.height)
    return small, left, top


def _clipped_box(left: float, top: float, width: float, height: float, size: int) -> list[float]:
    return [
        min(max(left / size, 0.0), 1.0),
        min(max(top / size, 0.0), 1.0),
        min(max((left + width) / size, 0.0), 1.0),
        min(max((top + height) / size, 0.0), 1.0),
    ]


def render(spec: SceneSpec, seconds: Sequence[float], size: int = 168) -> tuple[np.ndarray, np.ndarray]:
    """Draws `spec` at the given times.

    Returns frames, uint8 `[T, size, size, 3]`, and the subject's true boxes, float32 `[T, 4]`: x0, y0, x1, y1 in 0..1.
    """
    rng = np.random.default_rng(spec.seed)
    motion = _motion(spec, rng)
    margin = max(2, size // 32)
    backdrop = backdrops.draw(spec.scene, size + 2 * margin, rng)
    shade = rng.uniform(0.9, 1.08, 3)
    sprite_pair = [_tinted(sprites.draw(spec.subject, spec.colour, step), shade) for step in (0, 1)]
    if _faces_left(spec.action, motion):
        sprite_pair = [sprite.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for sprite in sprite_pair]
    gain = np.asarray(_LIGHT_GAIN[spec.light], np.float32) * rng.uniform(0.92, 1.08)
    sway = rng.uniform(0, 1.2)
    grain = backdrops.grain(size, rng)
    frames = np.empty((len(seconds), size, size, 3), np.uint8)
    boxes = np.empty((len(seconds), 4), np.float32)
    for index, moment in enumerate(seconds):
        dx = round(margin * (1 + sway * math.sin(5 * moment + motion.phase) / 1.3))
        dy = round(margin * (1 + sway * math.cos(4 * moment + motion.phase) / 1.3))
        dx, dy = min(max(dx, 0), 2 * margin), min(max(dy, 0), 2 * margin)
        frame = backdrop.crop((dx, dy, dx + size, dy + size))
        pose = _pose(spec.action, motion, moment)
        sprite, left, top = _place(sprite_pair[pose.step], pose, motion.extent, size)
        backdrops.shadow(frame, left, sprite.width, (_GROUND - motion.lift) * size)
        frame.paste(sprite, (left, top), sprite)
        backdrops.sign(frame, spec.sign)
        lit = (np.asarray(frame, np.float32) + grain) * gain
        frames[index] = np.clip(lit, 0, 255).astype(np.uint8)
        boxes[index] = _clipped_box(left, top, sprite.width, sprite.height, size)
    backdrops.lamps(frames, spec.lamps)
    return frames, boxes


def _tinted(sprite: Image.Image, shade: np.ndarray) -> Image.Image:
    """The sprite with its three channels scaled, so that no two reds are the same. `shade` is `[3]`."""
    bands = sprite.split()
    toned = [band.point([min(255, int(v * s)) for v in range(256)]) for band, s in zip(bands[:3], shade, strict=True)]
    return Image.merge("RGBA", [*toned, bands[3]])


def middle_of(boxes: np.ndarray) -> int:
    """Mean horizontal position of the subject, 0 (left) to 100 (right), from its boxes `[T, 4]`."""
    return round(float((boxes[:, 0] + boxes[:, 2]).mean()) * 50)


def sample_seconds(rng: np.random.Generator, num_frames: int = 4) -> list[float]:
    """Evenly spread frame times over a clip with a random start, as a frame plan would pick them."""
    gap = CLIP_SECONDS / num_frames
    start = rng.uniform(0, 0.8 * gap)
    return [start + gap * index for index in range(num_frames)]
