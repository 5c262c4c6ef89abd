"""Probing: what a file says, confirmed by its packets. Header counts are never trusted.

`probe` runs in the calling process; for files that nobody vouches for, ask through `clips.pool`, which bounds it.
"""

from __future__ import annotations

import itertools
import math
import struct
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from rbft.clips.container import PacketIndex, fail, opened, packets, reasons, too_many_pixels
from rbft.clips.headers import Headers
from rbft.experiment import ClipLimits
from rbft.records import Probe

WHOLE_SHARE = 0.95
"""A clip is whole when its frames reach this share of the stream's declared duration."""
_MAX_SAMPLE_ASPECT = 16.0
_TIMED = ("mov", "matroska", "mpegts", "mpeg", "flv")
"""Containers that say when a picture is shown; in the others, as AVI, it may be when it is decoded."""
_NEVER_SKIPPED = {"vvc"}
"""Codecs whose filters are set in packets of their own, for as long as they please."""


def probe(path: Path, limits: ClipLimits) -> Probe:
    """Probe one file: packets are counted, only the first frame is decoded. Raises ClipError."""
    return examine(path, limits)[0]


def examine(path: Path, limits: ClipLimits) -> tuple[Probe, PacketIndex]:
    """`probe`, and the index of packets that it went through."""
    with opened(path, limits) as (container, stream):
        found = _scan(path, container, stream, limits)
        coded = stream.codec_context
        declared = _declared_seconds(container, stream, found.index.first_tick * found.index.seconds_per_tick)
        facts = {
            "container": container.format.name.split(",")[0],
            "codec": coded.codec.canonical_name,
            "has_audio": bool(container.streams.audio),
        }
        sample_aspect = _sample_aspect(stream.sample_aspect_ratio)
    check_whole(path, found.reach_seconds, declared)
    frame = found.first_frame
    if frame is None:
        raise fail(path, "unreadable", "not one frame can be decoded")
    if frame.width * frame.height > limits.pixels:
        raise too_many_pixels(path, frame.width, frame.height, limits)
    rotation, mirrored = orientation(frame)
    width, height = max(1, round(frame.width * sample_aspect)), frame.height
    if rotation % 180:
        width, height = height, width
    num_frames = int(found.index.shown.sum())
    return Probe(
        pixel_format=frame.format.name,
        width=width,
        height=height,
        coded_width=frame.width,
        coded_height=frame.height,
        rotation_degrees=rotation,
        mirrored=mirrored,
        sample_aspect_ratio=sample_aspect,
        duration_seconds=found.reach_seconds,
        num_frames=num_frames,
        average_fps=num_frames / found.reach_seconds,
        first_time_seconds=found.index.first_tick * found.index.seconds_per_tick,
        **facts,
    ), found.index


def check_whole(path: Path, reach_seconds: float, declared_seconds: float | None) -> None:
    """Raise ClipError `partial` where frames reach less than 95 % of what the stream declares."""
    if declared_seconds and reach_seconds < WHOLE_SHARE * declared_seconds:
        share = 100 * reach_seconds / declared_seconds
        raise fail(
            path,
            "partial",
            f"frames reach {reach_seconds:.2f} of {declared_seconds:.2f} s ({share:.0f} %); "
            f"a whole clip reaches {100 * WHOLE_SHARE:.0f} %. The file was probably cut off: copy it again",
        )


def orientation(frame: VideoFrame) -> tuple[int, bool]:
    """Clockwise degrees and whether to mirror left to right first, from a frame's display matrix.

    Anything that is not a multiple of 90 degrees (within one) is garbage and counts as upright.
    """
    entries: Any = frame.side_data  # iterates over its entries, whatever its type says
    for entry in entries:
        if entry.type.name == "DISPLAYMATRIX" and entry.buffer_size == 36:
            a, b, _, c, d, *_ = struct.unpack("=9i", bytes(entry))
            return _orientation(a, b, c, d)
    return 0, False


def _orientation(a: int, b: int, c: int, d: int) -> tuple[int, bool]:
    """Of the matrix that sends (x, y) to (ax + cy, bx + dy), y pointing down."""
    determinant = a * d - b * c
    if determinant == 0:
        return 0, False
    mirrored = determinant < 0
    if mirrored:
        a, b = -a, -b
    degrees = math.degrees(math.atan2(b, a))
    skew = abs(math.degrees(math.atan2(-c, d)) - degrees) % 360
    nearest = round(degrees / 90) * 90
    if abs(degrees - nearest) > 1 or min(skew, 360 - skew) > 1:
        return 0, False
    return nearest % 360, mirrored


@dataclass(frozen=True, eq=False)
class _Scan:
    index: PacketIndex
    reach_seconds: float
    """From the first shown frame to the end of the last."""
    first_frame: VideoFrame | None


def _scan(path: Path, container: InputContainer, stream: VideoStream, limits: ClipLimits) -> _Scan:
    ticks: list[int | None] = []
    durations: list[int] = []
    key: list[bool] = []
    shown: list[bool] = []
    codec = stream.codec_context
    is_vp8, headers = codec.name == "vp8", Headers(codec.name, codec.extradata)
    frame, tidy, latest = None, codec.name not in _NEVER_SKIPPED, None
    for packet in packets(path, container, stream):
        if not ticks and packet.has_sidedata("encryption_info"):
            raise fail(
                path, "encrypted", "the video stream is encrypted, and rbft has no key; export it without protection"
            )
        ticks.append(packet.pts if packet.pts is not None else packet.dts)
        tidy = tidy and _is_tidy(packet, latest) and not headers.changed(memoryview(packet))
        latest = packet.dts
        durations.append(packet.duration or 0)
        key.append(packet.is_keyframe)
        shown.append(not packet.is_discard and not (is_vp8 and not _vp8_shows(packet)))
        if len(ticks) > limits.frames:
            raise fail(path, "too_long", f"more than {limits.frames} frames (limits.frames)")
        frame = frame or _decoded(path, stream, packet)
    frame = frame or _decoded(path, stream, None)
    if not any(shown) or stream.time_base is None:
        raise fail(path, "zero_length", "the video stream has no frames")
    if container.format.name.split(",")[0] not in _TIMED and codec.has_b_frames:
        tidy = tidy and any(a >= b for a, b in itertools.pairwise(tick or 0 for tick in ticks))
    index, reach = _index(path, ticks, durations, key, shown, float(stream.time_base), tidy=tidy)
    return _Scan(index, reach, frame)


def _is_tidy(packet: av.Packet[VideoStream], latest: int | None) -> bool:
    """Whether leaving out other packets cannot change what this one shows, as far as its container tells."""
    goes_on = latest is None or packet.dts is None or packet.dts >= latest
    return goes_on and packet.pts is not None and not packet.is_corrupt and not packet.has_sidedata("new_extradata")


def _decoded(path: Path, stream: VideoStream, packet: av.Packet[VideoStream] | None) -> VideoFrame | None:
    """The first frame that a packet gives. A recording that starts midway begins with packets that give none."""
    with reasons(path, "decoding the first frame"):
        try:
            frames = stream.codec_context.decode(packet)
        except av.error.InvalidDataError:
            return None
    return frames[0] if frames else None


def _vp8_shows(packet: av.Packet[VideoStream]) -> bool:
    """Whether a VP8 packet holds a frame to show: bit 4 of its first byte (RFC 6386, section 9.1)."""
    return bool(memoryview(packet)[0] & 0x10)


def _index(
    path: Path, ticks: list[int | None], durations: list[int], key: list[bool], shown: list[bool], scale: float, *,
    tidy: bool,
) -> tuple[PacketIndex, float]:  # fmt: skip
    """The index, and the seconds from the first shown frame to the end of the last."""
    known = [t for t, s in zip(ticks, shown, strict=True) if s and t is not None]
    if not known:
        raise fail(path, "unreadable", "no packet carries a time")
    first, last = min(known), max(known)
    lasts = [d for t, d in zip(ticks, durations, strict=True) if t == last]
    duration: float = max(lasts)
    if duration <= 0 and len(known) > 1:
        duration = float(np.median(np.diff(np.sort(np.array(known)))))
    reach = (last - first + duration) * scale
    if reach <= 0:
        raise fail(path, "zero_length", f"{len(known)} frames with no duration")
    complete = tidy and len(known) == sum(shown) == len(set(known)) and None not in ticks
    index = PacketIndex(
        ticks=np.array([first if t is None else t for t in ticks], np.int64),
        key=np.array(key, np.bool_),
        shown=np.array(shown, np.bool_),
        seconds_per_tick=scale,
        first_tick=first,
        complete=complete,
    )
    return index, reach


def _declared_seconds(container: InputContainer, stream: VideoStream, first_seconds: float) -> float | None:
    """The duration of the video stream by its header, from its first frame on; None where nothing tells."""
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    tag = stream.metadata.get("DURATION", "")
    end = _clock_seconds(tag)
    if end is None and container.duration is not None and len(container.streams) == 1:
        end = container.duration / av.time_base
    return None if end is None else end - first_seconds


def _clock_seconds(text: str) -> float | None:
    """Seconds of a Matroska time such as 00:00:05.229000000; None where the text is no such time."""
    parts = text.split(":")
    try:
        hours, minutes, seconds = (float(part) for part in parts)
    except ValueError:
        return None
    return 3600 * hours + 60 * minutes + seconds


def _sample_aspect(ratio: Fraction | None) -> float:
    """Width of a pixel over its height; 1 where undefined or absurd."""
    if not ratio or not 1 / _MAX_SAMPLE_ASPECT <= ratio <= _MAX_SAMPLE_ASPECT:
        return 1.0
    return float(ratio)
