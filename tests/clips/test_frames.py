"""Frame arithmetic against numbers worked by hand, and against transformers' own resize."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rbft.clips.frames import Frames, frame_count, plan_frames, smart_size
from rbft.errors import ClipError
from rbft.experiment import Sampling
from rbft.records import Grid, Probe

PAPER = {"factor": 28, "min_pixels": 100_352, "max_pixels": 151_200}


def probe_of(seconds: float, fps: float, width: int = 1280, height: int = 720) -> Probe:
    return Probe(
        container="mov", codec="h264", pixel_format="yuv420p", width=width, height=height, coded_width=width,
        coded_height=height, rotation_degrees=0, sample_aspect_ratio=1.0, duration_seconds=seconds,
        num_frames=round(seconds * fps), average_fps=fps, first_time_seconds=0.0, has_audio=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [
        (720, 1280, (280, 504)),  # 1280x720 shrinks by sqrt(921600 / 151200) = 2.469: 291.6 and 518.5, floored to 28
        (360, 640, (280, 504)),
        (480, 640, (336, 448)),  # 4:3 -> 336.7 and 448.998
        (
            240,
            320,
            (280, 392),
        ),  # 252x308 is below the bound: grows by sqrt(100352 / 76800) to 274.3 and 365.8, up to 28
        (1280, 720, (504, 280)),
        (336, 448, (336, 448)),  # within the bounds: only rounded
        (1, 1, (336, 336)),  # sqrt(100352) = 316.8, up to 336
        (7680, 4320, (504, 280)),
    ],
)
def test_sizes_by_hand(height: int, width: int, expected: tuple[int, int]) -> None:
    assert smart_size(height, width, **PAPER) == expected


def test_sizes_equal_those_of_transformers() -> None:
    theirs = pytest.importorskip("transformers.models.qwen2_vl.image_processing_qwen2_vl").smart_resize
    random = np.random.default_rng(0)
    for _ in range(2_000):
        height, width = (int(side) for side in random.integers(28, 4_000, 2))
        if max(height, width) / min(height, width) <= 200:
            assert smart_size(height, width, **PAPER) == theirs(height, width, **PAPER)


@given(st.integers(1, 8_000), st.integers(1, 8_000))
def test_sizes_fit_the_grid(height: int, width: int) -> None:
    if max(height, width) / min(height, width) > 200:
        with pytest.raises(ClipError, match="too narrow; sides may differ 200 times"):
            smart_size(height, width, **PAPER)
        return
    rows, columns = smart_size(height, width, **PAPER)
    assert rows % 28 == 0 and columns % 28 == 0 and rows >= 28 and columns >= 28
    if max(height, width) / min(height, width) < 20:
        assert rows * columns <= PAPER["max_pixels"] * 1.6
        assert smart_size(width, height, **PAPER) == (columns, rows)


@pytest.mark.parametrize(
    ("seconds", "fps", "sampling", "expected"),
    [
        (18.0, 30, {}, 18),
        (17.9, 30, {}, 16),  # 17.9 floored to an even number
        (2.0, 8, {}, 4),  # min_frames
        (2.0, 8, {"fps": 4.0}, 8),
        (2.0, 8, {"fps": 60.0}, 16),  # never more than the clip has
        (2.125, 8, {"fps": 60.0}, 16),  # 17 frames, an even number of them
        (900.0, 25, {}, 768),  # max_frames
        (900.0, 25, {"max_frames": 33}, 32),
        (20.0, 25, {"min_frames": 5, "fps": 0.1}, 6),  # bounds are rounded inwards, as Qwen does
    ],
)
def test_counts_by_hand(seconds: float, fps: float, sampling: dict[str, float], expected: int) -> None:
    assert frame_count(seconds, round(seconds * fps), Sampling(**sampling)) == expected


def test_a_short_clip_repeats_its_last_frame_or_is_refused() -> None:
    short = probe_of(0.3, 10)
    plan = plan_frames(short, Sampling(), Grid())
    assert plan.times_seconds == (0.0, 0.1, 0.2, 0.2)
    assert plan.frames_per_second == pytest.approx(10)
    assert plan.short_clip_policy == "repeat-last"
    with pytest.raises(ClipError, match=r"3 frames; at least 4 are needed \(sampling.min_frames\)") as caught:
        plan_frames(short, Sampling(too_few_frames="error"), Grid())
    assert caught.value.reason == "too_short"


def test_plan_by_hand() -> None:
    plan = plan_frames(probe_of(18.0, 30), Sampling(), Grid())
    assert (plan.num_frames, plan.width, plan.height) == (18, 504, 280)
    assert plan.times_seconds[0] == 0
    assert plan.times_seconds[-1] == pytest.approx(539 / 30, abs=1e-6)
    assert plan.frames_per_second == pytest.approx(1.0)
    assert np.allclose(np.diff(plan.times_seconds), 539 / 30 / 17, atol=2e-6)


def test_plan_takes_the_frames_that_qwens_reader_takes() -> None:
    """`torch.linspace(0, total - 1, nframes).round()`, computed here with numpy on the frame numbers."""
    for total, fps in ((539, 30.0), (101, 25.0), (17, 8.0), (5, 8.0), (2_000, 23.976)):
        plan = plan_frames(probe_of(total / fps, fps), Sampling(), Grid())
        indices = np.round(np.array(plan.times_seconds) * fps).astype(int)
        assert indices.tolist() == np.linspace(0, total - 1, plan.num_frames).round().astype(int).tolist()


@given(
    st.floats(0.05, 4_000), st.floats(1, 120), st.floats(0.1, 60), st.integers(2, 20), st.sampled_from([1, 2, 4]),
)  # fmt: skip
def test_plans_hold_their_bounds(seconds: float, rate: float, fps: float, least: int, patch: int) -> None:
    if round(seconds * rate) < 1:
        return
    probe = probe_of(seconds, rate)
    plan = plan_frames(probe, Sampling(fps=fps, min_frames=least), Grid(temporal_patch_size=patch))
    times = np.array(plan.times_seconds)
    assert plan.num_frames % patch == 0
    assert math.ceil(least / patch) * patch - patch < plan.num_frames <= 768
    assert (np.diff(times) >= 0).all() and times[0] == 0 and times[-1] <= seconds
    assert len(set(times)) == min(plan.num_frames, probe.num_frames)
    assert plan_frames(probe, Sampling(fps=fps, min_frames=least), Grid(temporal_patch_size=patch)) == plan


def test_windows() -> None:
    probe = probe_of(10.0, 10)
    plan = plan_frames(probe, Sampling(fps=2.0), Grid(), start=2.0, end=5.0)
    assert plan.times_seconds[0] == 2.0 and plan.times_seconds[-1] == 5.0
    assert plan.num_frames == 6  # 31 frames are 3.1 s, 6.2 at 2 fps
    assert plan.frames_per_second == pytest.approx(6 / 3.1)
    assert plan_frames(probe, Sampling(), Grid(), end=10.3).times_seconds[-1] == 9.9
    with pytest.raises(ClipError, match="the window starts at 12 s; the clip ends at 10 s"):
        plan_frames(probe, Sampling(), Grid(), start=12.0)
    with pytest.raises(ClipError, match="the window ends at 20 s; the clip ends at 10 s"):
        plan_frames(probe, Sampling(), Grid(), end=20.0)
    with pytest.raises(ClipError, match=r"no frame lies between 1.01 and 1.02 s"):
        plan_frames(probe, Sampling(), Grid(), start=1.01, end=1.02)


def test_frames_check_themselves() -> None:
    data, seconds = np.zeros((2, 4, 6, 3), np.uint8), np.array([0.0, 0.5])
    assert repr(Frames(data, seconds)) == "Frames(2x4x6x3 uint8, 0.000 to 0.500 s)"
    with pytest.raises(ValueError, match=r"frames are uint8 \[T, H, W, 3\], these are float64 \[2, 4, 6, 3\]"):
        Frames(data.astype(np.float64), seconds)
    with pytest.raises(ValueError, match=r"frames need float64 \[2\] seconds, these are float64 \(3,\)"):
        Frames(data, np.zeros(3))
    with pytest.raises(ValueError, match="never go back"):
        Frames(data, np.array([0.5, 0.0]))
