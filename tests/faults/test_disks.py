"""Disks that are full, fail or cannot be written: a clean error, nothing half there, and the same command continues."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import pkgutil
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.commands import command
from tests.disks import ADVICE, FULL, PLACES, Disk

from rbft.clips.cache import FrameCache
from rbft.clips.frames import Frames
from rbft.errors import StoreError
from rbft.files import JsonlAppender, read_jsonl, require_room, sha256_of, write_text
from rbft.records import FramePlan, LossPoint
from rbft.store import is_sealed
from rbft.tiny.night_yard import LABEL_DEFINITIONS, write_night_yard

POINTS = [LossPoint(step=n, loss=1.0, learning_rate=0.5) for n in range(1, 2_000)]


def files_below(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} - {"ballast"}


# -- what rbft itself writes ---------------------------------------------------------------------------------------


def some_frames() -> tuple[FramePlan, Frames]:
    data = np.random.default_rng(0).integers(0, 256, (4, 280, 560, 3), dtype=np.uint8)
    plan = FramePlan(times_seconds=(0.0, 0.5, 1.0, 1.5), width=560, height=280, frames_per_second=2.0,
                     short_clip_policy="repeat-last")  # fmt: skip
    return plan, Frames(data, np.array([0.0, 0.5, 1.0, 1.5]))


def writes(root: Path) -> dict[str, tuple[Callable[[], object], Path, str]]:
    """How a report, rows and frames are written, where, and the bytes that they need as they are told."""
    text, (plan, frames) = "x" * 500_000, some_frames()
    cache = FrameCache(root / "cache")
    key = cache.write("ab" * 32, plan, frames)
    shutil.rmtree(cache.root)

    def append() -> None:
        with JsonlAppender(root / "rows.jsonl") as file:
            file.append(POINTS)

    return {
        "a report": (lambda: write_text(root / "report.html", text), root / "report.html", "0.5 MB"),
        "rows": (append, root / "rows.jsonl", "0.1 MB"),
        "frames": (lambda: cache.write("ab" * 32, plan, frames), cache.path(key), "1.9 MB"),
    }


@pytest.mark.parametrize("kind", ["a report", "rows", "frames"])
def test_a_full_disk_is_told_and_holds_nothing_half(kind: str, disk: Disk) -> None:
    write, path, needed = writes(disk.root)[kind]
    free = disk.free
    disk.fill(leave=40_000)
    before = disk.free
    with pytest.raises(StoreError) as caught:
        write()
    assert disk.free == pytest.approx(before, abs=free // 100)
    assert str(caught.value) == f"{path}: cannot be written: {FULL} ({needed} needed, 0.0 MB free). {ADVICE}"
    assert not {name for name in files_below(disk.root) if not name.endswith("rows.jsonl")}
    disk.clear()
    assert disk.free == pytest.approx(free, abs=free // 100)
    write()
    assert path.stat().st_size > 80_000


@pytest.mark.parametrize("disk", ["4m,nr_inodes=12"], indirect=True)
def test_no_room_for_another_file_is_told_as_the_system_tells_it(disk: Disk) -> None:
    with pytest.raises(StoreError) as caught:
        for number in range(20):
            write_text(disk.root / f"{number}.txt", "x")
    assert f": cannot be written: {FULL} (" in str(caught.value)
    assert str(caught.value).endswith(ADVICE)
    (disk.root / "0.txt").unlink()
    write_text(disk.root / "again.txt", "x")


def test_a_disk_that_cannot_be_written_is_told(disk: Disk) -> None:
    write, path, _ = writes(disk.root)["a report"]
    subprocess.run(["mount", "-o", "remount,ro", disk.root], check=True)
    with pytest.raises(StoreError) as caught:
        write()
    said = f"{os.strerror(errno.EROFS)}. Make it writable, or name another place with `output` or --out"
    assert str(caught.value) == f"{path}: cannot be written: {said}"


def test_room_is_asked_for_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def usage(path: Path) -> Any:
        asked.append(path)
        return shutil._ntuple_diskusage(total=10**12, used=0, free=2_500_000_000)  # type: ignore[attr-defined]

    monkeypatch.setattr("shutil.disk_usage", usage)
    folder = tmp_path / "not" / "there"
    require_room(folder, 2_500_000_000, "two saves")
    with pytest.raises(StoreError) as caught:
        require_room(folder, 2_500_000_001, "two saves")
    assert str(caught.value) == f"{folder}: no room for two saves: 2.5 GB needed, 2.5 GB free. {ADVICE}"
    assert asked == [tmp_path, tmp_path]


# -- devices that fail for a moment --------------------------------------------------------------------------------


class Failing:
    """Fails so many times with an error of the device, then does what it stands for."""

    def __init__(self, original: Callable[..., Any], times: int, code: int) -> None:
        self.original, self.left, self.code = original, times, code

    def __call__(self, *given: Any, **more: Any) -> Any:
        if self.left:
            self.left -= 1
            raise OSError(self.code, os.strerror(self.code))
        return self.original(*given, **more)


@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE])
@pytest.mark.parametrize("times", [1, 3, 4])
def test_a_failing_device_is_tried_three_times_more(
    code: int, times: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both ways: `fsync` of what is written, `open` of what is read; nothing is there twice, nothing half."""
    pauses: list[float] = []
    monkeypatch.setattr("time.sleep", pauses.append)
    path, rows = tmp_path / "a.txt", tmp_path / "a.jsonl"

    def failing(name: str, action: Callable[[], Any], fault: str | None = None) -> Any:
        pauses.clear()
        with monkeypatch.context() as patch:
            device = Failing(os.fsync if "fsync" in name else Path.open, times, code)
            patch.setattr(name, lambda *given, **more: device(*given, **more))
            if times < 4:
                result = action()
            else:
                with pytest.raises((StoreError, OSError)) as caught:
                    action()
                assert fault is None or str(caught.value) == fault
                result = None
        assert pauses == [0.2, 1.0, 5.0][:times]
        return result

    told = f"{os.strerror(code)}; look at the disk or the network share, and give the same command again"
    write_text(path, "old")
    failing("os.fsync", lambda: write_text(path, "new"), f"{path}: cannot be written: {told}")
    assert path.read_text() == ("new" if times < 4 else "old")
    assert [file.name for file in tmp_path.iterdir()] == ["a.txt"]
    with JsonlAppender(rows) as file:
        file.append(POINTS[:1])
        failing("os.fsync", lambda: file.append(POINTS[1:3]), f"{rows}: cannot be written: {told}")
        kept = POINTS[:3] if times < 4 else POINTS[:1]
        assert read_jsonl(rows, LossPoint) == kept
        file.append(POINTS[3:4])
    assert read_jsonl(rows, LossPoint) == [*kept, POINTS[3]]
    text, rows_text = path.read_bytes(), read_jsonl(rows, LossPoint)
    fault = f"{rows}: cannot be read: {told}"
    opened = [
        failing("pathlib.Path.open", lambda: sha256_of(path)),
        failing("pathlib.Path.open", lambda: read_jsonl(rows, LossPoint), fault),
    ]
    assert opened == ([hashlib.sha256(text).hexdigest(), rows_text] if times < 4 else [None, None])


def test_a_quota_is_told_without_what_the_disk_has_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", Failing(os.fsync, 2, errno.EDQUOT))
    path, rows = tmp_path / "a.txt", tmp_path / "rows.jsonl"
    with pytest.raises(StoreError) as caught:
        write_text(path, "x" * 50_000)
    assert str(caught.value) == f"{path}: cannot be written: Disk quota exceeded (0.1 MB needed). {ADVICE}"
    with pytest.raises(StoreError, match="Disk quota exceeded"), JsonlAppender(rows) as file:
        file.append(POINTS[:1])
    assert read_jsonl(rows, LossPoint) == []


def test_another_fault_is_not_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", pytest.fail)
    failing = Failing(os.fsync, 1, errno.ENOSPC)
    monkeypatch.setattr("os.fsync", failing)
    with pytest.raises(StoreError):
        write_text(tmp_path / "a.txt", "x")
    assert failing.left == 0


# -- nightly: the command ------------------------------------------------------------------------------------------


@pytest.mark.nightly
@pytest.mark.parametrize("disk", ["400m"], indirect=True)
def test_full_at_every_place_of_a_run_it_is_the_same_run(
    disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command meets a full disk in its frames, rationales, saves, child, predictions and report; then it ends."""
    clips = write_night_yard(tmp_path / "yard", num_train=12, num_test=4, seed=3, workers=1)
    settings = {
        "name": "full", "model": "embedded", "prompts": "brief", "labels": LABEL_DEFINITIONS, "clips": str(clips),
        "domain": "Night Yard Security Expert", "seeds": [0], "workers": 1, "arms": ["rb-ft"],
        "sampling": {"fps": 2, "min_pixels": 7056, "max_pixels": 7056},
        "rationales": {"max_new_tokens": 32, "batch_size": 4}, "evaluation": {"batch_size": 4, "resamples": 100},
        "training": {"batch_size": 4, "micro_batch_size": 4, "save_every_steps": 1},
    }  # fmt: skip
    (tmp_path / "full.yaml").write_text(json.dumps(settings), encoding="utf-8")

    def run(output: Path) -> int:
        capsys.readouterr()
        return command("run", str(tmp_path / "full.yaml"), f"output={json.dumps(str(output))}")

    assert run(tmp_path / "whole") == 0
    places = {
        "frames": ("", 0),
        "rationales": ("rbft.files.JsonlAppender.append", 1),
        "saved weights": (PLACES["weights of a save"], 2),
        "saved optimizer": (PLACES["optimizer of a save"], 1),
        "child": (PLACES["the child"], 1),
        "predictions": ("rbft.evaluation.predict.score_answers", 1),
        "report": ("rbft.runs.write_findings", 1),
    }
    for place, (method, at) in places.items():
        with monkeypatch.context() as patch:
            if place == "frames":
                disk.fill(leave=150_000)
            else:
                original, calls = pkgutil.resolve_name(method), []

                def filling(*given: Any, original: Any = original, calls: list[int] = calls, at: int = at) -> Any:
                    calls.append(1)
                    if len(calls) == at:
                        disk.fill(leave=2_000)
                    return original(*given)

                patch.setattr(method, filling)
            assert run(disk.root / "runs") == 1, place
            told = capsys.readouterr().err.splitlines()[-1]
            with capsys.disabled():
                print(f"\n{place}: {told}")
            assert told.startswith(f"rbft: {disk.root / 'runs'}"), place
            assert place not in ("rationales", "predictions") or f"/{place}/" in told
            assert f": cannot be written: {FULL} (" in told and told.endswith(ADVICE), place
            left = [f for f in disk.root.rglob("*") if f.name.endswith(".part") or f.name.endswith(".finished")]
            assert not left, place
            saves = list((disk.root / "runs" / "full" / "checkpoints").glob(".*.work/checkpoint-*"))
            assert all(is_sealed(save) for save in saves), place
        disk.clear()
    assert run(disk.root / "runs") == 0
    for kind in ("rationales/*.jsonl", "checkpoints/[!.]*/model.safetensors", "predictions/*.jsonl"):
        made, expected = (
            {str(path.relative_to(root)): path.read_bytes() for path in root.glob(kind)}
            for root in (disk.root / "runs" / "full", tmp_path / "whole" / "full")
        )
        assert made == expected, kind
