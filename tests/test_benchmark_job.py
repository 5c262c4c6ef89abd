"""The benchmark of the whole job: peers are told what the experiment says, and both sides are read back."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from benchmarks.speed import job as benchmark
from benchmarks.speed import peers, recipes
from benchmarks.speed.peers import Done, Job
from benchmarks.speed.recipes import LlamaFactory, Swift

from rbft.experiment import load_experiment
from rbft.tiny.demo import EXPERIMENT

RATIONALE = "You are a Night Yard Security Expert. Describe the subjects, attributes, actions and scenes of the clip."
LABEL = (
    "Which label fits the clip? normal: anything else. "
    "abnormal: a bear, anything falling, a person climbing or a truck in the garden."
)
TEXTS = ("Subjects: a cat.", "Subjects: a bear.")


@pytest.fixture
def job(tmp_path: Path) -> Job:
    """Two clips to learn and one to label."""
    rows = [("a.mp4", "normal", "train"), ("b.mp4", "abnormal", "train"), ("c.mp4", "normal", "test")]
    for name, _, _ in rows:
        (tmp_path / name).write_bytes(name.encode())
    clips = tmp_path / "clips.csv"
    clips.write_text("path,label,split\n" + "".join(",".join(row) + "\n" for row in rows))
    return peers.job_of(load_experiment(EXPERIMENT, benchmark.overrides(clips, tmp_path / "out")))


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


class FakeShell:
    """Notes what is run, and leaves what the tool would leave."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.told: dict[str, dict[str, Any]] = {}
        self.commands: list[list[str]] = []

    def __call__(self, name: str, command: Sequence[str]) -> None:
        settings = yaml.safe_load((self.folder / command[-1]).read_text(encoding="utf-8"))
        self.told[name] = settings
        self.commands.append([Path(command[0]).name, *command[1:]])
        if name.startswith("stage"):
            self.trained(self.folder / name)
        else:
            self.asked(self.folder, name, TEXTS if name == "rationales" else (" normal\n",))

    def trained(self, folder: Path) -> None:
        for number in (2, 10):
            (folder / f"checkpoint-{number}").mkdir(parents=True)
        end = {"train_runtime": 5.0, "global_step/max_steps": "10/10"}
        peers.write_lines(folder / "logging.jsonl", [{"loss": 1.0}, end, {"model_parameter_info": "3 M"}])
        peers.write_text(folder / "train_results.json", json.dumps({"train_runtime": 5.0}))
        peers.write_text(folder / "trainer_state.json", json.dumps({"global_step": 10}))

    def asked(self, folder: Path, name: str, texts: Sequence[str]) -> None:
        peers.write_lines(folder / f"{name}-written.jsonl", [{"response": text} for text in texts])
        (folder / name).mkdir()
        peers.write_lines(folder / name / "generated_predictions.jsonl", [{"predict": text} for text in texts])


# -- what is told --------------------------------------------------------------------------------------------------


def test_the_job_is_the_experiments(job: Job) -> None:
    assert [row.clip_id for row in job.train] == ["a", "b"]
    assert [row.clip_id for row in job.test] == ["c"]
    assert (job.prompts.rationale(), job.prompts.label()) == (RATIONALE, LABEL)
    assert job.label_tokens == 10
    assert (job.experiment.training.epochs, job.experiment.seeds) == (2, (0,))


def test_swift_does_the_job_in_four_commands(job: Job, tmp_path: Path) -> None:
    shell = FakeShell(tmp_path)
    done = Swift().do(job, tmp_path, shell)
    assert done == Done(rationales=TEXTS, answers=(" normal\n",), label_step_ms=500.0)
    assert shell.commands == [
        ["swift", "infer", "rationales.yaml"],
        ["swift", "sft", "stage-1.yaml"],
        ["swift", "sft", "stage-2.yaml"],
        ["swift", "infer", "labels.yaml"],
    ]
    stage_1, stage_2 = tmp_path / "stage-1" / "checkpoint-10", tmp_path / "stage-2" / "checkpoint-10"
    assert [told["model"] for told in shell.told.values()] == [str(job.checkpoint)] * 2 + [str(stage_1), str(stage_2)]
    assert [shell.told[name]["max_new_tokens"] for name in ("rationales", "labels")] == [64, 10]
    asked = {"messages": [{"role": "user", "content": f"<video>{RATIONALE}"}], "videos": [str(job.train[0].path)]}
    learnt = [*asked["messages"], {"role": "assistant", "content": TEXTS[0]}]
    assert lines(tmp_path / "rationales.jsonl")[0] == asked
    assert lines(tmp_path / "stage-1.jsonl")[0] == asked | {"messages": learnt}
    assert [row["messages"][1]["content"] for row in lines(tmp_path / "stage-2.jsonl")] == ["normal", "abnormal"]
    assert [row["messages"] for row in lines(tmp_path / "labels.jsonl")] == [
        [{"role": "user", "content": f"<video>{LABEL}"}]
    ]


def test_swift_is_told_the_recipe(job: Job) -> None:
    told = Swift.training(job, job.checkpoint, "stage-1")
    assert (told["learning_rate"], told["aligner_lr"], told["vit_lr"]) == (3e-4, 3e-4, 1e-4)
    assert (told["num_train_epochs"], told["per_device_train_batch_size"], told["gradient_accumulation_steps"]) == (
        2,
        16,
        1,
    )
    assert (told["fp16"], told["bf16"], told["torch_dtype"]) == (False, False, "float32")
    assert (told["lr_scheduler_type"], told["warmup_ratio"], told["weight_decay"]) == ("cosine", 0.03, 0.1)
    assert not told["check_model"], "asks its hub and waits"
    assert Swift().variables(job) == {
        "FPS": "2",
        "FPS_MIN_FRAMES": "4",
        "FPS_MAX_FRAMES": "768",
        "VIDEO_MIN_PIXELS": "7056",
        "VIDEO_MAX_PIXELS": "7056",
    }


def test_swift_learns_which_tokens_are_visual(job: Job) -> None:
    assert recipes.plugin(job.checkpoint).splitlines()[-1] == "Qwen2_5VLTemplate.video_token_id = 762"


def test_llama_factory_does_the_job_in_four_commands(job: Job, tmp_path: Path) -> None:
    shell = FakeShell(tmp_path)
    done = LlamaFactory().do(job, tmp_path, shell)
    assert done == Done(rationales=TEXTS, answers=(" normal\n",), label_step_ms=500.0)
    names = ["rationales", "stage-1", "stage-2", "labels"]
    assert shell.commands == [["llamafactory-cli", "train", f"{name}.yaml"] for name in names]
    models = [told["model_name_or_path"] for told in shell.told.values()]
    assert models == [str(job.checkpoint)] * 2 + [str(tmp_path / "stage-1"), str(tmp_path / "stage-2")]
    assert list(json.loads((tmp_path / "dataset_info.json").read_text())) == names
    user = {"from": "human", "value": f"<video>{RATIONALE}"}
    assert lines(tmp_path / "stage-1.jsonl")[1] == {
        "conversations": [user, {"from": "gpt", "value": TEXTS[1]}],
        "videos": [str(job.train[1].path)],
    }
    [asked] = lines(tmp_path / "labels.jsonl")
    assert asked["conversations"] == [{"from": "human", "value": f"<video>{LABEL}"}, {"from": "gpt", "value": "none"}]


def test_llama_factory_is_told_the_recipe(job: Job) -> None:
    told = LlamaFactory.training(job, job.checkpoint, "stage-1")
    assert (told["learning_rate"], told["num_train_epochs"], told["per_device_train_batch_size"]) == (3e-4, 2, 16)
    assert (told["freeze_vision_tower"], told["freeze_multi_modal_projector"]) == (False, False)
    assert (told["video_fps"], told["video_min_pixels"], told["video_max_pixels"]) == (2, 7056, 7056)
    assert told["disable_gradient_checkpointing"]
    assert told["default_system"] == ""


def test_a_test_clips_label_is_told_to_nobody(job: Job, tmp_path: Path) -> None:
    for peer in (Swift(), LlamaFactory()):
        folder = tmp_path / peer.name
        folder.mkdir()
        peer.do(job, folder, FakeShell(folder))
        assert all(line["videos"] != [str(job.test[0].path)] for line in lines(folder / "stage-2.jsonl"))
        assert '"normal"' not in (folder / "labels.jsonl").read_text()


def test_a_tool_is_named_with_its_versions() -> None:
    assert Swift.environment.title("ms-swift") == "ms-swift 4.6.0 (transformers 5.19.0, torch 2.15.0)"


def test_a_command_that_fails_is_shown(tmp_path: Path) -> None:
    shell = peers.Commands(tmp_path, {})
    with pytest.raises(SystemExit, match=r"stage-1 ended with 3:\nout of luck\n"):
        shell("stage-1", ["sh", "-c", "echo out of luck; exit 3"])


def test_a_stage_without_a_checkpoint_is_said(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="no checkpoint was saved"):
        peers.newest_checkpoint(tmp_path)


# -- what is read back ---------------------------------------------------------------------------------------------


def test_our_run_is_read_in_the_manifests_order(job: Job, tmp_path: Path) -> None:
    run = tmp_path / "run"
    for folder in ("rationales", "predictions", "logs/k2"):
        (run / folder).mkdir(parents=True)
    texts = [{"clip_id": name, "text": text} for name, text in zip("ba", reversed(TEXTS), strict=True)]
    peers.write_lines(run / "rationales" / "1.jsonl", texts)
    peers.write_lines(run / "predictions" / "1.jsonl", [{"clip_id": "c", "label": "normal"}])
    peers.write_lines(run / "logs" / "k2" / "losses.jsonl", [{"step": 1}, {"step": 2}])
    spent = [("rationales", "k0", 1.0), ("train rb-ft: label", "k2", 3.0)]
    peers.write_lines(run / "timing.jsonl", [{"step": s, "key": k, "seconds": x} for s, k, x in spent])
    done = benchmark.read_ours(job, run)
    assert done == Done(TEXTS, ("normal",), 1_500.0, 0.0, {"rationales": 1.0, "train rb-ft: label": 3.0})


def test_both_sides_must_have_done_the_whole_job(job: Job) -> None:
    done = Done(TEXTS, ("normal",), 1.0)
    other = Done((TEXTS[0], "Subjects: a truck."), ("abnormal",), 1.0)
    assert benchmark.compared(job, done, other, "peer") == (
        "2 rationales, 1 the same word for word; 1 labels, 0 the same; accuracy 100.0% here, 0.0% there"
    )
    with pytest.raises(SystemExit, match="peer wrote 1 rationales and 1 labels, not 2 and 1"):
        benchmark.compared(job, done, replace(done, rationales=TEXTS[:1]), "peer")
    with pytest.raises(SystemExit, match="peer wrote an empty rationale"):
        benchmark.compared(job, done, replace(done, rationales=(" ", "x")), "peer")


def test_a_further_clip_is_the_difference_of_two_jobs() -> None:
    done = Done((), (), 1.0)
    few = benchmark.Timed((10.0, 30.0), (8.0, 20.0), done, done, "")
    many = benchmark.Timed((28.0, 120.0), (17.0, 83.0), done, done, "")
    wall, spent = benchmark.further_clips("peer", few, many, 180)
    assert (wall.ours, wall.theirs, wall.ratio, wall.unit) == (100.0, 500.0, 5.0, "ms")
    assert (spent.ours, spent.theirs, spent.unit) == (50.0, 350.0, "CPU ms")
    assert wall.promised is None
