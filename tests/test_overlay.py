"""Attention over frames: every pixel has the colour of its own square, pictures are repeatable and hold a legend."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
import pytest
from PIL import Image

from rbft.clips.frames import Frames
from rbft.serving.overlay import StripRow, enlarged, overlaid, strip_png, write_animation, write_strip


def clip(count: int = 6, height: int = 40, width: int = 60) -> Frames:
    data = np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8)
    return Frames(data, np.arange(count) * 0.5)


def test_every_pixel_has_the_value_of_the_square_that_holds_it() -> None:
    values = np.arange(6.0).reshape(2, 3)
    large = enlarged(values, 40, 60)
    assert np.array_equal(large, values.repeat(20, axis=0).repeat(20, axis=1))
    assert enlarged(values, 5, 7).tolist()[2] == [3, 3, 4, 4, 4, 5, 5]


def test_colours_are_viridis_over_grey() -> None:
    frame = np.full((4, 4, 3), (200, 0, 0), np.uint8)
    drawn = overlaid(frame, np.array([[0.0, 1.0]]))
    grey = np.asarray(Image.fromarray(frame).convert("L"))[0, 0]
    for column, level in ((0, 0.0), (3, 1.0)):
        expected = 0.4 * grey + 0.6 * 255 * np.array(matplotlib.colormaps["viridis"](level)[:3])
        np.testing.assert_allclose(drawn[0, column], expected, atol=0.51)


def test_a_strip_is_repeatable_and_grows_by_its_rows(tmp_path: Path) -> None:
    frames, values = clip(), np.random.default_rng(1).random((3, 2, 3))
    write_strip(tmp_path / "a.png", frames, {"attention": values}, title="abnormal $5 (60 %)")
    write_strip(tmp_path / "b.png", frames, {"attention": values}, title="abnormal $5 (60 %)")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    write_strip(tmp_path / "c.png", frames, {"attention": values, "other": values}, title="abnormal")
    with Image.open(tmp_path / "a.png") as a, Image.open(tmp_path / "c.png") as c:
        assert c.size[0] == a.size[0]
        assert c.size[1] > a.size[1]


def test_boxes_are_outlined() -> None:
    frames, rows = clip(), [StripRow("frames", None), StripRow("attention", np.zeros((3, 2, 3)))]
    boxes = np.full((6, 1, 4), np.nan)
    plain = strip_png(frames, rows, title="a", boxes=boxes)
    assert plain == strip_png(frames, rows, title="a")
    boxes[:] = [0.2, 0.2, 0.8, 0.8]
    assert plain != strip_png(frames, rows, title="a", boxes=boxes)


@pytest.mark.parametrize(("count", "steps", "shown"), [(6, 3, 6), (5, 3, 5), (1, 1, 1), (130, 65, 60)])
def test_an_animation_shows_each_frame_for_its_time(tmp_path: Path, count: int, steps: int, shown: int) -> None:
    write_animation(tmp_path / "a.gif", clip(count), {"attention": np.random.default_rng(1).random((steps, 2, 3))})
    with Image.open(tmp_path / "a.gif") as animation:
        assert getattr(animation, "n_frames", 1) == shown
        if count == 6:
            assert animation.info["duration"] == 500
