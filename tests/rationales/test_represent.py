"""A clip as JSON: read strictly, with one object a frame and times within the clip."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rbft.rationales.represent import (
    FrameNote,
    KeyElements,
    Representation,
    Unusable,
    plain,
    read_representation,
    representation_schema,
)

ELEMENTS = {
    "objects": ["a red car"], "actions": [], "scene": "a street", "notable_features": [], "spatial_relations": [],
    "human_attributes": None, "potential_interactions": [],
}  # fmt: skip


def told(*times: float, **more: Any) -> dict[str, Any]:
    frames = [{"timestamp": t, "caption": "a car", "key_elements": ELEMENTS} for t in times]
    return {"caption": "A car passes.", "frames": frames} | more


def read(document: Any, num_frames: int = 2, start: float = 0.0, end: float = 4.0) -> Representation | Unusable:
    text = document if isinstance(document, str) else json.dumps(document)
    return read_representation(text, num_frames=num_frames, start_seconds=start, end_seconds=end)


def test_bare_or_fenced_it_is_read() -> None:
    found = read(told(0, 3.5))
    assert isinstance(found, Representation) and found.frames[1].timestamp == 3.5
    assert read(f"```json\n{json.dumps(told(0, 3.5), indent=1)}\n```\n") == found


@pytest.mark.parametrize(
    ("document", "reason", "detail"),
    [
        ('{"caption": "A car', "not_json", "the answer: Invalid JSON"),
        ("Here it is: {}", "not_json", "the answer: Invalid JSON"),
        ({"caption": "x"}, "not_json", "frames: Field required"),
        (told(0, 1, colour="red"), "not_json", "colour: Extra inputs are not permitted"),
        (told(0, 1, caption=3), "not_json", "caption: Input should be a valid string"),
        (told(0, "1"), "not_json", "frames.1.timestamp: Input should be a valid number"),  # type: ignore[arg-type]
        (told(0), "frame_count", "`frames` has 1 objects; 2 frames were shown, one object each"),
        (told(0, 4.6), "outside_clip", "timestamp 4.6 is not within 0 to 4 seconds"),
        (told(-1, 3), "outside_clip", "timestamp -1 is not within 0 to 4 seconds"),
        (told(3, 1), "outside_clip", "timestamps go back; frames stand in the order of the video"),
    ],
)
def test_what_cannot_be_used_says_why(document: Any, reason: str, detail: str) -> None:
    found = read(document)
    assert isinstance(found, Unusable)
    assert found.reason == reason and found.detail.startswith(detail)


def test_times_are_those_of_the_window_give_or_take_rounding() -> None:
    assert isinstance(read(told(9.6, 12.4), start=10, end=12), Representation)
    assert isinstance(read(told(0, 2), start=10, end=12), Unusable)
    assert isinstance(read(told(2, 2)), Representation), "a repeated last frame has its time twice"


def test_the_schema_is_closed_and_requires_every_field() -> None:
    schema = representation_schema()
    objects = [schema, *schema["$defs"].values()]
    assert len(objects) == 3
    for part in objects:
        assert part["additionalProperties"] is False
        assert sorted(part["required"]) == sorted(part["properties"])


WORDS = st.text(max_size=5)
LISTS = st.lists(WORDS, max_size=2).map(tuple)
NOTES = st.builds(
    FrameNote,
    timestamp=st.floats(0, 4),
    caption=WORDS,
    key_elements=st.builds(
        KeyElements, objects=LISTS, actions=LISTS, scene=WORDS, notable_features=LISTS, spatial_relations=LISTS,
        human_attributes=st.none() | WORDS, potential_interactions=LISTS,
    ),
)  # fmt: skip


@given(st.builds(Representation, caption=WORDS, frames=st.lists(NOTES, max_size=4).map(tuple)))
def test_what_is_handed_on_reads_back(made: Representation) -> None:
    ordered = made.model_copy(update={"frames": tuple(sorted(made.frames, key=lambda note: note.timestamp))})
    assert read(plain(ordered), num_frames=len(ordered.frames)) == ordered
