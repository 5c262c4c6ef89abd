"""A clip whose bytes change between two runs of a directory stops the run, or is a new clip, and the run says so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from commands import command
from rbft.clips.changes import changed_clips
from rbft.files import read_record
from rbft.records import Clip, Manifest
from rbft.tiny.night_yard import LABEL_DEFINITIONS, write_night_yard

pytestmark = pytest.mark.usefixtures("one_thread")


def manifest(**sha256: str) -> Manifest:
    clips = [
        Clip(clip_id=c, path=f"/v/{c}.mp4", sha256=s, duration_seconds=1, split="train") for c, s in sha256.items()
    ]
    return Manifest(labels={"a": ""}, clips=tuple(clips))


def test_changed_clips_are_counted_and_the_first_is_named() -> None:
    before = manifest(x="1", y="2", z="3")
    for use in (False, True):
        assert changed_clips(before, manifest(x="1", y="2", new="9"), use=use) is None
    told = "2 clips changed since the last run of this directory (first: /v/y.mp4); "
    assert changed_clips(before, manifest(x="1", y="5", z="6"), use=True) == told + (
        "frames, texts, checkpoints and predictions of the earlier bytes are not used, and what needs them is made "
        "again"
    )
    assert changed_clips(before, manifest(x="1", y="5", z="6"), use=False) == told + (
        "put the earlier bytes back, give this run another `name`, or let what needs them be made again from the new "
        "ones with on_changed_clip: use"
    )
    one = changed_clips(before, manifest(x="0"), use=False)
    assert one is not None and one.startswith("1 clip changed since")


def test_a_run_on_changed_clips_stops_or_says_so_and_mixes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clips = write_night_yard(tmp_path / "yard", num_train=4, num_test=4, workers=1)
    experiment = tmp_path / "yard.yaml"
    experiment.write_text(
        f"clips: {json.dumps(str(clips))}\nmodel: embedded\nlabels: {json.dumps(LABEL_DEFINITIONS)}\n"
        f"arms: [zero-shot]\nseeds: [0]\noutput: {json.dumps(str(tmp_path / 'runs'))}\nworkers: 1\n"
        "evaluation: {generate: false, resamples: 100}\n"
    )
    runs = tmp_path / "runs" / "yard"
    assert command("run", str(experiment)) == 0
    assert "changed since" not in capsys.readouterr().err
    before = read_record(runs / "manifest.json", Manifest)
    answers = {path.name for path in (runs / "predictions").iterdir()}
    changed = Path(before.of("test")[0].path)
    data, record = changed.read_bytes(), (runs / "manifest.json").read_bytes()
    changed.write_bytes(data + b"\0\0\0\x08free")
    assert command("run", str(experiment)) == 2
    assert f"1 clip changed since the last run of this directory (first: {changed}); put" in capsys.readouterr().err
    assert (runs / "manifest.json").read_bytes() == record
    assert command("check", str(experiment), "--json") == 2, "check says what run says"
    assert f"rbft: fault: 1 clip changed since the last run of this directory (first: {changed}); put" in (
        capsys.readouterr().err
    )
    assert command("run", str(experiment), "on_changed_clip=use") == 0
    assert f"note: 1 clip changed since the last run of this directory (first: {changed})" in capsys.readouterr().err
    after = read_record(runs / "manifest.json", Manifest)
    assert [a.sha256 == b.sha256 for a, b in zip(before.clips, after.clips, strict=True)].count(False) == 1
    again = {path.name for path in (runs / "predictions").iterdir()}
    assert answers < again, "predictions of the earlier bytes are kept beside, under a key of their own"
    assert command("run", str(experiment)) == 0, "the new bytes are known now"
    assert "changed since" not in capsys.readouterr().err
