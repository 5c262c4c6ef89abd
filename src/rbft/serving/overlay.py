"""Attention drawn over frames: a film strip (PNG) and an animation (GIF), in a map that colour-blind readers can read.

Frames are drawn in grey below the colours (viridis: violet 0, yellow 1), every square is one token of the model, and
the same input gives the same bytes.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image, ImageDraw, ImageFont

from rbft.clips.frames import Frames
from rbft.files import written_whole

FloatArray = npt.NDArray[np.float64]
Pixels = npt.NDArray[np.uint8]

COLOURS = "viridis"
MAX_COLUMNS = 8
MAX_ANIMATION_FRAMES = 60
_OPACITY = 0.6
_PANEL = 224
_GAP, _HEAD, _BAR = 8, 22, 44
_INK, _PAPER = "#222222", "#ffffff"
_BOX = "#ff4d3d"
_LEGEND = "attention, scaled 0 to 1 over the clip"
_MILLISECONDS = (100, 1_000)


@dataclass(frozen=True, eq=False)
class StripRow:
    """One row of a film strip: a caption, and values 0..1 [steps, rows, columns] to draw (None: the frames alone)."""

    caption: str
    values: FloatArray | None


# -- pixels --------------------------------------------------------------------------------------------------------


def overlaid(frame: Pixels, values: FloatArray) -> Pixels:
    """A frame uint8 [H, W, 3] in grey under the colours of values 0..1 [rows, columns]; squares fill the frame."""
    grey = np.asarray(Image.fromarray(np.ascontiguousarray(frame)).convert("L"), dtype=np.float64)[..., None]
    colours = matplotlib.colormaps[COLOURS](np.clip(enlarged(values, frame.shape[0], frame.shape[1]), 0, 1))[..., :3]
    mixed: Pixels = np.round((1 - _OPACITY) * grey + _OPACITY * 255 * colours).astype(np.uint8)
    return mixed


def enlarged(values: FloatArray, height: int, width: int) -> FloatArray:
    """Values [rows, columns] as [height, width]: each pixel has the value of the square that holds its centre."""
    rows, columns = values.shape
    y = ((np.arange(height) + 0.5) * rows / height).astype(np.int64)
    x = ((np.arange(width) + 0.5) * columns / width).astype(np.int64)
    picked: FloatArray = values[y][:, x]
    return picked


# -- film strip ----------------------------------------------------------------------------------------------------


def write_strip(path: Path, frames: Frames, maps: Mapping[str, FloatArray], *, title: str) -> None:
    """Write a PNG: the frames, below them a row for each of `maps` (caption to values 0..1 [steps, rows, columns])."""
    rows = [StripRow("frames", None), *(StripRow(caption, values) for caption, values in maps.items())]
    png = strip_png(frames, rows, title=title)
    with written_whole(path) as temporary:
        temporary.write_bytes(png)


def strip_png(
    frames: Frames,
    rows: Sequence[StripRow],
    *,
    title: str,
    boxes: FloatArray | None = None,
    columns: int = MAX_COLUMNS,
) -> bytes:
    """A film strip as PNG: a column for each temporal step (evenly chosen where there are more than `columns`).

    A column shows the first frame of its step. `boxes` [T, objects, 4] (0..1; nan: none) are outlined.
    """
    steps = next((len(row.values) for row in rows if row.values is not None), len(frames.data))
    size = -(-len(frames.data) // steps)
    chosen = np.unique(np.linspace(0, steps - 1, min(steps, columns)).round().astype(int))
    height, width = frames.data.shape[1:3]
    cell = min(1.9, 1.9 * width / height), min(1.9, 1.9 * height / width)
    left, right, head, foot = 1.1, 0.15, 0.62, 0.55
    inches = left + right + len(chosen) * (cell[0] + 0.06), head + foot + len(rows) * (cell[1] + 0.06)
    inches = max(inches[0], 5.4), inches[1]
    with matplotlib.rc_context({"text.parse_math": False, "font.size": 9.0}):
        figure = Figure(figsize=inches, dpi=110, facecolor=_PAPER)
        FigureCanvasAgg(figure)
        figure.text(0.06 / inches[0], 1 - 0.2 / inches[1], title, color=_INK, fontsize=11, va="center")
        for r, row in enumerate(rows):
            bottom = 1 - (head + (r + 1) * (cell[1] + 0.06)) / inches[1]
            middle = bottom + cell[1] / 2 / inches[1]
            figure.text(0.06 / inches[0], middle, _wrapped(row.caption), color=_INK, va="center")
            for c, step in enumerate(chosen):
                place = (left + c * (cell[0] + 0.06)) / inches[0], bottom, cell[0] / inches[0], cell[1] / inches[1]
                axes = figure.add_axes(place)
                _draw(axes, frames.data[step * size], None if row.values is None else row.values[step])
                if boxes is not None:
                    _outline(axes, boxes[step * size], height, width)
                if r == 0:
                    axes.set_title(f"{frames.seconds[step * size]:.1f} s", fontsize=8, color=_INK, pad=3)
        _legend(figure, left / inches[0], 0.3 / inches[1], 1.6 / inches[0], 0.11 / inches[1])
        stream = io.BytesIO()
        figure.savefig(stream, format="png", metadata={"Software": None})
    return stream.getvalue()


def _draw(axes: Axes, frame: Pixels, values: FloatArray | None) -> None:
    axes.imshow(frame if values is None else overlaid(frame, values), aspect="auto", interpolation="nearest")
    axes.set_axis_off()


def _outline(axes: Axes, boxes: FloatArray, height: int, width: int) -> None:
    for x0, y0, x1, y1 in boxes[~np.isnan(boxes).any(axis=1)]:
        corner = x0 * width - 0.5, y0 * height - 0.5
        axes.add_patch(
            Rectangle(corner, (x1 - x0) * width, (y1 - y0) * height, fill=False, edgecolor=_BOX, linewidth=1.2)
        )


def _legend(figure: Figure, x: float, y: float, width: float, height: float) -> None:
    axes = figure.add_axes((x, y, width, height))
    bar = figure.colorbar(ScalarMappable(Normalize(0, 1), COLOURS), cax=axes, orientation="horizontal")
    bar.set_ticks([0, 0.5, 1], labels=["0", "0.5", "1"])
    bar.outline.set_visible(False)
    axes.tick_params(labelsize=7, length=2, colors=_INK)
    figure.text(x + width * 1.1, y + height / 2, _LEGEND, color=_INK, fontsize=8, va="center")


def _wrapped(caption: str) -> str:
    """A caption in lines of about a dozen characters, so that it fits left of its row."""
    lines = [""]
    for word in caption.split():
        if lines[-1] and len(lines[-1]) + len(word) > 13:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return "\n".join(lines)


# -- animation -----------------------------------------------------------------------------------------------------


def write_animation(path: Path, frames: Frames, maps: Mapping[str, FloatArray]) -> None:
    """Write a GIF that plays the frames beside each of `maps` (caption to values 0..1 [steps, rows, columns]).

    At most 60 frames, evenly chosen; each stays as long as it did in the clip, between 0.1 and 1 second.
    """
    count = len(frames.data)
    chosen = np.unique(np.linspace(0, count - 1, min(count, MAX_ANIMATION_FRAMES)).round().astype(int))
    images = [_panels(frames, int(index), maps) for index in chosen]
    gaps = np.diff(frames.seconds[chosen], append=np.nan)
    shown = np.where(np.isnan(gaps), np.nanmean(gaps) if count > 1 else 1.0, gaps) * 1_000
    stream = io.BytesIO()
    images[0].save(
        stream, "GIF", save_all=True, append_images=images[1:], loop=0,
        duration=np.clip(shown, *_MILLISECONDS).round().astype(int).tolist(),
    )  # fmt: skip
    with written_whole(path) as temporary:
        temporary.write_bytes(stream.getvalue())


def _panels(frames: Frames, index: int, maps: Mapping[str, FloatArray]) -> Image.Image:
    frame = frames.data[index]
    height, width = frame.shape[:2]
    scale = _PANEL / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    panels = {f"{frames.seconds[index]:.1f} s": frame}
    for caption, values in maps.items():
        step = index // -(-len(frames.data) // len(values))
        panels[caption] = overlaid(frame, values[step])
    sheet = Image.new("RGB", (len(panels) * (size[0] + _GAP) + _GAP + _BAR, size[1] + _HEAD + _GAP), _PAPER)
    pen = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=13)
    for number, (caption, pixels) in enumerate(panels.items()):
        x = _GAP + number * (size[0] + _GAP)
        pen.text((x, 4), caption, fill=_INK, font=font)
        resampling = Image.Resampling.BICUBIC if number == 0 else Image.Resampling.NEAREST
        sheet.paste(Image.fromarray(np.ascontiguousarray(pixels)).resize(size, resampling), (x, _HEAD))
    _scale(sheet, pen, _GAP + len(panels) * (size[0] + _GAP), size[1])
    return sheet


def _scale(sheet: Image.Image, pen: ImageDraw.ImageDraw, x: int, height: int) -> None:
    """The legend of an animation: a column of colours from 0 to 1."""
    levels = np.linspace(1, 0, height)[:, None].repeat(12, axis=1)
    colours = np.round(255 * matplotlib.colormaps[COLOURS](levels)[..., :3]).astype(np.uint8)
    sheet.paste(Image.fromarray(colours), (x, _HEAD))
    font = ImageFont.load_default(size=11)
    pen.text((x + 16, _HEAD), "1", fill=_INK, font=font)
    pen.text((x + 16, _HEAD + height - 13), "0", fill=_INK, font=font)
