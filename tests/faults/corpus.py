"""Hostile and odd clips, made on the spot: every one goes by a name and has a verdict, `ok` or a word for the problem.

`python tests/faults/corpus.py FOLDER` writes them, with `clips.csv`. Only PyAV, numpy, Pillow and bytes make them.
"""

from __future__ import annotations

import io
import os
import re
import struct
import sys
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.stream import Disposition
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))

from videos import picture, write_clip

HUGE = (16_384, 8_704)
"""Width and height of the bombs: a frame of 214 MB."""


@dataclass(frozen=True)
class Specimen:
    """A file: its row of the list of faults, its name, what `rbft check` must say, and how it is made."""

    row: str
    name: str
    verdict: str
    make: Callable[[Path], object]


def build(folder: Path) -> dict[str, str]:
    """Write every specimen and a manifest of all, `clips.csv`; verdicts by name."""
    specimens = list(corpus())
    for specimen in specimens:
        specimen.make(folder / specimen.name)
    lines = [f"{specimen.name},{specimen.name}\n" for specimen in specimens]
    (folder / "clips.csv").write_text("".join(["path,clip_id\n", *lines]))
    return {specimen.name: specimen.verdict for specimen in specimens}


def corpus() -> Iterable[Specimen]:
    """All of them, row by row."""
    yield from _no_videos()
    yield from _cut_off()
    yield from _short_and_silent()
    yield from _times_and_sides()
    yield from _bombs()
    yield from _names()


# -- bytes that are no clip ----------------------------------------------------------------------------------------


def _no_videos() -> Iterable[Specimen]:
    page = b"<!doctype html><title>404 Not Found</title>" * 40
    yield Specimen("A1", "empty.mp4", "empty", _bytes(b""))
    yield Specimen("A1", "random.mp4", "unreadable", _bytes(np.random.default_rng(0).bytes(20_000)))
    yield Specimen("A1", "zeros.mp4", "unreadable", _bytes(bytes(20_000)))
    yield Specimen("A1", "page.mp4", "unreadable", _bytes(page))
    yield Specimen("A1", "pointer.mp4", "unreadable", _bytes(b"version 1\noid sha256:00\nsize 12345\n"))
    yield Specimen("A1", "first-box.mp4", "unreadable", lambda path: _cut(path, 32))
    yield Specimen("A1", "no-index.mp4", "unreadable", lambda path: _cut(path, 0.5))
    yield Specimen("A1", "folder.mp4", "unreadable", Path.mkdir)
    yield Specimen("A1", "pipe.mp4", "unreadable", os.mkfifo)
    yield Specimen("A1", "gone.mp4", "missing", lambda path: None)
    yield Specimen("A1", "circle.mp4", "unreadable", lambda path: path.symlink_to(path))
    yield Specimen("A6", "sound.m4a", "no_video_stream", lambda path: _sound(path, "mp4"))
    yield Specimen("A6", "sound.mp4", "no_video_stream", lambda path: _sound(path, "mp4"))
    yield Specimen("A6", "sound.wav", "no_video_stream", lambda path: _sound(path, "wav", "pcm_s16le"))
    yield Specimen("A6", "cover.m4a", "no_video_stream", lambda path: _sound(path, "mp4", cover=True))
    yield Specimen("A6", "words.srt", "unsupported", _bytes(b"1\n00:00:01,000 --> 00:00:02,000\nhello\n\n"))
    yield Specimen("A6", "picture.png", "unsupported", lambda path: _image(path, "PNG"))
    yield Specimen("A6", "picture.mp4", "unsupported", lambda path: _image(path, "JPEG"))
    yield Specimen("A6", "lossless.mkv", "unsupported", lambda path: _clip(path, codec="ffv1"))


def _bytes(data: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(data)


def _clip(path: Path, frames: int = 20, **how: object) -> Path:
    return write_clip(path, [picture(i) for i in range(frames)], **how)  # type: ignore[arg-type]


def _cut(path: Path, keep: float, frames: int = 60, **how: object) -> None:
    """A clip of which only the first bytes are kept: so many, or a share of them."""
    data = _clip(path, frames, **how).read_bytes()
    path.write_bytes(data[: int(keep if keep > 1 else keep * len(data))])


def _sound(path: Path, form: str, codec: str = "aac", *, cover: bool = False) -> None:
    """A moment of silence; with `cover`, a picture belongs to it, as to a song."""
    with av.open(str(path), "w", format=form) as container:
        stream = container.add_stream(codec, rate=16_000, layout="mono")
        picture_stream = container.add_stream("mjpeg", rate=1) if cover else None
        if picture_stream is not None:
            picture_stream.width, picture_stream.height, picture_stream.pix_fmt = 64, 48, "yuvj420p"
            picture_stream.disposition = Disposition.attached_pic
            container.mux(picture_stream.encode(av.VideoFrame.from_ndarray(picture(0), "rgb24")))
            container.mux(picture_stream.encode())
        samples = np.zeros((1, 1024), np.int16 if codec.startswith("pcm") else np.float32)
        frame = av.AudioFrame.from_ndarray(samples, format=stream.format.name, layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 16_000, 0, Fraction(1, 16_000)
        container.mux(stream.encode(frame))
        container.mux(stream.encode())


def _image(path: Path, form: str) -> None:
    data = io.BytesIO()
    Image.fromarray(picture(0)).save(data, form)
    path.write_bytes(data.getvalue())


# -- cut off -------------------------------------------------------------------------------------------------------


def _cut_off() -> Iterable[Specimen]:
    front = {"options": {"movflags": "faststart"}}
    yield Specimen("A2", "half.mp4", "partial", lambda path: _cut(path, 0.6, **front))
    yield Specimen("A2", "most.mp4", "partial", lambda path: _cut(path, 0.9, **front))
    yield Specimen("A2", "all-but-one.ts", "ok", lambda path: transport_stream(path, coded_frames(64, 40)[:-1]))
    yield Specimen("A2", "all-but-a-bit.mp4", "unreadable", lambda path: _cut(path, 0.99, **front))
    yield Specimen("A2", "half.mkv", "partial", lambda path: _cut(path, 0.5))
    yield Specimen("A2", "half.avi", "partial", lambda path: _cut(path, 0.5, codec="mpeg4"))


# -- short, silent -------------------------------------------------------------------------------------------------


def _short_and_silent() -> Iterable[Specimen]:
    yield Specimen("A4", "one.mp4", "ok", lambda path: _clip(path, 1))
    yield Specimen("A4", "one.gif", "ok", lambda path: _clip(path, 1, codec="gif", pixel_format="rgb8"))
    yield Specimen("A4", "three.webm", "ok", lambda path: _clip(path, 3, codec="libvpx"))
    yield Specimen("A4", "none.mp4", "zero_length", _without_frames)
    yield Specimen("A5", "silent.mp4", "ok", _clip)
    yield Specimen("A5", "loud.mp4", "ok", lambda path: _clip(path, audio=True))


def _without_frames(path: Path) -> None:
    """A video stream with an index that lists no frame."""
    data = bytearray(_clip(path).read_bytes())
    for box in (b"stsz", b"stts", b"stss", b"stsc", b"stco", b"ctts"):
        place = data.find(box) + (12 if box == b"stsz" else 8)
        data[place : place + 4] = bytes(4)
    path.write_bytes(data)


# -- times and sides -----------------------------------------------------------------------------------------------


def _times_and_sides() -> Iterable[Specimen]:
    gaps = [*range(0, 400, 40), 900, 1400, *range(2000, 2500, 100), 3500, 4900, 5100]
    for name, times in {
        "gaps.mp4": gaps,
        "gaps.mkv": gaps,
        "late.mkv": [60_000 + 100 * i for i in range(20)],
        "late.mp4": [500 + 100 * i for i in range(20)],
        "early.mp4": [-700 + 100 * i for i in range(20)],
        "day.mkv": [0, 40, 86_400_000],
    }.items():
        row = "A7" if "gaps" in name else "A12" if name == "day.mkv" else "A9"
        yield Specimen(row, name, "ok", lambda path, times=times: _clip(path, len(times), milliseconds=times))
    for degrees in (90, 180, 270):
        yield Specimen("A8", f"turned-{degrees}.mp4", "ok", lambda path, d=degrees: _clip(path, rotation=(d, False)))
    yield Specimen("A8", "wide.mp4", "ok", lambda path: _clip(path, sample_aspect=Fraction(4, 3)))


# -- bombs ---------------------------------------------------------------------------------------------------------


def _bombs() -> Iterable[Specimen]:
    yield Specimen("A10", "header.ts", "too_large", lambda path: transport_stream(path, [huge_frame()] * 5))
    yield Specimen("A10", "header.avi", "too_large", lambda path: _patched(path, b"\xff\xc0\x00\x11\x08", 5, ">HH"))
    yield Specimen("A10", "header.ivf", "too_large", lambda path: _patched(path, b"\x9d\x01\x2a", 3, "<HH"))
    yield Specimen("A10", "header.gif", "too_large", lambda path: _patched(path, b"GIF89a", 6, "<HH"))
    yield Specimen("A10", "png.mov", "unsupported", lambda path: png_in_mov(path, 2_000))
    yield Specimen("A11", "grows.ts", "ok", lambda path: transport_stream(path, coded_frames(64) + coded_frames(128)))
    yield Specimen(
        "A11", "bursts.ts", "too_large", lambda path: transport_stream(path, [*coded_frames(64), huge_frame()])
    )
    yield Specimen("A12", "long.mp4", "too_long", lambda path: long_clip(path, 200_001))
    yield Specimen("A12", "index.mp4", "zero_length", index_bomb)


def _patched(path: Path, mark: bytes, offset: int, form: str) -> None:
    """A small clip whose every frame says that it is as large as its header can hold."""
    codec, pixels = {".avi": ("mjpeg", "yuvj420p"), ".ivf": ("libvpx", "yuv420p"), ".gif": ("gif", "rgb8")}[path.suffix]
    data = bytearray(_clip(path, 3, codec=codec, pixel_format=pixels).read_bytes())
    side = {".avi": 65_500, ".ivf": 16_383, ".gif": 65_535}[path.suffix]
    place = data.find(mark)
    while place >= 0:
        struct.pack_into(form, data, place + offset, side, side)
        place = data.find(mark, place + 1)
    path.write_bytes(data)


def transport_stream(path: Path, frames: Iterable[bytes]) -> None:
    """H.264 frames as they are, one after the other, whatever their sizes."""
    with av.open(str(path), "w", format="mpegts") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number, data in enumerate(frames):
            packet = av.Packet(data)
            packet.pts = packet.dts = number
            packet.time_base, packet.stream = Fraction(1, 10), stream
            container.mux(packet)


def coded_frames(width: int, frames: int = 20) -> list[bytes]:
    """H.264 frames of a real clip, `width` by three quarters of it."""
    encoder = av.CodecContext.create("libx264", "w")
    encoder.width, encoder.height, encoder.pix_fmt = width, width * 3 // 4, "yuv420p"
    encoder.time_base, encoder.options = Fraction(1, 10), {"bf": "0"}
    packets = []
    for number in range(frames):
        frame = av.VideoFrame.from_ndarray(picture(number, width, width * 3 // 4), "rgb24")
        frame.pts, frame.time_base = number, Fraction(1, 10)
        packets += encoder.encode(frame)
    return [bytes(packet) for packet in packets + encoder.encode(None)]


def huge_frame(width: int = HUGE[0], height: int = HUGE[1]) -> bytes:
    """An H.264 key frame in under a kilobyte: parameter sets and the start of a slice (ITU-T H.264, 7.3)."""
    sequence = _Bits().u(66, 8).u(0, 8).u(62, 8).ue(0, 0, 2, 1).u(0, 1).ue(width // 16 - 1, height // 16 - 1)
    pictures = _Bits().ue(0, 0).u(0, 2).ue(0, 0, 0).u(0, 3).ue(0, 0, 0).u(0, 3)
    start = _Bits().ue(0, 7, 0).u(0, 4).ue(0).u(0, 2).ue(0).u(2**4_000 - 1, 4_000)
    return sequence.u(0b1100, 4).unit(0x67) + pictures.unit(0x68) + start.unit(0x65)


class _Bits:
    """Bits of an H.264 unit: plain numbers of so many bits, and Exp-Golomb codes."""

    def __init__(self) -> None:
        self._text = ""

    def u(self, value: int, bits: int) -> _Bits:
        self._text += format(value, f"0{bits}b")
        return self

    def ue(self, *values: int) -> _Bits:
        for value in values:
            code = format(value + 1, "b")
            self._text += "0" * (len(code) - 1) + code
        return self

    def unit(self, kind: int) -> bytes:
        text = f"{self._text}1"
        text += "0" * (-len(text) % 8)
        data = int(text, 2).to_bytes(len(text) // 8, "big")
        return bytes((0, 0, 0, 1, kind)) + re.sub(rb"\0\0(?=[\0-\3])", b"\0\0\3", data)


def png_in_mov(path: Path, side: int) -> None:
    """Black squares as PNG in QuickTime: a codec that is not read, whatever its size."""
    row = bytes(1 + 3 * side)
    packer = zlib.compressobj(9)
    body = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", body), (b"IEND", b""))
    image = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    with av.open(str(path), "w", format="mov") as container:
        stream = container.add_stream("png", rate=10)
        stream.width, stream.height, stream.pix_fmt = side, side, "rgb24"
        for number in range(3):
            packet = av.Packet(image)
            packet.pts = packet.dts = number
            packet.time_base, packet.stream, packet.is_keyframe = Fraction(1, 10), stream, True
            container.mux(packet)


def long_clip(path: Path, frames: int) -> None:
    """So many frames of 16x16 in nine bytes each."""
    encoder = av.CodecContext.create("libx264", "w")
    encoder.width, encoder.height, encoder.pix_fmt = 16, 16, "yuv420p"
    encoder.time_base, encoder.options = Fraction(1, 1000), {"tune": "zerolatency", "preset": "ultrafast"}
    coded = []
    for number in range(2):
        frame = av.VideoFrame.from_ndarray(picture(0, 16, 16), "rgb24")
        frame.pts, frame.time_base = number, Fraction(1, 1000)
        coded += [bytes(packet) for packet in encoder.encode(frame)]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=1000)
        stream.width, stream.height, stream.pix_fmt = 16, 16, "yuv420p"
        for number in range(frames):
            packet = av.Packet(coded[number > 0])
            packet.pts = packet.dts = number
            packet.duration, packet.time_base = 1, Fraction(1, 1000)
            packet.stream, packet.is_keyframe = stream, number == 0
            container.mux(packet)


def index_bomb(path: Path, frames: int = 100_000_000) -> None:
    """An MP4 of 5 kB whose index says that it has a hundred million frames of one byte: there is no memory for it."""
    data = bytearray(_clip(path, encoder={"crf": "10", "bf": "0"}).read_bytes())
    struct.pack_into(">II", data, data.find(b"stsz") + 8, 1, frames)
    struct.pack_into(">I", data, data.find(b"stts") + 12, frames)
    struct.pack_into(">I", data, data.find(b"stsc") + 16, frames)
    path.write_bytes(data)


# -- names that say something else ---------------------------------------------------------------------------------


def _names() -> Iterable[Specimen]:
    for name in ("mp4.avi", "none", "mp4.m3u8", "mp4.png", "mp4.txt", "mp4.sdp"):
        yield Specimen("A13", name, "ok", lambda path: _clip(path, form="mp4"))
    yield Specimen("A13", "webm.mp4", "ok", lambda path: _clip(path, codec="libvpx", form="webm"))
    yield Specimen("A13", "stream.mp4", "ok", lambda path: _clip(path, form="mpegts"))


if __name__ == "__main__":
    target = Path(sys.argv[1])
    target.mkdir(parents=True, exist_ok=True)
    for made, verdict in build(target).items():
        sys.stdout.write(f"{verdict:16} {made}\n")
