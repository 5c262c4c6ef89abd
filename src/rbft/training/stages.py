"""A stage as an artifact: the parent checkpoint learns examples and leaves a child, or the child is there already."""

from __future__ import annotations

import gc
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from rbft.asking import question_prompt
from rbft.describing import load_openings
from rbft.errors import CheckpointError
from rbft.experiment import Sampling, Stage
from rbft.files import write_record
from rbft.models.encoder import ClipTextEncoder, EncoderFiles
from rbft.models.vlm import VLM, FrameSource
from rbft.progress import Reporter, Say
from rbft.prompts import Describing, Prompts, Reasoning
from rbft.recipe import SAME_RESULT, Recipe, Reinforce
from rbft.records import Checkpoint, Clip, Example, Question, fingerprint
from rbft.stopping import finishing
from rbft.store import CARD, Card, RunStore, check_lineage, publish, read_card, seal_fault
from rbft.training.ending import disk_faults
from rbft.training.examples import refuse_test_clips
from rbft.training.plan import ran_out
from rbft.training.reinforce import reinforce
from rbft.training.rollouts import Grader, label_questions
from rbft.training.supervised import train


@dataclass(frozen=True)
class StageJob:
    """Everything that decides what a stage's child is; `key` is its fingerprint."""

    stage: Stage
    parent: Checkpoint
    examples: Sequence[Example]
    recipe: Recipe
    steps: int
    seed: int
    prompts: Prompts
    sampling: Sampling
    length_normalisation: str
    clips: Mapping[str, Clip]
    frame_keys: Mapping[str, str]
    questions: Sequence[Question] = ()
    """What a reinforce stage of an experiment about questions learns; on labelled clips its examples are asked."""
    describing: Describing | Reasoning | None = None
    """What the child says about a clip before its label is scored; what it learns is in its examples."""
    reinforce: Reinforce | None = None
    """How a reinforce stage samples and rewards."""
    encoder: EncoderFiles | None = None
    """What its rewards compare texts with clips by; None where they do not."""
    held_out: Sequence[Question] = ()
    """Questions about test clips that a reinforce stage's curve is of; nothing depends on them."""

    @property
    def learnt(self) -> list[Example | Question]:
        """Everything that is learnt from."""
        return [*self.examples, *self.questions]

    @property
    def key(self) -> str:
        """Fingerprint of the inputs: the same key is the same child, however its batches were cut."""
        frames = [self.frame_keys[example.clip_id] for example in self.examples]
        recipe = self.recipe.model_dump(exclude=set(SAME_RESULT))
        more: list[Any] = [self.describing] if self.stage.reasons else []
        more += [] if self.reinforce is None else [self.reinforce.model_dump(exclude={*SAME_RESULT, "encoder"})]
        more += [] if self.encoder is None else [self.encoder.fingerprint, load_openings()]
        if self.questions:
            asked = [(q, question_prompt(self.prompts, q), self.frame_keys[q.clip_id]) for q in self.questions]
            more.append(asked)
        return fingerprint(
            "stage", self.stage.kind, self.parent.fingerprint, list(self.examples), frames, recipe, self.steps,
            self.seed, self.prompts, list(self.prompts.labels), self.sampling.model_dump(), self.length_normalisation,
            *more,
        )  # fmt: skip


def finished_stage(job: StageJob, store: RunStore, say: Say | None = None) -> Checkpoint | None:
    """The child of a stage where a whole one stands already, else None. Every file of it is hashed once.

    Says (None: on standard error) why one that stands there is passed over, so that the stage is trained again.
    Raises CheckpointError where a finished child was added to, or its card is of another version: that is for a person
    to mend, and no reason to train again.
    """
    folder = store.checkpoint(job.key)
    try:
        card = read_card(folder)
    except CheckpointError:
        fault = seal_fault(folder)
        if fault is None:
            raise
        if folder.exists():
            (say or Reporter().say)(f"{folder}: passed over: {fault}; the stage is trained again")
        return None
    shutil.rmtree(_work(folder), ignore_errors=True)
    return card.checkpoint


def train_stage(
    job: StageJob, store: RunStore, frames: FrameSource, *, allow_remote_code: bool = False, say: Say | None = None
) -> Checkpoint:
    """Train a stage to its end and publish its child; an interrupted one continues.

    A device that runs out of memory is asked again with half the micro-batch: the step stays as large. Says (None: on
    standard error) that, which saves are passed over and which steps are skipped. Raises LineageError where a test clip
    is among the examples or the parent on disk is not the one meant; StoreError where the disk has no room or refuses;
    StoppedError, with a save, where the process is asked to end.
    """
    say = say or Reporter().say
    folder = store.checkpoint(job.key)
    work = _work(folder)
    refuse_test_clips(job.learnt, job.clips)
    if job.parent.stage != "base":
        check_lineage(read_card(store.checkpoint(job.parent.fingerprint)).checkpoint, job.parent)
    checkpoint = _child(job, str(folder))
    finished = folder.with_name(f".{job.key}.finished")
    shutil.rmtree(finished, ignore_errors=True)
    card = Card(
        checkpoint=checkpoint,
        prompts=job.prompts,
        sampling=job.sampling,
        length_normalisation=job.length_normalisation,
        describing=job.describing,
        questions=job.prompts.templates.asking,
    )
    with disk_faults(work, finished):
        with finishing():
            vlm = _trained(job, frames, work, store.logs(job.key), allow_remote_code, say)
        vlm.save(finished)
        write_record(finished / CARD, card)
        publish(finished, folder)
    shutil.rmtree(work, ignore_errors=True)
    return checkpoint


def _trained(job: StageJob, frames: FrameSource, work: Path, logs: Path, allow_remote_code: bool, say: Say) -> VLM:
    """The parent after the stage, in as large a micro-batch as the device's memory turns out to hold."""
    while True:
        vlm = VLM.load(job.parent.path, for_training=job.recipe.lora is None, allow_remote_code=allow_remote_code)
        try:
            _train(job, vlm, frames, work, logs, say)
            return vlm
        except RuntimeError as error:  # of torch; where a processor runs out, the system mostly ends the process
            smaller = _half(job.recipe) if ran_out(error) else None
            if smaller is None or job.reinforce is not None:
                raise
        say(
            f"out of memory with {job.recipe.micro_batch_size} clips a forward pass; goes on from the newest save with "
            f"{smaller.micro_batch_size}, a step stays {smaller.batch_size} clips"
        )
        job = replace(job, recipe=smaller)
        del vlm
        gc.collect()
        torch.cuda.empty_cache()


def _half(recipe: Recipe) -> Recipe | None:
    """The same with at most half the micro-batch, which still divides the batch; None: it is one clip already."""
    half = recipe.micro_batch_size // 2
    sizes = [size for size in range(half, 0, -1) if recipe.batch_size % size == 0]
    return recipe.model_copy(update={"micro_batch_size": sizes[0]}) if sizes else None


def _train(job: StageJob, vlm: VLM, frames: FrameSource, work: Path, logs: Path, say: Say) -> None:
    if job.reinforce is None:
        train(vlm, job.examples, frames, job.recipe, steps=job.steps, seed=job.seed, work=work, logs=logs, say=say)
        return
    questions = job.questions or label_questions(job.examples, list(job.prompts.labels))
    encoder = None if job.encoder is None else ClipTextEncoder.load(job.encoder, frames)
    grader = Grader.of(job.reinforce, job.prompts, encoder)
    reinforce(
        vlm, questions, frames, job.recipe, grader, steps=job.steps, seed=job.seed, work=work, logs=logs,
        held_out=job.held_out, say=say,
    )  # fmt: skip


def _work(folder: Path) -> Path:
    """Where a stage keeps its saved steps while it is trained, beside the folder of its child."""
    return folder.with_name(f".{folder.name}.work")


def _child(job: StageJob, path: str) -> Checkpoint:
    trained = sorted({job.clips[one.clip_id].sha256 for one in job.learnt})
    return Checkpoint(
        fingerprint=job.key,
        path=path,
        stage=job.stage.kind,
        base=job.parent.base,
        parent=job.parent.fingerprint,
        data_fingerprint=fingerprint(job.learnt),
        sampling_fingerprint=fingerprint(job.sampling.model_dump()),
        prompts_fingerprint=fingerprint(job.prompts),
        config_fingerprint=fingerprint(job.recipe.model_dump(exclude=set(SAME_RESULT))),
        seed=job.seed,
        num_steps=job.steps,
        train_clip_sha256=tuple(sorted({*job.parent.train_clip_sha256, *trained})),
    )
