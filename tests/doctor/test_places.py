"""Output, locks, the cache of models, a model that is whole or not, decoders and a clip: every message by its text."""

from __future__ import annotations

import errno
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import av
import pytest
from huggingface_hub import constants

from rbft.clips.child import Reply
from rbft.clips.pool import Reader
from rbft.doctor import places
from rbft.doctor.places import clip_findings, missing_weights, model_finding, model_findings, output_findings
from rbft.models.sources import resolve

GIB = 2**30
EMBEDDED = resolve("embedded").folder


def free(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr(places.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(size, 0, size))


def test_an_output_folder_that_is_to_be_made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    free(monkeypatch, 64 * GIB)
    space, locks = output_findings(tmp_path / "a" / "runs")
    where = f"{tmp_path}/a/runs, with frames in {tmp_path}/a/runs/cache"
    assert (space.state, space.found) == ("ok", f"{where}: 64.0 GiB free")
    assert (locks.state, locks.found) == ("ok", f"hold in {tmp_path}")
    assert list(tmp_path.iterdir()) == [], "nothing is left behind"


@pytest.mark.parametrize(
    ("size", "state", "advice"),
    [
        (3 * GIB, "note", "enough for small models; every checkpoint of a 7B model takes about 16 GB"),
        (GIB // 2, "fault", "free 1 GiB or more; the embedded model's demo takes less, a 7B model far more"),
    ],
)
def test_a_disk_that_is_nearly_full(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, size: int, state: str, advice: str
) -> None:
    free(monkeypatch, size)
    space = next(output_findings(tmp_path))
    assert (space.state, space.advice) == (state, advice)
    assert space.found.endswith(f"cache: {size / GIB:.1f} GiB free")


def test_a_disk_without_inodes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    free(monkeypatch, GIB)
    status = SimpleNamespace(f_files=10, f_favail=0)
    monkeypatch.setattr(places.os, "statvfs", lambda _: status)
    space = next(output_findings(tmp_path))
    assert (space.state, space.advice) == ("fault", "remove files, or take another disk")
    assert space.found.endswith(": no file can be added (no inodes)")


def test_an_output_that_is_a_file_or_cannot_be_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("")
    [finding] = output_findings(tmp_path / "runs" / "mine")
    assert (finding.state, finding.found) == ("fault", f"{tmp_path}/runs is a file")
    assert finding.advice == "name a folder with --output, and as `output` of the experiment"

    def refused(**_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(places.tempfile, "TemporaryDirectory", refused)
    [finding] = output_findings(tmp_path)
    assert (finding.state, finding.found) == (
        "fault", f"nothing can be written below {tmp_path}: Read-only file system"
    )  # fmt: skip
    assert finding.advice == "free it, or name a folder with --output"


def test_locks_that_do_not_hold(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("rbft.files._lock", lambda _: None)
    _, locks = output_findings(tmp_path)
    assert (locks.state, locks.advice) == ("note", "start one command at a time in a run's folder")
    assert locks.found == f"do not hold in {tmp_path} (a network file system without locks?)"


# -- models --------------------------------------------------------------------------------------------------------


def test_the_cache_of_models_and_the_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    free(monkeypatch, 64 * GIB)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    cache, network = model_findings(None, None)
    assert (cache.state, cache.found) == ("ok", f"{tmp_path}/hub: 64.0 GiB free")
    assert network.found == "asked only for models that are not on this machine; HF_HUB_OFFLINE=1 forbids it"
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(places.os, "access", lambda *_: False)
    cache, network, model = model_findings("embedded", None)
    assert (cache.state, cache.advice) == ("note", "set HF_HOME to fetch others")
    assert cache.found == f"{tmp_path}/hub cannot be written to; models that are in it can be used"
    assert network.found == "HF_HUB_OFFLINE is set: models are taken from this machine alone"
    assert model.state == "ok"


def test_a_file_in_the_place_of_the_cache_of_models(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "file" / "hub"))
    cache, _ = model_findings(None, None)
    assert (cache.state, cache.advice) == ("fault", "set HF_HOME to a folder, there or to be made")
    assert cache.found == f"{tmp_path}/file/hub cannot be made: {tmp_path}/file is no folder"


def test_the_embedded_model_is_whole() -> None:
    finding = model_finding("embedded", None, offline=True)
    size = (EMBEDDED / "model.safetensors").stat().st_size / 1e9
    assert (finding.state, finding.found) == ("ok", f"embedded: whole in {EMBEDDED}, {size:.2f} GB of weights")


def hub(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Path:
    """A cache of the hub with one model of two parts, of which the first alone is there."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    monkeypatch.setattr("huggingface_hub._snapshot_download.constants.HF_HUB_CACHE", str(folder))
    model = folder / "models--some--model"
    snapshot = model / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text("a" * 40)
    shutil.copy(EMBEDDED / "config.json", snapshot)
    index = {"weight_map": {"one": "model-1.safetensors", "two": "model-2.safetensors"}}
    (snapshot / "model.safetensors.index.json").write_text(json.dumps(index))
    (snapshot / "model-1.safetensors").write_bytes(tensors(16))
    return snapshot


def tensors(size: int, length: int | None = None) -> bytes:
    header = json.dumps({"x": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    return len(header).to_bytes(8, "little") + header + bytes(size if length is None else length)


def test_a_model_of_the_hub_whole_torn_or_absent(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    snapshot = hub(monkeypatch, tmp_path)
    said = f"some/model: not whole in {snapshot}: model-2.safetensors is missing"
    torn = model_finding("some/model", None, offline=False)
    assert (torn.state, torn.found, torn.advice) == ("note", said, "a run fetches what is missing")
    torn = model_finding("some/model", None, offline=True)
    assert (torn.state, torn.found, torn.advice) == (
        "fault", said, "copy these files again from where the model comes from"
    )  # fmt: skip
    (snapshot / "model-2.safetensors").write_bytes(tensors(100, 40))
    torn = model_finding(str(snapshot), None, offline=False)
    whole = len(tensors(100))
    assert (torn.state, torn.found) == (
        "fault", f"{snapshot}: not whole in {snapshot}: model-2.safetensors has {whole - 60} of {whole} bytes"
    )  # fmt: skip
    (snapshot / "model-2.safetensors").write_bytes(tensors(100))
    assert model_finding("some/model", "a" * 40, offline=True).state == "ok"
    absent = model_finding("other/model", None, offline=False)
    assert (absent.state, absent.found, absent.advice) == (
        "note", "other/model: not on this machine", "a run fetches it; ahead of that: hf download other/model"
    )  # fmt: skip
    absent = model_finding("other/model", None, offline=True)
    assert (absent.state, absent.found, absent.advice) == (
        "fault", "other/model: not on this machine, and HF_HUB_OFFLINE forbids fetching it",
        "where there is a network: hf download other/model; then copy the cache here, or its folder",
    )  # fmt: skip


def test_a_name_that_is_none() -> None:
    finding = model_finding("no name/at all/", None, offline=False)
    assert (finding.state, finding.found) == (
        "fault", "'no name/at all/' is neither a folder here nor a Hugging Face name (owner/name)"
    )  # fmt: skip
    assert finding.advice == "name another model, or take its files anew from where they come from"
    finding = model_finding("", None, offline=False)
    assert (finding.state, finding.found) == (
        "fault", "the model's name is empty; give a folder, a Hugging Face name, or `embedded`"
    )  # fmt: skip


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", ["model.safetensors is damaged"]),
        ((2**63).to_bytes(8, "little"), ["model.safetensors is damaged"]),
        (b"\2\0\0\0\0\0\0\0[]", ["model.safetensors is damaged"]),
        (tensors(4) + b"more", [f"model.safetensors has {len(tensors(4)) + 4} of {len(tensors(4))} bytes"]),
        (tensors(4), []),
    ],
)
def test_weights_are_told_whole_by_their_header(tmp_path: Path, content: bytes, said: list[str]) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    assert missing_weights(tmp_path) == said


def test_no_weights_and_an_index_that_is_none(tmp_path: Path) -> None:
    assert missing_weights(tmp_path) == ["*.safetensors is missing"]
    (tmp_path / "model.safetensors.index.json").write_text("[]")
    assert missing_weights(tmp_path) == ["model.safetensors.index.json cannot be read (TypeError)"]


# -- clips ---------------------------------------------------------------------------------------------------------


def test_a_clip_is_made_and_read() -> None:
    decoders, reader = clip_findings()
    assert (decoders.state, decoders.found) == ("ok", f"FFmpeg {av.ffmpeg_version_info} with 25 of 25 decoders")
    assert (reader.state, reader.found) == ("ok", "a clip made here is read by a bounded process")


@pytest.mark.parametrize(
    ("missing", "state", "advice"),
    [
        ("h264", "fault", "pip install --force-reinstall --no-cache av"),
        ("vvc", "note", "clips of these kinds cannot be read; PyAV from the registry (pip install av) brings all of "
         "them"),
    ],
)  # fmt: skip
def test_an_ffmpeg_without_a_decoder(monkeypatch: pytest.MonkeyPatch, missing: str, state: str, advice: str) -> None:
    has = places._decodes
    monkeypatch.setattr(places, "_decodes", lambda name: name != missing and has(name))
    monkeypatch.setattr(places, "_read_clip", lambda: None)
    decoders, _ = clip_findings()
    assert (decoders.state, decoders.advice) == (state, advice)
    assert decoders.found.endswith(f"with 24 of 25 decoders; without {missing}")


def test_a_decoder_that_is_none() -> None:
    assert places._decodes("h264")
    assert not places._decodes("no-such-codec")


def test_a_reader_that_cannot_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Reader, "ask", lambda *_: Reply(problem=("unreadable", "the reader stopped: Killed")))
    finding = places._read_clip()
    assert (finding.state, finding.found, finding.advice) == (
        "fault", "a clip made here cannot be read: unreadable: the reader stopped: Killed",
        "look at the limits of this shell (ulimit -a) and at PyAV above",
    )  # fmt: skip
    monkeypatch.setattr(Reader, "ask", lambda *_: Reply())
    finding = places._read_clip()
    assert (finding.state, finding.found, finding.advice) == (
        "fault", "a clip of 16 frames is read as 0", "pip install --force-reinstall av"
    )  # fmt: skip
