"""The frame cache: what is written is what is read, mapped, by any safetensors library; damage is an error."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from rbft.clips.cache import FrameCache, cache_key
from rbft.clips.frames import Frames
from rbft.errors import StoreError
from rbft.records import FramePlan

SHA = "ab" * 32
PLAN = FramePlan(
    times_seconds=(0.0, 0.5, 1.0, 1.5), width=56, height=28, frames_per_second=2.0, short_clip_policy="repeat-last"
)


@pytest.fixture
def frames() -> Frames:
    data = np.random.default_rng(0).integers(0, 256, (4, 28, 56, 3), dtype=np.uint8)
    return Frames(data, np.array([0.0, 0.5, 1.0, 1.501]))


def test_round_trip(tmp_path: Path, frames: Frames) -> None:
    cache = FrameCache(tmp_path)
    assert not cache.has(cache_key(SHA, PLAN))
    key = cache.write(SHA, PLAN, frames)
    assert key == cache_key(SHA, PLAN) and cache.has(key)
    assert cache.path(key) == tmp_path / key[:2] / f"{key}.safetensors"
    read = cache.read(key)
    assert np.array_equal(read.data, frames.data) and np.array_equal(read.seconds, frames.seconds)
    assert cache.origin(key).plan == PLAN and cache.origin(key).source_sha256 == SHA
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == [f"{key}.safetensors"]


def test_another_file_or_plan_is_another_key() -> None:
    keys = {cache_key(SHA, PLAN), cache_key("cd" * 32, PLAN), cache_key(SHA, PLAN.model_copy(update={"width": 84}))}
    assert len(keys) == 3


def test_frames_are_mapped_and_the_file_cannot_be_changed_through_them(tmp_path: Path, frames: Frames) -> None:
    cache = FrameCache(tmp_path)
    key = cache.write(SHA, PLAN, frames)
    read = cache.read(key)
    assert isinstance(read.data.base, np.memmap) or isinstance(read.data, np.memmap)
    read.data[:] = 0
    assert np.array_equal(cache.read(key).data, frames.data)


def test_other_libraries_read_it(tmp_path: Path, frames: Frames) -> None:
    cache = FrameCache(tmp_path)
    tensors = load_file(cache.path(cache.write(SHA, PLAN, frames)))
    assert np.array_equal(tensors["frames"], frames.data) and np.array_equal(tensors["seconds"], frames.seconds)


def test_an_absent_key_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"0123\.safetensors: the frames are not in the cache; run again"):
        FrameCache(tmp_path).read("0123")


def damage(data: bytes) -> dict[str, bytes]:
    length = int.from_bytes(data[:8], "little")
    header, body = json.loads(data[8 : 8 + length]), data[8 + length :]

    def with_header(change: dict[str, object]) -> bytes:
        text = json.dumps({**header, **change}).encode()
        return len(text).to_bytes(8, "little") + text + body

    return {
        "cut": data[:-1],
        "longer": data + b"\0",
        "no bytes": b"",
        "half a length": data[:4],
        "huge length": (2**63).to_bytes(8, "little") + data[8:],
        "no JSON": data[:8] + b"\xff" * length + body,
        "deep JSON": (5_000).to_bytes(8, "little") + b"[" * 5_000 + body,
        "another type": with_header({"frames": {**header["frames"], "dtype": "F32"}}),
        "another shape": with_header({"frames": {**header["frames"], "shape": [2, 56, 56, 3]}}),
        "overlapping": with_header({"frames": {**header["frames"], "data_offsets": [0, len(body)]}}),
        "extra tensor": with_header({"extra": header["seconds"]}),
        "no origin": with_header({"__metadata__": {}}),
        "another plan": with_header(
            {"__metadata__": {"origin": header["__metadata__"]["origin"].replace('"width":56', '"width":84')}}
        ),
        "seconds go back": data[: 8 + length] + body[24:32] + body[8:],
    }


def test_every_damage_is_an_error_that_names_the_file(tmp_path: Path, frames: Frames) -> None:
    cache = FrameCache(tmp_path)
    key = cache.write(SHA, PLAN, frames)
    whole = cache.path(key).read_bytes()
    for what, data in damage(whole).items():
        cache.path(key).write_bytes(data)
        with pytest.raises(StoreError, match=f"{key}.safetensors: a damaged cache file .* run again"):
            cache.read(key)
        assert not cache.has(key), what


def test_a_refusing_disk_leaves_nothing(tmp_path: Path, frames: Frames) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreError, match="cannot be written"):
        FrameCache(tmp_path / "file").write(SHA, PLAN, frames)


def test_frames_that_changed_on_the_disk_are_not_used_and_are_made_again(tmp_path: Path, frames: Frames) -> None:
    cache = FrameCache(tmp_path)
    key = cache.write(SHA, PLAN, frames)
    data = bytearray(cache.path(key).read_bytes())
    data[-1] ^= 1
    cache.path(key).write_bytes(data)
    with pytest.raises(StoreError) as caught:
        FrameCache(tmp_path).read(key)
    assert str(caught.value) == (
        f"{cache.path(key)}: a damaged cache file (its frames are not those that were written); run again to decode "
        "the clip once more"
    )
    assert not cache.has(key)


def test_files_of_versions_without_a_checksum_are_read(tmp_path: Path, frames: Frames) -> None:
    cache = FrameCache(tmp_path)
    key = cache.write(SHA, PLAN, frames)
    data = cache.path(key).read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    origin = json.loads(header["__metadata__"]["origin"])
    assert isinstance(origin.pop("crc32"), int)
    header["__metadata__"]["origin"] = json.dumps(origin)
    text = json.dumps(header).encode()
    cache.path(key).write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])
    assert np.array_equal(cache.read(key).data, frames.data)
