"""A clip as text, in VideoRFT's form: a caption, and an object for each frame; read strictly."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError

from rbft.records import DropReason

_FENCED = re.compile(r"\s*```(?:json)?\s*\n(.*)\n\s*```\s*", re.DOTALL)
_SLACK_SECONDS = 0.5
"""Time stamps are told and copied as rounded numbers."""
_MAX_FAULTS = 5


class _Told(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class KeyElements(_Told):
    """What is seen in a frame."""

    objects: tuple[str, ...]
    actions: tuple[str, ...]
    scene: str
    notable_features: tuple[str, ...]
    spatial_relations: tuple[str, ...]
    human_attributes: str | None
    potential_interactions: tuple[str, ...]


class FrameNote(_Told):
    """One frame: seconds from the clip's first, a caption, key elements."""

    timestamp: float
    caption: str
    key_elements: KeyElements


class Representation(_Told):
    """A clip in words."""

    caption: str
    frames: tuple[FrameNote, ...]


class Unusable(NamedTuple):
    """Why a representation cannot be used, for the report and for the engine that may mend it."""

    reason: DropReason
    detail: str


def representation_schema() -> dict[str, Any]:
    """The JSON schema, closed everywhere and with every field required, as strict servers want it."""
    return Representation.model_json_schema()


def read_representation(
    text: str, *, num_frames: int, start_seconds: float, end_seconds: float
) -> Representation | Unusable:
    """The representation that a text is, bare or as one fenced block; or why it cannot be used.

    One object for each frame shown, with time stamps that never go back and lie within the clip (half a second of
    rounding is let be).
    """
    fenced = _FENCED.fullmatch(text)
    try:
        found = Representation.model_validate_json(text if fenced is None else fenced[1])
    except ValidationError as error:
        return Unusable("not_json", _told(error))
    if len(found.frames) != num_frames:
        return Unusable(
            "frame_count", f"`frames` has {len(found.frames)} objects; {num_frames} frames were shown, one object each"
        )
    times = [frame.timestamp for frame in found.frames]
    outside = [t for t in times if not start_seconds - _SLACK_SECONDS <= t <= end_seconds + _SLACK_SECONDS]
    if outside:
        return Unusable(
            "outside_clip", f"timestamp {outside[0]:g} is not within {start_seconds:g} to {end_seconds:g} seconds"
        )
    if times != sorted(times):
        return Unusable("outside_clip", "timestamps go back; frames stand in the order of the video")
    return found


def plain(representation: Representation) -> str:
    """The representation as it is handed on: the same JSON whatever spaces it was written with."""
    return json.dumps(representation.model_dump(mode="json"), ensure_ascii=False)


def _told(error: ValidationError) -> str:
    where: Callable[[Any], str] = lambda loc: ".".join(map(str, loc)) or "the answer"  # noqa: E731
    faults = [f"{where(fault['loc'])}: {fault['msg']}" for fault in error.errors()]
    more = f"; and {len(faults) - _MAX_FAULTS} more" if len(faults) > _MAX_FAULTS else ""
    return "; ".join(faults[:_MAX_FAULTS]) + more
