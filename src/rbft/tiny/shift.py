"""The domain shift: what a cheap infrared camera at night makes of a clip. One dial, `severity`."""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from rbft.errors import UserError
from rbft.tiny.backdrops import digits

SEVERITIES: dict[str, float] = {"faint": 0.2, "mild": 0.35, "medium": 0.5, "strong": 0.65, "severe": 0.8}
"""Five named steps of the dial."""

MAX_SEVERITY = 1.5
_INFRARED = np.asarray([0.90, 1.06, 0.94], np.float32)


def severity_of(text: str) -> float:
    """The severity that a word of `SEVERITIES` or a number names; raises UserError for anything else."""
    if text in SEVERITIES:
        return SEVERITIES[text]
    try:
        return float(text)
    except ValueError:
        steps = ", ".join(f"{name} ({value:g})" for name, value in SEVERITIES.items())
        raise UserError(f"severity is {text!r}; give {steps}, or a number from 0 to {MAX_SEVERITY}") from None


def _speckle(num_frames: int, side: int, rng: np.random.Generator) -> np.ndarray:
    """Sensor noise in grains of two pixels, unit variance, float32 `[T, side, side, 1]`."""
    half = (side + 1) // 2
    coarse = rng.standard_normal((num_frames, half, half, 1), np.float32)
    return coarse.repeat(2, axis=1).repeat(2, axis=2)[:, :side, :side]


@dataclass(frozen=True)
class Shift:
    """0 leaves a clip as it is, 1 is hard; every single change grows with `severity`, and can be set by itself.

    `grey` is the share of colour that is lost, `contrast` the share of contrast that is lost, `noise` the standard
    deviation in grey levels, `blur` the radius as a share of the side, `vignette` the darkening of the corners.
    """

    severity: float = 0.5
    grey: float = 0.85
    contrast: float = 0.55
    noise: float = 20.0
    blur: float = 0.014
    vignette: float = 0.8
    overlay: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.severity <= MAX_SEVERITY:
            raise ValueError(f"severity is {self.severity}; allowed: 0 (none) to {MAX_SEVERITY}")

    def apply(self, frames: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Shifts a clip's frames, uint8 `[T, S, S, 3]`; the strength varies a little from clip to clip."""
        if self.severity == 0:
            return frames
        strength = self.severity * rng.uniform(0.85, 1.15)
        side = frames.shape[1]
        soft = self._blurred(frames, strength * self.blur * side)
        speckle = _speckle(len(frames), side, rng)
        mean = float(frames[::2, ::4, ::4].mean())
        kept = max(0.1, 1 - strength * self.contrast)
        colours = self._colours(strength) * kept
        lift = mean * (1 - kept) + strength * 14
        corners = self._corners(side, strength)
        shifted = np.empty_like(frames)
        for index, frame in enumerate(soft):
            lit = (frame.astype(np.float32) @ colours + lift) * corners
            lit += strength * self.noise * speckle[index]
            shifted[index] = np.clip(lit, 0, 255, out=lit).astype(np.uint8)
        return self._stamped(shifted, rng) if self.overlay else shifted

    def _colours(self, strength: float) -> np.ndarray:
        """The matrix `[3, 3]` that takes colour away and leaves the infrared tint."""
        lost = min(1.0, strength * self.grey)
        tint = 1 + strength * (_INFRARED - 1)
        matrix: np.ndarray = (1 - lost) * np.eye(3, dtype=np.float32) + lost / 3 * np.tile(tint, (3, 1))
        return matrix.astype(np.float32)

    @staticmethod
    def _blurred(frames: np.ndarray, radius: float) -> np.ndarray:
        if radius < 0.3:
            return frames
        blur = ImageFilter.GaussianBlur(radius)
        return np.stack([np.asarray(Image.fromarray(frame).filter(blur)) for frame in frames])

    def _corners(self, side: int, strength: float) -> np.ndarray:
        """Brightness by distance from the centre, `[S, S, 1]`."""
        across = np.linspace(-1, 1, side, dtype=np.float32)
        away = across[:, None] ** 2 + across[None, :] ** 2
        shade: np.ndarray = 1 - min(0.9, strength * self.vignette) * away / 2
        return shade[..., None]

    @staticmethod
    def _stamped(frames: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Adds the camera's clock along the lower edge."""
        side = frames.shape[1]
        clock = f"{rng.integers(0, 24):02d} {rng.integers(0, 60):02d} {rng.integers(0, 60):02d}"
        stamp = Image.new("L", (side, side))
        digits(ImageDraw.Draw(stamp), clock, 0.04 * side, 0.93 * side, 0.05 * side, 255)
        frames[:, np.asarray(stamp) > 0] = (225, 235, 225)
        return frames
