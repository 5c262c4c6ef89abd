"""What a user asks for: an `Experiment`, validated as a whole, with all faults in one message.

Every default is the paper's (arXiv 2511.15923, section 4.1), so the smallest file names clips, a model and labels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from rbft.arms import PRESET_ARMS, QUESTION_ARMS, Arm, Section, Stage, did_you_mean, match_fault, question_stage_fault
from rbft.curation import Curation, Engine
from rbft.errors import ExperimentError
from rbft.files import read_yaml
from rbft.prompts import BUILT_IN
from rbft.recipe import ENCODER, Lora, Recipe, Reinforce, Training
from rbft.settings import beside, curation_beside, fault_lines, labels_as_mapping, override_all, stop_at, validated

__all__ = [
    "PRESET_ARMS", "Arm", "ClipLimits", "Evaluation", "Experiment", "Lora", "QuestionFiles", "Rationales", "Recipe",
    "Reinforce", "Sampling", "Section", "SplitRule", "Stage", "Training", "load_experiment", "make_experiment",
]  # fmt: skip

_MAX_SEED = 2**32 - 1


class Sampling(Section):
    """Which frames of a clip the model sees. The defaults are the paper's: 1 frame a second, at most 360x420 pixels."""

    fps: float = Field(1.0, gt=0, le=60, description="frames per second to aim at")
    min_pixels: int = Field(100_352, ge=1, description="smallest area of a frame; smaller frames are scaled up")
    max_pixels: int = Field(151_200, ge=1, description="largest area of a frame; larger frames are scaled down")
    min_frames: int = Field(4, ge=2)
    max_frames: int = Field(768, ge=2)
    too_few_frames: Literal["repeat-last", "error"] = Field(
        "repeat-last", description="what happens to a clip with fewer frames than min_frames"
    )

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min_pixels > self.max_pixels:
            raise ValueError(f"min_pixels {self.min_pixels} is above max_pixels {self.max_pixels}")
        if self.min_frames > self.max_frames:
            raise ValueError(f"min_frames {self.min_frames} is above max_frames {self.max_frames}")
        return self


class ClipLimits(Section):
    """Bounds on what one file may cost while it is probed and decoded (it happens in a child process)."""

    seconds: float = Field(10.0, gt=0, description="processor seconds to probe, and for each 5,000 frames to decode")
    megabytes: int = Field(1_000, ge=64, description="memory for one file")
    pixels: int = Field(7680 * 4320, ge=1, description="largest area of a coded frame")
    frames: int = Field(200_000, ge=1, description="most frames in one file")


class SplitRule(Section):
    """How train and test are made where the manifest has no `split` column: stratified by label, whole groups."""

    test_share: float = Field(0.2, gt=0, lt=1)
    seed: int = 0
    folds: int | None = Field(None, ge=2, description="cross-validation: `fold` of so many is the test split")
    fold: int | None = Field(None, ge=1, description="which of the folds is tested, from 1")
    near_duplicates: Literal["stop", "note", "off"] = Field(
        "stop",
        description="of a given split, clips in train and in test that show nearly the same; off: not looked for",
    )

    @field_validator("near_duplicates", mode="before")
    @classmethod
    def _off_is_a_word(cls, value: Any) -> Any:
        return "off" if value is False else value

    @model_validator(mode="after")
    def _fold_is_one_of_them(self) -> Self:
        if (self.folds is None) != (self.fold is None):
            raise ValueError("folds and fold belong together: folds: 5 and fold: 1 tests the first of five")
        if self.folds is not None and self.fold is not None and self.fold > self.folds:
            raise ValueError(f"fold {self.fold} is not one of {self.folds}; they count from 1")
        return self


class Rationales(Section):
    """How the engine writes rationales, and which of them are kept."""

    max_new_tokens: int = Field(256, ge=1)
    temperature: float = Field(0.0, ge=0, description="0 is greedy")
    top_p: float = Field(1.0, gt=0, le=1)
    batch_size: int = Field(16, ge=1)
    drop_contradicting: bool = Field(False, description="also drop rationales that contradict the clip's label")
    retries: int = Field(2, ge=0, le=10, description="how often a blank, a loop or a refusal is sampled anew")


class Evaluation(Section):
    """How a checkpoint is read out and how sure the numbers are."""

    batch_size: int = Field(8, ge=1)
    length_normalisation: Literal["none", "mean"] = Field(
        "none", description="none: sum of token log-probabilities; mean: divided by the label's tokens"
    )
    generate: bool = Field(True, description="also the second readout: a greedy answer, strictly parsed")
    resamples: int = Field(2_000, ge=100, description="bootstrap resamples")
    retention: str | None = Field(
        None, description="clips with human descriptions, a manifest like `clips`: what every arm forgets is measured"
    )
    learning_curve: tuple[float, ...] = Field(
        (), description="shares of the labelled training clips to train on as well; empty: no learning curve"
    )
    curve_arms: tuple[str, ...] = Field(
        (), description="arms with a learning curve; empty: direct-matched and rb-ft where they run, else all trained"
    )

    @field_validator("learning_curve")
    @classmethod
    def _shares_rise(cls, shares: tuple[float, ...]) -> tuple[float, ...]:
        if any(not 0 < share < 1 for share in shares) or len(set(shares)) < len(shares):
            raise ValueError(
                f"{list(shares)} must be different shares between 0 and 1, such as [0.25, 0.5]; all clips, 1, are the "
                "run itself"
            )
        return tuple(sorted(shares))


class QuestionFiles(Section):
    """Questions about clips instead of labels: JSON lines, VideoRFT's rows or those that `rbft import` writes."""

    train: str = Field(description="questions that reinforce stages learn")
    test: str = Field(description="questions that every arm is asked at the end")
    cot: str | None = Field(
        None, description="VideoRFT rows with a `process` that cot stages learn; empty: those of `train` that have one"
    )
    videos: str | None = Field(
        None, description="the folder where the rows' paths start; empty: for each file the folder that it lies in"
    )


class Experiment(Section):
    """Clips, a model, labels and arms; or questions, a model and arms. See `examples/` for files to copy."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    clips: str = Field(
        description="a CSV or JSONL manifest, a LLaVA/ShareGPT JSON, or a folder with a folder per label; "
        "with `questions` none"
    )
    questions: QuestionFiles | None = Field(None, description="in place of `clips` and `labels`")
    model: str = Field(description="a Hugging Face name, a folder, or `embedded`")
    revision: str | None = None
    domain: str = Field("domain expert", description="the persona that the rationale prompt speaks to")
    labels: dict[str, str] = Field(
        default_factory=dict,
        description="label to one-line definition; empty: from clips. Labels must differ in more than case and spaces",
    )
    arms: tuple[Arm, ...] = Field(
        default_factory=lambda: tuple(Arm(name=n, stages=PRESET_ARMS[n]) for n in list(PRESET_ARMS)[:4])
    )
    seeds: tuple[int, ...] = (0, 1, 2)
    prompts: str = Field("default", description="`default`, `brief`, or a file of the same form")
    sampling: Sampling = Sampling()
    limits: ClipLimits = ClipLimits()
    split: SplitRule = SplitRule()
    rationales: Rationales = Rationales()
    training: Training = Training()
    reinforce: Reinforce = Reinforce()
    curation: Curation = Field(Curation(), description="who writes curated thoughts, for arms that learn them")
    evaluation: Evaluation = Evaluation()
    on_bad_clip: Literal["stop", "leave-out"] = "stop"
    on_changed_clip: Literal["stop", "use"] = "stop"
    allow_outside: bool = Field(False, description="clips may lie outside the manifest's folder")
    allow_remote_code: bool = Field(False, description="run Python code that comes with the model")
    output: str = Field("runs", description="folder for run directories")
    workers: int = Field(0, ge=0, description="processes that read clips; 0: one per processor")
    memory_gib: float | None = Field(
        None, gt=0, description="memory that the model may use, in GiB; empty: the GPU's, without one the machine's"
    )

    @model_validator(mode="before")
    @classmethod
    def _with_questions(cls, given: Any) -> Any:
        """Questions bring their clips, and arms of their own where none are named."""
        if isinstance(given, Mapping) and given.get("questions") is not None:
            return {"clips": "", "arms": QUESTION_ARMS} | dict(given)
        return given

    @model_validator(mode="after")
    def _questions_alone(self) -> Self:
        if self.questions is None:
            return self
        other = {
            "clips": bool(self.clips),
            "labels": bool(self.labels),
            "split": self.split != SplitRule(near_duplicates=self.split.near_duplicates),
            "evaluation.retention": self.evaluation.retention is not None,
            "evaluation.learning_curve": bool(self.evaluation.learning_curve),
        }
        faults = [
            f"{name}: belongs to runs on labelled clips; with `questions` leave it out"
            for name, on in other.items()
            if on
        ]
        faults += [
            f"arms: {arm.name}: stage {number}: {fault}"
            for arm in self.arms
            for number, stage in enumerate(arm.stages, 1)
            if (fault := question_stage_fault(stage))
        ]
        stop_at(faults)
        return self

    @field_validator("labels", mode="before")
    @classmethod
    def _labels_as_mapping(cls, value: Any) -> Any:
        return labels_as_mapping(value)

    @field_validator("arms")
    @classmethod
    def _arms_differ_and_match(cls, arms: tuple[Arm, ...]) -> tuple[Arm, ...]:
        names = [arm.name for arm in arms]
        faults = [] if arms else ["name at least one of " + ", ".join(PRESET_ARMS)]
        if len(set(names)) < len(names):
            faults.append(f"two arms share a name: {', '.join(names)}")
        known = PRESET_ARMS | {arm.name: arm.stages for arm in arms}
        for arm in arms:
            for number, stage in enumerate(arm.stages, 1):
                fault = None if stage.match_steps_of is None else match_fault(arm.name, stage.match_steps_of, known)
                if fault:
                    faults.append(f"{arm.name}: stage {number}: match_steps_of: {fault}")
        stop_at(faults)
        return arms

    @model_validator(mode="after")
    def _curve_has_arms(self) -> Self:
        trained = [arm.name for arm in self.arms if arm.stages]
        faults = [
            f"evaluation.curve_arms: no trained arm {name!r}{did_you_mean(name, trained) or '.'} "
            f"Trained are {', '.join(trained) or 'none'}"
            for name in self.evaluation.curve_arms
            if name not in trained
        ]
        if self.evaluation.learning_curve and not trained:
            faults.append("evaluation.learning_curve: no arm is trained; add one, such as direct, or leave it out")
        stop_at(faults)
        return self

    @field_validator("seeds")
    @classmethod
    def _seeds_differ(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if not seeds or len(set(seeds)) < len(seeds) or not all(0 <= seed <= _MAX_SEED for seed in seeds):
            raise ValueError(f"{list(seeds)} must be one or more different integers from 0 to {_MAX_SEED}")
        return seeds

    @model_validator(mode="after")
    def _recipes(self) -> Self:
        faults = []
        for arm in self.arms:
            for number, stage in enumerate(arm.stages, 1):
                where = f"arms: {arm.name}: stage {number}"
                try:
                    self.stage_reinforce(stage)
                except ValidationError as error:
                    faults += [f"{where}: reinforce.{line}" for line in fault_lines(error, Reinforce)]
                    continue
                try:
                    self.stage_training(stage)
                except ValidationError as error:
                    faults += [f"{where}: training.{line}" for line in fault_lines(error, Training)]
        stop_at(faults)
        return self

    def stage_training(self, stage: Stage) -> Training:
        """The recipe of one stage: the `training` section with the stage's overrides."""
        own = self.stage_reinforce(stage).of_recipe | {"micro_batch_size": 1} if stage.kind == "reinforce" else {}
        return Training.model_validate(self.training.model_dump() | own | stage.training)

    def stage_reinforce(self, stage: Stage) -> Reinforce:
        """The settings of a reinforce stage: the `reinforce` section with the stage's overrides, its encoder named."""
        settings = self.reinforce.changed(stage.reinforce)
        default = "embedded" if self.model == "embedded" else ENCODER
        return settings.model_copy(update={"encoder": settings.encoder or default})

    def reinforce_of(self, stage: Stage) -> Reinforce | None:
        """The settings of a reinforce stage, None for any other."""
        return self.stage_reinforce(stage) if stage.kind == "reinforce" else None

    @property
    def encoders(self) -> list[str]:
        """The encoders of texts and clips that the arms' rewards need, each once."""
        asked = [self.reinforce_of(stage) for arm in self.arms for stage in arm.stages]
        return list(dict.fromkeys(r.encoder_used for r in asked if r is not None and r.encoder_used is not None))

    @property
    def curation_used(self) -> Curation:
        """The section `curation`, where the base model writes every step that names no engine."""
        base = Engine(
            model=self.model, revision=self.revision, max_new_tokens=self.reinforce.max_new_tokens,
            batch_size=self.rationales.batch_size,
        )  # fmt: skip
        return self.curation.with_default(base)

    @property
    def curates(self) -> bool:
        """Whether an arm learns thoughts that this run curates; those about questions stand in their rows."""
        return self.questions is None and any(stage.thoughts == "curated" for arm in self.arms for stage in arm.stages)

    @property
    def curve_arms(self) -> list[Arm]:
        """The arms that a learning curve is asked for."""
        if not self.evaluation.learning_curve:
            return []
        trained = [arm for arm in self.arms if arm.stages]
        wanted = self.evaluation.curve_arms or ("direct-matched", "rb-ft")
        return [arm for arm in trained if arm.name in wanted] or trained

    def arm(self, name: str) -> Arm:
        """The arm of that name, from the experiment or the presets; raises ExperimentError where there is none."""
        for arm in self.arms:
            if arm.name == name:
                return arm
        if name not in PRESET_ARMS:
            names = list(dict.fromkeys([arm.name for arm in self.arms] + list(PRESET_ARMS)))
            raise ExperimentError(f"no arm {name!r}{did_you_mean(name, names) or '.'} Arms are {', '.join(names)}")
        return Arm(name=name, stages=PRESET_ARMS[name])


# -- files ---------------------------------------------------------------------------------------------------------


def load_experiment(path: str | Path, overrides: Sequence[str] = ()) -> Experiment:
    """Read an experiment file and apply `key.sub=value` overrides.

    A relative `clips`, `questions`, `evaluation.retention`, `model` or `prompts` is looked for beside the file. Below
    `labels`, in the file and in overrides, `no`, `on`, `1e3` or a date are text. Raises ExperimentError with every
    fault.
    """
    path = Path(path)
    document = read_yaml(path, text_below=("labels",))
    if not isinstance(document, dict):
        raise ExperimentError(f"{path}: an experiment is a mapping of names to values, this holds {document!r:.80}")
    document.setdefault("name", path.stem)
    for key, built_in in (("clips", ()), ("model", ("embedded",)), ("prompts", BUILT_IN)):
        value = document.get(key)
        if not isinstance(value, str) or not value or value in built_in:
            continue
        document[key] = beside(path, value)
    paths = (
        ("evaluation", ("retention",)),
        ("questions", tuple(QuestionFiles.model_fields)),
        ("reinforce", ("encoder",)),
    )
    for name, keys in paths:
        section = document.get(name)
        if not isinstance(section, dict):
            continue
        for key in keys:
            if isinstance(section.get(key), str) and section[key] != "embedded":
                section[key] = beside(path, section[key])
    curation = document.get("curation")
    if isinstance(curation, dict):
        curation_beside(path, curation)
    override_all(document, overrides)
    return make_experiment(document, where=str(path))


def make_experiment(document: Mapping[str, Any], *, where: str = "experiment") -> Experiment:
    """Validate a mapping into an Experiment; raises ExperimentError with every fault, one line each."""
    return validated(Experiment, document, where)
