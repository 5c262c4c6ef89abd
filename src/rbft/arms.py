"""What an arm is: a named list of training stages, as values. The presets are the paper's arms, their controls, and
arms that differ from `rb-ft` in one thing, so that a difference has one cause.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from rbft.records import RationaleFormat, StageKind
from rbft.section import Section as Section


class Vote(Section):
    """Several sampled rationales of a clip instead of one: for each dimension of the template, the text that the others
    agree with most (for short texts: the most frequent one)."""

    samples: int = Field(7, description="rationales a clip; at least 2")
    temperature: float = Field(0.8, gt=0, description="of the samples; `rationales.temperature` is not used")
    top_p: float = Field(1.0, gt=0, le=1)
    keep_share: float = Field(1.0, gt=0, le=1, description="share of the voted rationales to learn")
    right_only: bool = Field(
        False, description="of a labelled clip only those samples vote after which the engine gives the clip's label"
    )  # fmt: skip

    @field_validator("samples")
    @classmethod
    def _more_than_one(cls, samples: int) -> int:
        if samples < 2:
            raise ValueError(f"{samples} cannot vote; take 2 or more, or leave out `vote`")
        return samples


class Hint(Section):
    """Rationales from a prompt that tells the clip's label, kept where the label-free rationale says the same."""

    agreement: float = Field(0.5, gt=0, le=1, description="least ROUGE-1 F1 of every dimension; short texts: 1")


class Stage(Section):
    """One training stage: a parent checkpoint learns examples and leaves a child."""

    kind: StageKind
    format: RationaleFormat = Field("P+R", description="rationale stage: whether and where the label stands")
    self_share: float = Field(1.0, ge=0, le=1, description="share of clips with the model's own rationale, rest human")
    clips: Literal["all", "labelled", "unlabelled"] = Field("all", description="which clips' rationales are learnt")
    engine: Literal["base", "parent"] = Field("base", description="who writes: the base, or the stage's parent")
    vote: Vote | None = Field(None, description="sampled rationales, voted for each dimension")
    hint: Hint | None = Field(None, description="rationales from a prompt that tells the label")
    drop_contradicting: bool = Field(False, description="drop rationales that contradict the clip's label, here alone")
    query: Literal["persona", "plain"] = Field(
        "persona", description="what rationales are learnt as the answer to: the prompt they were asked for with, or "
        "a plain request without persona (prompt distillation)"
    )  # fmt: skip
    thoughts: Literal["own", "curated"] = Field(
        "own", description="cot stage: own rationales are thought, or what the section `curation` writes and keeps"
    )
    describe_first: bool = Field(False, description="label stage: the label is asked for after the own rationale")
    match_steps_of: str | None = Field(None, description="as many optimizer steps as this whole arm")
    training: dict[str, Any] = Field(default_factory=dict, description="overrides of the `training` section")
    reinforce: dict[str, Any] = Field(default_factory=dict, description="overrides of the `reinforce` section")

    @property
    def learns_rationales(self) -> bool:
        """Whether rationales are among what is learnt."""
        return self.kind in ("rationale", "joint", "cot")

    @property
    def learns_labels(self) -> bool:
        """Whether bare labels are among what is learnt."""
        return self.kind in ("label", "joint")

    @property
    def reasons(self) -> bool:
        """Whether the child answers by `<think>…</think><answer>…</answer>`."""
        return self.kind in ("cot", "reinforce")

    @property
    def title(self) -> str:
        """What the stage learns, in words: `rationale P+R, voted`, `label`."""
        if self.kind == "label":
            return "label after description" if self.describe_first else "label"
        if self.kind == "reinforce":
            return "reinforced by rewards"
        said = {
            f"{self.clips} clips": self.clips != "all",
            "of its parent": self.engine == "parent",
            "voted": self.vote is not None,
            "the surer ones": self.vote is not None and self.vote.keep_share < 1,
            "where they lead to the label": self.vote is not None and self.vote.right_only,
            "label told": self.hint is not None,
            "none contradicting": self.drop_contradicting,
            "plain query": self.query == "plain",
            "curated": self.thoughts == "curated",
        }
        what = {"rationale": f"rationale {self.format}", "cot": "label after thinking"}.get(
            self.kind, f"rationale and label {self.format}"
        )
        return ", ".join([what, *(words for words, holds in said.items() if holds)])

    @property
    def question_title(self) -> str:
        """The same of a stage that learns from questions."""
        return "thoughts and answers" if self.kind == "cot" else self.title

    @model_validator(mode="after")
    def _fits_kind(self) -> Self:
        given = [name for name in _OF_RATIONALES if getattr(self, name) != type(self).model_fields[name].default]
        if self.kind == "label":
            if self.describe_first:
                given = [name for name in given if name != "engine"]
            if given:
                raise ValueError(f"{_listed(given)} a rationale or joint stage; a label stage learns bare labels")
        if self.kind != "label" and self.describe_first:
            raise ValueError(f"{_listed(['describe_first'])} a label stage")
        if self.kind not in ("label", "joint") and self.match_steps_of:
            raise ValueError(f"{_listed(['match_steps_of'])} a label or joint stage")
        if self.kind == "reinforce" and given:
            raise ValueError(f"{_listed(given)} a stage that learns rationales; a reinforce stage learns from rewards")
        if self.kind != "reinforce" and self.reinforce:
            raise ValueError(f"{_listed(['reinforce'])} a reinforce stage")
        if self.kind == "cot" and (wrong := [name for name in given if name in _NOT_OF_COT]):
            raise ValueError(f"{_listed(wrong)} a rationale or joint stage; a cot stage thinks, then answers")
        if self.kind != "cot" and self.thoughts == "curated":
            raise ValueError(f"{_listed(['thoughts'])} a cot stage")
        if self.thoughts == "curated" and given:
            raise ValueError(f"{_listed(given)} a stage that thinks own rationales; curated thoughts are `curation`'s")
        if self.kind == "cot" and self.clips == "unlabelled":
            raise ValueError("a cot stage answers with the clip's label, and `clips: unlabelled` have none")
        if self.self_share == 0 and (own := [name for name in given if name in _OF_OWN]):
            raise ValueError(f"{_listed(own)} the model's own rationales, and self_share 0 has none of them")
        if self.clips == "unlabelled" and (self.hint is not None or self.format != "P+R"):
            what = "`hint` tells" if self.hint is not None else f"{self.format} writes"
            raise ValueError(f"{what} the clip's label, and `clips: unlabelled` have none; take `clips: labelled`")
        if self.clips == "unlabelled" and self.vote is not None and self.vote.right_only:
            raise ValueError("`right_only` judges by the clip's label, and `clips: unlabelled` have none; leave it out")
        return self


_OF_OWN = ("engine", "vote", "hint", "drop_contradicting")
_NOT_OF_COT = ("format", "query")
_OF_RATIONALES = ("format", "self_share", "clips", *_OF_OWN, "query")


def _listed(names: list[str]) -> str:
    joined = " and ".join(f"`{name}`" for name in names)
    return f"{joined} {'belongs' if len(names) == 1 else 'belong'} to"


class Arm(Section):
    """A named list of stages; the empty list is zero-shot. The bare name of a preset stands for the preset."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9.+_-]{0,63}$")
    stages: tuple[Stage, ...]

    @model_validator(mode="before")
    @classmethod
    def _by_name(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        if value not in PRESET_ARMS:
            hint = did_you_mean(value, PRESET_ARMS) or "."
            raise ValueError(f"unknown arm {value!r}{hint} Known: {', '.join(PRESET_ARMS)}, or write name and stages")
        return {"name": value, "stages": PRESET_ARMS[value]}

    @property
    def describes_first(self) -> bool:
        """Whether the arm's last checkpoint says something about a clip, by itself, before its label is scored."""
        return bool(self.stages) and (self.stages[-1].describe_first or self.stages[-1].reasons)


_LABEL = Stage(kind="label")


def _rb_ft(**changes: Any) -> tuple[Stage, ...]:
    """`rb-ft` with changes to its rationale stage."""
    return Stage(kind="rationale", **changes), _LABEL


PRESET_ARMS: dict[str, tuple[Stage, ...]] = {
    "zero-shot": (),
    "direct": (_LABEL,),
    "direct-matched": (Stage(kind="label", match_steps_of="rb-ft"),),
    "rb-ft": _rb_ft(),
    "rb-ft-p+c+r": _rb_ft(format="P+C+R"),
    "rb-ft-p+r+c": _rb_ft(format="P+R+C"),
    "rb-ft-voted": _rb_ft(vote=Vote()),
    "rb-ft-confident": _rb_ft(vote=Vote(keep_share=0.5)),
    "rb-ft-right": _rb_ft(vote=Vote(right_only=True)),
    "rb-ft-audited": _rb_ft(drop_contradicting=True),
    "rb-ft-labelled": _rb_ft(clips="labelled"),
    "rb-ft-distilled": _rb_ft(query="plain"),
    "rb-ft-hinted": _rb_ft(hint=Hint()),
    "rb-ft-twice": (Stage(kind="rationale"), Stage(kind="rationale", engine="parent"), _LABEL),
    "rb-ft-labels-first": (_LABEL, Stage(kind="rationale", engine="parent"), _LABEL),
    "rb-ft-joint": (Stage(kind="joint", match_steps_of="rb-ft"),),
    "rb-ft-describe": (Stage(kind="rationale"), Stage(kind="label", describe_first=True)),
    "rb-ft+grpo": (*_rb_ft(), Stage(kind="cot"), Stage(kind="reinforce")),
    "cot": (Stage(kind="cot"),),
    "cot+grpo": (Stage(kind="cot"), Stage(kind="reinforce")),
    "videorft": (
        Stage(kind="cot", thoughts="curated"),
        Stage(kind="reinforce", reinforce={"rewards": {"semantic": 1}}),
    ),
}


QUESTION_ARMS = ("zero-shot", "cot", "cot+grpo")
"""What an experiment about questions compares where it names no arms."""
_OF_LABELS = tuple(name for name in Stage.model_fields if name not in ("kind", "thoughts", "training", "reinforce"))


def question_stage_fault(stage: Stage) -> str | None:
    """Why a stage cannot learn from questions; None where it can. Thoughts are those of the rows, curated or not."""
    if not stage.reasons:
        return f"a {stage.kind} stage learns from labelled clips; with `questions` there are cot and reinforce stages"
    given = [name for name in _OF_LABELS if getattr(stage, name) != Stage.model_fields[name].default]
    if given:
        return f"{_listed(given)} runs on labelled clips; with `questions` a cot stage learns the thoughts of its rows"
    return None


def match_fault(arm: str, name: str, known: Mapping[str, tuple[Stage, ...]]) -> str | None:
    """Why a stage of `arm` cannot take as many steps as the arm of that name; None where it can.

    It must have stages, and those it matches in turn must not lead back to where it began.
    """
    return _match_fault(name, known, (arm,))


def _match_fault(name: str, known: Mapping[str, tuple[Stage, ...]], path: tuple[str, ...]) -> str | None:
    if name not in known:
        return f"no arm {name!r}{did_you_mean(name, known) or '.'} Arms are {', '.join(known)}"
    if not known[name]:
        return f"arm {name!r} has no stage, so no steps to match"
    others = [stage.match_steps_of for stage in known[name] if stage.match_steps_of is not None]
    around = [other for other in others if other in (*path, name)]
    if around:
        return f"arm {name!r} matches the steps of {around[0]!r} itself; name an arm with steps of its own"
    faults = (_match_fault(other, known, (*path, name)) for other in others)
    return next((fault for fault in faults if fault), None)


def did_you_mean(word: str, allowed: Iterable[str]) -> str:
    """`; did you mean 'rb-ft'?` where one of the allowed words is near, else nothing."""
    folded = {name.casefold(): name for name in allowed}
    close = difflib.get_close_matches(word.casefold(), folded, n=1)
    return f"; did you mean {folded[close[0]]!r}?" if close else ""
