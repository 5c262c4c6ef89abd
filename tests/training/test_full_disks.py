"""A disk that fills up while a stage is trained and saved: told, nothing half there, and the stage goes on."""

from __future__ import annotations

import pkgutil
from pathlib import Path
from typing import Any

import pytest

from disks import ADVICE, FULL, PLACES, Disk
from noise import NoiseClips
from rbft.clips.frames import Frames
from rbft.errors import StoreError
from rbft.experiment import Recipe, Sampling, Stage
from rbft.models.vlm import VLM
from rbft.prompts import load_prompts
from rbft.records import Checkpoint, Clip, Example, FramePlan
from rbft.store import RunStore, is_sealed, verify
from rbft.training.stages import StageJob, finished_stage, train_stage


class Noise(NoiseClips):
    """Clips of noise by name."""

    def read(self, clip_id: str) -> Frames:
        return super().read(clip_id.removeprefix("n"))

    def plan(self, clip_id: str) -> FramePlan:
        return super().plan(clip_id.removeprefix("n"))


def stage_of(base: Path) -> StageJob:
    """Three steps, each saved."""
    parent = Checkpoint(
        fingerprint="base", path=str(base), stage="base", base="base", parent=None, data_fingerprint="",
        sampling_fingerprint="s", prompts_fingerprint="p", config_fingerprint="", seed=0, num_steps=0,
    )  # fmt: skip
    names = [f"n{number}" for number in range(6)]
    clips = {n: Clip(clip_id=n, path=n, sha256=n * 32, duration_seconds=2.0, label="no", split="train") for n in names}
    return StageJob(
        stage=Stage(kind="label"),
        parent=parent,
        examples=[Example(clip_id=n, prompt="which?", answer="no", source="label") for n in names],
        recipe=Recipe(batch_size=2, micro_batch_size=2, gradient_checkpointing=False, save_every_steps=1),
        steps=3,
        seed=0,
        prompts=load_prompts("brief", persona="Expert", labels={"no": "nothing", "fall": "a fall"}),
        sampling=Sampling(),
        length_normalisation="none",
        clips=clips,
        frame_keys=dict.fromkeys(names, "k"),
    )


@pytest.mark.parametrize("disk", ["24m"], indirect=True)
def test_a_disk_that_fills_up_in_a_stage_leaves_its_saves_whole(
    disk: Disk, checkpoints: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Full in the second save's weights, then in its optimizer, then in the child: told, cleaned, and gone on."""
    job, store = stage_of(checkpoints["qwen2_5_vl"]), RunStore(disk.root / "run")
    frames = Noise(VLM.load(checkpoints["qwen2_5_vl"]).grid)
    work = store.checkpoint(job.key).with_name(f".{job.key}.work")
    whole = RunStore(disk.root.parent / "whole")
    train_stage(job, whole, frames)
    for number, (place, method) in enumerate(PLACES.items()):
        original, calls = pkgutil.resolve_name(method), []

        def filling(*given: Any, original: Any = original, calls: list[int] = calls, at: int = number) -> Any:
            calls.append(1)
            if at == 2 or len(calls) == 2 - at:
                disk.fill(leave=20_000)
            return original(*given)

        with monkeypatch.context() as patch:
            patch.setattr(method, filling)
            with pytest.raises(StoreError) as caught:
                train_stage(job, store, frames)
        told = str(caught.value)
        assert told.startswith(f"{store.root}") and f": cannot be written: {FULL} (" in told, place
        assert told.endswith(ADVICE)
        saves = sorted(path.name for path in work.glob("checkpoint-*"))
        assert saves == (["checkpoint-1"] if number < 2 else ["checkpoint-1", "checkpoint-2"]), place
        assert all(is_sealed(work / save) for save in saves)
        assert [path.name for path in work.parent.iterdir()] == [work.name], "no half child"
        disk.clear()
    train_stage(job, store, frames)
    assert finished_stage(job, store) is not None
    made, expected = (s.checkpoint(job.key) / "model.safetensors" for s in (store, whole))
    verify(made.parent)
    assert made.read_bytes() == expected.read_bytes()


@pytest.mark.parametrize("disk", ["24m"], indirect=True)
def test_a_disk_too_full_for_the_curves_of_tensorboard_is_told_once(
    disk: Disk, checkpoints: dict[str, Path], capfd: pytest.CaptureFixture[str]
) -> None:
    """It opens its file in a thread, which would print a traceback of its own."""
    frames = Noise(VLM.load(checkpoints["qwen2_5_vl"]).grid)
    job, store = stage_of(checkpoints["qwen2_5_vl"]), RunStore(disk.root / "run")
    store.logs(job.key).mkdir(parents=True)
    store.checkpoint(job.key).parent.mkdir()
    disk.fill(leave=2_000)
    with pytest.raises(StoreError, match=f"cannot be written: {FULL}"):
        train_stage(job, store, frames)
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize("disk", ["24m"], indirect=True)
def test_a_stage_without_room_for_its_saves_does_not_begin(disk: Disk, checkpoints: dict[str, Path]) -> None:
    """Weights w are trained, so that a save takes 3 w, and two saves and the child 7 w."""
    vlm = VLM.load(checkpoints["qwen2_5_vl"], for_training=True)
    size = sum(p.numel() * p.element_size() for p in vlm.model.parameters())
    job, store, frames = stage_of(checkpoints["qwen2_5_vl"]), RunStore(disk.root / "run"), Noise(vlm.grid)
    disk.fill(leave=7 * size - 100_000)
    with pytest.raises(StoreError) as caught:
        train_stage(job, store, frames)
    work = store.checkpoint(job.key).with_name(f".{job.key}.work")
    needed = f"{7 * size / 1e6:.1f} MB"
    assert str(caught.value).startswith(
        f"{work}: no room for 2 saves of this stage and its checkpoint: {needed} needed, "
    )
    assert not list(work.glob("checkpoint-*"))
    disk.clear()
    train_stage(job, store, frames)
