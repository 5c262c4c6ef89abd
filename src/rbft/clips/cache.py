"""The frame cache: decoded once, read by every arm, stage, seed and evaluation.

One safetensors file a clip and plan, `<root>/<first 2 hex>/<key>.safetensors`, holding `frames` uint8 [T, H, W, 3],
`seconds` float64 [T] and the clip's `thumbnails`, with the plan and the source's hash in its header. Any safetensors
library reads it.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from pydantic import ValidationError

from rbft.clips.frames import Frames
from rbft.clips.thumbnails import COUNT, NUM_BYTES, SIDE, thumbnails
from rbft.errors import StoreError
from rbft.files import retried, written_whole
from rbft.records import FramePlan, Record, fingerprint

_MAX_HEADER_BYTES = 1_000_000
_LAYOUT = 1


class CachedFrames(Record):
    """What the header of a cache file says about where its frames came from."""

    source_sha256: str
    plan: FramePlan
    crc32: int | None = None
    """Of instants and frames; None in files of versions that kept none."""


def cache_key(sha256: str, plan: FramePlan) -> str:
    """The key of a file's frames under a plan."""
    return fingerprint("frames", _LAYOUT, sha256, plan)


class FrameCache:
    """A folder of decoded frames. Safe for many readers and writers: files appear whole, and never change."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._sound: set[str] = set()

    def path(self, key: str) -> Path:
        """Where the frames of `key` lie."""
        return self.root / key[:2] / f"{key}.safetensors"

    def has(self, key: str) -> bool:
        """Whether the frames of `key` are there and the file is whole."""
        try:
            self.origin(key)
        except StoreError:
            return False
        return True

    def read(self, key: str) -> Frames:
        """The frames of `key`, mapped from disk, not loaded. Writing into them changes memory, never the file.

        Its checksum is looked at when a key is first read. Raises StoreError, naming the file, where it is absent or
        damaged; one whose contents changed is removed, so that the next run decodes the clip again.
        """
        path = self.path(key)
        with _opened(path) as (file, shape, origin, _):
            split = 8 * shape[0]
            mapped = np.memmap(file, np.uint8, "c", offset=file.tell(), shape=(split + math.prod(shape),))
            if key not in self._sound:
                if origin.crc32 is not None and zlib.crc32(mapped.data) != origin.crc32:
                    path.unlink(missing_ok=True)
                    raise ValueError("its frames are not those that were written")
                self._sound.add(key)
            return Frames(mapped[split:].reshape(shape), mapped[:split].view("<f8").astype(np.float64))

    def origin(self, key: str) -> CachedFrames:
        """The source and the plan that the frames of `key` were made from; raises StoreError."""
        with _opened(self.path(key)) as (_, _, origin, _):
            return origin

    def thumbnails(self, key: str) -> bytes:
        """The small pictures of the clip; made of its frames where an older file lacks them. Raises StoreError."""
        with _opened(self.path(key)) as (file, _, _, beside):
            if beside:
                file.seek(-NUM_BYTES, os.SEEK_END)
                return file.read()
        return thumbnails(self.read(key))

    def write(self, sha256: str, plan: FramePlan, frames: Frames, small: bytes = b"") -> str:
        """Store frames, with `small` as their thumbnails, and return their key.

        Raises StoreError where the disk refuses, leaving nothing behind.
        """
        key = cache_key(sha256, plan)
        seconds, data = np.ascontiguousarray(frames.seconds, "<f8"), np.ascontiguousarray(frames.data)
        crc32 = zlib.crc32(data.data, zlib.crc32(seconds.data))
        header = _header(CachedFrames(source_sha256=sha256, plan=plan, crc32=crc32), frames, small)
        size = 8 + len(header) + frames.seconds.nbytes + frames.data.nbytes + len(small)

        def write() -> None:
            with written_whole(self.path(key), size) as temporary, temporary.open("wb") as file:
                file.write(len(header).to_bytes(8, "little"))
                file.write(header)
                file.write(seconds.data)
                file.write(data.data)
                file.write(small)

        retried(write)
        return key


def _header(origin: CachedFrames, frames: Frames, small: bytes) -> bytes:
    tensors = _tensors(frames.data.shape, thumbnails=bool(small))
    entries = {"__metadata__": {"origin": origin.model_dump_json()}} | tensors
    text = json.dumps(entries, separators=(",", ":")).encode()
    return text + b" " * (-len(text) % 8)


_Shape = tuple[int, int, int, int]


def _tensors(shape: Sequence[int], *, thumbnails: bool) -> dict[str, Any]:
    """What a header says of its tensors, for frames of that shape."""
    split = 8 * shape[0]
    end = split + math.prod(shape)
    tensors = {
        "seconds": {"dtype": "F64", "shape": [shape[0]], "data_offsets": [0, split]},
        "frames": {"dtype": "U8", "shape": list(shape), "data_offsets": [split, end]},
    }
    if thumbnails:
        tensors["thumbnails"] = {"dtype": "U8", "shape": [COUNT, SIDE, SIDE], "data_offsets": [end, end + NUM_BYTES]}
    return tensors


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple[BinaryIO, _Shape, CachedFrames, bool]]:
    """A cache file where its tensors start, the shape of the frames, their origin, and whether thumbnails follow.

    Raises StoreError, also for what goes wrong with the tensors while it is open.
    """
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= min(_MAX_HEADER_BYTES, size - 8):
                raise ValueError(f"a header of {length} bytes in a file of {size}")
            yield file, *_checked(json.loads(file.read(length)), size - 8 - length)
    except FileNotFoundError:
        raise StoreError(f"{path}: the frames are not in the cache; run again to decode them") from None
    except OSError as error:
        raise StoreError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise StoreError(f"{path}: a damaged cache file ({error}); run again to decode the clip once more") from None


def _checked(header: Any, size: int) -> tuple[_Shape, CachedFrames, bool]:
    """What a header says, which must describe exactly `size` bytes; raises ValueError."""
    if not isinstance(header, dict) or set(header) - {"thumbnails"} != {"__metadata__", "seconds", "frames"}:
        raise ValueError("the header does not name seconds and frames")
    try:
        origin = CachedFrames.model_validate_json(_text(header["__metadata__"]))
    except ValidationError as error:
        raise ValueError(f"its origin is not of this version: {error.errors()[0]['msg']}") from None
    plan = origin.plan
    shape = (plan.num_frames, plan.height, plan.width, 3)
    beside = "thumbnails" in header
    expected = _tensors(shape, thumbnails=beside)
    end = 8 * shape[0] + math.prod(shape) + beside * NUM_BYTES
    if {name: header[name] for name in expected} != expected or end != size:
        raise ValueError(f"the header does not fit a plan of {list(shape)} and {size} bytes")
    return shape, origin, beside


def _text(metadata: Any) -> str:
    if isinstance(metadata, dict) and isinstance(metadata.get("origin"), str):
        return str(metadata["origin"])
    raise ValueError("the header does not say where the frames come from")
