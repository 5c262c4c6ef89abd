"""`videorft` through a whole run on the embedded model: thoughts curated once for all seeds, the kept ones learnt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import rbft
from rbft.errors import ExperimentError
from rbft.experiment import Experiment, make_experiment
from rbft.files import read_jsonl, read_record
from rbft.models.vlm import VLM
from rbft.records import Curated, StepAnswer
from rbft.results import CurationReport, Report
from rbft.store import read_card
from rbft.tiny.night_yard import LABEL_DEFINITIONS, write_night_yard
from servers import completion, scripted

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def yard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videorft")
    return write_night_yard(folder, num_train=10, num_test=4, num_unlabelled=1, seed=3)


def experiment(yard: Path, folder: Path, **changes: Any) -> Experiment:
    return make_experiment(
        {
            "name": "v", "clips": str(yard), "model": "embedded", "prompts": "brief", "labels": LABEL_DEFINITIONS,
            "arms": ["videorft"], "seeds": [0, 1], "output": str(folder), "workers": 1,
            "sampling": {"fps": 2, "min_pixels": 7056, "max_pixels": 7056},
            "rationales": {"max_new_tokens": 48, "batch_size": 8},
            "training": {"learning_rate": 3e-4, "micro_batch_size": 4, "batch_size": 4},
            "reinforce": {"samples": 2, "max_new_tokens": 48, "batch_size": 5, "learning_rate": 1e-4},
            "evaluation": {"batch_size": 8, "resamples": 100},
        }
        | changes
    )  # fmt: skip


@pytest.fixture(scope="module")
def finished(yard: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Experiment, Report, Path]:
    folder = tmp_path_factory.mktemp("runs")
    asked = experiment(yard, folder)
    return asked, rbft.run(asked, quiet=True).report, folder / "v"


def test_the_chain_ran_once_over_the_labelled_training_clips(finished: tuple[Experiment, Report, Path]) -> None:
    _, report, root = finished
    made = read_record(root / "curation" / "curation.json", CurationReport)
    assert (made.read, made.represented) == (10, 10) and made.kept > 0
    assert len(read_jsonl(root / "curation" / "reason.jsonl", StepAnswer)) == 10, "not once a seed"
    assert {used.engine for used in made.usage.values()} == {"embedded"}
    assert report.rationales is not None
    assert (report.rationales.written, report.rationales.kept) == (10, made.kept)
    told = report.arms["videorft"].rationales
    assert told is not None and told.dropped == {
        reason: count for reasons in made.dropped.values() for reason, count in reasons.items()
    }
    assert report.timing["curation"] > 0


def test_the_cot_stage_learnt_the_kept_thoughts_of_its_clips(finished: tuple[Experiment, Report, Path]) -> None:
    _, _, root = finished
    cards = [read_card(folder) for folder in (root / "checkpoints").iterdir() if folder.is_dir()]
    assert sorted(card.checkpoint.stage for card in cards) == ["cot", "cot", "reinforce", "reinforce"]
    items = read_jsonl(root / "curation" / "curated.jsonl", Curated)
    kept = [item for item in items if item.verdict.kept]
    cot = [card.checkpoint for card in cards if card.checkpoint.stage == "cot"]
    assert {len(checkpoint.train_clip_sha256) for checkpoint in cot} == {len(kept)}
    assert {checkpoint.base for checkpoint in cot} == {"embedded"}
    page = (root / "report.html").read_text(encoding="utf-8")
    assert (
        "label after thinking, curated" in page or "label after thinking, curated" in (root / "report.json").read_text()
    )


def test_run_again_it_redoes_nothing(
    finished: tuple[Experiment, Report, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(VLM, "load", lambda *_, **__: pytest.fail("a model was loaded"))
    asked, report, _ = finished
    assert rbft.run(asked, quiet=True).report.arms == report.arms


def test_a_server_may_write_every_step(yard: Path, tmp_path: Path) -> None:
    """What it says is learnt word for word, of the clips where it is right."""
    think = "Something moves through the yard and the lamps are lit"
    with scripted(lambda *_: completion(f"<think>{think}</think><answer>abnormal</answer>")) as server:
        engine = {"endpoint": server.url, "model": "m"}
        asked = experiment(
            yard, tmp_path, seeds=[0], curation={"engine": engine, "revise": "none"},
            arms=[{"name": "cot", "stages": [{"kind": "cot", "thoughts": "curated"}]}],
        )  # fmt: skip
        report = rbft.run(asked, quiet=True).report
        assert len(server.requests) == 20, "ten clips represented, ten questions reasoned about"
    made = read_record(tmp_path / "v" / "curation" / "curation.json", CurationReport)
    assert made.kept == made.answers["abnormal"][0] and made.answers["normal"][1] == 0
    assert "every thought that is kept leads to 'abnormal'" in made.notes[0]
    assert report.rationales is not None and report.rationales.kept == made.kept


def test_nothing_kept_is_an_error_that_says_where_to_look(yard: Path, tmp_path: Path) -> None:
    with scripted(lambda *_: completion("no idea")) as server:
        engine = {"endpoint": server.url, "model": "m"}
        asked = experiment(yard, tmp_path, seeds=[0], curation={"engine": engine})
        with pytest.raises(ExperimentError) as error:
            rbft.run(asked, quiet=True)
    assert str(error.value) == (
        "arm 'videorft', stage 1 (cot): no training example is left; every thought was dropped, see the curation folder"
    )


def test_a_run_names_engines_that_are_not_there_before_any_work(yard: Path, tmp_path: Path) -> None:
    missing = {"reason": {"answers": str(tmp_path / "none.jsonl")}}
    with pytest.raises(ExperimentError, match=r"reason: .*none.jsonl: cannot be read: No such file or directory"):
        rbft.run(experiment(yard, tmp_path, curation=missing), quiet=True)
    assert not (tmp_path / "v" / "experiment.json").exists()


def test_an_engine_of_another_family_cannot_see_these_frames(
    yard: Path, tmp_path: Path, checkpoints: dict[str, Path]
) -> None:
    other = {"revise": {"model": str(checkpoints["qwen3_vl"])}}
    with pytest.raises(ExperimentError, match=r"revise: .* cuts frames into 32 pixels a token and 2 frames a step"):
        rbft.run(experiment(yard, tmp_path, curation=other), quiet=True)


def test_arms_without_curated_thoughts_need_no_engine(yard: Path, tmp_path: Path) -> None:
    """What `curation` names is not looked for."""
    asked = experiment(yard, tmp_path, arms=["zero-shot"], seeds=[0], curation={"reason": {"answers": "none.jsonl"}})
    assert set(rbft.run(asked, quiet=True).report.arms) == {"zero-shot"}
    assert not (tmp_path / "v" / "curation").exists()
