"""What the page shows beyond the numbers of the `Report`: curves, bins, film strips, texts, links."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from rbft.records import LeftOut, Verdict

Measure = Literal["loss", "reward", "accuracy", "semantic", "kl", "length"]


@dataclass(frozen=True)
class LossCurve:
    """One stage of one arm under one seed: (optimizer step, what was measured) in step order.

    Loss and `kl`, the divergence from the stage's parent, in nats; rewards and length (tokens) as means over answers.
    """

    arm: str
    stage: str
    seed: int
    points: Sequence[tuple[int, float]]
    measure: Measure = "loss"
    held_out: Sequence[tuple[int, float]] = ()
    """The same of greedy answers about test clips, at a few steps."""


@dataclass(frozen=True)
class ReliabilityBin:
    """One bin of predicted confidence: mean confidence and share of right answers (0 to 1), number of predictions."""

    confidence: float
    accuracy: float
    count: int


@dataclass(frozen=True)
class ArmAnswer:
    """What one arm said about a clip; `label` is None where the answer could not be read."""

    label: str | None
    probabilities: Mapping[str, float]
    text: str | None = None
    """The generated answer, where one was asked for."""


@dataclass(frozen=True, repr=False)
class ExampleClip:
    """A clip to look at: uint8 frames `[T, H, W, 3]`, their instants in seconds `[T]`, and what each arm said.

    Raises ValueError where frames and instants do not fit each other.
    """

    clip_id: str
    label: str | None
    frames: NDArray[np.uint8]
    seconds: Sequence[float]
    rationale: str | None = None
    verdict: Verdict | None = None
    arms: Mapping[str, ArmAnswer] = field(default_factory=dict)

    def __post_init__(self) -> None:
        shape = self.frames.shape
        if self.frames.dtype != np.uint8 or len(shape) != 4 or shape[3] != 3 or 0 in shape:
            raise ValueError(f"{self.clip_id}: frames are uint8 [T, H, W, 3], these are {self.frames.dtype} {shape}")
        if len(self.seconds) != shape[0]:
            raise ValueError(f"{self.clip_id}: {shape[0]} frames but {len(self.seconds)} instants")

    def __repr__(self) -> str:
        return f"ExampleClip({self.clip_id!r}, label={self.label!r}, frames={list(self.frames.shape)})"

    @property
    def is_missed(self) -> bool:
        """Whether at least one arm answered with another label, or none."""
        return any(answer.label != self.label for answer in self.arms.values())


@dataclass(frozen=True)
class DroppedExample:
    """A rationale that the audit dropped, and every reason."""

    clip_id: str
    text: str
    reasons: Sequence[str]
    detail: str = ""


@dataclass(frozen=True)
class ReportMaterial:
    """Everything on the page that is not in `report.json`; each part may be empty, and its section then says so.

    `reliability` maps an arm to its bins; `artifacts` maps a title to a path relative to the page's folder.
    Raises ValueError for an artifact that is not below that folder.
    """

    loss_curves: Sequence[LossCurve] = ()
    reliability: Mapping[str, Sequence[ReliabilityBin]] = field(default_factory=dict)
    examples: Sequence[ExampleClip] = ()
    dropped_examples: Sequence[DroppedExample] = ()
    left_out: Sequence[LeftOut] = ()
    artifacts: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for title, path in self.artifacts.items():
            if not path or PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
                raise ValueError(f"artifact {title!r}: {path!r} is not a path below the report's folder")
