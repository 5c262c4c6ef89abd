"""What is written to disk, as frozen records; what is measured stands in `rbft.results`. Read it: it is the program.

A record refuses unknown fields, so a file from another version is an error and never half read. Tensors are never
records: they live in the frozen dataclasses of `clips.frames` and `training.batches`.
"""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Split = Literal["train", "test"]
ClipProblem = Literal[
    "missing", "empty", "unreadable", "no_video_stream", "encrypted", "zero_length", "partial", "too_large",
    "too_long", "too_short", "too_slow", "unsupported", "outside", "duplicate",
]  # fmt: skip
DropReason = Literal[
    "empty", "truncated", "repeating", "refusal", "names_label", "off_template", "contradicts_label", "low_agreement",
    "changed_by_hint", "other_label", "holds_tags", "no_reply", "not_json", "frame_count", "outside_clip", "no_thought",
    "names_notes", "wrong_answer", "changed_answer",
]  # fmt: skip
RationaleFormat = Literal["P+R", "P+C+R", "P+R+C"]
StageKind = Literal["rationale", "label", "joint", "cot", "reinforce"]
CurationStep = Literal["represent", "reason", "revise"]
QuestionKind = Literal["label", "multiple choice", "numerical", "regression", "OCR", "free-form"]
Probability = Annotated[float, Field(ge=0.0, le=1.0)]


class Record(BaseModel):
    """Base of all records: immutable, closed, compared by value."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")


def fingerprint(*parts: Any) -> str:
    """Sixteen hex digits of SHA-256 over the canonical JSON of `parts` (records, and anything JSON can hold).

    Canonical: a tuple is a list, and the order of a mapping's keys does not count. Where it does, add `list(mapping)`.
    """

    def plain(value: Any) -> Any:
        if isinstance(value, BaseModel):
            return value.model_dump(mode="json")
        raise TypeError(f"cannot fingerprint a {type(value).__name__}")

    text = json.dumps(parts, sort_keys=True, ensure_ascii=True, default=plain, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


# -- clips ---------------------------------------------------------------------------------------------------------


class Grid(Record):
    """How a vision tower cuts frames: pixels per patch side, patches per merged side, frames per temporal patch."""

    patch_size: int = 14
    merge_size: int = 2
    temporal_patch_size: int = 2

    @property
    def pixels(self) -> int:
        """Pixels along the side of one language-model token: 28 for Qwen2.5-VL."""
        return self.patch_size * self.merge_size


class Probe(Record):
    """What a clip's file says and its packets confirm; sizes are as displayed (rotation and sample aspect applied)."""

    container: str
    codec: str
    pixel_format: str
    width: int
    height: int
    coded_width: int
    coded_height: int
    rotation_degrees: int
    mirrored: bool = False
    sample_aspect_ratio: float
    duration_seconds: float
    num_frames: int
    average_fps: float
    first_time_seconds: float
    has_audio: bool


class Box(Record):
    """A box around an object at a time; corners are relative to the displayed frame, 0 to 1."""

    t: float
    box: tuple[float, float, float, float]


class Clip(Record):
    """One clip of a manifest. `start` and `end` are seconds from the first frame; `sha256` is of the file's bytes."""

    clip_id: str
    path: str
    sha256: str
    duration_seconds: float
    label: str | None = None
    split: Split
    group: str | None = None
    start: float | None = None
    end: float | None = None
    rationale: str | None = None
    boxes: tuple[Box, ...] = ()
    category: tuple[str, ...] = ()


class LeftOut(Record):
    """A listed clip that is not used, and why."""

    clip_id: str
    path: str
    reason: ClipProblem
    detail: str


class Manifest(Record):
    """The clips of an experiment. used + left out = listed."""

    labels: dict[str, str]
    """Label to its one-line definition (empty where none was given), in the user's order."""
    clips: tuple[Clip, ...]
    left_out: tuple[LeftOut, ...] = ()
    notes: tuple[str, ...] = ()

    def of(self, split: Split, *, labelled: bool | None = None) -> list[Clip]:
        """Clips of one split, in manifest order; `labelled` keeps only those with (True) or without (False) a label."""
        return [c for c in self.clips if c.split == split and labelled in (None, c.label is not None)]


class FramePlan(Record):
    """Which instants of a clip to read, and at what size. Times are seconds from the clip's first frame."""

    times_seconds: tuple[float, ...]
    width: int
    height: int
    frames_per_second: float
    """The realised rate, num_frames / duration: what the model is told."""
    short_clip_policy: Literal["repeat-last", "error"]

    @property
    def num_frames(self) -> int:
        """How many frames the plan asks for."""
        return len(self.times_seconds)

    def visual_tokens(self, grid: Grid) -> int:
        """Language-model tokens: temporal patches (rounded up) x height x width in merged patches."""
        steps = -(-self.num_frames // grid.temporal_patch_size)
        return steps * (self.height // grid.pixels) * (self.width // grid.pixels)


# -- text ----------------------------------------------------------------------------------------------------------


class Verdict(Record):
    """The audit's verdict on one text: kept, or dropped with every reason; `flags` are noted but do not drop."""

    kept: bool
    reasons: tuple[DropReason, ...] = ()
    flags: tuple[DropReason, ...] = ()
    detail: str = ""


class Rationale(Record):
    """One text that an engine wrote about one clip."""

    clip_id: str
    clip_key: str
    """Fingerprint of the clip's frames and label: another one asks for a new text."""
    text: str
    finished: bool
    """Whether the engine ended the text itself (False: cut at the token limit)."""
    num_tokens: int | None
    """None of a curated thought: its answers are counted in the curation's own files."""
    engine: str
    prompt_fingerprint: str
    seed: int
    attempt: int = 0
    """0, or which sampled retry of a blank, a loop or a refusal it is."""
    verdict: Verdict
    agreement: dict[str, Probability] | None = None
    """Of a voted text: by dimension, how well the chosen text agrees with those of the other samples."""


class Example(Record):
    """One training pair: what the model is asked about a clip, and the answer it learns."""

    clip_id: str
    prompt: str
    answer: str
    source: Literal["label", "self", "human", "curated"]
    weight: float = 1.0


class StepAnswer(Record):
    """What an engine wrote in one step of a curation; the same `key` is never asked twice."""

    key: str
    """Fingerprint of the step, the engine, the prompt with all that was written before it, and the clip's frames."""
    item: str
    """A question; of the steps that represent and repair, a clip."""
    engine: str
    text: str
    finished: bool
    prompt_tokens: int | None = None
    num_tokens: int | None = None
    """None where the engine does not count."""
    attempts: int = 1
    served_by: str | None = None
    """The model that a server says it answered with; None of other engines."""


class Curated(Record):
    """A question on its way through a curation: what was written, and why it is kept or where it was dropped."""

    question: Question
    step: CurationStep | None
    """The last step that it passed whole; None: not even the first."""
    representation: str | None = None
    reasoned: str | None = None
    """The thought as it was before a revision."""
    think: str | None = None
    """The thought that is kept."""
    answer: str | None = None
    accuracy: float | None = None
    verdict: Verdict


# -- reinforcement -------------------------------------------------------------------------------------------------


class Question(Record):
    """A question about a clip with its true answer. Five kinds are VideoRFT's (arXiv 2505.12434); `label` is ours."""

    question_id: str
    clip_id: str
    kind: QuestionKind
    text: str
    options: tuple[str, ...] = ()
    """Of a label the label set, of a multiple choice the choices in order (`A. a dog` or `a dog`); else empty."""
    answer: str
    category: tuple[str, ...] = ()
    """Kinds of question as its benchmark names them, for the report."""


class RolloutRecord(Record):
    """One sampled answer to a question, what it earned and how that compares with its group."""

    question_id: str
    clip_id: str
    step: int
    sample: int
    """Which of the group's answers, from 0."""
    text: str
    finished: bool
    """Whether the model ended the answer itself (False: cut at the token limit)."""
    num_tokens: int
    rewards: dict[str, float | None]
    """By term of the formula, before its weight; None where it cannot be computed, which is never 0."""
    reward: float | None
    advantage: float | None
    masked: bool
    """Whether the answer is left out of the loss."""


# -- training and evaluation ---------------------------------------------------------------------------------------


class Checkpoint(Record):
    """A model on disk and how it came to be. `fingerprint` of the base is that of its weights' manifest."""

    fingerprint: str
    path: str
    stage: StageKind | Literal["base"]
    base: str
    parent: str | None
    data_fingerprint: str
    sampling_fingerprint: str
    prompts_fingerprint: str
    config_fingerprint: str
    seed: int
    num_steps: int
    train_clip_sha256: tuple[str, ...] = ()


class LossPoint(Record):
    """Training loss of one optimizer step: mean negative log-likelihood of its answer tokens, in nats."""

    step: int
    loss: float | None
    """None where it was no number, so that the step was skipped."""
    learning_rate: float
    skipped: tuple[str, ...] = ()
    """Clips for which the step was skipped: of those parts of it whose loss was no number, or (the gradients) all."""


class ReinforcePoint(Record):
    """One optimizer step of a reinforce stage; means are over its answers, and None where there is nothing to mean."""

    step: int
    loss: float | None
    learning_rate: float
    skipped: tuple[str, ...] = ()
    """With `loss` as in `LossPoint`."""
    rewards: dict[str, float | None]
    """By term of the formula, before its weight: the mean of those that could be computed."""
    reward: float | None
    spread: float | None
    """Mean over groups of the standard deviation of their rewards."""
    without_signal: Probability
    """Share of groups in which no answer is better than another, so that nothing but the divergence is learnt from."""
    cut_off: Probability
    unscored: Probability
    num_tokens: float
    kl: float | None
    """Mean over answer tokens of the divergence from the parent (k3), in nats; None without a reference."""
    entropy: float | None
    """Mean over answer tokens, in nats."""
    clipped: Probability | None = None
    """Share of answer tokens whose ratio of new to old policy was clipped; None with one update a batch."""


class Prediction(Record):
    """What one checkpoint says about one clip. `label` is None when an answer could not be read: it counts as wrong."""

    clip_id: str
    checkpoint: str
    truth: str | None
    label: str | None
    log_probabilities: dict[str, float]
    """Summed log-probability of each label's tokens under the query, in nats, not normalised over labels."""
    probabilities: dict[str, Probability]
    """Softmax over the labels of the length-handled scores."""
    text: str | None = None
    """The greedy answer, where generation was asked for."""
    text_label: str | None = None
    """The label read strictly from `text`; None where it cannot be read."""


class Answered(Record):
    """One checkpoint's greedy answer to one question, graded."""

    question_id: str
    clip_id: str
    checkpoint: str
    kind: QuestionKind
    category: tuple[str, ...] = ()
    text: str
    finished: bool
    """Whether the model ended the answer itself (False: cut at the token limit)."""
    num_tokens: int
    answer: str | None
    """What `thinking.read_answer` takes out of the text; None where that is nothing: it counts as wrong."""
    score: Probability | None
    """`rewards.accuracy`; None where the question's own answer cannot be graded against."""
    mra: Probability | None = None
    """`rewards.mean_relative_accuracy`, of numerical and regression questions alone."""

    @property
    def headline(self) -> float | None:
        """What a table shows: MRA for regression, as VSI-Bench does, and the score for every other kind."""
        return self.mra if self.kind == "regression" else self.score
