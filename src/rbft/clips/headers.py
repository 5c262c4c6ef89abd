"""What packets carry that outlasts a key frame: parameter sets and sequence headers.

A decoder that was not given the packet in which these change decodes all later ones by the old ones, often without an
error. Where they change, no packet may be left out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

_START = re.compile(rb"\x00\x00\x01")
_STOP, _PASS, _KEEP = range(3)


def _h264(unit: bytes) -> int:
    """Sequence and picture parameter sets are kept (ITU-T H.264, table 7-1); slices are where a picture begins."""
    kind = unit[0] & 0x1F
    return _STOP if 1 <= kind <= 5 else _KEEP if kind in (7, 8, 13, 15) else _PASS


def _hevc(unit: bytes) -> int:
    """Video, sequence and picture parameter sets (ITU-T H.265, table 7-1)."""
    kind = unit[0] >> 1 & 0x3F
    return _STOP if kind < 32 else _KEEP if kind in (32, 33, 34) else _PASS


def _mpeg2(unit: bytes) -> int:
    """Sequence headers and the extensions that hold for more than a picture (ISO 13818-2, tables 6-1 and 6-2)."""
    code, extension = unit[0], unit[1] >> 4 if len(unit) > 1 else 0
    return _STOP if 1 <= code <= 0xAF else _KEEP if code == 0xB3 or (code == 0xB5 and extension in (1, 2, 3)) else _PASS


def _mpeg4(unit: bytes) -> int:
    """Headers of objects and layers (ISO 14496-2, table 6-3); a picture begins with B6."""
    code = unit[0]
    return _STOP if code == 0xB6 else _KEEP if code <= 0x2F or code in (0xB0, 0xB5) else _PASS


_KINDS: dict[str, Callable[[bytes], int]] = {
    "h264": _h264, "hevc": _hevc, "mpeg1video": _mpeg2, "mpeg2video": _mpeg2, "mpeg4": _mpeg4,
}  # fmt: skip


class Headers:
    """Watches the packets of a stream, in order, for headers other than those that it began with."""

    def __init__(self, codec: str, extradata: bytes | None) -> None:
        self._kind = _KINDS.get(codec)
        extradata = extradata or b""
        self._length_bytes = 0
        if codec == "h264" and len(extradata) > 4 and extradata[0] == 1:
            self._length_bytes = (extradata[4] & 3) + 1
        if codec == "hevc" and len(extradata) > 21 and extradata[:3] not in (b"\0\0\0", b"\0\0\1"):
            self._length_bytes = (extradata[21] & 3) + 1
        self._beside = frozenset() if self._length_bytes or self._kind is None else self._kept(extradata)
        self._first: frozenset[bytes] | None = None

    def changed(self, packet: memoryview) -> bool:
        """Whether the packet brings a header that neither the first packet nor, without one there, the file had."""
        if self._kind is None:
            return False
        kept = self._kept(packet)
        if self._first is None:
            self._first = kept or self._beside
            return False
        return not kept <= self._first

    def _kept(self, data: bytes | memoryview) -> frozenset[bytes]:
        assert self._kind is not None
        found = set()
        for unit in self._by_length(memoryview(data)) if self._length_bytes else _by_start_code(data):
            what = self._kind(unit)
            if what == _STOP:
                break
            if what == _KEEP:
                found.add(unit)
        return frozenset(found)

    def _by_length(self, data: memoryview) -> Iterator[bytes]:
        place, size = 0, self._length_bytes
        while place + size < len(data):
            length = int.from_bytes(data[place : place + size], "big")
            unit = bytes(data[place + size : place + size + min(length, 4096)])
            if unit:
                yield unit
            place += size + length


def _by_start_code(data: bytes | memoryview) -> Iterator[bytes]:
    starts = _START.finditer(data)
    start = next(starts, None)
    while start is not None:
        following = next(starts, None)
        end = len(data) if following is None else following.start()
        unit = bytes(data[start.end() : min(end, start.end() + 4096)]).rstrip(b"\0")
        if unit:
            yield unit
        start = following
