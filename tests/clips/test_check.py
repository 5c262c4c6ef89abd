"""`rbft check`: the exit code, the exact keys, the table, the sentence."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from rbft.clips.check import CheckResult, check, check_experiment, render_table, to_json_lines
from rbft.experiment import ClipLimits, Experiment, Sampling, load_experiment
from rbft.records import Grid
from videos import picture, write_clip

Make = Callable[..., Path]
KEYS = [
    "clip_id", "path", "status", "reason", "duration_seconds", "width", "height", "num_frames", "average_fps", "codec",
    "sampled_frames", "visual_tokens",
]  # fmt: skip


def checked(source: Path, **how: object) -> CheckResult:
    settings = {"labels": {}, "sampling": Sampling(), "grid": Grid(), "limits": ClipLimits(), "workers": 1, **how}
    return check(source, **settings)  # type: ignore[arg-type]


def table(result: CheckResult, width: int = 200) -> str:
    out = io.StringIO()
    render_table(result, Console(file=out, width=width))
    return out.getvalue()


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two labels of three clips each."""
    root = tmp_path_factory.mktemp("folders")
    for number in range(6):
        path = root / ("still", "moving")[number % 2] / f"{number}.mp4"
        path.parent.mkdir(exist_ok=True)
        write_clip(path, [picture(20 * number + i) for i in range(10)])
    return root


def test_sound_clips(folders: Path) -> None:
    result = checked(folders)
    assert result.exit_code == 0
    assert result.summary == "6 clips, 2 labels: every clip can be read, and a run could start."
    lines = [json.loads(line) for line in to_json_lines(result).splitlines()]
    assert all(list(line) == KEYS for line in lines) and len(lines) == 6
    assert lines[0] == {
        "clip_id": "moving/1", "path": "moving/1.mp4", "status": "ok", "reason": None, "duration_seconds": 1.0,
        "width": 64, "height": 48, "num_frames": 10, "average_fps": 10.0, "codec": "h264", "sampled_frames": 4,
        "visual_tokens": 2 * 10 * 14,
    }  # fmt: skip
    text = table(result)
    for part in ("moving/1", "4 of 392x280", "280", "6 clips, 0.1 minutes, 24 sampled frames, 1680 visual tokens"):
        assert part in text


def test_bad_clips_and_faults(folders: Path, tmp_path: Path) -> None:
    for path in folders.rglob("*.mp4"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "bad\x1b[31m.mp4").write_bytes(b"")
    rows = ["path,label", "0.mp4,a", "1.mp4,a", "2.mp4,b", "3.mp4,b", "../x.mp4,a", "bad\x1b[31m.mp4,b"]
    (tmp_path / "clips.csv").write_text("\n".join(rows) + "\n")
    result = checked(tmp_path / "clips.csv", labels={"a": "", "b": "", "c": ""})
    assert result.exit_code == 2
    assert result.summary == (
        "A run would stop: 1 of 6 clips cannot be used (a run goes on without them under leave-out); "
        "2 faults to mend first."
    )
    lines = [json.loads(line) for line in to_json_lines(result).splitlines()]
    assert all(list(line) == KEYS for line in lines) and len(lines) == 6
    assert [line["status"] for line in lines] == ["ok"] * 4 + ["error"] * 2
    assert lines[4]["reason"] == "empty: the file has no bytes" and lines[4]["codec"] is None
    assert lines[5]["reason"].startswith("outside: path '../x.mp4' leads outside")
    text = table(result)
    assert "\x1b" not in text and "bad\\x1b[31m" in text
    assert "fault: label 'c' has no clip that can be used" in text
    assert all(name in table(result, width=80) for name in ("0", "empty"))


NAMES = (
    "é 日本.mp4", "🎬.mp4", "a b  c.mp4", "line\nbreak.mp4", "-dash.mp4", "frame%03d.mp4", "$(touch x).mp4",
    "back\\slash.mp4", "\x1b[31mred.mp4", "x" * 251 + ".mp4",
)  # fmt: skip


def test_names_of_every_kind_are_read_and_none_steers_a_terminal(clip: Path, tmp_path: Path) -> None:
    for name in NAMES:
        (tmp_path / name).write_bytes(clip.read_bytes())
    (tmp_path / "\x1b]0;title\x07 \u202e.mp4").touch()
    (tmp_path / "\x1b[2J").mkdir()
    (tmp_path / "\x1b[2J" / "\x1b[2Jdeep.mp4").touch()
    result = checked(tmp_path)
    read = {i.row.listed for i in result.inspections if i.problem is None}
    assert read == set(NAMES) and len(result.bad) == 2
    for width in (60, 200):
        text = table(result, width)
        assert not [c for c in text if not c.isprintable() and c != "\n"]
        assert "line\nbreak" not in text
    assert "\\x1b]0;title\\x07 \\u202e.mp4: empty: the file has no bytes" in table(result)
    assert "\x1b" not in to_json_lines(result)
    (tmp_path / "clips.csv").write_text("path,\x1b[31mcolour\n-dash.mp4,red\n")
    text = table(checked(tmp_path / "clips.csv"))
    assert "\x1b" not in text and "ignored: \\x1b[31mcolour" in text


@pytest.mark.skipif(sys.platform != "linux", reason="names are bytes there")
def test_names_that_are_not_utf8_are_refused_in_words(clip: Path, tmp_path: Path) -> None:
    """No JSON and no table can hold them; nothing is guessed."""
    for label in "ab":
        (tmp_path / label).mkdir()
        (tmp_path / label / f"{label}.mp4").write_bytes(clip.read_bytes() + label.encode())
    odd = tmp_path / "a" / os.fsdecode(b"caf\xe9.mp4")
    odd.write_bytes(clip.read_bytes())
    result = checked(tmp_path)
    [fault] = [fault for fault in result.faults if "UTF-8" in fault]
    assert fault.endswith(
        r"a/caf\udce9.mp4: path 'a/caf\udce9.mp4' is not UTF-8 text; rename the file or its folder, "
        "then list it by its new name"
    )
    [bad] = checked(odd).bad
    assert bad.problem == (
        "unreadable",
        "the name holds bytes that are not UTF-8 text; rename the file or its folder",
    )
    (tmp_path / "clips.jsonl").write_text('{"path": "a/a.mp4", "rationale": "\\ud800"}\n{"path": "\\udce9.mp4"}\n')
    faults = checked(tmp_path / "clips.jsonl").faults
    assert r"rationale '\ud800' is not UTF-8 text; write it anew" in "\n".join(faults)
    assert r"path '\udce9.mp4' is not UTF-8 text; rename the file" in "\n".join(faults)
    assert not [fault for fault in faults if "has no path" in fault]


def test_duplicates_and_leaks_are_shown(folders: Path, tmp_path: Path) -> None:
    for path in folders.rglob("*.mp4"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "copy.mp4").write_bytes((tmp_path / "0.mp4").read_bytes())
    rows = ["path,label,split", "0.mp4,a,train", "1.mp4,a,test", "2.mp4,b,train", "3.mp4,b,test", "copy.mp4,a,test"]
    (tmp_path / "clips.csv").write_text("\n".join(rows) + "\n")
    result = checked(tmp_path / "clips.csv")
    assert result.exit_code == 2
    assert "leak: 0.mp4 (row 2) and copy.mp4 (row 6) hold the same bytes, in train and in test" in table(result)


def test_one_file_and_a_heap_of_files(clip: Path, tmp_path: Path) -> None:
    result = checked(clip)
    assert result.exit_code == 0 and result.summary == "1 clip, no labels: every clip can be read."
    (tmp_path / "deep").mkdir()
    for name in ("a.mp4", "deep/b.mp4"):
        (tmp_path / name).write_bytes(clip.read_bytes())
    (tmp_path / "notes.txt").touch()
    heap = checked(tmp_path)
    assert [i.row.listed for i in heap.inspections] == ["a.mp4", "deep/b.mp4"] and heap.exit_code == 0
    assert "1 file is not a video by its name" in table(heap)
    assert checked(tmp_path / "absent.csv").exit_code == 2
    (tmp_path / "empty").mkdir()
    assert "holds no video" in table(checked(tmp_path / "empty"))


def test_a_link_out_of_a_heap_is_not_followed(clip: Path, tmp_path: Path) -> None:
    heap = tmp_path / "heap"
    heap.mkdir()
    (heap / "a.mp4").write_bytes(clip.read_bytes())
    (heap / "link.mp4").symlink_to(clip)
    (heap / "inside.mp4").symlink_to(heap / "a.mp4")
    result = checked(heap)
    assert result.exit_code == 2
    assert {i.row.listed for i in result.inspections} == {"a.mp4", "inside.mp4"}
    assert result.faults == (
        f"link.mp4: path 'link.mp4' leads outside {heap.resolve()}; move the clip there, or allow it with "
        "allow_outside: true (--allow-outside)",
    )
    assert [json.loads(line)["reason"].split(":")[0] for line in to_json_lines(result).splitlines()[2:]] == ["outside"]
    assert checked(heap, allow_outside=True).exit_code == 0
    (heap / "circle.mp4").symlink_to(heap / "circle.mp4")
    [bad] = checked(heap, allow_outside=True).bad
    assert bad.problem is not None and bad.problem[1].endswith("Too many levels of symbolic links")


def test_many_good_clips_are_counted_not_all_shown(clip: Path, tmp_path: Path) -> None:
    (tmp_path / "clip.mp4").write_bytes(clip.read_bytes())
    lines = "".join(json.dumps({"path": "clip.mp4", "start": i / 100, "end": 2}) + "\n" for i in range(45))
    (tmp_path / "clips.jsonl").write_text(lines)
    assert "and 5 more clips without a problem (--json lists all)" in table(checked(tmp_path / "clips.jsonl"))


def test_many_bad_clips_are_ten_of_each_reason_and_a_count(tmp_path: Path) -> None:
    for number in range(11):
        (tmp_path / f"empty{number}.mp4").touch()
    names = [f"gone{number}.mp4" for number in range(30)] + [f"empty{number}.mp4" for number in range(11)]
    (tmp_path / "clips.csv").write_text("path\n" + "\n".join(names) + "\n")
    result = checked(tmp_path / "clips.csv")
    lines = [line.strip() for line in table(result).splitlines()]
    assert [line for line in lines if line.startswith("and ")] == [
        "and 20 more (missing); --json lists every clip",
        "and 1 more (empty); --json lists every clip",
    ]
    assert sum(line.endswith("missing: there is no such file") for line in lines) == 10
    assert sum(line.startswith("gone") and line.endswith(" missing") for line in lines) == 10
    assert sum(line.startswith("empty") and line.endswith(" empty") for line in lines) == 10
    assert len(to_json_lines(result).splitlines()) == 41


# -- as an experiment would ----------------------------------------------------------------------------------------


def asked(folder: Path, *overrides: str) -> Experiment:
    path = folder / "home.yaml"
    path.write_text(f"clips: {json.dumps(str(folder))}\nmodel: owner/name\nworkers: 1\n")
    return load_experiment(path, overrides)


def test_an_experiments_clips_are_read_by_its_sampling_labels_limits_and_grid(folders: Path) -> None:
    sampling = ("sampling.fps=8", "sampling.min_pixels=784", "sampling.max_pixels=784")
    result = check_experiment(asked(folders, *sampling, "split.test_share=0.4"), Grid(patch_size=8, merge_size=1))
    assert result.exit_code == 0
    assert {i.plan.num_frames for i in result.inspections if i.plan} == {8}
    assert {i.plan.width * i.plan.height for i in result.inspections if i.plan} == {24 * 32}
    assert sorted(result.splits.values()).count("test") == 2
    assert result.notes == ()
    wrong = check_experiment(asked(folders, "labels=[still, movingg]"), Grid())
    assert wrong.exit_code == 2
    assert "label 'moving' is not in the list; did you mean 'movingg'?" in wrong.faults[0]
    short = check_experiment(asked(folders, "limits.frames=5"), Grid())
    assert {i.problem.reason for i in short.bad if i.problem} == {"too_long"}


def test_a_model_that_is_not_here_is_a_note(folders: Path) -> None:
    result = check_experiment(asked(folders), None)
    assert result.exit_code == 0
    assert result.notes == (
        "model 'owner/name' is not on this machine yet: visual tokens are counted by the frame grid of Qwen2.5-VL",
    )


def test_bad_clips_that_an_experiment_leaves_out_do_not_stop_it(folders: Path, tmp_path: Path) -> None:
    for path in folders.rglob("*.mp4"):
        (tmp_path / path.parent.name).mkdir(exist_ok=True)
        (tmp_path / path.parent.name / path.name).write_bytes(path.read_bytes())
    (tmp_path / "still" / "empty.mp4").touch()
    assert check_experiment(asked(tmp_path), Grid()).exit_code == 2
    result = check_experiment(asked(tmp_path, "on_bad_clip=leave-out"), Grid())
    assert result.exit_code == 0
    assert result.summary == "7 clips, 2 labels: a run could start without 1 of them."


def test_an_experiment_without_a_label_cannot_run(clip: Path, tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(clip.read_bytes())
    (tmp_path / "clips.csv").write_text("path\na.mp4\n")
    result = check_experiment(asked(tmp_path, f"clips={json.dumps(str(tmp_path / 'clips.csv'))}"), Grid())
    assert result.exit_code == 2
    assert result.faults == (f"{tmp_path / 'clips.csv'}: no clip has a label; fill a column named `label`",)
