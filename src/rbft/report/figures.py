"""Plots as inline SVG and film strips as JPEG data URIs: the same input gives the same bytes.

Plots are drawn in stand-in colours which are then replaced by CSS variables, so they follow the page into the dark.
They carry numbers only; names of arms and labels stand beside them as HTML, in any script.
"""

from __future__ import annotations

import base64
import io
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from rbft.report.material import ExampleClip, LossCurve, Measure, ReliabilityBin
from rbft.results import ArmCurve

_INK, _MUTED, _RULE, _ARM = "#010101", "#020202", "#030303", "#040404"
_VARIABLES = {_INK: "--ink", _MUTED: "--muted", _RULE: "--rule", _ARM: "--arm"}
_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "rbft",
    "font.size": 9.0,
    "text.parse_math": False,
    "axes.unicode_minus": True,
    "path.simplify": True,
}
MAX_CURVE_POINTS = 240
MAX_EARNED_POINTS = 20
"""Of what sampled answers earn: a step has few of them, so that single steps say little."""
MAX_STRIP_FRAMES = 6
_STRIP_BOX = (232, 176)
_STRIP_BYTES = 110_000


@dataclass(frozen=True)
class Plot:
    """An inline SVG and what it shows, in words."""

    svg: Markup
    alt: str


@dataclass(frozen=True)
class StripFrame:
    """One frame of a film strip."""

    uri: str
    seconds: float
    width: int
    height: int


# -- loss ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LossRange:
    """The axes that panels of one stage share, so that they can be compared by eye."""

    last_step: int
    top: float
    bottom: float = 0.0

    @classmethod
    def of(cls, curves: Iterable[LossCurve]) -> LossRange:
        """The range that holds everything that is drawn; that of what answers earn need not begin at 0."""
        curves = list(curves)
        values = [v for c in curves for v in (*_thinned(c)[1], *(value for _, value in c.held_out))]
        steps = [step for curve in curves for step, _ in (*curve.points[-1:], *curve.held_out[-1:])]
        earned = any(curve.measure in _EARNED for curve in curves)
        return cls(max(steps, default=1), max(values, default=1.0), min(values, default=0.0) if earned else 0.0)


def loss_plot(curves: Sequence[LossCurve], shared: LossRange, slot: str) -> Plot:
    """One panel: loss or what is earned in one stage of one arm, a line for each seed, held-out points as rings on a
    dashed line. `slot` makes its SVG ids unique.
    """
    figure, axes = _panel(2.5, 1.75)
    first = curves[0]
    for curve in curves:
        steps, losses = _thinned(curve)
        marker = "o" if len(steps) == 1 else None
        axes.plot(steps, losses, color=_ARM, linewidth=1.4, alpha=0.8, marker=marker, markersize=4)
        if curve.held_out:
            at, values = zip(*curve.held_out, strict=True)
            axes.plot(at, values, color=_INK, linewidth=0.9, linestyle=(0, (3, 3)), marker="o", markersize=3.5,
                      markerfacecolor="none", zorder=3)  # fmt: skip
    axes.set_xlim(-0.02 * shared.last_step if first.held_out else 0, max(shared.last_step, 1) * 1.02)
    margin = 0.06 * (shared.top - shared.bottom or 1.0)
    axes.set_ylim(shared.bottom - margin if shared.bottom else 0, shared.top + margin)
    axes.set_xlabel("optimizer step", color=_MUTED)
    name, unit = _MEASURES[first.measure]
    axes.set_ylabel(unit, color=_MUTED)
    axes.grid(axis="y", color=_RULE, linewidth=0.7)
    return Plot(_svg(figure, slot), f"{name} of {first.arm}, {first.stage} stage: {loss_summary(curves)}")


_MEASURES: dict[Measure, tuple[str, str]] = {
    "loss": ("Training loss", "loss, nats"),
    "reward": ("Mean reward", "mean reward"),
    "accuracy": ("Mean accuracy", "mean accuracy"),
    "semantic": ("Mean semantic reward", "mean semantic reward"),
    "kl": ("Divergence from the parent", "KL, nats a token"),
    "length": ("Mean length", "tokens an answer"),
}
"""What a curve shows, in words, and the name of its axis."""
_EARNED = ("reward", "accuracy", "semantic")


def loss_summary(curves: Sequence[LossCurve]) -> str:
    """Where the curves begin and end, averaged over seeds, and how many points could not be drawn."""
    drawn = [_thinned(curve)[1] for curve in curves]
    ends = [(losses[0], losses[-1]) for losses in drawn if losses]
    broken = sum(not math.isfinite(loss) for curve in curves for _, loss in curve.points)
    text = f"no finite {curves[0].measure} was logged"
    if ends:
        first, last = np.mean(ends, axis=0)
        seeds = f", {len(curves)} seeds" if len(curves) > 1 else ""
        text = f"from {first:.2f} to {last:.2f}{seeds}"
    tested = [(curve.held_out[0][1], curve.held_out[-1][1]) for curve in curves if curve.held_out]
    if tested:
        first, last = np.mean(tested, axis=0)
        text += f"; held out from {first:.2f} to {last:.2f}"
    return text + (f"; {broken} values are not finite and not drawn" if broken else "")


def _thinned(curve: LossCurve) -> tuple[list[float], list[float]]:
    """A bounded number of points: the means of equal runs of finite ones."""
    most = MAX_EARNED_POINTS if curve.measure in _EARNED else MAX_CURVE_POINTS
    finite = np.array([(step, loss) for step, loss in curve.points if math.isfinite(loss)], dtype=np.float64)
    finite = finite.reshape(-1, 2)
    if len(finite) > most:
        finite = np.array([part.mean(axis=0) for part in np.array_split(finite, most)])
    return finite[:, 0].tolist(), finite[:, 1].tolist()


# -- learning curve ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CurveRange:
    """The axes that panels of all arms share: numbers of clips (drawn by their logarithm), scores in per cent."""

    clips: tuple[int, ...]
    low: float
    high: float

    @classmethod
    def of(cls, curves: Iterable[ArmCurve]) -> CurveRange:
        """The range that holds every interval, in whole tens."""
        points = [point for curve in curves for point in curve.points]
        scores = [score for point in points for score in (point.accuracy, point.macro_f1)]
        return cls(
            tuple(sorted({point.clips for point in points})),
            10 * math.floor(10 * min((score.low for score in scores), default=0.0)),
            10 * math.ceil(10 * max((score.high for score in scores), default=1.0)),
        )


def curve_plot(arm: str, curve: ArmCurve, shared: CurveRange, slot: str) -> Plot:
    """One panel: accuracy (dots, solid line) and macro-F1 (rings, dashed) against labelled training clips."""
    figure, axes = _panel(3.4, 2.4)
    clips = [point.clips for point in curve.points]
    for aside, scores, style, face in (
        (0.985, [point.accuracy for point in curve.points], "-", _ARM),
        (1.015, [point.macro_f1 for point in curve.points], (0, (3, 3)), "none"),
    ):
        at = [aside * count for count in clips]
        means = [100 * score.mean for score in scores]
        axes.vlines(at, [100 * s.low for s in scores], [100 * s.high for s in scores], color=_ARM, linewidth=1.2)
        axes.plot(at, means, color=_ARM, linewidth=1.4, linestyle=style)
        axes.scatter(at, means, s=26, facecolor=face, edgecolor=_ARM, linewidths=1.3, zorder=3)
    axes.set_xscale("log")
    axes.set_xlim(shared.clips[0] / 1.15, shared.clips[-1] * 1.15)
    axes.set_xticks(shared.clips, [f"{count:,}" for count in shared.clips])
    axes.set_xticks([], minor=True)
    axes.set_ylim(shared.low, shared.high)
    axes.set_xlabel("labelled training clips", color=_MUTED)
    axes.set_ylabel("%", color=_MUTED)
    axes.grid(axis="y", color=_RULE, linewidth=0.7)
    spoken = "; ".join(
        f"{point.clips:,} clips, accuracy {100 * point.accuracy.mean:.1f} %, macro-F1 {100 * point.macro_f1.mean:.1f} %"
        for point in curve.points
    )
    return Plot(_svg(figure, slot), f"Learning curve of {arm}: {spoken}")


# -- reliability ---------------------------------------------------------------------------------------------------


def reliability_plot(arm: str, bins: Sequence[ReliabilityBin], slot: str) -> Plot:
    """One panel: share of right answers against confidence; a dot's area is the bin's share of all predictions."""
    figure, axes = _panel(2.4, 2.4)
    used = [b for b in bins if b.count]
    total = sum(b.count for b in used)
    axes.plot([0, 1], [0, 1], color=_MUTED, linewidth=0.9, linestyle=(0, (3, 3)))
    axes.vlines(
        [b.confidence for b in used],
        [min(b.confidence, b.accuracy) for b in used],
        [max(b.confidence, b.accuracy) for b in used],
        color=_ARM,
        linewidth=1.0,
        alpha=0.5,
    )
    sizes = [14 + 260 * b.count / total for b in used]
    axes.scatter(
        [b.confidence for b in used], [b.accuracy for b in used], s=sizes, color=_ARM, alpha=0.85, linewidths=0
    )
    axes.set_xlim(-0.03, 1.03)
    axes.set_ylim(-0.03, 1.03)
    axes.set_aspect("equal")
    ticks = [0, 0.25, 0.5, 0.75, 1]
    axes.set_xticks(ticks, ["0", "25", "50", "75", "100"])
    axes.set_yticks(ticks, ["0", "25", "50", "75", "100"])
    axes.grid(color=_RULE, linewidth=0.7)
    axes.set_xlabel("confidence, %", color=_MUTED)
    axes.set_ylabel("right, %", color=_MUTED)
    spoken = "; ".join(f"at {100 * b.confidence:.0f} %, {100 * b.accuracy:.0f} % right ({b.count})" for b in used)
    return Plot(_svg(figure, slot), f"Reliability of {arm}: {spoken or 'no predictions'}")


# -- drawing -------------------------------------------------------------------------------------------------------


def _panel(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure of so many inches with one quiet pair of axes."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
    figure.patch.set_visible(False)
    axes.patch.set_visible(False)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(_RULE)
    axes.tick_params(colors=_RULE, labelcolor=_MUTED, labelsize=8, length=3)
    axes.set_axisbelow(True)
    return figure, axes


def _svg(figure: Figure, slot: str) -> Markup:
    """The figure as an SVG element for HTML: ids begin with `slot`, colours are CSS variables, no metadata."""
    stream = io.StringIO()
    with matplotlib.rc_context(_STYLE):
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(
        r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->|\sxmlns(?::\w+)?=\"[^\"]*\"", "", text, flags=re.S
    )
    text = text.replace("xlink:href=", "href=")
    text = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{slot}-", text)
    text = re.sub(r'\s(?:width|height)="[\d.]+pt"', "", text, count=2)
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, f"var({variable})")
    text = re.sub(r"\n\s*", "\n", text)
    return Markup(text.replace("<svg", '<svg class="plot" aria-hidden="true"', 1).strip())


# -- film strips ---------------------------------------------------------------------------------------------------


def film_strip(example: ExampleClip) -> list[StripFrame]:
    """At most six frames, evenly over the clip, each within 232x176 pixels, together at most about 110 kB of JPEG."""
    count = len(example.frames)
    chosen = np.unique(np.linspace(0, count - 1, min(count, MAX_STRIP_FRAMES)).round().astype(int))
    images = [_fitted(example.frames[i]) for i in chosen]
    jpegs: list[bytes] = []
    for quality in (82, 60, 35, 10):
        jpegs = [_jpeg(image, quality) for image in images]
        if sum(map(len, jpegs)) <= _STRIP_BYTES:
            break
    return [
        StripFrame("data:image/jpeg;base64," + base64.b64encode(jpeg).decode(), float(example.seconds[i]), *image.size)
        for i, image, jpeg in zip(chosen, images, jpegs, strict=True)
    ]


def _fitted(frame: NDArray[np.uint8]) -> Image.Image:
    """A frame `[H, W, 3]` as an image that fits the strip; never enlarged."""
    image = Image.fromarray(np.ascontiguousarray(frame))
    height, width = frame.shape[:2]
    scale = min(1.0, _STRIP_BOX[0] / width, _STRIP_BOX[1] / height)
    if scale == 1.0:
        return image
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return image.resize(size, Image.Resampling.LANCZOS)


def _jpeg(image: Image.Image, quality: int) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality, optimize=True)
    return stream.getvalue()
