"""What a user asks for: an `Experiment`, validated as a whole, with all faults in one message.

Every default is the paper's (arXiv 2511.15923, section 4.1), so the smallest file names clips, a model and labels.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from rbft.errors import ExperimentError
from rbft.files import parse_yaml, read_yaml
from rbft.records import RationaleFormat, StageKind


class Section(BaseModel):
    """Base of the parts of an experiment: closed, immutable, strict about unknown names."""

    model_config = ConfigDict(frozen=True, extra="forbid")


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

    seconds: float = Field(10.0, gt=0, description="processor seconds for one file")
    megabytes: int = Field(1_000, ge=64, description="memory for one file")
    pixels: int = Field(7680 * 4320, ge=1, description="largest area of a coded frame")
    frames: int = Field(200_000, ge=1, description="most frames in one file")


class SplitRule(Section):
    """How train and test are made where the manifest has no `split` column: stratified by label, whole groups."""

    test_share: float = Field(0.2, gt=0, lt=1)
    seed: int = 0


class Rationales(Section):
    """How the engine writes rationales, and which of them are kept."""

    max_new_tokens: int = Field(256, ge=1)
    temperature: float = Field(0.0, ge=0, description="0 is greedy")
    top_p: float = Field(1.0, gt=0, le=1)
    batch_size: int = Field(16, ge=1)
    drop_contradicting: bool = Field(False, description="also drop rationales that contradict the clip's label")


class Lora(Section):
    """Low-rank adapters on the language model instead of full fine-tuning."""

    rank: int = Field(16, ge=1)
    alpha: int = Field(32, ge=1)
    dropout: float = Field(0.05, ge=0, lt=1)


class Training(Section):
    """The recipe of a stage. A stage may override any of these."""

    epochs: float = Field(1.0, gt=0)
    learning_rate: float = Field(1e-5, gt=0, description="language model and merger")
    vision_learning_rate: float = Field(2e-6, ge=0, description="vision tower; 0 freezes it")
    batch_size: int = Field(16, ge=1, description="clips per optimizer step")
    micro_batch_size: int = Field(1, ge=1, description="clips per forward pass; must divide batch_size")
    scheduler: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_ratio: float = Field(0.03, ge=0, lt=1)
    weight_decay: float = Field(0.1, ge=0)
    max_grad_norm: float = Field(1.0, gt=0)
    class_weights: Literal["none", "balanced"] = Field("none", description="weight label examples by 1 / frequency")
    gradient_checkpointing: bool = True
    save_every_steps: int = Field(200, ge=1, description="how much work an interruption may cost")
    lora: Lora | None = None

    @model_validator(mode="after")
    def _divides(self) -> Self:
        if self.batch_size % self.micro_batch_size:
            raise ValueError(f"micro_batch_size {self.micro_batch_size} does not divide batch_size {self.batch_size}")
        return self


class Evaluation(Section):
    """How a checkpoint is read out and how sure the numbers are."""

    batch_size: int = Field(8, ge=1)
    length_normalisation: Literal["none", "mean"] = Field(
        "none", description="none: sum of token log-probabilities; mean: divided by the label's tokens"
    )
    generate: bool = Field(True, description="also the second readout: a greedy answer, strictly parsed")
    resamples: int = Field(2_000, ge=100, description="bootstrap resamples")


class Stage(Section):
    """One training stage: a parent checkpoint learns examples and leaves a child."""

    kind: StageKind
    format: RationaleFormat = Field("P+R", description="rationale stage: whether and where the label stands")
    self_share: float = Field(1.0, ge=0, le=1, description="share of clips with the model's own rationale, rest human")
    match_steps_of: str | None = Field(None, description="label stage: as many optimizer steps as this whole arm")
    training: dict[str, Any] = Field(default_factory=dict, description="overrides of the `training` section")

    @model_validator(mode="after")
    def _fits_kind(self) -> Self:
        if self.kind == "label" and (self.format != "P+R" or self.self_share != 1.0):
            raise ValueError("`format` and `self_share` belong to a rationale stage; a label stage learns bare labels")
        if self.kind == "rationale" and self.match_steps_of:
            raise ValueError("`match_steps_of` belongs to a label stage")
        return self


class Arm(Section):
    """A named list of stages; the empty list is zero-shot."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9.+_-]{0,63}$")
    stages: tuple[Stage, ...]


_LABEL = Stage(kind="label")
PRESET_ARMS: dict[str, tuple[Stage, ...]] = {
    "zero-shot": (),
    "direct": (_LABEL,),
    "direct-matched": (Stage(kind="label", match_steps_of="rb-ft"),),
    "rb-ft": (Stage(kind="rationale"), _LABEL),
    "rb-ft-p+c+r": (Stage(kind="rationale", format="P+C+R"), _LABEL),
    "rb-ft-p+r+c": (Stage(kind="rationale", format="P+R+C"), _LABEL),
}


class Experiment(Section):
    """Clips, a model, labels and arms. See `examples/` for files to copy."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    clips: str = Field(
        description="a CSV or JSONL manifest, a LLaVA/ShareGPT JSON, or a folder with a folder per label"
    )
    model: str = Field(description="a Hugging Face name, a folder, or `embedded`")
    revision: str | None = None
    domain: str = Field("domain expert", description="the persona that the rationale prompt speaks to")
    labels: dict[str, str] = Field(default_factory=dict, description="label to one-line definition; empty: from clips")
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
    evaluation: Evaluation = Evaluation()
    on_bad_clip: Literal["stop", "leave-out"] = "stop"
    allow_outside: bool = Field(False, description="clips may lie outside the manifest's folder")
    allow_remote_code: bool = Field(False, description="run Python code that comes with the model")
    output: str = Field("runs", description="folder for run directories")
    workers: int = Field(0, ge=0, description="processes that read clips; 0: one per processor")

    @field_validator("labels", mode="before")
    @classmethod
    def _labels_as_mapping(cls, value: Any) -> Any:
        if isinstance(value, Sequence) and not isinstance(value, str):
            return {str(label): "" for label in value}
        if isinstance(value, Mapping):
            return {str(k): "" if v is None else v for k, v in value.items()}
        return value

    @field_validator("arms", mode="before")
    @classmethod
    def _arms_by_name(cls, value: Any) -> Any:
        return tuple(_arm(v) for v in value) if isinstance(value, list | tuple) else value

    @model_validator(mode="after")
    def _whole(self) -> Self:
        faults = []
        names = [arm.name for arm in self.arms]
        if len(set(names)) < len(names):
            faults.append(f"arms: two arms share a name: {names}")
        if not self.arms:
            faults.append("arms: name at least one of " + ", ".join(PRESET_ARMS))
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            faults.append(f"seeds: {list(self.seeds)} must be one or more different integers")
        if len(self.labels) == 1:
            faults.append(f"labels: one label ({next(iter(self.labels))!r}) cannot be classified; give two or more")
        for arm in self.arms:
            for i, stage in enumerate(arm.stages):
                faults += _stage_faults(f"arms.{arm.name}.stages.{i}", stage, names, self.training)
        if faults:
            raise ValueError("\n".join(faults))
        return self

    def stage_training(self, stage: Stage) -> Training:
        """The recipe of one stage: the `training` section with the stage's overrides."""
        return Training.model_validate(self.training.model_dump() | stage.training)

    def arm(self, name: str) -> Arm:
        """The arm of that name, from the experiment or the presets."""
        for arm in self.arms:
            if arm.name == name:
                return arm
        return Arm(name=name, stages=PRESET_ARMS[name])


def _arm(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if value not in PRESET_ARMS:
        close = difflib.get_close_matches(value, PRESET_ARMS, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"unknown arm {value!r}{hint} Known: {', '.join(PRESET_ARMS)}, or write name and stages")
    return Arm(name=value, stages=PRESET_ARMS[value])


def _stage_faults(where: str, stage: Stage, names: list[str], training: Training) -> list[str]:
    faults = []
    other = stage.match_steps_of
    if other is not None and other not in names and other not in PRESET_ARMS:
        faults.append(f"{where}.match_steps_of: no arm {other!r}; arms are {', '.join(names)}")
    try:
        Training.model_validate(training.model_dump() | stage.training)
    except ValidationError as error:
        faults += [f"{where}.training.{line}" for line in _lines(error)]
    return faults


# -- files ---------------------------------------------------------------------------------------------------------


def load_experiment(path: str | Path, overrides: Sequence[str] = ()) -> Experiment:
    """Read an experiment file and apply `key.sub=value` overrides.

    A relative `clips`, `model` folder or `prompts` file is looked for beside the experiment file. Raises
    ExperimentError with every fault.
    """
    path = Path(path)
    document = read_yaml(path, text_below=("labels",))
    if not isinstance(document, dict):
        raise ExperimentError(f"{path}: an experiment is a mapping of names to values, this holds {document!r:.80}")
    document.setdefault("name", path.stem)
    document.setdefault("clips", None)
    for key in ("clips", "model", "prompts"):
        value = document.get(key)
        if isinstance(value, str) and not Path(value).is_absolute() and (path.parent / value).exists():
            document[key] = str(path.parent / value)
    for override in overrides:
        _override(document, override)
    return make_experiment(document, where=str(path))


def make_experiment(document: Mapping[str, Any], *, where: str = "experiment") -> Experiment:
    """Validate a mapping into an Experiment; raises ExperimentError with every fault, one line each."""
    try:
        return Experiment.model_validate(document)
    except ValidationError as error:
        raise ExperimentError([f"{where}: {line}" for line in _lines(error)]) from None


def _override(document: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ExperimentError(f"{override!r} is not an override; write key=value, for example training.epochs=2")
    *parents, last = key.split(".")
    place: Any = document
    for name in parents:
        place = place.setdefault(name, {}) if isinstance(place, dict) else None
    if not isinstance(place, dict):
        raise ExperimentError(f"{override!r}: {key!r} is not a place in an experiment")
    try:
        place[last] = parse_yaml(text)
    except yaml.YAMLError as error:
        raise ExperimentError(f"{override!r}: the value is not readable: {error}") from None


def _lines(error: ValidationError) -> list[str]:
    """One line for each fault: where, what was given, what is allowed."""
    lines = []
    for fault in error.errors():
        where = ".".join(str(part) for part in fault["loc"])
        if fault["type"] == "extra_forbidden":
            lines.append(f"{where}: no such setting{_nearest(fault['loc'])}")
            continue
        if fault["type"] == "missing":
            lines.append(f"{where}: is needed and was not given")
            continue
        message = fault["msg"].removeprefix("Value error, ")
        given = "" if fault["type"] == "value_error" else f" (given: {fault['input']!r:.80})"
        lines += [f"{where}: {line}{given}" if where else f"{line}{given}" for line in message.split("\n")]
    return lines


def _nearest(location: tuple[int | str, ...]) -> str:
    section: Any = Experiment
    for part in location[:-1]:
        field = getattr(section, "model_fields", {}).get(part)
        section = field.annotation if field else None
    names = list(getattr(section, "model_fields", {}))
    close = difflib.get_close_matches(str(location[-1]), names, n=1)
    return f"; did you mean {close[0]!r}?" if close else (f"; there are {', '.join(names)}" if names else "")
