"""The command is killed by SIGKILL in a reinforce stage, again and again, and goes on: the run is the same."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from killing import At, ForkServer
from rbft.files import read_jsonl, read_record
from rbft.records import ReinforcePoint, RolloutRecord
from rbft.results import Report
from rbft.store import is_sealed
from rbft.tiny.night_yard import LABEL_DEFINITIONS, write_night_yard

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

STEPS = 4
SETTINGS: dict[str, Any] = {
    "name": "killed", "model": "embedded", "prompts": "brief", "labels": LABEL_DEFINITIONS,
    "domain": "Night Yard Security Expert", "seeds": [0], "workers": 1,
    "arms": [{"name": "grpo", "stages": [{"kind": "reinforce"}]}],
    "sampling": {"fps": 2, "min_pixels": 7056, "max_pixels": 7056},
    "reinforce": {"samples": 3, "max_new_tokens": 32, "batch_size": 2, "learning_rate": 1e-4, "temperature": 1.5,
                  "cut_off": "scored", "save_every_steps": 1},
    "evaluation": {"batch_size": 8, "resamples": 100},
}  # fmt: skip
SAMPLED = "rbft.training.reinforce:ReinforceTrainer._sampled"
KILLS = {
    "while sampling": At("rbft.models.rollout:next_tokens", 5, within=At("rbft.training.reinforce:sample_groups", 2)),
    "in the update": At("rbft.training.reinforce:grpo_loss", 4),
    "while saving": At("rbft.training.supervised:StageTrainer._save_optimizer_and_scheduler"),
}
"""In the fifth token of the second step; after half of the gradients of the second step; with half a save on disk."""


@dataclass(frozen=True)
class Runs:
    """One experiment, run to the end without harm and by way of all kills."""

    folder: Path
    forks: ForkServer

    def start(self, output: str, kill: str | None = None) -> tuple[int, list[int]]:
        """The command in a process of its own: its exit code, and the steps that it began to sample."""
        asked = [str(self.folder / "killed.yaml"), f"output={json.dumps(str(self.folder / output))}"]
        (self.folder / "here").mkdir(exist_ok=True)
        ended = self.forks.run(
            self.folder / "here", "run", *asked, at=None if kill is None else KILLS[kill], noted=[SAMPLED]
        )
        return ended.code, [step for _, [step] in ended.noted]

    def rollouts(self, output: str) -> list[RolloutRecord]:
        [file] = (self.folder / output / "killed" / "logs").glob("*/rollouts.jsonl")
        return read_jsonl(file, RolloutRecord)

    def whole_saves(self, output: str) -> list[str]:
        saves = (self.folder / output / "killed" / "checkpoints").glob(".*.work/checkpoint-*")
        return sorted(save.name for save in saves if is_sealed(save))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    folder = tmp_path_factory.mktemp("killed")
    clips = write_night_yard(folder / "yard", num_train=2 * STEPS, num_test=4, seed=3, workers=1)
    (folder / "killed.yaml").write_text(json.dumps(SETTINGS | {"clips": str(clips)}), encoding="utf-8")
    with ForkServer() as forks:
        yield Runs(folder, forks)


def test_killed_while_sampling_in_the_update_and_while_saving_it_is_the_same_run(runs: Runs) -> None:
    """Never more than the step in hand is done again; weights are the same to the byte, and no step is there twice."""
    assert runs.start("whole") == (0, [1, 2, 3, 4])

    assert runs.start("cut", "while sampling") == (-signal.SIGKILL, [1, 2])
    assert runs.whole_saves("cut") == ["checkpoint-1"]
    assert {r.step for r in runs.rollouts("cut")} == {1}

    assert runs.start("cut", "in the update") == (-signal.SIGKILL, [2, 3])
    assert runs.whole_saves("cut") == ["checkpoint-1", "checkpoint-2"]
    assert {r.step for r in runs.rollouts("cut")} == {1, 2, 3}, "sampled and on disk, and not learnt from"

    assert runs.start("cut", "while saving") == (-signal.SIGKILL, [3])
    assert runs.whole_saves("cut") == ["checkpoint-1", "checkpoint-2"], "half a save does not count"
    assert list((runs.folder / "cut" / "killed" / "checkpoints").glob(".*.work/checkpoint-3/trained.safetensors"))

    assert runs.start("cut") == (0, [3, 4])
    whole, cut = (runs.folder / name / "killed" for name in ("whole", "cut"))
    [key] = [path.parent.name for path in (whole / "logs").glob("*/rollouts.jsonl")]
    for name in (f"logs/{key}/rollouts.jsonl", f"logs/{key}/held_out.jsonl", f"logs/{key}/reinforce.jsonl",
                 f"checkpoints/{key}/model.safetensors"):  # fmt: skip
        assert (cut / name).read_bytes() == (whole / name).read_bytes(), name
    assert [r.step for r in runs.rollouts("cut")] == [step for step in range(1, STEPS + 1) for _ in range(6)]
    points = read_jsonl(cut / "logs" / key / "reinforce.jsonl", ReinforcePoint)
    assert any(point.spread for point in points), "something was learnt"
    reports = [read_record(root / "report.json", Report) for root in (whole, cut)]
    assert reports[0].arms == reports[1].arms
    assert not list((cut / "checkpoints").glob(".*.work"))
