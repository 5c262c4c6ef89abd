"""Decoded frames against an oracle that decodes everything with PyAV alone and then picks by time."""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from rbft.clips import decode as decoding
from rbft.clips.decode import Needs, decode, nearest
from rbft.clips.frames import Frames, plan_frames
from rbft.clips.probe import examine, probe
from rbft.errors import ClipError
from rbft.experiment import ClipLimits, Sampling
from rbft.records import FramePlan, Grid
from videos import picture, reference_frames, signal_to_noise, write_clip

LIMITS = ClipLimits()
SMALL = Sampling(fps=4.0, min_pixels=28 * 28, max_pixels=56 * 84)
QUIET_X265 = {"x265-params": "log-level=none"}
Make = Callable[..., Path]


def read(path: Path, sampling: Sampling = SMALL, **window: float) -> Frames:
    found = probe(path, LIMITS)
    return decode(path, plan_frames(found, sampling, Grid(), **window), found, LIMITS)


def oracle(path: Path, plan: FramePlan) -> tuple[np.ndarray, list[float]]:
    """Nearest frames by a plain search over all of them, scaled by Pillow: another decoder path and another scaler."""
    seconds, frames = reference_frames(path)
    chosen = [min(range(len(frames)), key=lambda i: (abs(seconds[i] - t), i)) for t in plan.times_seconds]
    images = [frames[i].to_ndarray(format="rgb24") for i in chosen]
    scaled = [
        np.asarray(Image.fromarray(i).resize((plan.width, plan.height), Image.Resampling.BICUBIC)) for i in images
    ]
    return np.stack(scaled), [seconds[i] for i in chosen]


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("plain.mp4", {}),
        ("groups.mp4", {"encoder": {"crf": "10", "g": "4", "bf": "2"}}),
        ("open-gop.mp4", {"encoder": {"crf": "10", "g": "5", "bf": "2", "x264-params": "open-gop=1"}}),
        ("variable.mp4", {"milliseconds": [*range(0, 400, 40), 900, 1400, *range(2000, 2500, 100), 3500, 4900, 5100]}),
        ("offset.mp4", {"milliseconds": [5_000 + 100 * i for i in range(20)]}),
        ("matroska.mkv", {}),
        ("transport.ts", {}),
        ("vp8.webm", {"codec": "libvpx"}),
        ("vp9.webm", {"codec": "libvpx-vp9"}),
        ("hevc.mp4", {"codec": "libx265", "encoder": {"x265-params": "log-level=none:keyint=6"}}),
        ("av1.mp4", {"codec": "libsvtav1"}),
        ("mpeg4.avi", {"codec": "mpeg4"}),
        ("mpeg2.mpg", {"codec": "mpeg2video", "fps": 25}),
    ],
)  # fmt: skip
def test_frames_equal_the_oracle(make: Make, name: str, how: dict[str, object]) -> None:
    path = make(name, **how)
    found = probe(path, LIMITS)
    plan = plan_frames(found, SMALL, Grid())
    frames = decode(path, plan, found, LIMITS)
    expected, seconds = oracle(path, plan)
    assert frames.data.shape == (plan.num_frames, plan.height, plan.width, 3)
    assert frames.seconds == pytest.approx(seconds, abs=1e-6)
    for number in range(plan.num_frames):
        assert signal_to_noise(frames.data[number], expected[number]) > 30


@pytest.mark.parametrize("group", [1, 3, 8, 250])
@pytest.mark.parametrize("open_group", [False, True])
@pytest.mark.parametrize("codec", ["libx264", "libx265"])
def test_skipping_gives_the_same_frames_as_decoding_all(make: Make, group: int, open_group: bool, codec: str) -> None:
    params = f"keyint={group}:open-gop={int(open_group)}:bframes=3"
    key = "x264-params" if codec == "libx264" else "x265-params"
    path = make("clip.mp4", 80, codec=codec, fps=20, encoder={key: f"{params}:log-level=none"})
    found, index = examine(path, LIMITS)
    for fps in (1.0, 3.0, 20.0):
        plan = plan_frames(found, SMALL.model_copy(update={"fps": fps}), Grid())
        fast, slow = decode(path, plan, found, LIMITS, index=index), decode(path, plan, found, LIMITS, skip=False)
        assert np.array_equal(fast.data, slow.data)
        assert np.array_equal(fast.seconds, slow.seconds)
    if group == 3:
        assert Needs(index, plan_frames(found, SMALL.model_copy(update={"fps": 1.0}), Grid())).feed.mean() < 0.5


def test_what_follows_the_last_sample_of_a_group_is_not_decoded(make: Make) -> None:
    path = make("camera.mp4", 60, fps=20, encoder={"x264-params": "keyint=20:min-keyint=20:scenecut=0:bframes=0"})
    found, index = examine(path, LIMITS)
    plan = plan_frames(found, SMALL.model_copy(update={"fps": 1.0, "min_frames": 4}), Grid())
    needs = Needs(index, plan)
    assert np.flatnonzero(needs.keep).tolist() == [0, 20, 39, 59]  # instants 0, 19.67, 39.33 and 59 of 60 frames
    expected = [0, *range(20, 60)]  # the first group ends with its sample, the second's is its last, the last is whole
    assert np.flatnonzero(needs.feed).tolist() == expected
    whole = decode(path, plan, found, LIMITS, skip=False)
    assert np.array_equal(decode(path, plan, found, LIMITS, index=index).data, whole.data)
    half = plan.model_copy(update={"times_seconds": (0.0, 0.5, 1.0, 1.2)})
    assert np.flatnonzero(Needs(index, half).feed).tolist() == [*range(11), *range(20, 40)]


def test_interlaced_clips_are_decoded_whole(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """A frame of theirs may be two packets, each a field; the second must not be left out."""
    path = make("camera.mp4", 60, fps=20, encoder={"x264-params": "keyint=20:interlaced=1:tff=1:bframes=0"})
    found, index = examine(path, LIMITS)
    plan = plan_frames(found, SMALL.model_copy(update={"fps": 1.0}), Grid())
    needed: list[Needs | None] = []
    monkeypatch.setattr(
        decoding, "_read", lambda *given, _read=decoding._read: needed.append(given[5]) or _read(*given)
    )
    assert np.array_equal(decode(path, plan, found, LIMITS, index=index).data,
                          decode(path, plan, found, LIMITS, skip=False).data)  # fmt: skip
    assert [needs is not None for needs in needed] == [True, False, False]


def test_false_key_frames_are_found_out(make: Make) -> None:
    """A container that calls every packet a key frame: skipping would show garbage, so everything is decoded."""
    path = make("clip.mp4", 60, encoder={"crf": "10", "g": "60"})
    found, index = examine(path, LIMITS)
    index.key[:] = True
    plan = plan_frames(found, SMALL.model_copy(update={"fps": 1.0}), Grid())
    assert not Needs(index, plan).feed.all()
    fast, slow = decode(path, plan, found, LIMITS, index=index), decode(path, plan, found, LIMITS, skip=False)
    assert np.array_equal(fast.data, slow.data)


def test_times_are_the_real_ones(make: Make) -> None:
    times = [0, 500, 520, 540, 560, 2_000]
    frames = read(make("clip.mp4", 6, milliseconds=times), Sampling(fps=2.0, min_frames=4))
    real = np.array(times) / 1000
    assert all(np.isclose(real, second, atol=1e-6).any() for second in frames.seconds)
    assert frames.seconds[0] == 0
    assert frames.seconds[-1] == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("name", "how"), [("a.mp4", {}), ("a.mkv", {"encoder": {"g": "4"}}), ("a.webm", {"codec": "libvpx-vp9"})]
)
def test_of_a_variable_rate_each_frame_is_the_nearest_within_half_a_frame(
    make: Make, name: str, how: dict[str, object]
) -> None:
    """Half of the gap between the two real frames around the instant that was asked for, wherever they lie."""
    times = [*range(0, 400, 40), 900, 1400, *range(2000, 2500, 100), 3500, 4900, 5100]
    path = make(name, len(times), milliseconds=times, **how)
    found = probe(path, LIMITS)
    plan = plan_frames(found, SMALL, Grid())
    shown = decode(path, plan, found, LIMITS).seconds
    real = np.array(times) / 1000
    assert len(shown) >= 18
    for target, second in zip(plan.times_seconds, shown, strict=True):
        after = min(int(np.searchsorted(real, target)), len(real) - 1)
        gap = real[after] - real[max(after - 1, 0)]
        assert abs(second - target) <= gap / 2 + 1e-3
        assert np.abs(real - second).min() < 1e-3


def test_an_offset_changes_nothing(make: Make) -> None:
    plain = read(make("plain.mkv"))
    for name, start in (("late.mkv", 60_000), ("late.mp4", 500), ("late.ts", 7_000)):
        moved = read(make(name, milliseconds=[start + 100 * i for i in range(20)]))
        assert moved.seconds == pytest.approx(plain.seconds, abs=0.002)
        assert np.array_equal(moved.data, plain.data)


def test_an_edit_list_hides_frames(make: Make) -> None:
    """An MP4 whose first seven frames lie before time zero: its edit list leaves them out, and so do players."""
    frames = read(make("early.mp4", milliseconds=[-700 + 100 * i for i in range(20)]), Sampling(fps=10.0))
    assert len(frames.data) == 12 and frames.seconds[-1] == pytest.approx(1.2)
    whole = read(make("whole.mp4", milliseconds=[100 * i for i in range(20)]), Sampling(fps=10.0))
    assert signal_to_noise(frames.data[0], whole.data[7]) > 40
    assert signal_to_noise(frames.data[0], whole.data[0]) < 40


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
@pytest.mark.parametrize("mirrored", [False, True])
def test_a_rotated_clip_equals_its_upright_twin(make: Make, degrees: int, mirrored: bool) -> None:
    """The same pixels, once with a display matrix and once turned by numpy before encoding."""
    exact = {"pixel_format": "yuv444p", "encoder": {"qp": "0"}}
    path = make("turned.mp4", rotation=(degrees, mirrored), **exact)
    turned = read(path, Sampling(fps=2.0, min_pixels=28 * 28, max_pixels=10**6))
    found = probe(path, LIMITS)
    upright_images = [picture(i) for i in range(20)]
    if found.mirrored:
        upright_images = [image[:, ::-1] for image in upright_images]
    upright_images = [np.ascontiguousarray(np.rot90(image, -found.rotation_degrees // 90)) for image in upright_images]
    upright = read(
        make("upright.mp4", upright_images, **exact), Sampling(fps=2.0, min_pixels=28 * 28, max_pixels=10**6)
    )
    assert turned.data.shape == upright.data.shape
    assert signal_to_noise(turned.data, upright.data) > 35
    assert (found.rotation_degrees in (90, 270)) == (degrees in (90, 270))
    if not mirrored:
        assert found.rotation_degrees == degrees
        red = {0: (0, 0), 90: (0, -1), 180: (-1, -1), 270: (-1, 0)}[degrees]  # where the red corner of `picture` goes
        assert turned.data[0][red][0] > 180 and turned.data[0][red][2] < 80


def test_sample_aspect_ratio_widens(make: Make) -> None:
    narrow = read(make("narrow.mp4", sample_aspect=Fraction(3, 2)), Sampling(min_pixels=28 * 28, max_pixels=10**6))
    assert narrow.data.shape[1:3] == (56, 84)  # 96x48 displayed, rounded to the grid of 28


@pytest.mark.parametrize(("aspect", "width"), [(Fraction(4, 3), 128), (Fraction(1, 2), 48)])
def test_a_clip_of_wide_pixels_equals_its_twin_of_square_ones(make: Make, aspect: Fraction, width: int) -> None:
    """Ramps, which every scaler renders alike; displayed, 96 columns become as many as the twin has."""

    def ramps(columns: int) -> list[np.ndarray]:
        x, y = np.meshgrid(np.linspace(20, 230, columns), np.linspace(20, 230, 72))
        return [np.stack([x, y, np.full_like(x, 60 + 8 * i)], axis=-1).astype(np.uint8) for i in range(12)]

    exact = {"pixel_format": "yuv444p", "encoder": {"qp": "0"}}
    narrow = read(make("narrow.mp4", ramps(96), sample_aspect=aspect, **exact))
    square = read(make("square.mp4", ramps(width), **exact))
    assert narrow.data.shape == square.data.shape
    assert signal_to_noise(narrow.data, square.data) > 35


def test_sound_changes_no_frame(make: Make) -> None:
    silent, loud = read(make("silent.mp4")), read(make("loud.mp4", audio=True))
    assert np.array_equal(silent.data, loud.data) and np.array_equal(silent.seconds, loud.seconds)


@pytest.mark.parametrize(
    ("name", "how"),
    [("one.mp4", {}), ("one.webm", {"codec": "libvpx"}), ("one.gif", {"codec": "gif", "pixel_format": "rgb8"})],
)
def test_a_still_fills_a_temporal_patch_or_is_refused(make: Make, name: str, how: dict[str, object]) -> None:
    """Both settings: one frame, shown as often as the model takes at once; or a problem that says what to set."""
    path = make(name, 1, **how)
    found = probe(path, LIMITS)
    assert found.num_frames == 1
    for patch, frames in ((1, 1), (2, 2), (4, 4)):
        plan = plan_frames(found, SMALL.model_copy(update={"min_frames": 1}), Grid(temporal_patch_size=patch))
        read = decode(path, plan, found, LIMITS)
        assert read.data.shape == (frames, 56, 56, 3)
        assert (read.data == read.data[0]).all() and not read.seconds.any()
    refusing = SMALL.model_copy(update={"min_frames": 1, "too_few_frames": "error"})
    with pytest.raises(
        ClipError, match=r"too_short: 1 frames; at least 2 are needed .* set sampling.too_few_frames to"
    ):
        plan_frames(found, refusing, Grid())


@pytest.mark.parametrize(
    ("name", "size", "how"),
    [
        ("odd.mp4", (33, 49), {"pixel_format": "yuv444p"}),
        ("ten-bit.mp4", (48, 64), {"pixel_format": "yuv420p10le"}),
        ("ten-bit.mkv", (48, 64), {"codec": "libx265", "pixel_format": "yuv420p10le", "encoder": QUIET_X265}),
        ("full-range.mp4", (48, 64), {"pixel_format": "yuvj420p"}),
        ("odd.webm", (31, 47), {"codec": "libvpx-vp9"}),
    ],
)  # fmt: skip
def test_odd_sizes_and_deep_pixels(make: Make, name: str, size: tuple[int, int], how: dict[str, object]) -> None:
    images = [picture(i, size[1], size[0]) for i in range(20)]
    path = make(name, images, **how)
    found = probe(path, LIMITS)
    plan = plan_frames(found, SMALL, Grid())
    frames = decode(path, plan, found, LIMITS)
    for number, seconds in enumerate(frames.seconds):
        source = Image.fromarray(images[round(seconds * 10)])
        expected = np.asarray(source.resize((plan.width, plan.height), Image.Resampling.BICUBIC))
        assert signal_to_noise(frames.data[number], expected) > 22


def test_a_short_clip_shows_its_last_frame_again(make: Make) -> None:
    frames = read(make("short.mp4", 3))
    assert frames.seconds.tolist() == pytest.approx([0, 0.1, 0.2, 0.2])
    assert np.array_equal(frames.data[2], frames.data[3])
    assert not np.array_equal(frames.data[1], frames.data[2])
    still = read(make("still.gif", 1, codec="gif", pixel_format="rgb8"))
    assert len(still.data) == 4 and not still.seconds.any()


def test_windows(clip: Path) -> None:
    frames = read(clip, start=1.0, end=2.0)
    whole = read(clip, Sampling(fps=10.0, min_pixels=SMALL.min_pixels, max_pixels=SMALL.max_pixels))
    assert frames.seconds[0] == pytest.approx(1.0) and frames.seconds[-1] == pytest.approx(2.0)
    for image, second in zip(frames.data, frames.seconds, strict=True):
        assert np.array_equal(image, whole.data[round(second * 10)])


def test_a_size_that_changes_midway_is_scaled_and_bounded(tmp_path: Path) -> None:
    path = tmp_path / "changes.ts"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for part, (width, height) in enumerate(((64, 48), (128, 96))):
            encoder = av.CodecContext.create("libx264", "w")
            encoder.width, encoder.height, encoder.pix_fmt = width, height, "yuv420p"
            encoder.time_base = Fraction(1, 10)
            for number in range(20):
                frame = av.VideoFrame.from_ndarray(picture(number, width, height), "rgb24")
                frame.pts, frame.time_base = 20 * part + number, Fraction(1, 10)
                _mux(container, stream, encoder.encode(frame))
            _mux(container, stream, encoder.encode(None))
    found = probe(path, LIMITS)
    plan = plan_frames(found, SMALL, Grid())
    frames = decode(path, plan, found, LIMITS)
    same = [i for i, second in enumerate(frames.seconds) if round(second * 10) % 20 == 0]
    assert found.num_frames == 40 and len(same) >= 1
    with pytest.raises(ClipError, match=r"too_large: .*128x96; limits.pixels allows 3072 in all|too_large|unreadable"):
        decode(path, plan, found, ClipLimits(pixels=64 * 48))


def _mux(container: av.container.OutputContainer, stream: av.VideoStream, packets: list[av.Packet]) -> None:
    for packet in packets:
        packet.stream = stream
        container.mux(packet)


def test_a_broken_packet_is_an_error_that_names_the_place(make: Make, tmp_path: Path) -> None:
    path = make("clip.mp4", 40, encoder={"crf": "10", "g": "60"})
    with av.open(str(path)) as container:
        packet = [p for p in container.demux(video=0) if p.size][25]
        place, size = packet.pos, packet.size
    data = bytearray(path.read_bytes())
    data[place : place + size] = b"\xff" * size
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(data)
    with pytest.raises(ClipError, match=r"unreadable: while decoding the frame at \d\.\d\d s: Invalid data"):
        read(broken)


@given(
    st.lists(st.integers(0, 1_000), min_size=1, max_size=30, unique=True), st.lists(st.floats(-1, 1_001), min_size=1)
)
def test_nearest(ticks: list[int], targets: list[float]) -> None:
    times = np.array(sorted(ticks), np.float64)
    for target, index in zip(targets, nearest(times, np.array(targets)), strict=True):
        assert abs(times[index] - target) == np.abs(times - target).min()


# -- streams that are not tidy: nothing may be left out of them, whatever their containers say ----------------------


def same_with_and_without_skipping(path: Path) -> None:
    """Whole, and in windows of it: what a decoder was not given must not show."""
    found, index = examine(path, LIMITS)
    end = found.duration_seconds
    for fps in (0.5, 1.5, 6.0):
        for window in ({}, {"start": end / 3}, {"start": end / 2, "end": end * 0.8}):
            plan = plan_frames(found, SMALL.model_copy(update={"fps": fps}), Grid(), **window)
            fast, slow = decode(path, plan, found, LIMITS, index=index), decode(path, plan, found, LIMITS, skip=False)
            assert np.array_equal(fast.seconds, slow.seconds)
            assert np.array_equal(fast.data, slow.data)


def moving(number: int) -> list[np.ndarray]:
    """Pictures that come back, so that old ones are worth referring to."""
    noise = np.random.default_rng(0).integers(0, 60, (48, 64, 3), np.uint8)
    return [np.roll(picture(i // 2 % 3), 3 * i, axis=1) // 2 + noise for i in range(number)]


def test_two_recordings_joined_into_one_whose_times_go_back(tmp_path: Path) -> None:
    params = {"x264-params": "keyint=10:scenecut=0:log-level=none"}
    first = write_clip(tmp_path / "a.ts", moving(40), fps=20, encoder=params)
    times = [513 + 50 * i for i in range(40)]
    second = write_clip(tmp_path / "b.ts", moving(40)[::-1], milliseconds=times, encoder=params)
    joined = tmp_path / "joined.ts"
    joined.write_bytes(first.read_bytes() + second.read_bytes())
    assert not examine(joined, LIMITS)[1].complete
    same_with_and_without_skipping(joined)


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv", "clip.ts"])
def test_parameter_sets_that_come_once_at_a_change(name: str, tmp_path: Path) -> None:
    """Two encodings with other colour offsets after one another; the second's sets stand in its first packet alone."""
    made = []
    for offset in (0, 8):
        encoder = av.CodecContext.create("libx264", "w")
        encoder.width, encoder.height, encoder.pix_fmt = 64, 48, "yuv420p"
        encoder.time_base, encoder.framerate = Fraction(1, 20), Fraction(20)
        params = f"keyint=10:scenecut=0:bframes=0:chroma-qp-offset={offset}:log-level=none"
        encoder.options = {"x264-params": params}
        packets = []
        for number, image in enumerate(moving(40)):
            frame = av.VideoFrame.from_ndarray(image, "rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 20)
            packets += encoder.encode(frame)
        made.append([*packets, *encoder.encode(None)])
    with av.open(str(tmp_path / name), "w") as container:
        stream = container.add_stream("libx264", rate=20)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for start, packets in zip((0, 40), made, strict=True):
            for number, packet in enumerate(packets):
                units = [u for u in re.split(rb"\x00\x00\x00?\x01", bytes(packet)) if u]
                kept = units if number == 0 else [u for u in units if u[0] & 31 not in (7, 8)]
                again = av.Packet(b"".join(b"\0\0\0\x01" + unit for unit in kept))
                again.stream, again.time_base, again.is_keyframe = stream, Fraction(1, 20), packet.is_keyframe
                again.pts, again.dts, again.duration = start + packet.pts, start + packet.dts, 1
                container.mux(again)
    assert not examine(tmp_path / name, LIMITS)[1].complete
    same_with_and_without_skipping(tmp_path / name)


def test_avi_says_when_pictures_are_decoded_and_not_when_they_are_shown(tmp_path: Path) -> None:
    params = {"x264-params": "keyint=12:bframes=3:b-adapt=0:scenecut=0:log-level=none"}
    path = write_clip(tmp_path / "clip.avi", moving(60), fps=20, encoder=params)
    assert not examine(path, LIMITS)[1].complete
    same_with_and_without_skipping(path)


def test_a_transport_stream_that_lost_packets(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.ts", moving(60), fps=20, encoder={"x264-params": "keyint=10:log-level=none"})
    data = path.read_bytes()
    cells = [data[i : i + 188] for i in range(0, len(data), 188)]
    path.write_bytes(b"".join(cell for number, cell in enumerate(cells) if number < 20 or number % 40))
    assert not examine(path, LIMITS)[1].complete
    same_with_and_without_skipping(path)


def test_what_cannot_be_read_with_gaps_is_read_without(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make("clip.mp4", 40, fps=20, encoder={"x264-params": "keyint=10:scenecut=0:bframes=0"})
    found, index = examine(path, LIMITS)
    plan = plan_frames(found, SMALL.model_copy(update={"fps": 1.0}), Grid())
    whole = decode(path, plan, found, LIMITS, skip=False)
    original = decoding._read

    def failing(*given: Any) -> Frames:
        if given[5] is not None:
            raise ClipError("clip", "unreadable", "not one frame can be decoded")
        return original(*given)

    monkeypatch.setattr(decoding, "_read", failing)
    assert np.array_equal(decode(path, plan, found, LIMITS, index=index).data, whole.data)
