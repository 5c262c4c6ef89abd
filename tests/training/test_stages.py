"""A stage's child: found whole, not there, damaged, or added to; and how often its files are read for it."""

from __future__ import annotations

import gc
import weakref
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from noise import NoiseClips
from rbft.clips.cache import FrameCache
from rbft.clips.ingest import ClipFrames
from rbft.errors import CheckpointError, LineageError
from rbft.experiment import Lora, Recipe, Reinforce, Sampling, Stage
from rbft.files import read_jsonl, sha256_of, write_record
from rbft.models.vlm import VLM
from rbft.prompts import load_prompts
from rbft.records import Checkpoint, Clip, Example, LossPoint, Question, fingerprint
from rbft.store import CARD, Card, RunStore, seal
from rbft.training import supervised
from rbft.training.stages import StageJob, finished_stage, train_stage

BASE = Checkpoint(
    fingerprint="base", path="embedded", stage="base", base="embedded", parent=None, data_fingerprint="",
    sampling_fingerprint="s", prompts_fingerprint="p", config_fingerprint="", seed=0, num_steps=0,
)  # fmt: skip


@pytest.fixture
def job() -> StageJob:
    return StageJob(
        stage=Stage(kind="label"),
        parent=BASE,
        examples=(),
        recipe=Recipe(micro_batch_size=1, gradient_checkpointing=False),
        steps=3,
        seed=0,
        prompts=load_prompts("brief", persona="Expert", labels={"no": "nothing", "fall": "a fall"}),
        sampling=Sampling(),
        length_normalisation="none",
        clips={},
        frame_keys={},
    )


@pytest.fixture
def store(tmp_path: Path, job: StageJob) -> RunStore:
    """A run directory that holds the whole child of the job."""
    store = RunStore(tmp_path)
    folder = store.checkpoint(job.key)
    folder.mkdir(parents=True)
    child = BASE.model_copy(update={"fingerprint": job.key, "stage": "label", "parent": "base", "num_steps": 3})
    card = Card(checkpoint=child, prompts=job.prompts, sampling=job.sampling, length_normalisation="none")
    write_record(folder / CARD, card)
    (folder / "model.safetensors").write_bytes(bytes(range(40)))
    seal(folder)
    return store


def test_how_batches_are_cut_is_not_part_of_a_key_and_lora_is(job: StageJob) -> None:
    def key(**changes: Any) -> str:
        return replace(job, recipe=job.recipe.model_copy(update=changes)).key

    same = {"micro_batch_size": 8, "gradient_checkpointing": True, "save_every_steps": 7, "method": "full"}
    assert {key(**{name: value}) for name, value in same.items()} == {job.key}
    assert len({job.key, key(lora=Lora()), key(lora=Lora(rank=4)), key(batch_size=8), key(epochs=2.0)}) == 5


def test_what_a_reinforce_stage_samples_and_rewards_is_in_its_key(job: StageJob) -> None:
    def key(**changes: Any) -> str:
        return replace(reinforced, reinforce=Reinforce(**changes)).key

    thinks = job.prompts.reasoning(9)
    reinforced = replace(job, stage=Stage(kind="reinforce"), reinforce=Reinforce(), describing=thinks)
    assert {key(rollout_batch_size=8), key(save_every_steps=3)} == {reinforced.key}
    others = [key(samples=4), key(beta=0.0), key(cut_off="scored"), key(rewards={"label_free": 1.0})]
    longer = replace(reinforced, describing=job.prompts.reasoning(10)).key
    assert len({reinforced.key, longer, *others}) == 6
    assert replace(job, describing=job.prompts.describing(9)).key == job.key, "finished stages stay finished"


def test_questions_as_they_are_asked_and_their_frames_are_in_the_key(job: StageJob) -> None:
    question = Question(question_id="1", clip_id="a", kind="numerical", text="How many?", answer="3")
    asks = replace(job, stage=Stage(kind="reinforce"), questions=(question,), frame_keys={"a": "f"})
    other = question.model_copy(update={"answer": "4"})
    templates = job.prompts.templates.model_copy(update={"question": "{problem}{options}{form} Answer."})
    reworded = job.prompts.model_copy(update={"templates": templates})
    assert fingerprint(reworded) == fingerprint(job.prompts), "its fingerprint does not know how questions are asked"
    assert replace(job, prompts=reworded).key == job.key, "finished stages on labels stay finished"
    others = [replace(asks, questions=(other,)), replace(asks, prompts=reworded), replace(asks, frame_keys={"a": "g"})]
    assert len({job.key, asks.key, *(one.key for one in others)}) == 5


def test_a_question_about_a_test_clip_is_not_learnt(job: StageJob, tmp_path: Path) -> None:
    def clip(clip_id: str, split: str, content: str) -> Clip:
        fields = {"clip_id": clip_id, "path": f"{clip_id}.mp4", "sha256": content, "duration_seconds": 1.0}
        return Clip.model_validate(fields | {"split": split})

    clips = {"a": clip("a", "train", "same"), "b": clip("b", "test", "same")}
    for asked, named in (("a", "b"), ("b", "b")):
        question = Question(question_id="1", clip_id=asked, kind="numerical", text="How many?", answer="3")
        asks = replace(job, questions=(question,), clips=clips, frame_keys={"a": "f", "b": "f"})
        with pytest.raises(
            LineageError, match=rf"training example {asked} .* has the same content as test clip {named}"
        ):
            train_stage(asks, RunStore(tmp_path), ClipFrames(FrameCache(tmp_path / "cache"), {}))


def test_a_whole_child_is_found_and_hashed_once(
    job: StageJob, store: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: Counter[str] = Counter()

    def counted(path: Path) -> str:
        hashed[path.name] += 1
        return sha256_of(path)

    monkeypatch.setattr("rbft.store.sha256_of", counted)
    found = finished_stage(job, store)
    assert found is not None
    assert (found.fingerprint, found.path, found.num_steps) == (job.key, str(store.checkpoint(job.key)), 3)
    assert hashed == {CARD: 1, "model.safetensors": 1}


def test_saved_steps_of_a_whole_child_are_removed(job: StageJob, store: RunStore) -> None:
    work = store.checkpoint(job.key).with_name(f".{job.key}.work")
    (work / "checkpoint-2").mkdir(parents=True)
    (work / "checkpoint-2" / "optimizer.pt").write_bytes(b"x")
    assert finished_stage(job, store) is not None
    assert not work.exists()


def test_a_child_that_is_not_there_or_not_whole_is_none_and_saved_steps_stay(job: StageJob, store: RunStore) -> None:
    folder = store.checkpoint(job.key)
    work = folder.with_name(f".{job.key}.work")
    work.mkdir()
    assert finished_stage(job, RunStore(store.root / "other")) is None
    (folder / "model.safetensors").write_bytes(b"changed")
    assert finished_stage(job, store) is None
    (folder / "manifest.json").unlink()
    assert finished_stage(job, store) is None
    assert work.is_dir()


def test_a_child_that_was_added_to_is_told_and_not_trained_again(job: StageJob, store: RunStore) -> None:
    folder = store.checkpoint(job.key)
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(CheckpointError) as caught:
        finished_stage(job, store)
    assert str(caught.value) == (
        f"{folder}: holds files that were not there when it was finished (adapter_config.json); move them elsewhere"
    )


# -- out of memory ---------------------------------------------------------------------------------------------------


def small_job(job: StageJob, source: Path, **recipe: Any) -> StageJob:
    """Three steps of four clips on a small model."""

    def clip(number: int) -> Clip:
        return Clip.model_validate({"clip_id": str(number), "path": f"{number}.mp4", "sha256": str(number),
                                    "duration_seconds": 1.0, "split": "train"})  # fmt: skip

    examples = [Example(clip_id=str(n), prompt="cat?", answer=("no", "fall")[n % 2], source="label") for n in range(8)]
    settings = {"batch_size": 4, "micro_batch_size": 4, "gradient_checkpointing": False, "learning_rate": 1e-3} | recipe
    return replace(
        job, parent=BASE.model_copy(update={"path": str(source)}), examples=examples, steps=4,
        recipe=Recipe.model_validate(settings), clips={e.clip_id: clip(int(e.clip_id)) for e in examples},
        frame_keys={e.clip_id: e.clip_id for e in examples},
    )  # fmt: skip


def train_small(job: StageJob, root: Path, said: list[str]) -> list[LossPoint]:
    grid = VLM.load(job.parent.path).grid
    train_stage(job, RunStore(root), NoiseClips(grid), say=said.append)  # type: ignore[arg-type]
    return read_jsonl(root / "logs" / job.key / "losses.jsonl", LossPoint)


@pytest.mark.parametrize("lora", [None, Lora(rank=2)])
def test_weights_are_loaded_for_training_unless_they_are_frozen(
    lora: Lora | None, job: StageJob, checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []
    load, wanted = VLM.load, small_job(job, checkpoints["qwen2_5_vl"], lora=lora)
    grid = load(wanted.parent.path).grid
    monkeypatch.setattr(VLM, "load", lambda *given, **more: asked.append(more["for_training"]) or load(*given, **more))
    train_stage(wanted, RunStore(tmp_path), NoiseClips(grid), say=lambda _: None)  # type: ignore[arg-type]
    assert asked == [lora is None]


OUT = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def short_of(patch: pytest.MonkeyPatch, most: int, from_step: int, error: RuntimeError = OUT) -> list[tuple[int, int]]:
    """A device that from a step on holds no more than so many clips. Returns what was asked of it: step, clips."""
    original, asked = supervised.AnswerTrainer.compute_loss, []

    def loss(self: Any, model: Any, inputs: dict[str, Any], *given: Any, **more: Any) -> Any:
        step, clips = self.state.global_step + 1, len(inputs["weights"])
        asked.append((step, clips))
        if clips > most and step >= from_step:
            raise type(error)(*error.args)
        return original(self, model, inputs, *given, **more)

    patch.setattr(supervised.AnswerTrainer, "compute_loss", loss)
    return asked


@pytest.mark.parametrize("every", [1, 200])
def test_a_device_out_of_memory_is_asked_for_half_the_micro_batch(
    every: int, job: StageJob, checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At step 3, with a save behind it or without: the losses are those of the smaller micro-batch, under one key."""
    wanted = small_job(job, checkpoints["qwen2_5_vl"], save_every_steps=every)
    smaller = replace(wanted, recipe=wanted.recipe.model_copy(update={"micro_batch_size": 2}))
    expected = train_small(smaller, tmp_path / "smaller", [])
    asked = short_of(monkeypatch, most=2, from_step=3)
    said: list[str] = []
    points = train_small(wanted, tmp_path / "short", said)
    assert [point.loss for point in points] == pytest.approx([point.loss for point in expected], rel=1e-4)
    assert said == [
        "out of memory with 4 clips a forward pass; goes on from the newest save with 2, a step stays 4 clips"
    ]
    again = [(step, 2) for step in ((3, 4) if every == 1 else (1, 2, 3, 4)) for _ in range(2)]
    assert asked == [(1, 4), (2, 4), (3, 4), *again]
    assert wanted.key == smaller.key
    assert finished_stage(wanted, RunStore(tmp_path / "short")) is not None


@pytest.mark.parametrize("said", ["CUDA out of memory.", "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling it"])
def test_nothing_of_a_stage_that_ran_out_is_kept_when_it_goes_on(
    said: str, job: StageJob, checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither weights nor the optimizer's state: on a full device the next try would find no room."""
    short_of(monkeypatch, most=2, from_step=2, error=RuntimeError(said))
    kept: list[weakref.ref[Any]] = []
    load = VLM.load

    def loaded(*given: Any, **more: Any) -> VLM:
        assert [ref() for ref in kept] == [None] * len(kept)
        vlm = load(*given, **more)
        kept.extend(weakref.ref(part) for part in (vlm, vlm.model))
        return vlm

    original = supervised.AnswerTrainer.create_optimizer

    def optimizer(self: Any, model: Any = None) -> Any:
        made = original(self, model)
        kept.append(weakref.ref(made))
        return made

    wanted = small_job(job, checkpoints["qwen2_5_vl"])
    grid = load(wanted.parent.path).grid
    monkeypatch.setattr(VLM, "load", loaded)
    monkeypatch.setattr(supervised.AnswerTrainer, "create_optimizer", optimizer)
    gc.disable()  # by itself it may come in time, or not
    try:
        train_stage(wanted, RunStore(tmp_path), NoiseClips(grid), say=lambda _: None)  # type: ignore[arg-type]
    finally:
        gc.enable()
    gc.collect()  # as `Session.release` does before another model is loaded
    assert len(kept) == 2 * 3 and [ref() for ref in kept] == [None] * len(kept)


def test_memory_that_holds_not_one_clip_is_an_error(
    job: StageJob, checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = short_of(monkeypatch, most=0, from_step=1)
    said: list[str] = []
    with pytest.raises(torch.OutOfMemoryError):
        train_small(small_job(job, checkpoints["qwen2_5_vl"]), tmp_path, said)
    assert asked == [(1, 4), (1, 2), (1, 1)]
    assert len(said) == 2


def test_a_child_that_is_passed_over_is_named(job: StageJob, store: RunStore) -> None:
    folder, said = store.checkpoint(job.key), []
    (folder / "model.safetensors").write_bytes(b"changed")
    assert finished_stage(job, store, said.append) is None
    assert said.pop() == (f"{folder}: passed over: damaged (changed: model.safetensors); the stage is trained again")
    (folder / "manifest.json").unlink()
    assert finished_stage(job, store, said.append) is None
    assert said.pop().startswith(f"{folder}: passed over: incomplete: it has no manifest.json")
    assert finished_stage(job, RunStore(store.root / "other"), said.append) is None
    assert said == [], "where none stands there is nothing to pass over"
