"""`rb-ft+grpo` with the semantic reward through the real command, with the embedded model and encoder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from tests.encoders import build_encoder
from tests.factories import build_checkpoint

from commands import command
from rbft.clips.cache import FrameCache
from rbft.clips.ingest import clip_frames, inspect_clips
from rbft.clips.manifest import read_manifest
from rbft.describing import load_openings
from rbft.experiment import ClipLimits
from rbft.files import read_jsonl, read_record
from rbft.models.encoder import ClipTextEncoder, find_encoder
from rbft.models.vlm import load_grid
from rbft.records import ReinforcePoint, RolloutRecord
from rbft.rewards import semantic
from rbft.session import Session
from rbft.store import read_card
from rbft.thinking import parse_thought
from rbft.tiny.night_yard import LABEL_DEFINITIONS, write_night_yard
from rbft.training.plan import MemoryPlan

pytestmark = pytest.mark.usefixtures("one_thread")

SETTINGS = {
    "name": "alike", "model": "embedded", "prompts": "brief", "labels": LABEL_DEFINITIONS,
    "domain": "Night Yard Security Expert", "arms": ["rb-ft+grpo"], "seeds": [0], "workers": 1,
    "sampling": {"fps": 2, "min_pixels": 7056, "max_pixels": 7056},
    "rationales": {"max_new_tokens": 48, "batch_size": 8},
    "training": {"learning_rate": 3e-4, "micro_batch_size": 8, "batch_size": 8},
    "reinforce": {"samples": 3, "max_new_tokens": 48, "batch_size": 4, "learning_rate": 1e-4,
                  "rewards": {"semantic": 1}},
    "evaluation": {"batch_size": 8, "resamples": 100},
}  # fmt: skip


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("alike")
    clips = write_night_yard(folder / "yard", num_train=8, num_test=4, seed=3)
    path = folder / "alike.yaml"
    path.write_text(json.dumps(SETTINGS | {"clips": str(clips), "output": str(folder)}), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def root(experiment: Path) -> Path:
    """The run directory, made by the command."""
    assert command("run", str(experiment)) == 0
    return experiment.parent / "alike"


def logs(root: Path) -> list[Path]:
    return sorted(path.parent for path in (root / "logs").glob("*/rollouts.jsonl"))


def test_rollouts_and_steps_have_the_term(root: Path) -> None:
    [folder] = logs(root)
    records = read_jsonl(folder / "rollouts.jsonl", RolloutRecord)
    points = read_jsonl(folder / "reinforce.jsonl", ReinforcePoint)
    assert len(records) == 8 * 3
    assert {frozenset(r.rewards) for r in records} == {frozenset({"format", "accuracy", "semantic"})}
    assert all(r.rewards["semantic"] == 0.0 for r in records if r.rewards["accuracy"] == 0.0), "the gate"
    right = [r for r in records if r.rewards["accuracy"] == 1.0]
    assert any(r.rewards["semantic"] for r in right)
    assert all(point.rewards["semantic"] is not None and point.unscored == 0 for point in points)


def test_the_reward_is_that_of_the_frames_and_the_thought(root: Path, experiment: Path) -> None:
    """Again from the file's own frames: decoded, encoded and compared apart from the run."""
    [folder] = logs(root)
    card = read_card(root / "checkpoints" / folder.name)
    listing = read_manifest(experiment.parent / "yard" / "clips.csv", labels=LABEL_DEFINITIONS)
    cache = FrameCache(experiment.parent / "other-cache")
    grid = load_grid("embedded")
    inspections = inspect_clips(listing, sampling=card.sampling, grid=grid, limits=ClipLimits(), workers=1, cache=cache)
    encoder = ClipTextEncoder.load(find_encoder("embedded"), clip_frames(cache, inspections))
    compared = 0
    for record in read_jsonl(folder / "rollouts.jsonl", RolloutRecord):
        thought = parse_thought(record.text)
        if thought is None or not record.rewards["accuracy"]:
            continue
        [similarity] = encoder.similarities(record.clip_id, [load_openings().describing_part(thought.think)])
        assert record.rewards["semantic"] == pytest.approx(semantic(1.0, similarity), abs=1e-4)
        compared += 1
    assert compared


def test_the_memory_plan_counts_the_encoder(root: Path, experiment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = read_record(root / "memory.json", MemoryPlan)
    [row] = [row for row in plan.rows if row.phase.startswith("reinforcing")]
    [trained] = [row for row in plan.rows if row.phase == "full fine-tuning"]
    parameters = find_encoder("embedded").num_parameters
    assert 1_000_000 < parameters < 1_500_000
    assert row.weights == trained.weights + 4 * plan.parameters + 4 * parameters, "policy, reference, encoder"


def test_the_same_key_is_not_trained_again_and_another_encoder_is(root: Path, experiment: Path) -> None:
    before = logs(root)
    assert command("run", str(experiment)) == 0
    assert logs(root) == before
    shutil.copytree(find_encoder("embedded").source.folder, experiment.parent / "same")
    assert command("run", str(experiment), f"reinforce.encoder={experiment.parent / 'same'}") == 0
    assert logs(root) == before, "the same weights under another name"
    build_encoder("siglip", experiment.parent / "other")
    assert command("run", str(experiment), f"reinforce.encoder={experiment.parent / 'other'}") == 0
    assert len(logs(root)) == 2


def test_nothing_is_loaded_where_no_formula_uses_it(experiment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    monkeypatch.setattr(ClipTextEncoder, "load", lambda *args: asked.append(args))
    monkeypatch.setattr(Session, "ask", lambda *_, **__: pytest.fail("the run is to stop at its missing clips"))
    assert command("run", str(experiment), "reinforce.rewards={}", "reinforce.encoder=none-such", "clips=no.csv") == 2
    assert asked == []


@pytest.mark.parametrize("which", ["missing", "vlm"])
def test_a_wrong_encoder_stops_before_any_work(
    which: str, experiment: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    folder = tmp_path / which
    expected = f"{folder}: no such model folder; give a folder, a Hugging Face name, or `embedded`"
    if which == "vlm":
        build_checkpoint("qwen2_5_vl", folder)
        expected = f"{folder}: a model of type 'qwen2_5_vl' does not compare texts with images"
    document = json.loads(experiment.read_text(encoding="utf-8"))
    document["reinforce"]["encoder"] = "vlm" if which == "vlm" else str(folder)  # one is beside the file
    path = tmp_path / "asked.yaml"
    path.write_text(json.dumps(document | {"output": str(tmp_path / "runs")}), encoding="utf-8")
    for verb in ("run", "check"):
        capsys.readouterr()
        assert command(verb, str(path)) == 2, verb
        said = capsys.readouterr()
        assert expected in " ".join((said.out + said.err).split())
        assert not (tmp_path / "runs" / "alike" / "memory.json").exists()
