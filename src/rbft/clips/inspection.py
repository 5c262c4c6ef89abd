"""What was learned about one listed clip."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from rbft.clips.manifest import Row
from rbft.records import ClipProblem, FramePlan, Probe


class Problem(NamedTuple):
    """Why a clip cannot be used: one word of `records.ClipProblem`, and an explanation for a person."""

    reason: ClipProblem
    detail: str


@dataclass(frozen=True)
class Inspection:
    """What was learned about one row. `decoded` says whether its frames were made now; `thumbnails` what they show."""

    row: Row
    sha256: str | None = None
    probe: Probe | None = None
    plan: FramePlan | None = None
    key: str | None = None
    problem: Problem | None = None
    decoded: bool = False
    thumbnails: bytes | None = None
