"""A run with one setting changed: what depends on it is made again, all else is shared, and nothing is passed off.

Clips are read, keys are made, files are written and found as always; only what a model would say or learn is made up.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import rbft
from rbft.experiment import Experiment, make_experiment
from rbft.files import read_jsonl, write_jsonl, write_record, write_text
from rbft.findings import loss_curves, skipped_steps
from rbft.models.generate import Generated
from rbft.models.sources import resolve
from rbft.records import Checkpoint, LossPoint, Prediction, Rationale
from rbft.results import Report
from rbft.store import CARD, Card, RunStore, seal
from rbft.training import stages
from rbft.training.stages import StageJob
from videos import write_clip

NUM_TRAIN, NUM_TEST = 8, 4
LABELS = {"still": "nothing happens", "moving": "something moves"}


@dataclass(frozen=True)
class Done:
    """What a run made anew: frames of clips, files of texts, stages, files of answers."""

    frames: int = 0
    texts: int = 0
    stages: int = 0
    answers: int = 0


NOTHING = Done()
EVERYTHING = Done(frames=NUM_TRAIN + NUM_TEST, texts=1, stages=3, answers=3)
"""One request; the label stage of `direct`, both of `rb-ft`; answers of both and of `zero-shot`."""
STAGES = Done(stages=3, answers=2)
WRITING = Done(texts=1, stages=2, answers=1)
"""Of `rb-ft` alone; `direct` knows no rationales."""


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    rows = ["path,label,split"]
    for number in range(NUM_TRAIN + NUM_TEST):
        blocks = np.random.default_rng(number).integers(0, 256, (10, 6, 8, 3), dtype=np.uint8)
        write_clip(folder / f"{number}.mp4", list(blocks.repeat(8, axis=1).repeat(8, axis=2)))
        rows.append(f"{number}.mp4,{list(LABELS)[number % 2]},{'train' if number < NUM_TRAIN else 'test'}")
    write_text(folder / "clips.csv", "\n".join(rows) + "\n")
    return folder / "clips.csv"


def asked(clips: Path, output: Path, changes: dict[str, Any]) -> Experiment:
    settings: dict[str, Any] = {
        "name": "mine", "clips": str(clips), "model": "embedded", "prompts": "brief", "labels": LABELS,
        "domain": "Expert", "arms": ["zero-shot", "direct", "rb-ft"], "seeds": [0], "output": str(output),
        "sampling": {"fps": 2, "min_pixels": 4704, "max_pixels": 4704}, "workers": 1,
        "rationales": {"max_new_tokens": 48}, "training": {"micro_batch_size": 4, "batch_size": 4},
        "evaluation": {"resamples": 100, "generate": False},
    }  # fmt: skip
    for name, value in changes.items():
        section, _, field = name.rpartition(".")
        if section:
            settings[section] = settings.get(section, {}) | {field: value}
        else:
            settings[field] = value
    return make_experiment(settings)


# -- what a model would do -------------------------------------------------------------------------------------------


def texts(vlm: Any, batch: Sequence[Any], **settings: Any) -> list[Generated]:
    """Other settings, another text."""
    told = (
        f"Subjects: a dog. Attributes: {settings['max_new_tokens']}. Actions: {settings['temperature']}. Scenes: yard."
    )
    return [Generated(told, True, 9) for _ in batch]


class OneLabel:
    """Gives every clip the first label, as a model that has collapsed."""

    def __init__(self, vlm: Any, prompts: Any, *_: Any) -> None:
        self._labels = list(prompts.labels)

    def encode(self, *_: Any) -> None:
        return None

    def answer(self, checkpoint: str, clips: Sequence[tuple[str, str | None]], *_: Any) -> list[Prediction]:
        sure = dict(zip(self._labels, (0.75, 0.25), strict=True))
        return [
            Prediction(clip_id=clip, checkpoint=checkpoint, truth=truth, label=self._labels[0], log_probabilities=sure,
                       probabilities=sure)
            for clip, truth in clips
        ]  # fmt: skip


def child(job: StageJob, store: RunStore, *_: Any, **__: Any) -> Checkpoint:
    """A sealed folder with a card."""
    folder = store.checkpoint(job.key)
    folder.mkdir(parents=True)
    made = stages._child(job, str(folder))
    card = Card(checkpoint=made, prompts=job.prompts, sampling=job.sampling, length_normalisation="none")
    write_record(folder / CARD, card)
    seal(folder)
    return made


@pytest.fixture(scope="module", autouse=True)
def _made_up() -> Iterator[None]:
    loaded = SimpleNamespace(encode_clip=lambda *_: None, source=SimpleNamespace(name="embedded"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rbft.session.VLM.load", lambda *_, **__: loaded)
        patch.setattr("rbft.rationales.generate.generate", texts)
        patch.setattr("rbft.evaluation.predict.LabelQuery", OneLabel)
        patch.setattr("rbft.chains.train_stage", child)
        patch.setattr("rbft.session.gc.collect", lambda: 0)
        yield


# -- what was made ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def first(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Report]:
    """The output folder of the run that settings are changed of, and its report."""
    output = tmp_path_factory.mktemp("first") / "runs"
    return output, rbft.run(asked(clips, output, {}), quiet=True).report


def files(output: Path) -> dict[str, dict[Path, bytes]]:
    """Everything that a run makes and may use again, by kind."""
    kinds = {
        "frames": "cache/frames/*/*.safetensors",
        "texts": "*/rationales/*.jsonl",
        "stages": "*/checkpoints/*/card.json",
        "answers": "*/predictions/*.jsonl",
    }
    return {
        kind: {f.relative_to(output): f.read_bytes() for f in output.glob(pattern)} for kind, pattern in kinds.items()
    }


def redone(first: Path, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]) -> Done:
    """What a run with these settings makes beside the first one's files, none of which changes."""
    output = Path(shutil.copytree(first, tmp_path / "runs"))
    before = files(output)
    monkeypatch.setattr("rbft.runs._report", lambda *_: None)
    rbft.run(asked(clips, output, changes), quiet=True)
    after = files(output)
    for kind, old in before.items():
        assert all(after[kind][path] == content for path, content in old.items()), f"{kind} of another run changed"
    return Done(**{kind: len(after[kind].keys() - before[kind].keys()) for kind in before})


def test_the_first_run_makes_everything_and_the_same_again_nothing(
    first: tuple[Path, Report], clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert Done(**{kind: len(made) for kind, made in files(first[0]).items()}) == EVERYTHING
    assert redone(first[0], clips, tmp_path, monkeypatch, {}) == NOTHING


SAME_RESULT = {
    "workers": 2, "memory_gib": 64.0, "on_bad_clip": "leave-out", "allow_outside": True, "limits.seconds": 99.0,
    "training.micro_batch_size": 1, "training.gradient_checkpointing": True, "training.save_every_steps": 7,
    "training.method": "full", "rationales.batch_size": 3, "evaluation.batch_size": 3, "evaluation.resamples": 200,
    "reinforce.samples": 4, "reinforce.rollout_batch_size": 8, "arms": ["rb-ft", "zero-shot"],
}  # fmt: skip


def test_what_changes_no_result_makes_nothing_again(
    first: tuple[Path, Report], clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of them at once: were one of them part of a key, something would be made."""
    assert redone(first[0], clips, tmp_path, monkeypatch, SAME_RESULT) == NOTHING


OTHER_RESULT = {
    "training.learning_rate": (1e-3, STAGES),
    "training.vision_learning_rate": (0.0, STAGES),
    "training.epochs": (2.0, STAGES),
    "training.batch_size": (8, STAGES),
    "training.weight_decay": (0.0, STAGES),
    "training.scheduler": ("linear", STAGES),
    "training.class_weights": ("balanced", STAGES),
    "training.lora": ({"rank": 2}, STAGES),
    "seeds": ([1], STAGES),
    "rationales.max_new_tokens": (32, WRITING),
    "rationales.temperature": (0.5, WRITING),
    "evaluation.length_normalisation": ("mean", Done(stages=3, answers=3)),
    "evaluation.generate": (True, Done(answers=3)),
    "sampling": ({"fps": 6, "min_pixels": 7056, "max_pixels": 7056}, EVERYTHING),
    "sampling.max_pixels": (7056, Done(texts=1, stages=3, answers=2)),
    "prompts": ("default", Done(texts=1, stages=3, answers=3)),
    "domain": ("Guard", Done(texts=1, stages=3, answers=2)),
    "labels": (LABELS | {"still": "all is quiet"}, Done(texts=1, stages=3, answers=3)),
    "arms": (["zero-shot", "direct", "rb-ft", "direct-matched"], Done(stages=1, answers=1)),
    "name": ("another", Done(texts=1, stages=3, answers=3)),
}


@pytest.mark.parametrize("name", OTHER_RESULT)
def test_what_changes_a_result_makes_all_of_it_again_and_no_more(
    name: str, first: tuple[Path, Report], clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Frames are shared where they are the same: under another name, and under a bound that no clip reaches; then what
    `zero-shot` answers is, too. It is asked without persona.
    """
    value, expected = OTHER_RESULT[name]
    assert redone(first[0], clips, tmp_path, monkeypatch, {name: value}) == expected


def test_a_stage_alone_with_another_recipe_is_trained_alone(
    first: tuple[Path, Report], clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rationale stage is shared, and so is `direct`."""
    stages = [{"kind": "rationale"}, {"kind": "label", "training": {"learning_rate": 1e-3}}]
    arms = ["zero-shot", "direct", {"name": "rb-ft", "stages": stages}]
    assert redone(first[0], clips, tmp_path, monkeypatch, {"arms": arms}) == Done(stages=1, answers=1)


def test_another_model_shares_nothing_but_frames_cut_alike(
    first: tuple[Path, Report], clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same files under a path of their own are the same model; one weight changed, and they are another."""
    copy = Path(shutil.copytree(resolve("embedded").folder, tmp_path / "model"))
    assert redone(first[0], clips, tmp_path / "a", monkeypatch, {"model": str(copy)}) == NOTHING
    [weights] = copy.glob("*.safetensors")
    raw = weights.read_bytes()
    weights.write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
    made = redone(first[0], clips, tmp_path / "b", monkeypatch, {"model": str(copy)})
    assert made == Done(texts=1, stages=3, answers=3)


@pytest.mark.parametrize(
    ("row", "expected"),
    [(0, Done(stages=2, answers=2)), (NUM_TRAIN, Done(answers=3))],
)
def test_another_label_in_the_list_of_clips(
    row: int, expected: Done, first: tuple[Path, Report], clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a training clip: its text is judged beside its label, so it is written anew into its file, and labels are
    learnt again; texts without labels are not. Of a test clip: nothing is learnt, all is asked.
    """
    lines = clips.read_text(encoding="utf-8").splitlines()
    lines[1 + row] = lines[1 + row].replace("still", "moving")
    other = clips.with_name(f"other-{row}.csv")
    write_text(other, "\n".join(lines) + "\n")
    output = Path(shutil.copytree(first[0], tmp_path / "runs"))
    before = files(output)
    monkeypatch.setattr("rbft.runs._report", lambda *_: None)
    rbft.run(asked(other, output, {}), quiet=True)
    after = files(output)
    assert Done(**{kind: len(after[kind].keys() - before[kind].keys()) for kind in before}) == expected
    [texts] = after["texts"]
    written = [r.clip_id for r in read_jsonl(output / texts, Rationale)]
    assert [clip for clip in set(written) if written.count(clip) > 1] == (["0"] if row == 0 else [])


# -- collapse --------------------------------------------------------------------------------------------------------


def test_arms_that_give_one_label_are_an_alarm(first: tuple[Path, Report]) -> None:
    """In report.json and on the page; the words of the terminal are those of `tests/report`."""
    output, report = first
    assert report.alarms == (
        "zero-shot gives all test clips the label 'still'; the model as it came tells no clips apart; look at the "
        "definitions of the labels.",
        *(
            f"{arm} gives all test clips the label 'still'; it has learnt no difference between the labels: look at "
            "its training loss, lower training.learning_rate, or set training.class_weights=balanced."
            for arm in ("direct", "rb-ft")
        ),
    )
    page = (output / "mine" / "report.html").read_text(encoding="utf-8")
    assert page.count("<dt>Alarm</dt>") == 3
    assert "rb-ft gives all test clips the label" in page


# -- skipped steps ---------------------------------------------------------------------------------------------------


def test_skipped_steps_are_noted_and_are_no_points_of_a_curve(tmp_path: Path) -> None:
    """Two of three steps of one stage and none of another; logs that a user deleted say nothing."""
    base = {"path": "", "base": "embedded", "parent": None, "data_fingerprint": "", "sampling_fingerprint": "",
            "prompts_fingerprint": "", "config_fingerprint": "", "num_steps": 3}  # fmt: skip
    chains = {
        "rb-ft": {
            seed: [Checkpoint.model_validate(base | {"fingerprint": f"{kind}{seed}", "stage": kind, "seed": seed})
                   for kind in ("rationale", "label")]
            for seed in (0, 1)
        }
    }  # fmt: skip
    store = RunStore(tmp_path)
    bad = {"loss": None, "learning_rate": 0.1, "skipped": ("a", "b")}
    points = [LossPoint(step=1, loss=2.0, learning_rate=0.1)]
    write_jsonl(store.logs("rationale0") / "losses.jsonl", points)
    write_jsonl(store.logs("label0") / "losses.jsonl", [*points, LossPoint(step=2, **bad), LossPoint(step=3, **bad)])
    assert skipped_steps(store, chains) == [
        "rb-ft, seed 0 (label): 2 of 3 steps were skipped, because their loss or gradients were no numbers; "
        "logs/label0/losses.jsonl names their clips"
    ]
    assert [list(curve.points) for curve in loss_curves(store, chains)] == [[(1, 2.0)], [(1, 2.0)]]
