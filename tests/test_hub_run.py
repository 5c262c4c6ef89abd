"""A run on a model of the hub: the commit is resolved once, recorded, and noted where nothing pins it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from commands import command
from rbft.models.sources import resolve
from videos import picture, write_clip

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def test_a_run_says_which_commit_of_the_hub_it_took(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    snapshot = tmp_path / "models--some--model" / "snapshots" / COMMIT
    shutil.copytree(resolve("embedded").folder, snapshot)
    asked: list[str | None] = []

    def download(name: str, **how: Any) -> str:
        assert name == "some/model"
        asked.append(how["revision"])
        return str(snapshot)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    rows = []
    for number in range(4):
        write_clip(tmp_path / f"{number}.mp4", [picture(3 * number + i) for i in range(8)])
        rows.append(f"{number}.mp4,{'ab'[number % 2]},{('train', 'test')[number // 2]}\n")
    (tmp_path / "clips.csv").write_text("path,label,split\n" + "".join(rows), encoding="utf-8")
    document = {
        "name": "hub", "clips": "clips.csv", "model": "some/model", "labels": ["a", "b"], "arms": ["zero-shot"],
        "seeds": [0], "workers": 1, "output": str(tmp_path / "runs"), "rationales": {"max_new_tokens": 8},
        "evaluation": {"resamples": 100}, "sampling": {"min_pixels": 7056, "max_pixels": 7056},
    }  # fmt: skip
    (tmp_path / "x.yaml").write_text(json.dumps(document), encoding="utf-8")
    note = (
        f"some/model is taken from the hub at {COMMIT}, as its newest commit; the same command would begin anew with "
        f"another commit: `revision: {COMMIT}` keeps this one"
    )
    assert command("run", str(tmp_path / "x.yaml")) == 0
    assert f"note: {note}\n" in capfd.readouterr().err
    report = json.loads((tmp_path / "runs" / "hub" / "report.json").read_text(encoding="utf-8"))
    assert note in report["notes"]
    assert report["fingerprints"]["base"] == resolve("some/model").fingerprint()
    assert command("run", str(tmp_path / "x.yaml"), f"revision={COMMIT}") == 0
    assert "is taken from the hub" not in capfd.readouterr().err
    report = json.loads((tmp_path / "runs" / "hub" / "report.json").read_text(encoding="utf-8"))
    assert note not in report["notes"]
    assert asked == [None, None, COMMIT]
