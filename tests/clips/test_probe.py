"""What probing says, about whole clips and about broken ones."""

from __future__ import annotations

import socket
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from rbft.clips.probe import _orientation, probe
from rbft.errors import ClipError
from rbft.experiment import ClipLimits
from videos import picture, write_clip

LIMITS = ClipLimits()
Make = Callable[..., Path]


def problem(path: Path, limits: ClipLimits = LIMITS) -> ClipError:
    with pytest.raises(ClipError) as caught:
        probe(path, limits)
    return caught.value


def test_a_plain_clip(clip: Path) -> None:
    found = probe(clip, LIMITS)
    assert (found.container, found.codec, found.pixel_format) == ("mov", "h264", "yuv420p")
    assert (found.width, found.height, found.coded_width, found.coded_height) == (64, 48, 64, 48)
    assert (found.num_frames, found.rotation_degrees, found.mirrored, found.has_audio) == (30, 0, False, False)
    assert found.duration_seconds == pytest.approx(3.0)
    assert found.average_fps == pytest.approx(10.0)


def test_sound_is_noticed_and_does_not_matter(make: Make) -> None:
    silent, loud = probe(make("silent.mp4"), LIMITS), probe(make("loud.mp4", audio=True), LIMITS)
    assert loud == silent.model_copy(update={"has_audio": True})


@pytest.mark.parametrize(
    ("name", "how", "codec"),
    [
        ("a.mkv", {}, "h264"),
        ("a.webm", {"codec": "libvpx-vp9"}, "vp9"),
        ("b.webm", {"codec": "libvpx"}, "vp8"),
        ("a.avi", {"codec": "mpeg4"}, "mpeg4"),
        ("a.ts", {}, "h264"),
        ("a.flv", {"codec": "flv"}, "flv1"),
        ("a.mpg", {"codec": "mpeg2video", "fps": 25}, "mpeg2video"),
        ("a.gif", {"codec": "gif", "pixel_format": "rgb8"}, "gif"),
        ("mjpeg.mov", {"codec": "mjpeg", "pixel_format": "yuvj420p"}, "mjpeg"),
        ("av1.mp4", {"codec": "libsvtav1"}, "av1"),
    ],
)
def test_containers_without_a_frame_count(make: Make, name: str, how: dict[str, object], codec: str) -> None:
    found = probe(make(name, **how), LIMITS)
    assert (found.codec, found.num_frames) == (codec, 20)
    assert found.duration_seconds == pytest.approx(20 / how.get("fps", 10), abs=0.11)


def test_the_suffix_does_not_matter(make: Make) -> None:
    right = make("right.mp4")
    for name in ("wrong.avi", "none", "playlist.m3u8", "photo.png"):
        wrong = right.rename(right.with_name(name))
        assert probe(wrong, LIMITS).num_frames == 20
        wrong.rename(right)


@pytest.mark.parametrize(
    "name",
    ["-dash.mp4", "a b'\"c.mp4", "éツ🎬.mp4", "line\nbreak.mp4", "frame%03d.mp4", "x" * 251 + ".mp4", "a:b|c.mp4"],
)
def test_names(clip: Path, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(clip.read_bytes())
    assert probe(path, LIMITS).num_frames == 30


def test_files_that_are_no_video(tmp_path: Path) -> None:
    contents = {
        "empty.mp4": (b"", "empty", "the file has no bytes"),
        "noise.mp4": (np.random.default_rng(0).bytes(5_000), "unreadable", "while reading the header: Invalid data"),
        "page.mp4": (b"<!doctype html><title>404</title>" * 40, "unreadable", "while reading the header"),
        "words.srt": (
            b"1\n00:00:01,000 --> 00:00:02,000\nhello\n\n",
            "unsupported",
            "not a video container that rbft reads: mov, matroska",
        ),
    }
    for name, (data, reason, detail) in contents.items():
        (tmp_path / name).write_bytes(data)
        error = problem(tmp_path / name)
        assert (error.reason, name in str(error)) == (reason, True)
        assert detail in error.detail
    assert problem(tmp_path / "absent.mp4").reason == "missing"
    assert problem(tmp_path).detail == "a folder, not a file"


def test_playlists_and_lists_of_files_are_not_followed(clip: Path, tmp_path: Path) -> None:
    """Nor is anything asked of the network: a listener counts who comes."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        _follow_nothing(clip, tmp_path, f"http://127.0.0.1:{listener.getsockname()[1]}/a.ts")
        with pytest.raises(BlockingIOError):
            listener.accept()


def _follow_nothing(clip: Path, tmp_path: Path, address: str) -> None:
    dash = f'<MPD xmlns="urn:mpeg:dash:schema:mpd:2011"><Period><BaseURL>{address}</BaseURL></Period></MPD>'
    for name, text in {
        "remote.m3u8": f"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{address}\n#EXT-X-ENDLIST\n",
        "remote.mp4": f"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{address}\n#EXT-X-ENDLIST\n",
        "remote.mpd": dash,
        "list.m3u8": f"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{clip}\n#EXT-X-ENDLIST\n",
        "list.mp4": f"ffconcat version 1.0\nfile '{clip}'\n",
        "session.sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n",
    }.items():
        (tmp_path / name).write_text(text)
        assert problem(tmp_path / name).reason in ("unsupported", "unreadable")


def test_sound_only_and_pictures_only(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "sound.m4a"), "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=16_000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 16_000, 0, Fraction(1, 16_000)
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    error = problem(tmp_path / "sound.m4a")
    assert error.reason == "no_video_stream"
    assert error.detail == "the mov file has no video stream; it has audio"
    write_clip(tmp_path / "images.mov", [picture(0)] * 3, codec="png", pixel_format="rgb24")
    error = problem(tmp_path / "images.mov")
    assert error.reason == "unsupported"
    assert error.detail.startswith("codec png; rbft reads h264, hevc")


def test_a_clip_cut_off_is_partial(make: Make, tmp_path: Path) -> None:
    whole = make("whole.mp4", 60, options={"movflags": "faststart"}).read_bytes()
    (tmp_path / "half.mp4").write_bytes(whole[: len(whole) // 2 + 600])
    error = problem(tmp_path / "half.mp4")
    assert error.reason == "partial"
    assert "of 6.00 s (" in error.detail and "%); a whole clip reaches 95 %." in error.detail
    late = make("late.mp4", 60).read_bytes()
    (tmp_path / "late.mp4").write_bytes(late[: len(late) // 2])
    assert problem(tmp_path / "late.mp4").reason == "unreadable"  # its index lay at the end
    whole = make("whole.mkv", 60).read_bytes()
    (tmp_path / "half.mkv").write_bytes(whole[: len(whole) // 2])
    assert problem(tmp_path / "half.mkv").reason == "partial"


def test_an_encrypted_clip(make: Make) -> None:
    secret = {"encryption_scheme": "cenc-aes-ctr", "encryption_key": "76a6" * 8, "encryption_kid": "a7e6" * 8}
    error = problem(make("secret.mp4", options=secret))
    assert error.reason == "encrypted"
    assert "export it without protection" in error.detail


def test_limits_on_pixels_and_frames(clip: Path) -> None:
    error = problem(clip, ClipLimits(pixels=64 * 48 - 1))
    assert (error.reason, error.detail) == ("too_large", "frames of 64x48; limits.pixels allows 3071 in all")
    assert probe(clip, ClipLimits(pixels=64 * 48)).num_frames == 30
    error = problem(clip, ClipLimits(frames=29))
    assert (error.reason, error.detail) == ("too_long", "more than 29 frames (limits.frames)")


def test_sample_aspect_and_rotation_give_the_displayed_size(make: Make) -> None:
    wide = probe(make("wide.mp4", sample_aspect=Fraction(3, 2)), LIMITS)
    assert (wide.width, wide.height, wide.coded_width, wide.sample_aspect_ratio) == (96, 48, 64, 1.5)
    tall = probe(make("tall.mp4", sample_aspect=Fraction(3, 2), rotation=(90, False)), LIMITS)
    assert (tall.width, tall.height, tall.rotation_degrees) == (48, 96, 90)


def test_orientations_of_matrices() -> None:
    one = 65536
    assert _orientation(one, 0, 0, one) == (0, False)
    assert _orientation(0, one, -one, 0) == (90, False)
    assert _orientation(-one, 0, 0, -one) == (180, False)
    assert _orientation(0, -one, one, 0) == (270, False)
    assert _orientation(-one, 0, 0, one) == (0, True)
    assert _orientation(one, 0, 0, -one) == (180, True)
    assert _orientation(0, one, one, 0) == (270, True)  # a transposition: mirrored, then three quarter turns
    assert _orientation(0, 0, 0, 0) == (0, False)
    assert _orientation(one, one, -one, one) == (0, False)  # 45 degrees: nobody filmed that
    assert _orientation(-(2**31), 2**31 - 1, 5, 7) == (0, False)


def test_times_start_at_the_first_frame(make: Make) -> None:
    offset = probe(make("offset.mkv", milliseconds=[5_000 + 100 * i for i in range(20)]), LIMITS)
    assert offset.first_time_seconds == pytest.approx(5.0)
    assert offset.duration_seconds == pytest.approx(2.0, abs=0.01)
