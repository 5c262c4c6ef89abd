"""What is measured, as frozen records: scores with their intervals, comparisons, the report, where arms look."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import ConfigDict, Field

from rbft.records import Probability, QuestionKind, Record

# -- scores and the report -----------------------------------------------------------------------------------------


class Interval(Record):
    """A point estimate with its 95 % interval."""

    mean: float
    low: float
    high: float


class Estimate(Interval):
    """An estimate over seeds, with the value of every seed."""

    per_seed: tuple[float, ...]


class Leakage(Record):
    """What the words of rationales alone, held out in folds, say about their clips' labels."""

    texts: int
    names_label: Probability
    """Share of the texts that name a label."""
    majority: Probability
    accuracy: Probability
    auc: Probability
    """Area under the ROC curve; 0.5 is chance."""
    auc_masked: Probability
    """The same with the labels' names taken out of the texts."""
    flagged: bool
    """Whether the labels are told almost surely, and clearly less so without their names."""


class RationaleReport(Record):
    """Rationales of training clips: how many were written, kept, and dropped for which reason."""

    written: int
    kept: int
    dropped: dict[str, int]
    flagged: dict[str, int] = Field(default_factory=dict)
    median_words: float = 0.0
    refusals: dict[str, tuple[int, int]] = Field(default_factory=dict)
    """By label, texts about its clips and how many of them refuse; empty where none does."""
    leakage: Leakage | None = None
    """None where too few clips are labelled, and of single arms."""


class ArmReport(Record):
    """One row of the table."""

    seeds: tuple[int, ...]
    stages: tuple[str, ...]
    num_steps: int
    accuracy: Estimate
    macro_f1: Estimate
    f1: dict[str, Estimate]
    confusion: list[list[int]]
    """Rows are true labels, columns predicted labels then 'unreadable', summed over seeds."""
    calibration_error: Estimate | None = None
    """None where answers came without probabilities."""
    unreadable_rate: float
    generated_accuracy: Estimate | None = None
    """Accuracy of the second readout, strict parsing of a greedy answer."""
    generated_unreadable_rate: float | None = None
    rationales: RationaleReport | None = None
    """The own rationales that the arm's stages chose from under its first seed; None where it learns none."""


class Comparison(Record):
    """Two arms on the same clips. `difference` is b minus a, from 0 to 1."""

    a: str
    b: str
    metric: Literal["accuracy", "macro_f1", "score"] = "accuracy"
    """`score`: the mean over questions of `Answered.headline`."""
    difference: float
    low: float
    high: float
    p: float
    smallest_detectable: float
    verdict: str


class Advice(Record):
    """What to do, in words, beside the headline that says what to use."""

    arm: str | None
    """The arm to use; None where none is shown to beat the baselines."""
    checkpoint: str | None
    """Its checkpoint of the first seed, below the report's folder; None where nothing was trained for it."""
    floor: Comparison
    """That arm (or the most accurate one) minus the strongest answer that needs no model."""
    how_sure: str
    more_clips: str


class CurvePoint(Record):
    """An arm trained on a share of the labelled training clips; the test clips are the same for every share."""

    share: float
    clips: int
    """Labelled training clips of that share."""
    accuracy: Estimate
    macro_f1: Estimate


class ArmCurve(Record):
    """An arm's learning curve."""

    points: tuple[CurvePoint, ...]
    """By rising share; the last is the arm on all clips."""
    doubling_clips: tuple[int, int]
    """The two numbers of clips that are nearest to a doubling and end with all clips."""
    gains: tuple[Comparison, ...]
    """Between those two: accuracy, then macro F1."""


class DatasetReport(Record):
    """How many clips were learnt from and tested; the accuracy of always saying the commonest test label."""

    train: int
    test: int
    unlabelled: int
    left_out: int
    labels: dict[str, int]
    """Test clips per label, in the user's order."""
    train_labels: dict[str, int]
    majority_label: str
    majority_accuracy: float


class CategoryReport(Record):
    """Labelled test clips of one category, and each arm's accuracy on them. A clip may be of several categories."""

    clips: int
    accuracy: dict[str, Estimate]


class ArmRetention(Record):
    """How well an arm still describes general clips; keys are the dimensions, then `mean` over a clip's dimensions."""

    f1: dict[str, Estimate]
    """ROUGE-1 F1 of the arm's descriptions with the human ones, 0 to 1."""
    difference: dict[str, Interval]
    """The arm's F1 minus the base's on the same clips: below zero is forgetting."""


class Retention(Record):
    """What training cost in general ability, on clips with human descriptions that no arm was trained on."""

    clips: int
    base: dict[str, Estimate]
    arms: dict[str, ArmRetention]


class Report(Record):
    """`report.json`: a contract with a version and a published JSON schema."""

    schema_version: Literal[1] = Field(1, alias="schema")
    name: str
    headline: str
    """What to use."""
    advice: Advice | None = None
    """How sure that is and what more clips would buy; None in reports of versions that did not say so."""
    alarms: tuple[str, ...] = ()
    """Arms that give all test clips one label."""
    dataset: DatasetReport
    arms: dict[str, ArmReport]
    baselines: dict[str, float] = Field(default_factory=dict)
    comparisons: tuple[Comparison, ...]
    categories: dict[str, CategoryReport] = Field(default_factory=dict)
    """Category to its numbers, the largest first; empty where no test clip has one."""
    learning_curve: dict[str, ArmCurve] = Field(default_factory=dict)
    """Arm to its curve; empty where none was asked for."""
    rationales: RationaleReport | None
    retention: Retention | None = None
    """None where no general clips were given."""
    timing: dict[str, float]
    environment: dict[str, str]
    experiment: dict[str, Any]
    fingerprints: dict[str, str]
    notes: tuple[str, ...] = ()

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, serialize_by_alias=True)


# -- questions -----------------------------------------------------------------------------------------------------


class QuestionScore(Record):
    """How well some questions were answered. The score is `Answered.headline`, a mean over those that can be graded."""

    questions: int
    clips: int
    ungraded: int
    """Questions whose own answer no grader can read: they are in none of the means."""
    score: Estimate
    unreadable: Probability
    """Share of texts that no answer could be taken out of: they are in the score as wrong."""
    cut_off: Probability
    """Share of texts that were cut at the token limit."""


class QuestionSummary(Record):
    """Answers to questions, all together and by kind and category; a question may be of several categories."""

    overall: QuestionScore
    over_categories: Estimate | None
    """The plain mean over the questions' first categories, as VSI-Bench averages its tasks; None without categories."""
    kinds: dict[QuestionKind, QuestionScore]
    categories: dict[str, QuestionScore]


class Asking(Record):
    """What the answers in a folder depend on, written before them."""

    model: str
    checkpoint: str
    questions: str
    """Name of the file of questions."""
    num_questions: int
    prompts: str
    max_new_tokens: int
    sampling: dict[str, Any]
    left_out: tuple[str, ...] = ()
    """Questions that were left out, for their clip is not there or cannot be read."""
    trained_on: tuple[str, ...] = ()
    """Questions about clips that the checkpoint was trained on."""
    key: str


class AskReport(Record):
    """`summary.json` of `rbft ask`."""

    schema_version: Literal[1] = 1
    asking: Asking
    summary: QuestionSummary


class QuestionData(Record):
    """What was learnt and asked."""

    train: int
    """Questions that reinforce stages learn."""
    cot: int
    """Questions with a thought, which cot stages learn."""
    test: int
    train_clips: int
    test_clips: int
    left_out: int
    """Clips that are not used; the notes tell of rows and questions that were left out."""
    kinds: dict[QuestionKind, int]
    """Test questions by kind."""


class QuestionArm(Record):
    """One row of the table: an arm's answers to the test questions, over its seeds."""

    seeds: tuple[int, ...]
    stages: tuple[str, ...]
    num_steps: int
    checkpoint: str | None
    """Its last checkpoint of the first seed, below the report's folder; None where nothing was trained."""
    answers: QuestionSummary


class QuestionReport(Record):
    """`report.json` of a run about questions: a contract with a version and a published JSON schema."""

    schema_version: Literal[1] = Field(1, alias="schema")
    about: Literal["questions"] = "questions"
    name: str
    headline: str
    """Which arm answers best, and whether that is shown."""
    data: QuestionData
    arms: dict[str, QuestionArm]
    comparisons: tuple[Comparison, ...]
    """Every pair of arms, in the score over all test questions."""
    timing: dict[str, float]
    environment: dict[str, str]
    experiment: dict[str, Any]
    fingerprints: dict[str, str]
    notes: tuple[str, ...] = ()

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, serialize_by_alias=True)


# -- grounding -----------------------------------------------------------------------------------------------------


class FoundObjects(Record):
    """The objects of one clip as a source found them: a box or None for each frame and object."""

    clip_id: str
    boxes: tuple[tuple[tuple[float, float, float, float] | None, ...], ...]


class ArmMap(Record):
    """One checkpoint's attention on one clip for its answer, scaled 0 to 1, by temporal step, row and column."""

    clip_id: str
    checkpoint: str
    label: str
    values: list[list[list[float]]]


class Focus(Record):
    """Where one checkpoint's answer to one clip looks, beside the clip's boxes. None: its map is zero everywhere."""

    clip_id: str
    checkpoint: str
    area: Probability
    """Share of the frames' area that the boxes cover: what attention spread evenly would put there."""
    target_share: Probability
    """Share of places that win the pointing game: what a random place would score."""
    visual_share: Probability
    """Share of all attention of the answer's positions that goes to the clip."""
    mass: Probability | None
    """Share of the attention on the clip that lies inside the boxes, averaged over layers."""
    hit: bool | None
    """The pointing game: whether the place with the most attention is a target."""
    gradient_mass: Probability | None
    gradient_hit: bool | None


class ArmFocus(Record):
    """Means of an arm's `Focus` over clips and seeds; None where no clip has a value under every seed."""

    visual_share: Estimate | None
    mass: Estimate | None
    pointing: Estimate | None
    gradient_mass: Estimate | None
    gradient_pointing: Estimate | None


class ArmMasking(Record):
    """An arm on the same clips as they are, with objects covered, and with random patches of the same sizes covered."""

    original: ArmReport
    objects: ArmReport
    random: ArmReport
    object_drop: Estimate
    """Accuracy on the original clips minus accuracy with objects covered, 0 to 1."""
    random_drop: Estimate
    effect: Estimate
    """`object_drop` minus `random_drop`: what the objects matter beyond the covered area."""


class GroundingComparison(Record):
    """b minus a on the same clips, where both arms were measured."""

    a: str
    b: str
    mass: Interval | None = None
    pointing: Interval | None = None
    object_drop: Interval | None = None
    effect: Interval | None = None


class Grounding(Record):
    """`grounding.json`: what the arms of a run look at, and what they lose without the objects."""

    schema_version: Literal[1] = 1
    name: str
    objects: str
    """Where objects came from."""
    clips: int
    """Test clips with at least one object: all numbers are of these."""
    clips_without_objects: int
    area: Probability | None
    """Mean of `Focus.area`: the chance level of the mass in boxes; None where attention was not measured."""
    target_share: Probability | None
    """Mean of `Focus.target_share`: the chance level of the pointing game."""
    covered_share: Probability | None = None
    """Share of all pixels that the object masks cover; the random patches are as large."""
    touched_share: Probability | None = None
    """Share of the random patches' pixels that lie on an object all the same: 0 where there was room beside them."""
    attention: dict[str, ArmFocus] = Field(default_factory=dict)
    masking: dict[str, ArmMasking] = Field(default_factory=dict)
    comparisons: tuple[GroundingComparison, ...] = ()
    notes: tuple[str, ...] = ()


class StepUsage(Record):
    """What one step of a curation took, in all runs of it together."""

    engine: str
    answers: int
    prompt_tokens: int
    num_tokens: int
    cost: float | None = None
    """In the unit of the prices; None where the settings give none."""


class CurationReport(Record):
    """`curation.json`: how many questions came how far, and why the others did not."""

    schema_version: Literal[1] = 1
    name: str
    read: int
    represented: int
    reasoned: int
    """With a readable thought of the video that leads to the true answer."""
    revised: int
    kept: int
    dropped: dict[str, dict[str, int]]
    """By step, then by reason; a question that is dropped for two reasons counts under both."""
    kinds: dict[str, tuple[int, int]]
    """By kind of question: read, kept."""
    answers: dict[str, tuple[int, int]] = Field(default_factory=dict)
    """Of label questions, by label: read, kept."""
    usage: dict[str, StepUsage]
    revises: bool
    notes: tuple[str, ...] = ()
