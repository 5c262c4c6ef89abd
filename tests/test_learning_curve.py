"""A learning curve through the real command: what it trains, what it shares, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest

from commands import command
from rbft.errors import ExperimentError
from rbft.experiment import make_experiment
from rbft.files import read_record
from rbft.records import Manifest
from rbft.report.schema import report_schema
from rbft.results import Report
from rbft.store import read_card
from rbft.tiny.night_yard import LABEL_DEFINITIONS, write_night_yard

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def yard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight labelled training clips, one unlabelled, six test clips; an experiment file beside them."""
    folder = tmp_path_factory.mktemp("yard")
    clips = write_night_yard(folder / "clips", num_train=8, num_test=6, num_unlabelled=1, seed=3)
    settings = {
        "name": "curve", "clips": str(clips), "model": "embedded", "prompts": "brief", "labels": LABEL_DEFINITIONS,
        "domain": "Night Yard Security Expert", "arms": ["rb-ft-audited"], "seeds": [0, 1],
        "output": str(folder / "runs"), "workers": 1,
        "sampling": {"fps": 2, "min_pixels": 7056, "max_pixels": 7056},
        "rationales": {"max_new_tokens": 48, "batch_size": 8},
        "training": {"learning_rate": 3e-4, "micro_batch_size": 8, "batch_size": 8, "gradient_checkpointing": False},
        "evaluation": {"batch_size": 8, "resamples": 100, "generate": False},
    }  # fmt: skip
    (folder / "curve.yaml").write_text(json.dumps(settings), encoding="utf-8")
    return folder


def artifacts(run: Path) -> dict[str, tuple[int, int]]:
    """Every file of checkpoints, texts, predictions and logs, with its size and time of change."""
    files = [f for part in ("checkpoints", "rationales", "predictions", "logs") for f in (run / part).rglob("*")]
    kept = [f for f in files if f.is_file() and f.suffix != ".csv"]
    return {str(f.relative_to(run)): (f.stat().st_size, f.stat().st_mtime_ns) for f in kept}


def test_a_curve_trains_on_shares_and_nothing_twice(yard: Path, capsys: pytest.CaptureFixture[str]) -> None:
    experiment, run = str(yard / "curve.yaml"), yard / "runs" / "curve"
    assert command("run", experiment) == 0
    assert "add `evaluation.learning_curve=[0.25,0.5]` to the command" in " ".join(capsys.readouterr().out.split())
    before = artifacts(run)
    assert command("run", experiment, "evaluation.learning_curve=[0.5]") == 0
    printed = capsys.readouterr()
    after = artifacts(run)
    assert {name: after[name] for name in before} == before
    trained = {name.split("/")[1] for name in after if name.startswith("checkpoints/")}
    assert len(trained) == 2 * 2 * 2, "two stages, two seeds, half and all"
    assert "rb-ft-audited on 4 clips, seed 1, stage 1 (rationale)" in printed.err
    text = (run / "report.json").read_text(encoding="utf-8")
    jsonschema.validate(json.loads(text), report_schema())
    report = Report.model_validate_json(text)
    [(name, curve)] = report.learning_curve.items()
    assert (name, curve.doubling_clips) == ("rb-ft-audited", (4, 8))
    assert [(p.share, p.clips, len(p.accuracy.per_seed)) for p in curve.points] == [(0.5, 4, 2), (1.0, 8, 2)]
    assert curve.points[1].accuracy == report.arms["rb-ft-audited"].accuracy
    assert report.advice is not None
    assert report.advice.more_clips.startswith("From 4 to 8 labelled training clips the accuracy of rb-ft-audited ")
    shown = " ".join(printed.out.split())
    assert shown.index("What to use. ") < shown.index("How sure. ") < shown.index("More clips. From 4 to 8")
    assert shown.index("More clips. ") < shown.index("steps")
    assert command("run", experiment, "evaluation.learning_curve=[0.5]") == 0
    assert artifacts(run) == after


def test_the_share_of_a_seed_is_what_its_checkpoints_saw(yard: Path) -> None:
    """Runs after the first test: a half has half of each label and the unlabelled clip, other clips for each seed."""
    run = yard / "runs" / "curve"
    manifest = read_record(run / "manifest.json", Manifest)
    by_content = {clip.sha256: clip for clip in manifest.of("train")}
    labels: dict[int, list[set[str]]] = {0: [], 1: []}
    for folder in (run / "checkpoints").iterdir():
        card = read_card(folder).checkpoint
        if card.stage == "label":
            labelled = {by_content[sha].clip_id for sha in card.train_clip_sha256 if by_content[sha].label is not None}
            labels[card.seed].append(labelled)
    halves = []
    for found in labels.values():
        half, whole = sorted(found, key=len)
        assert (len(half), len(whole)) == (4, 8)
        assert half < whole
        halves.append(half)
    assert halves[0] != halves[1]


def test_shares_that_cannot_be_are_refused_before_anything_is_trained(
    yard: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("run", str(yard / "curve.yaml"), "name=other", "evaluation.learning_curve=[0.01, 0.05]") == 2
    assert (
        "rbft: evaluation.learning_curve: shares 0.01 and 0.05 are both 2 of 8 labelled training clips; give fewer "
        "shares, further apart"
    ) in capsys.readouterr().err.splitlines()
    assert not (yard / "runs" / "other" / "checkpoints").exists()


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (
            {"evaluation": {"learning_curve": [0.5, 1.0]}},
            "evaluation.learning_curve: [0.5, 1.0] must be different shares between 0 and 1, such as [0.25, 0.5]; all "
            "clips, 1, are the run itself",
        ),
        (
            {"arms": ["zero-shot"], "evaluation": {"learning_curve": [0.5]}},
            "evaluation.learning_curve: no arm is trained; add one, such as direct, or leave it out",
        ),
        (
            {"arms": ["zero-shot", "direct", "rb-ft"], "evaluation": {"curve_arms": ["rbft", "zero-shot"]}},
            "evaluation.curve_arms: no trained arm 'rbft'; did you mean 'rb-ft'? Trained are direct, rb-ft",
        ),
    ],
)
def test_settings_that_cannot_be_are_told(changes: dict[str, object], line: str) -> None:
    with pytest.raises(ExperimentError) as caught:
        make_experiment({"name": "x", "clips": "c", "model": "embedded"} | changes)
    assert caught.value.faults[0] == f"experiment: {line}"


def test_which_arms_have_a_curve() -> None:
    def arms(names: list[str], **evaluation: object) -> list[str]:
        made = make_experiment({"name": "x", "clips": "c", "model": "m", "arms": names, "evaluation": evaluation})
        return [arm.name for arm in made.curve_arms]

    usual = ["zero-shot", "direct", "direct-matched", "rb-ft"]
    assert arms(usual, learning_curve=[0.5]) == ["direct-matched", "rb-ft"]
    assert arms(["zero-shot", "direct"], learning_curve=[0.5]) == ["direct"]
    assert arms(usual, learning_curve=[0.5, 0.25], curve_arms=["rb-ft", "direct"]) == ["direct", "rb-ft"]
    assert arms(usual) == []
