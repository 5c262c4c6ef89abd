"""What a run asks of its model at most: clips in patches and tokens, prompts and answers in tokens. No torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from rbft.asking import question_prompt
from rbft.clips.question_set import QuestionSet
from rbft.experiment import Experiment, Stage
from rbft.models.memory import Load
from rbft.models.shape import ModelShape
from rbft.prompts import Prompts
from rbft.recipe import Reinforce
from rbft.records import FramePlan, Manifest
from rbft.thinking import Thought, render_thought

NUM_EXAMPLE_CLIPS = 8
"""Test clips that every run explains in its report."""


class Counter(Protocol):
    """Counts tokens: `rbft.models.vlm.TokenCounter`."""

    def prompt(self, prompt: str) -> int:
        """Tokens of a rendered prompt."""

    def answer(self, answer: str) -> int:
        """Tokens of an answer."""


@dataclass(frozen=True)
class Work:
    """What a run asks of a model: its clips as (patches, visual tokens, tokens with the text around frames), and text.

    `train` are the training clips, `every` all of them, `general` those that are described beside them. `prompt` is
    the longest prompt, `answer` the longest answer that is learnt, `labels` the tokens of each label, `written` those
    that the model may write, `begun` its own that may stand between a query and the labels.
    """

    train: Sequence[tuple[int, int, int]]
    every: Sequence[tuple[int, int, int]]
    prompt: int
    answer: int
    labels: Sequence[int]
    written: int
    begun: int = 0
    writes: int | None = None
    """About so many clips it writes at most; None: about all of them."""
    general: Sequence[tuple[int, int, int]] = ()

    def writing(self, batch_size: int) -> int:
        """Clips that are written about at once."""
        most = max(len(self.every), len(self.general))
        return min(batch_size, most, self.writes or most)

    def training(self, rows: int) -> Load:
        """The heaviest micro-batch of training."""
        load = _heaviest(self.train, rows, self.prompt + self.answer)
        return replace(load, answer=self.answer + 1)

    def asking(self, rows: int) -> Load:
        """The heaviest batch of questions."""
        return _heaviest([*self.every, *self.general], rows, self.prompt)

    def scoring(self, rows: int) -> Load:
        """The heaviest batch whose labels are scored."""
        return _heaviest(self.every, rows, self.prompt + self.begun)

    def updating(self, reinforce: Reinforce) -> Load:
        """The heaviest clip with a whole group of answers behind it, all of them as long as they may be."""
        answers = reinforce.samples * reinforce.max_new_tokens
        load = _heaviest(self.train, 1, self.prompt + answers)
        return replace(load, answer=answers + 1, tree=True)

    def sampling(self, groups: int) -> Load:
        """The heaviest clips that answers are sampled to."""
        return _heaviest(self.train, groups, self.prompt)


def _heaviest(clips: Sequence[tuple[int, int, int]], rows: int, text: int) -> Load:
    """The clips with the most patches together, each padded to the longest of all; what is missing is like the largest.

    (6 patches, 1 token), (4, 3) and no text: three rows hold 6 + 4 + 6 patches and 3 x 3 tokens.
    """
    patches = sorted((patches for patches, _, _ in clips), reverse=True)
    held = sum(patches[:rows]) + max(0, rows - len(patches)) * patches[0]
    return Load(rows=rows, patches=held, tokens=max(tokens for _, _, tokens in clips) + text)


def question_work(
    experiment: Experiment, manifest: Manifest, plan: Callable[[str], FramePlan], prompts: Prompts,
    questions: QuestionSet, shape: ModelShape, counter: Counter,
) -> Work:  # fmt: skip
    """What an experiment about questions asks of its model, at most. No label is scored."""
    sizes = _sizes(plan, shape)
    stages = [stage for arm in experiment.arms for stage in arm.stages]
    texts = dict.fromkeys(question_prompt(prompts, question) for question in questions.asked)
    thoughts = [t.answer for t in questions.cot] if any(stage.kind == "cot" for stage in stages) else []
    limits = [experiment.stage_reinforce(stage).max_new_tokens for stage in stages]
    return Work(
        train=[sizes(clip.clip_id) for clip in manifest.of("train")],
        every=[sizes(clip.clip_id) for clip in manifest.clips],
        prompt=max(map(counter.prompt, texts)),
        answer=max(map(counter.answer, thoughts), default=0),
        labels=(),
        written=max([experiment.reinforce.max_new_tokens, *limits]),
    )


def _sizes(plan: Callable[[str], FramePlan], shape: ModelShape) -> Callable[[str], tuple[int, int, int]]:
    return lambda clip_id: _size(plan(clip_id), shape)


def _size(frames: FramePlan, shape: ModelShape) -> tuple[int, int, int]:
    visual = shape.visual_tokens(frames)
    return shape.patches(frames), visual, visual + shape.time_tokens(frames)


def work_of(
    experiment: Experiment, manifest: Manifest, plan: Callable[[str], FramePlan], prompts: Prompts, shape: ModelShape,
    counter: Counter, general: Sequence[FramePlan] = (),
) -> Work:  # fmt: skip
    """What an experiment asks of its model, at most; `general` are clips that its arms describe besides."""
    sizes = _sizes(plan, shape)
    stages = [stage for arm in experiment.arms for stage in arm.stages]
    written = experiment.rationales.max_new_tokens
    labels = [counter.answer(label) for label in manifest.labels]
    reasoned = [experiment.stage_reinforce(stage).max_new_tokens for stage in stages if stage.reasons]
    asked = [prompts.label(), prompts.rationale(), *([prompts.reasoned()] if reasoned else [])]
    if any(stage.hint is not None for stage in stages):
        asked += [prompts.hinted_rationale(label) for label in manifest.labels]
    prompt = max(counter.prompt(text) for text in asked)
    if any(stage.describe_first or (stage.vote is not None and stage.vote.right_only) for stage in stages):
        prompt = max(
            prompt, counter.prompt(prompts.label()) + written + counter.answer(prompts.templates.described or "")
        )
    answer = max(labels)
    if any(stage.learns_rationales for stage in stages):
        human = [clip.rationale for clip in manifest.of("train") if clip.rationale]
        longest = max((counter.answer(text) for text in human), default=0)
        mixed = any(stage.learns_rationales and stage.self_share < 1 for stage in stages)
        label = max(counter.answer(f"Label: {label}\n") for label in manifest.labels)
        if any(stage.kind == "cot" for stage in stages):
            label = max(label, *(counter.answer(render_thought(Thought("", label))) for label in manifest.labels))
        curated = any(stage.thoughts == "curated" for stage in stages)
        thought = experiment.curation_used.max_new_tokens if curated else 0
        answer = max(answer, max(written, longest if mixed else 0, thought) + label)
    return Work(
        train=[sizes(clip.clip_id) for clip in manifest.of("train")],
        every=[sizes(clip.clip_id) for clip in manifest.clips],
        prompt=prompt,
        answer=answer,
        labels=labels,
        written=max([written, *reasoned]),
        begun=max(reasoned, default=0),
        writes=None if any(map(_writes, stages)) or general else NUM_EXAMPLE_CLIPS,
        general=[_size(frames, shape) for frames in general],
    )


def _writes(stage: Stage) -> bool:
    """Whether a stage asks about training clips, or its child about test clips, for more than the report's examples."""
    return stage.learns_rationales or stage.describe_first or stage.reasons
