"""`rbft explain` through the real command: on clips with the embedded model, and on a small run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from commands import command
from rbft.files import MAKE_ROWS_AGAIN, read_jsonl, read_record
from rbft.grounded import explain_run
from rbft.progress import Reporter
from rbft.records import Manifest, Prediction
from rbft.results import Focus, FoundObjects, Grounding
from rbft.serving.explain import Explanation
from rbft.tiny.night_yard import LABEL_DEFINITIONS, write_night_yard

SETTINGS = """
name: yard
clips: {clips}
model: embedded
prompts: brief
labels: {labels}
arms:
  - zero-shot
  - direct
  - {{name: describe, stages: [{{kind: label, describe_first: true}}]}}
seeds: [0, 1]
rationales: {{max_new_tokens: 16, batch_size: 8}}
output: {output}
sampling: {{fps: 2, min_pixels: 7056, max_pixels: 7056}}
training: {{learning_rate: 3.0e-4, micro_batch_size: 8, gradient_checkpointing: false}}
evaluation: {{batch_size: 8, resamples: 200, generate: false}}
"""


@pytest.fixture(scope="module")
def yard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_night_yard(tmp_path_factory.mktemp("yard"), num_train=16, num_test=10, seed=3)


@pytest.fixture(scope="module")
def experiment(yard: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    text = SETTINGS.format(
        clips=json.dumps(str(yard)), labels=json.dumps(LABEL_DEFINITIONS), output=json.dumps(str(folder / "runs"))
    )
    (folder / "yard.yaml").write_text(text, encoding="utf-8")
    return folder / "yard.yaml"


@pytest.fixture(scope="module")
def finished(experiment: Path) -> Path:
    assert command("run", str(experiment)) == 0
    return experiment.parent / "runs" / "yard"


@pytest.fixture(scope="module")
def explained(finished: Path) -> Grounding:
    assert command("explain", str(finished)) == 0
    return read_record(finished / "grounding.json", Grounding)


# -- a run ---------------------------------------------------------------------------------------------------------


def test_every_arm_and_seed_is_measured_on_the_test_clips(finished: Path, explained: Grounding) -> None:
    assert (explained.clips, explained.clips_without_objects) == (10, 0)
    assert explained.objects == "manifest boxes"
    assert list(explained.attention) == list(explained.masking) == ["zero-shot", "direct", "describe"]
    assert [(c.a, c.b) for c in explained.comparisons] == [
        ("zero-shot", "direct"),
        ("zero-shot", "describe"),
        ("direct", "describe"),
    ]
    assert len(list((finished / "grounding").glob("focus-*.jsonl"))) == 5
    assert len(list((finished / "grounding").glob("masked-*.jsonl"))) == 10
    for name, arm in explained.masking.items():
        seeds = 1 if name == "zero-shot" else 2
        assert len(arm.object_drop.per_seed) == seeds
        drop = arm.original.accuracy.mean - arm.objects.accuracy.mean
        assert arm.object_drop.mean == pytest.approx(drop)
        assert arm.effect.mean == pytest.approx(arm.random.accuracy.mean - arm.objects.accuracy.mean)
        assert arm.effect.low <= arm.effect.mean <= arm.effect.high


def test_originals_are_those_of_the_report(finished: Path, explained: Grounding) -> None:
    report = json.loads((finished / "report.json").read_text())
    for name, arm in explained.masking.items():
        assert arm.original.accuracy.mean == pytest.approx(report["arms"][name]["accuracy"]["mean"])


def test_covered_clips_are_other_clips(finished: Path, explained: Grounding) -> None:
    """The masked predictions of one checkpoint, objects and random, differ in probabilities, not in clips."""
    made = [read_jsonl(path, Prediction) for path in sorted((finished / "grounding").glob("masked-*.jsonl"))]
    by_checkpoint: dict[str, list[list[Prediction]]] = {}
    for predictions in made:
        by_checkpoint.setdefault(predictions[0].checkpoint, []).append(predictions)
    assert [len(pair) for pair in by_checkpoint.values()] == [2] * 5
    for a, b in by_checkpoint.values():
        assert [p.clip_id for p in a] == [p.clip_id for p in b]
        assert [p.probabilities for p in a] != [p.probabilities for p in b]


def test_chance_levels_are_those_of_the_boxes(finished: Path, explained: Grounding) -> None:
    [objects] = (finished / "grounding").glob("objects-*.jsonl")
    found = read_jsonl(objects, FoundObjects)
    assert len(found) == 10
    areas = [np.mean([(b[2] - b[0]) * (b[3] - b[1]) for frame in one.boxes for b in frame[:1] if b]) for one in found]
    if all(len(one.boxes[0]) == 1 for one in found):
        assert explained.area == pytest.approx(np.mean(areas), abs=0.02)
    path = next(iter((finished / "grounding").glob("focus-*.jsonl")))
    assert explained.target_share == pytest.approx(np.mean([f.target_share for f in read_jsonl(path, Focus)]))


def test_the_same_command_again_redoes_nothing(
    finished: Path, explained: Grounding, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*_: object, **__: object) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("rbft.session.VLM.load", load)
    before = {p: p.stat().st_mtime_ns for p in (finished / "grounding").glob("*.jsonl")}
    assert command("explain", str(finished), "--json") == 0
    assert Grounding.model_validate_json(capsys.readouterr().out) == explained
    assert {p: p.stat().st_mtime_ns for p in (finished / "grounding").glob("*.jsonl")} == before


def test_an_interrupted_measurement_continues(finished: Path, explained: Grounding) -> None:
    path = next(iter((finished / "grounding").glob("focus-*.jsonl")))
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:4]) + lines[4][:30])
    again = explain_run(finished, masks=True, attention=True, reporter=Reporter(quiet=True))
    assert path.read_bytes() == whole
    assert again.grounding == explained


def test_the_run_itself_is_left_as_it_was(finished: Path, explained: Grounding) -> None:
    assert read_record(finished / "manifest.json", Manifest).labels == LABEL_DEFINITIONS
    assert json.loads((finished / "experiment.json").read_text())["name"] == "yard"
    assert sorted(p.name for p in (finished / "grounding").glob("*.png")) == [f"example-{i}.png" for i in range(1, 7)]


def test_motion_alone_and_one_part_alone(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("explain", str(finished), "--masks", "--objects", "motion") == 0
    printed = capsys.readouterr().out
    assert "objects from motion saliency 1" in printed
    found = read_record(finished / "grounding.json", Grounding)
    assert found.attention == {}
    assert found.area is None
    assert set(found.masking) == {"zero-shot", "direct", "describe"}
    assert command("explain", str(finished)) == 0


def test_a_run_with_work_to_do_is_refused(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = finished / "report.json"
    text = report.read_text()
    report.unlink()
    assert command("explain", str(finished)) == 2
    assert (
        capsys.readouterr().err
        == f"rbft: {finished}: no report.json: the run is not finished; run its experiment again, then explain it\n"
    )
    report.write_text(text)
    lost = list((finished / "predictions").glob("*.jsonl"))
    kept = {path: path.read_bytes() for path in lost}
    for path in lost:
        path.unlink()
    assert command("explain", str(finished)) == 2
    assert "`predict zero-shot` is still to do. Run the experiment again" in capsys.readouterr().err
    for path, content in kept.items():
        path.write_bytes(content)


@pytest.mark.parametrize(
    ("pattern", "code", "told"),
    [
        ("manifest.json", 1, ": not a Manifest of this version: line: Invalid JSON: expected value at line 1 column 1; "
         "move it away and run the experiment again, then explain it"),
        ("experiment.json", 2, ": not an experiment of this version: 1 validation error for Experiment; run the "
         "experiment again, which writes it anew, then explain it"),
        ("grounding/focus-*.jsonl", 1, ":1: not a Focus of this version: line: Invalid JSON: expected value at line 1 "
         f"column 1; delete the line, or {MAKE_ROWS_AGAIN}"),
    ],
)  # fmt: skip
def test_a_damaged_file_of_a_run_says_what_helps(
    pattern: str, code: int, told: str, finished: Path, experiment: Path, explained: Grounding,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    path = next(iter(finished.glob(pattern)))
    whole = path.read_bytes()
    path.write_bytes(b"garbage\n" + whole)
    assert command("explain", str(finished)) == code
    assert capsys.readouterr().err.splitlines()[-1] == f"rbft: {path}{told}"
    if path.suffix == ".json":
        if path.name == "manifest.json":
            path.unlink()
        assert command("run", str(experiment)) == 0
    else:
        path.unlink()
    assert command("explain", str(finished)) == 0
    assert path.read_bytes() == whole


def test_a_run_that_moved_is_explained_where_it_lies(
    finished: Path, explained: Grounding, capsys: pytest.CaptureFixture[str]
) -> None:
    moved = finished.rename(finished.with_name("elsewhere"))
    try:
        again = explain_run(moved, masks=True, attention=True, reporter=Reporter(quiet=True)).grounding
        assert again == explained.model_copy(update={"name": "elsewhere"})
    finally:
        moved.rename(finished)


# -- clips ---------------------------------------------------------------------------------------------------------


def test_clips_under_the_embedded_model(yard: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clips = [str(yard.parent / "clips" / f"test-0000{i}.mp4") for i in range(2)]
    assert command("explain", "embedded", *clips, "--out", str(tmp_path / "out"), "--json") == 0
    printed = [Explanation.model_validate_json(line) for line in capsys.readouterr().out.splitlines()]
    for number, told in enumerate(printed):
        folder = tmp_path / "out" / f"test-0000{number}"
        assert read_record(folder / "attention.json", Explanation) == told
        assert told.label == told.predicted == max(told.probabilities, key=lambda label: told.probabilities[label])
        values = np.array(told.attention.average)
        assert values.shape == (told.grid.steps, told.grid.rows, told.grid.columns)
        assert (values.min(), values.max()) == (0.0, 1.0)
        assert np.array(told.gradient.layers).shape == (len(told.visual_share), *values.shape)
        assert sum(map(len, told.grid.seconds)) == 4
        with Image.open(folder / "strip.png") as strip, Image.open(folder / "animation.gif") as animation:
            assert strip.size[0] > 400
            assert animation.n_frames == 4  # type: ignore[attr-defined]


def test_a_checkpoint_explains_another_label(finished: Path, yard: Path, tmp_path: Path) -> None:
    [checkpoint, *_] = sorted((finished / "checkpoints").iterdir())
    clip = str(yard.parent / "clips" / "test-00000.mp4")
    for label in LABEL_DEFINITIONS:
        assert command("explain", str(checkpoint), clip, "--out", str(tmp_path / label), "--label", label) == 0
    told = [read_record(tmp_path / label / "test-00000" / "attention.json", Explanation) for label in LABEL_DEFINITIONS]
    assert [t.label for t in told] == list(LABEL_DEFINITIONS)
    assert told[0].predicted == told[1].predicted
    assert told[0].gradient != told[1].gradient


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["embedded"], "rbft: embedded: name the clips to explain: rbft explain embedded CLIP…\n"),
        (
            ["embedded", "a.mp4", "--label", "cat"],
            "rbft: --label 'cat' is not a label of this checkpoint; its labels are normal, abnormal\n",
        ),
        (
            ["nowhere", "a.mp4"],
            "rbft: nowhere: a base model has no labels of its own; add --experiment EXPERIMENT.yaml",
        ),
    ],
)
def test_faults_are_told(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("explain", *arguments) == 2
    assert capsys.readouterr().err.startswith(message)


@pytest.mark.parametrize("left", ["checkpoints/0123456789abcdef/.part", "timing.jsonl", "report.json"])
def test_a_run_that_never_finished_is_told_so(left: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / left).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / left).touch()
    gone = [n for n in ("experiment.json", "manifest.json", "report.json") if n != left]
    assert command("explain", str(tmp_path)) == 2
    assert capsys.readouterr().err == (
        f"rbft: {tmp_path}: no {', '.join(gone)}: the run is not finished; run its experiment again, then explain it\n"
    )


@pytest.mark.parametrize("below", ["", "deeper"])
def test_pictures_cannot_go_into_a_file(
    below: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def loaded(*_: object, **__: object) -> None:
        raise AssertionError("nothing is loaded")

    monkeypatch.setattr("rbft.serving.explain.explain", loaded)
    file = tmp_path / "taken"
    file.write_bytes(b"mine")
    assert command("explain", "embedded", "a.mp4", "--out", str(file / below)) == 2
    assert capsys.readouterr().err == (
        f"rbft: --out {file / below}: {file} is a file; give a folder, there or to be made\n"
    )
    assert file.read_bytes() == b"mine"
