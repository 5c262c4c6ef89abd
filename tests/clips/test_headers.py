"""Parameter sets and sequence headers by hand: what is noticed when it changes, and what is not."""

from __future__ import annotations

import pytest

from rbft.clips.headers import Headers

AVCC = b"\x01\x64\x00\x1e\xff"
HVCC = b"\x01" + b"\0" * 20 + b"\x03"


def lengths(*units: bytes) -> memoryview:
    return memoryview(b"".join(len(unit).to_bytes(4, "big") + unit for unit in units))


def codes(*units: bytes) -> memoryview:
    return memoryview(b"".join(b"\0\0\0\x01" + unit for unit in units))


SPS, PPS, OTHER_PPS, SLICE, SEI = b"\x67\x64", b"\x68\xee", b"\x68\xce", b"\x65\x88", b"\x06\x05"


@pytest.mark.parametrize(("extradata", "packet"), [(AVCC, lengths), (None, codes)])
def test_sets_of_h264(extradata: bytes | None, packet: object) -> None:
    assert callable(packet)
    headers = Headers("h264", extradata)
    given = [packet(SPS, PPS, SLICE), packet(SLICE), packet(SEI, SPS, PPS, SLICE), packet(SEI, SLICE)]
    assert [headers.changed(one) for one in given] == [False] * 4
    assert headers.changed(packet(OTHER_PPS, SLICE))


def test_sets_that_first_come_midway() -> None:
    """Beside sets in the file's header they are others; a stream that begins without any had none before."""
    headers = Headers("h264", AVCC)
    assert [headers.changed(one) for one in (lengths(SLICE), lengths(SPS, PPS, SLICE))] == [False, True]
    beside = Headers("h264", bytes(codes(SPS, PPS)))
    assert [beside.changed(one) for one in (codes(SLICE), codes(SPS, PPS, SLICE))] == [False, False]


def test_sets_of_hevc() -> None:
    vps, sps, pps, slice_ = b"\x40\x01a", b"\x42\x01b", b"\x44\x01c", b"\x26\x01d"
    headers = Headers("hevc", HVCC)
    assert not headers.changed(lengths(vps, sps, pps, slice_)) and not headers.changed(lengths(pps, slice_))
    assert headers.changed(lengths(b"\x44\x01d", slice_))


def test_headers_of_mpeg2_and_mpeg4() -> None:
    """A picture's own extension (8) may differ, a matrix (3) may not; MPEG-4's layer (20) may not."""
    mpeg2 = Headers("mpeg2video", None)
    assert not mpeg2.changed(codes(b"\xb3size", b"\xb5\x14", b"\x00pic", b"\xb5\x80", b"\x01slice"))
    assert not mpeg2.changed(codes(b"\x00pic", b"\xb5\x8f", b"\x01slice"))
    assert mpeg2.changed(codes(b"\x00pic", b"\xb5\x3f", b"\x01slice"))
    mpeg4 = Headers("mpeg4", bytes(codes(b"\xb0x", b"\x20layer")))
    assert not mpeg4.changed(codes(b"\xb6vop")) and not mpeg4.changed(codes(b"\x20layer", b"\xb6vop"))
    assert mpeg4.changed(codes(b"\x20other", b"\xb6vop"))


def test_what_follows_a_picture_and_other_codecs_are_not_looked_at() -> None:
    headers = Headers("h264", None)
    assert not headers.changed(codes(SPS, SLICE)) and not headers.changed(codes(SLICE, OTHER_PPS))
    assert not any(Headers("vp9", None).changed(one) for one in (codes(SPS), codes(OTHER_PPS)))


def test_lengths_that_lie_end_the_packet() -> None:
    headers = Headers("h264", AVCC)
    assert not headers.changed(memoryview(b"\xff\xff\xff\xff\x65")) and not headers.changed(memoryview(b"\0\0\0\0\0"))
