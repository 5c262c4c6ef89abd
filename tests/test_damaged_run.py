"""A finished run whose files are damaged, one at a time: the same command names the file, and what it says helps."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from commands import command
from rbft.files import MAKE_AGAIN, MAKE_ROWS_AGAIN, WITHOUT_LOG, read_jsonl
from rbft.records import Prediction
from rbft.store import TRAIN_AGAIN, read_card
from rbft.tiny.night_yard import LABEL_DEFINITIONS, write_night_yard

pytestmark = pytest.mark.usefixtures("one_thread")

Lines = pytest.CaptureFixture[str]
SETTINGS = {
    "name": "yard", "model": "embedded", "prompts": "brief", "domain": "Night Yard Security Expert",
    "labels": LABEL_DEFINITIONS, "arms": ["zero-shot", "rb-ft"], "seeds": [0], "workers": 1,
    "sampling": {"fps": 2, "min_pixels": 7056, "max_pixels": 7056},
    "rationales": {"max_new_tokens": 64, "batch_size": 8},
    "training": {"learning_rate": 3e-4, "micro_batch_size": 8, "batch_size": 8, "gradient_checkpointing": False},
    "evaluation": {"batch_size": 8, "resamples": 100, "generate": False},
}  # fmt: skip
NO_JSON = "line: Invalid JSON: expected value at line 1 column 1"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a settings file and of the run that it asked for: 6 training clips and 4 test clips."""
    folder = tmp_path_factory.mktemp("whole")
    clips = write_night_yard(folder / "clips", num_train=6, num_test=4, seed=3)
    (folder / "yard.yaml").write_text(json.dumps(SETTINGS | {"clips": str(clips)}), encoding="utf-8")
    assert run(folder) == 0
    return folder


@pytest.fixture
def made(whole: Path, tmp_path: Path) -> Path:
    """A copy of that folder."""
    return Path(shutil.copytree(whole, tmp_path / "copy", ignore=shutil.ignore_patterns("clips")))


def run(folder: Path, *settings: str) -> int:
    return command("run", str(folder / "yard.yaml"), f"output={json.dumps(str(folder / 'runs'))}", *settings)


def first(made: Path, pattern: str) -> Path:
    return sorted((made / "runs" / "yard").glob(pattern))[0]


@pytest.mark.parametrize(
    ("pattern", "kind", "step"),
    [
        ("manifest.json", "Manifest", f"{MAKE_AGAIN}, as the clips are now"),
        ("memory.json", "MemoryPlan", MAKE_AGAIN),
    ],
)
def test_a_damaged_record_moved_away_is_made_again(
    pattern: str, kind: str, step: str, made: Path, capsys: Lines
) -> None:
    path = first(made, pattern)
    before = path.read_bytes()
    path.write_text("garbage")
    assert run(made) == 1
    told = f"rbft: {path}: not a {kind} of this version: {NO_JSON}; {step}"
    assert capsys.readouterr().err.splitlines()[-1] == told
    path.unlink()
    assert run(made) == 0
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("pattern", "kind"), [("predictions/*.jsonl", "Prediction"), ("rationales/*.jsonl", "Rationale")]
)
def test_a_damaged_line_deleted_or_its_file_moved_away_is_made_again(
    pattern: str, kind: str, made: Path, capsys: Lines
) -> None:
    path = first(made, pattern)
    before = path.read_text().splitlines()
    path.write_text("".join(f"{line}\n" for line in [before[0], "garbage", *before[2:]]))
    assert run(made) == 1
    told = f"rbft: {path}:2: not a {kind} of this version: {NO_JSON}; delete the line, or {MAKE_ROWS_AGAIN}"
    assert capsys.readouterr().err.splitlines()[-1] == told
    path.write_text("".join(f"{line}\n" for line in [before[0], *before[2:]]))
    assert run(made) == 0
    assert [json.loads(line)["clip_id"] for line in path.read_text().splitlines()] == [
        json.loads(line)["clip_id"] for line in [before[0], *before[2:], before[1]]
    ]
    path.unlink()
    assert run(made) == 0
    assert path.read_text().splitlines() == before


def test_a_damaged_log_moved_away_leaves_a_report_without_its_curve(made: Path, capsys: Lines) -> None:
    path = first(made, "logs/*/losses.jsonl")
    path.write_text("garbage\n")
    assert run(made) == 1
    told = f"rbft: {path}:1: not a LossPoint of this version: {NO_JSON}; delete the line, or {WITHOUT_LOG}"
    assert capsys.readouterr().err.splitlines()[-1] == told
    path.unlink()
    assert run(made) == 0


def test_damaged_times_stop_nothing_and_the_report_says_so(made: Path) -> None:
    path, root = made / "runs" / "yard" / "timing.jsonl", made / "runs" / "yard"
    lines = path.read_text().splitlines()
    path.write_bytes(b"".join([b"garbage\n", *[line.encode() + b"\n" for line in lines[1:]], b"\xff\0\n"]))
    timing = json.loads((root / "report.json").read_text())["timing"]
    assert run(made) == 0
    report = json.loads((root / "report.json").read_text())
    assert f"timing.jsonl, damaged in line 1, {len(lines) + 1}: the times are without that" in report["notes"]
    del timing[json.loads(lines[0])["step"]]
    assert report["timing"] == timing


def test_the_settings_of_a_run_that_are_no_text_are_written_anew(made: Path) -> None:
    path = first(made, "experiment.json")
    assert run(made) == 0
    before = path.read_bytes()
    path.write_bytes(b"\xff\xfe")
    assert run(made) == 0
    assert path.read_bytes() == before


def test_predictions_under_the_name_of_others_are_refused(made: Path, capsys: Lines) -> None:
    one, other = sorted((made / "runs" / "yard" / "predictions").glob("*.jsonl"))
    before = other.read_bytes()
    theirs, asked = (read_jsonl(path, Prediction)[0] for path in (one, other))
    shutil.copy(one, other)
    assert run(made) == 1
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"rbft: {other}: holds records of something else than its name says: {theirs.clip_id!r} is predicted by "
        f"checkpoint {theirs.checkpoint}, not {asked.checkpoint}; {MAKE_ROWS_AGAIN}"
    )
    other.unlink()
    assert run(made) == 0
    assert other.read_bytes() == before


def test_a_label_that_is_not_the_most_probable_one_is_refused(made: Path, capsys: Lines) -> None:
    path = sorted((made / "runs" / "yard" / "predictions").glob("*.jsonl"))[0]
    before = path.read_bytes()
    first = read_jsonl(path, Prediction)[0]
    [other] = first.probabilities.keys() - {str(first.label)}
    path.write_bytes(before.replace(f'"label":"{first.label}"'.encode(), f'"label":"{other}"'.encode(), 1))
    assert run(made) == 1
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"rbft: {path}: holds records of something else than its name says: {first.clip_id!r} is labelled {other!r}, "
        f"which is not its most probable label; {MAKE_ROWS_AGAIN}"
    )
    path.unlink()
    assert run(made) == 0
    assert path.read_bytes() == before


def test_a_folder_in_the_place_of_the_times_is_told(made: Path, capsys: Lines) -> None:
    path = made / "runs" / "yard" / "timing.jsonl"
    path.unlink()
    path.mkdir()
    assert run(made) == 1
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"rbft: {path}: cannot be read: Is a directory; move it away, and give the same command again"
    )
    path.rmdir()
    assert run(made) == 0


def children(made: Path) -> dict[str, Path]:
    """The checkpoints of the run by stage: the second stage starts from the first."""
    found = [path for path in made.glob("runs/yard/checkpoints/*") if not path.name.startswith(".")]
    return {read_card(path).checkpoint.stage: path for path in found}


def flip(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)


@pytest.mark.parametrize(("damage", "told"), [(flip, "changed"), (Path.unlink, "missing")])
def test_a_damaged_parent_is_named_and_trained_again_before_a_later_stage_starts_from_it(
    damage: Callable[[Path], None], told: str, made: Path, capsys: Lines
) -> None:
    stages = children(made)
    parent = stages["rationale"] / "model.safetensors"
    before = parent.read_bytes(), (stages["label"] / "model.safetensors").read_bytes()
    damage(parent)
    shutil.rmtree(stages["label"])
    assert run(made) == 0
    fault = f"damaged ({told}: model.safetensors); the stage is trained again"
    assert f"{parent.parent}: passed over: {fault}" in capsys.readouterr().err.splitlines()
    assert (parent.read_bytes(), (stages["label"] / "model.safetensors").read_bytes()) == before


def test_a_parent_that_is_damaged_in_a_run_stops_it_and_is_made_again_by_what_is_told(
    made: Path, capsys: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages = children(made)
    parent = stages["rationale"] / "model.safetensors"
    shutil.rmtree(stages["label"])
    with monkeypatch.context() as patch:  # when the run began, all was well
        patch.setattr("rbft.training.stages.refuse_test_clips", lambda *_: flip(parent))
        assert run(made) == 2
    assert (
        capsys.readouterr().err.splitlines()[-1]
        == f"rbft: {parent.parent}: damaged (changed: model.safetensors); {TRAIN_AGAIN}"
    )
    shutil.rmtree(parent.parent)
    assert run(made) == 0
    assert children(made) == stages


def test_a_damaged_checkpoint_is_no_base_of_another_run(made: Path, capsys: Lines) -> None:
    base = children(made)["rationale"]
    settings = (f"model={json.dumps(str(base))}", "name=other", "arms=[zero-shot]")
    assert run(made, *settings) == 0
    flip(base / "model.safetensors")
    capsys.readouterr()
    assert run(made, *settings) == 2
    assert (
        capsys.readouterr().err.splitlines()[-1] == f"rbft: {base}: damaged (changed: model.safetensors); {TRAIN_AGAIN}"
    )
