"""Clips with names that steer terminals, look like options or patterns, or hardly fit a file system: every verb works.

One run on ten such clips; then everything that takes a clip is asked about each of them.
"""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest
import yaml

from commands import command
from rbft.tiny.night_yard import LABEL_DEFINITIONS, write_night_yard

pytestmark = [pytest.mark.nightly, pytest.mark.usefixtures("one_thread")]

NAMES = (
    "é 日本.mp4", "🎬.mp4", "a b  c.mp4", "line\nbreak.mp4", "-dash.mp4", "frame%03d.mp4", "$(touch x).mp4",
    "back\\slash.mp4", "\x1b[31mred\x1b[0m.mp4", "x" * 251 + ".mp4",
)  # fmt: skip
BAD = "\x1b]0;title\x07 \x9b31m.mp4"
"""Of a clip without a byte, which is left out."""
SIZE = {"fps": 2, "min_pixels": 7056, "max_pixels": 7056}


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest of twelve clips, ten of them by the names above, and of one that cannot be read."""
    source = write_night_yard(tmp_path_factory.mktemp("yard"), num_train=6, num_test=6, seed=3)
    folder = tmp_path_factory.mktemp("clips")
    with source.open(newline="", encoding="utf-8") as file:
        rows = [{key: row[key] for key in ("path", "label", "split")} for row in csv.DictReader(file)]
    for number, row in enumerate(sorted(rows, key=lambda row: row["split"])):
        name = NAMES[number] if number < len(NAMES) else f"{number}.mp4"
        shutil.copy(source.parent / row["path"], folder / name)
        row["path"] = name
    (folder / BAD).touch()
    rows.append({"path": BAD, "label": rows[0]["label"], "split": "train"})
    with (folder / "clips.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["path", "label", "split"])
        writer.writeheader()
        writer.writerows(rows)
    return folder / "clips.csv"


@pytest.fixture(scope="module")
def run(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run on them, by the command."""
    folder = tmp_path_factory.mktemp("run")
    settings = {
        "name": "names", "clips": str(clips), "model": "embedded", "prompts": "brief", "labels": LABEL_DEFINITIONS,
        "arms": ["direct", "rb-ft"], "seeds": [0], "output": str(folder), "sampling": SIZE, "workers": 1,
        "evaluation": {"resamples": 200}, "on_bad_clip": "leave-out",
    }  # fmt: skip
    (folder / "names.yaml").write_text(yaml.safe_dump(settings))
    assert command("run", str(folder / "names.yaml")) == 0
    return folder / "names"


@pytest.fixture(scope="module")
def checkpoint(run: Path) -> str:
    return str(next((run / "checkpoints").glob("rb-ft*label*"), None) or sorted((run / "checkpoints").iterdir())[-1])


def is_plain(text: str) -> None:
    """No character of a name reaches a terminal or a page that does more than stand there."""
    assert "\x1b" not in text and "line\nbreak" not in text
    assert not [c for c in text if not c.isprintable() and c not in "\n\t\xa0\u202f\u2009"]


def test_a_run_keeps_every_clip_and_its_page_is_plain(run: Path, clips: Path) -> None:
    manifest = json.loads((run / "manifest.json").read_text())
    assert {Path(clip["path"]).name for clip in manifest["clips"]} >= set(NAMES) and len(manifest["clips"]) == 12
    page = (run / "report.html").read_text(encoding="utf-8")
    is_plain(page)
    assert "\\x1b]0;title\\x07 \\x9b31m" in page
    assert not (clips.parent / "x").exists()


def test_check(clips: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("check", str(clips), "--workers", "1") == 2
    is_plain(capsys.readouterr().out)
    assert command("check", str(clips), "--json", "--workers", "1") == 2
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {line["path"] for line in lines} >= set(NAMES)


def test_predict(
    checkpoint: str, clips: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [str(clips.parent / name) for name in NAMES]
    assert command("predict", checkpoint, *paths, "--rationale") == 0
    is_plain(capsys.readouterr().out)
    assert command("predict", checkpoint, *paths, "--json") == 0
    assert [json.loads(line)["path"] for line in capsys.readouterr().out.splitlines()] == paths
    monkeypatch.chdir(clips.parent)
    assert command("predict", checkpoint, "-dash.mp4") == 2
    assert "No such option" in capsys.readouterr().err
    assert command("predict", checkpoint, "--", *NAMES) == 0


def test_explain(checkpoint: str, clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [str(clips.parent / name) for name in NAMES]
    assert command("explain", checkpoint, *paths, "--out", str(tmp_path / "out")) == 0
    is_plain(capsys.readouterr().out)
    folders = sorted(folder.name for folder in (tmp_path / "out").iterdir())
    assert len(folders) == len(NAMES) and all(name.isprintable() for name in folders)
    told = [json.loads((folder / "attention.json").read_text())["path"] for folder in (tmp_path / "out").iterdir()]
    assert sorted(told) == sorted(paths)


def test_curate(clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = {
        "name": "made", "output": str(tmp_path), "clips": str(clips), "labels": LABEL_DEFINITIONS, "sampling": SIZE,
        "on_bad_clip": "leave-out", "workers": 1, "prompts": "brief",
        "engine": {"model": "embedded", "max_new_tokens": 64, "batch_size": 16},
    }  # fmt: skip
    (tmp_path / "made.yaml").write_text(yaml.safe_dump(settings))
    assert command("curate", str(tmp_path / "made.yaml")) == 0
    told = capsys.readouterr()
    is_plain(told.out + told.err)
    assert "\x1b" not in (tmp_path / "made" / "curation.html").read_text(encoding="utf-8")
    rows = [json.loads(line)["path"] for line in (tmp_path / "made" / "rl.jsonl").read_text().splitlines()]
    assert len(rows) == 6 and set(rows) < {*NAMES, "10.mp4", "11.mp4"}


def test_ask(clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        {"question_id": str(number), "path": name, "kind": "multiple choice", "text": "What is the subject?",
         "options": ["a dog", "a car"], "answer": "A"}
        for number, name in enumerate(NAMES)
    ]  # fmt: skip
    questions = tmp_path / "questions.jsonl"
    questions.write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = tmp_path / "out"
    assert command("ask", "embedded", str(questions), "--videos", str(clips.parent), "--out", str(out)) == 0
    told = capsys.readouterr()
    is_plain(told.out + told.err)
    answers = [json.loads(line) for line in (out / "answers.jsonl").read_text().splitlines()]
    assert len(answers) == len(NAMES)
