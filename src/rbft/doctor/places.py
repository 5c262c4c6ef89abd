"""Where rbft reads and writes: the output folder, the cache of models, one model, clips."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import struct
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from rbft.doctor.findings import Finding, fault, note, ok
from rbft.errors import CheckpointError, StoreError
from rbft.files import held
from rbft.models.sources import PICKLES, is_on_hub, resolve

GIB = 2**30
_LEAST_FREE, _EASY_FREE = GIB, 20 * GIB
_MAX_HEADER_BYTES = 100_000_000


def output_findings(output: Path) -> Iterator[Finding]:
    """Whether runs can be written, with the cache of frames below them, and kept for one command at a time."""
    there = next(place for place in (output, *output.absolute().parents) if place.exists())
    where = f"{output}, with frames in {output / 'cache'}"
    if not there.is_dir():
        yield fault("output", f"{there} is a file", "name a folder with --output, and as `output` of the experiment")
        return
    try:
        with tempfile.TemporaryDirectory(prefix=".rbft-doctor-", dir=there) as folder:
            (Path(folder) / "written").write_bytes(b"\0" * 4096)
            locked = _locks(Path(folder))
    except (OSError, StoreError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        yield fault("output", f"nothing can be written below {there}: {why}", "free it, or name a folder with --output")
        return
    yield _space("output", there, where)
    if locked:
        yield ok("locks", f"hold in {there}")
    else:
        yield note(
            "locks", f"do not hold in {there} (a network file system without locks?)",
            "start one command at a time in a run's folder",
        )  # fmt: skip


def _locks(folder: Path) -> bool:
    """Whether a second one is refused what a first one holds."""
    with held(folder):
        try:
            with held(folder):
                return False
        except StoreError:
            return True


def _space(name: str, folder: Path, where: str) -> Finding:
    free = shutil.disk_usage(folder).free
    said = f"{where}: {free / GIB:.1f} GiB free"
    if hasattr(os, "statvfs"):
        status = os.statvfs(folder)
        if status.f_files and not status.f_favail:
            return fault(name, f"{where}: no file can be added (no inodes)", "remove files, or take another disk")
    if free < _LEAST_FREE:
        return fault(name, said, "free 1 GiB or more; the embedded model's demo takes less, a 7B model far more")
    if free < _EASY_FREE:
        return note(name, said, "enough for small models; every checkpoint of a 7B model takes about 16 GB")
    return ok(name, said)


def model_findings(model: str | None, revision: str | None) -> Iterator[Finding]:
    """The cache of models, whether the network may be asked, and whether a model is here whole. Nothing is fetched."""
    try:
        from huggingface_hub import constants
    except ImportError as error:
        yield fault("models", f"huggingface_hub cannot be imported: {error}", "pip install 'rbft'")
        return
    cache = Path(constants.HF_HUB_CACHE)
    there = next(place for place in (cache, *cache.absolute().parents) if place.exists())
    if not there.is_dir():
        yield fault(
            "models", f"{cache} cannot be made: {there} is no folder", "set HF_HOME to a folder, there or to be made"
        )
    elif os.access(there, os.W_OK):
        yield _space("models", there, f"{cache}")
    else:
        yield note(
            "models", f"{cache} cannot be written to; models that are in it can be used", "set HF_HOME to fetch others"
        )
    offline = bool(constants.HF_HUB_OFFLINE)
    if offline:
        yield ok("network", "HF_HUB_OFFLINE is set: models are taken from this machine alone")
    else:
        yield ok("network", "asked only for models that are not on this machine; HF_HUB_OFFLINE=1 forbids it")
    if model is not None:
        yield model_finding(model, revision, offline=offline)


def model_finding(model: str, revision: str | None, *, offline: bool) -> Finding:
    """Whether a model's files are on this machine, whole, and free of code."""
    try:
        if not is_on_hub(model):
            folder = resolve(model).folder
        else:
            found = _cached(model, revision)
            if found is None:
                return _absent(model, offline)
            folder = found
        missing = missing_weights(folder)
    except CheckpointError as error:
        return fault("model", str(error), "name another model, or take its files anew from where they come from")
    if missing:
        said = f"{model}: not whole in {folder}: {', '.join(missing[:5])}"
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        if offline or not is_on_hub(model):
            return fault("model", said + more, "copy these files again from where the model comes from")
        return note("model", said + more, "a run fetches what is missing")
    size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    return ok("model", f"{model}: whole in {folder}, {size / 1e9:.2f} GB of weights")


def _cached(model: str, revision: str | None) -> Path | None:
    """The folder of a hub's model in the cache, None where it is not there. Asks no network."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(model, revision=revision, ignore_patterns=list(PICKLES), local_files_only=True))
    except LocalEntryNotFoundError:
        return None
    except HFValidationError:
        raise CheckpointError(f"{model!r} is neither a folder here nor a Hugging Face name (owner/name)") from None


def _absent(model: str, offline: bool) -> Finding:
    if offline:
        return fault(
            "model", f"{model}: not on this machine, and HF_HUB_OFFLINE forbids fetching it",
            f"where there is a network: hf download {model}; then copy the cache here, or its folder",
        )  # fmt: skip
    return note("model", f"{model}: not on this machine", f"a run fetches it; ahead of that: hf download {model}")


def missing_weights(folder: Path) -> list[str]:
    """Weights that an index names and that are not there, or that end before their header says; each with why."""
    indices = sorted(folder.glob("*.safetensors.index.json"))
    names = {file.name for file in folder.glob("*.safetensors")}
    for index in indices:
        try:
            names |= set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
            return [f"{index.name} cannot be read ({type(error).__name__})"]
    faults = ((name, _weights_fault(folder / name)) for name in sorted(map(str, names)))
    return [f"{name} {why}" for name, why in faults if why] if names else ["*.safetensors is missing"]


def _weights_fault(file: Path) -> str | None:
    """Why a safetensors file is not whole, by its length and its header."""
    try:
        with file.open("rb") as opened:
            (length,) = struct.unpack("<Q", opened.read(8))
            if length > _MAX_HEADER_BYTES:
                return "is damaged"
            header = json.loads(opened.read(length))
            expected = 8 + length + max((row["data_offsets"][1] for row in _tensors(header)), default=0)
        size = file.stat().st_size
    except FileNotFoundError:
        return "is missing"
    except (OSError, ValueError, KeyError, IndexError, AttributeError, TypeError, struct.error, RecursionError):
        return "is damaged"
    return None if size == expected else f"has {size:,} of {expected:,} bytes"


def _tensors(header: Mapping[str, Mapping[str, list[int]]]) -> Iterator[Mapping[str, list[int]]]:
    yield from (row for name, row in header.items() if name != "__metadata__")


def clip_findings() -> Iterator[Finding]:
    """FFmpeg and its decoders, and a clip made here, read by the process that reads everybody's."""
    try:
        import av

        from rbft.clips.container import CODECS
    except ImportError as error:
        yield fault("clips", f"PyAV cannot be imported: {error}", "pip install --force-reinstall 'av>=15'")
        return
    missing = [name for name in CODECS if not _decodes(name)]
    said = f"FFmpeg {av.ffmpeg_version_info} with {len(CODECS) - len(missing)} of {len(CODECS)} decoders"
    if "h264" in missing:
        yield fault("decoders", f"{said}; without {', '.join(missing)}", "pip install --force-reinstall --no-cache av")
    elif missing:
        advice = "clips of these kinds cannot be read; PyAV from the registry (pip install av) brings all of them"
        yield note("decoders", f"{said}; without {', '.join(missing)}", advice)
    else:
        yield ok("decoders", said)
    yield _read_clip()


def _decodes(name: str) -> bool:
    import av.codec

    try:
        av.codec.Codec(name, "r")
    except av.codec.codec.UnknownCodecError:
        return False
    return True


def _read_clip() -> Finding:
    """Write a clip of 16 frames and have it read as any clip is."""
    from rbft.clips.child import Request
    from rbft.clips.pool import Reader
    from rbft.experiment import ClipLimits, Sampling
    from rbft.files import sha256_of
    from rbft.records import Grid

    reader = Reader()
    with tempfile.TemporaryDirectory(prefix="rbft-doctor-") as folder, contextlib.closing(reader):
        clip = Path(folder) / "clip.mp4"
        _write_clip(clip)
        reply = reader.ask(
            Request(path=str(clip), sha256=sha256_of(clip), sampling=Sampling(), grid=Grid(), limits=ClipLimits())
        )
    if reply.problem is not None:
        said = f"a clip made here cannot be read: {': '.join(reply.problem)}"
        return fault("reader", said, "look at the limits of this shell (ulimit -a) and at PyAV above")
    frames = reply.probe.num_frames if reply.probe else 0
    if frames != 16:
        return fault("reader", f"a clip of 16 frames is read as {frames}", "pip install --force-reinstall av")
    return ok("reader", "a clip made here is read by a bounded process")


def _write_clip(path: Path) -> None:
    import av
    import numpy as np

    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=8)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(16):
            image = np.full((48, 64, 3), number * 15, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
