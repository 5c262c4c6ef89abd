"""Objects, where they come from, and what covering them changes: pure arithmetic, by hand and by properties."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rbft.clips.frames import Frames
from rbft.evaluation.masks import (
    ManifestObjects,
    MaskedClips,
    MovingRegions,
    box_array,
    boxes_over_time,
    clip_rng,
    covered_share,
    listed,
    load_object_words,
    masked_frames,
    most_salient,
    moving_regions,
    noun_phrases,
    random_patches,
    rectangles,
    touched_share,
)
from rbft.records import Box, Clip, FramePlan
from rbft.results import FoundObjects

NAN = [float("nan")] * 4


def clip(*boxes: Box) -> Clip:
    return Clip(clip_id="a", path="a.mp4", sha256="0", duration_seconds=4.0, split="test", boxes=boxes)


# -- manifest boxes ------------------------------------------------------------------------------------------------


def test_boxes_move_linearly_and_stay_before_and_after() -> None:
    marks = [Box(t=1.0, box=(0.0, 0.0, 0.2, 0.2)), Box(t=3.0, box=(0.4, 0.2, 0.6, 0.6))]
    found = boxes_over_time(marks, np.array([0.0, 1.0, 1.5, 3.0, 9.0]))
    assert found.shape == (5, 1, 4)
    np.testing.assert_allclose(found[2, 0], [0.1, 0.05, 0.3, 0.3])
    assert found[0].tolist() == found[1].tolist() == [[0.0, 0.0, 0.2, 0.2]]
    assert found[3].tolist() == found[4].tolist() == [[0.4, 0.2, 0.6, 0.6]]


def test_an_object_that_is_missing_at_a_time_is_there_in_the_nearer_half() -> None:
    first, second = (0.0, 0.0, 0.1, 0.1), (0.5, 0.5, 0.9, 0.9)
    marks = [Box(t=0, box=first), Box(t=0, box=second), Box(t=2, box=first), Box(t=4, box=first), Box(t=4, box=second)]
    found = boxes_over_time(marks, np.array([0.0, 0.9, 1.1, 2.0, 2.9, 3.1, 4.0]))
    assert found.shape == (7, 2, 4)
    assert not np.isnan(found[:, 0]).any()
    assert np.isnan(found[:, 1, 0]).tolist() == [False, False, True, True, True, False, False]


def test_without_boxes_there_are_no_objects() -> None:
    frames = Frames(np.zeros((2, 4, 4, 3), np.uint8), np.arange(2.0))
    assert ManifestObjects().find(clip(), frames).shape == (2, 0, 4)


def test_the_largest_three_are_kept() -> None:
    sides = [0.1, 0.5, 0.3, 0.4]
    frames = Frames(np.zeros((2, 4, 4, 3), np.uint8), np.arange(2.0))
    found = ManifestObjects().find(clip(*(Box(t=0, box=(0, 0, s, s)) for s in sides)), frames)
    assert found[0, :, 2].tolist() == [0.5, 0.4, 0.3]
    vanishing = np.array([[[0, 0, 0.5, 0.5], [0, 0, 0.4, 0.4]], [NAN, [0, 0, 0.4, 0.4]]])
    assert most_salient(vanishing, 1)[0, 0].tolist() == [0, 0, 0.4, 0.4]


def test_boxes_survive_being_written() -> None:
    boxes = np.array([[[0.1, 0.2, 0.3, 1 / 3], NAN], [NAN, NAN]])
    found = FoundObjects(clip_id="a", boxes=listed(boxes))
    assert found.boxes[1] == (None, None)
    again = box_array(FoundObjects.model_validate_json(found.model_dump_json()))
    np.testing.assert_allclose(again, boxes, atol=1e-6)
    assert box_array(FoundObjects(clip_id="a", boxes=((), ()))).shape == (2, 0, 4)


# -- motion --------------------------------------------------------------------------------------------------------


def moving_square(noise: float) -> tuple[np.ndarray, np.ndarray]:
    """A bright square of 12 x 10 pixels that crosses a noisy frame of 60 x 80, and its boxes [T, 4]."""
    rng = np.random.default_rng(0)
    frames = rng.normal(80, noise, (6, 60, 80, 3))
    boxes = []
    for t in range(6):
        x, y = 4 + 12 * t, 20 + 2 * t
        frames[t, y : y + 10, x : x + 12] += 90
        boxes.append([x / 80, y / 60, (x + 12) / 80, (y + 10) / 60])
    return frames.clip(0, 255).astype(np.uint8), np.array(boxes)


@pytest.mark.parametrize("noise", [0.0, 12.0])
def test_a_moving_square_is_the_strongest_region(noise: float) -> None:
    frames, boxes = moving_square(noise)
    found = moving_regions(frames)
    assert found.shape == (6, 3, 4)
    sides = np.minimum(found[:, 0, 2:], boxes[:, 2:]) - np.maximum(found[:, 0, :2], boxes[:, :2])
    shared = sides.clip(0).prod(axis=1)
    either = (found[:, 0, 2:] - found[:, 0, :2]).prod(axis=1) + (boxes[:, 2:] - boxes[:, :2]).prod(axis=1) - shared
    assert (shared / either > 0.5).all()


def test_nothing_that_moves_is_no_object() -> None:
    still = np.repeat(np.random.default_rng(1).integers(0, 256, (1, 30, 40, 3), dtype=np.uint8), 4, axis=0)
    assert np.isnan(moving_regions(still)).all()
    frames = Frames(still[:1], np.zeros(1))
    assert np.isnan(MovingRegions().find(clip(), frames)).all()


# -- words ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Subjects: a bear. Attributes: big, black. Actions: falling. Scenes: garden, night.", ["bear"]),
        ("A man in a red jacket is climbing over the garden fence.", ["man", "red jacket", "garden fence"]),
        ("The video shows two dogs running; the scene is a porch", ["video shows", "dogs", "porch"]),
        ("Falling quickly.", []),
        ("the bear and the bear", ["bear"]),
    ],
)
def test_noun_phrases(text: str, expected: list[str]) -> None:
    assert noun_phrases(text, load_object_words()) == expected


def test_at_most_eight_phrases() -> None:
    text = ". ".join(f"a thing{letter}" for letter in "abcdefghij")
    assert len(noun_phrases(text, load_object_words())) == 8


# -- covering ------------------------------------------------------------------------------------------------------


def test_boxes_are_rounded_outwards_and_cut() -> None:
    boxes = np.array([[[0.11, 0.0, 0.5, 0.26], [-1.0, 0.5, 2.0, 1.5], NAN, [0.3, 0.3, 0.3, 0.6]]])
    assert rectangles(boxes, 20, 10).tolist() == [[[1, 0, 5, 6], [0, 10, 10, 20], [0] * 4, [0] * 4]]


def test_masks_have_their_frames_mean_colour() -> None:
    frames = np.zeros((2, 2, 2, 3), np.uint8)
    frames[0, 0, 0] = (40, 80, 200)
    frames[1] = 7
    places = np.array([[[0, 0, 1, 1]], [[0, 0, 0, 0]]])
    covered = masked_frames(frames, places)
    assert covered[0, 0, 0].tolist() == [10, 20, 50]
    assert covered[0].sum() == 80
    assert (covered[1] == 7).all()
    assert frames[0, 0, 0].tolist() == [40, 80, 200]


def test_random_patches_have_equal_areas_and_touch_nothing_where_there_is_room() -> None:
    objects = rectangles(moving_square(0)[1][:, None], 60, 80)
    patches = random_patches(objects, 60, 80, np.random.default_rng(0))
    assert ((patches[..., 2:] - patches[..., :2]) == (objects[..., 2:] - objects[..., :2])).all()
    assert touched_share(patches, objects, 60, 80) == 0.0
    assert covered_share(patches, 60, 80) == covered_share(objects, 60, 80) == pytest.approx(120 / 4800)
    moves = patches[:, 0, :2] - objects[:, 0, :2]
    assert (moves == moves[0]).all()


def test_a_patch_lies_still_where_it_cannot_move_along() -> None:
    """The object sweeps the whole width and height, so that no displacement stays inside the frame."""
    corners = np.linspace([0, 0], [70, 50], 6).round().astype(int)
    objects = np.concatenate([corners, corners + 10], axis=1)[:, None]
    patches = random_patches(objects, 60, 80, np.random.default_rng(0))
    assert touched_share(patches, objects, 60, 80) == 0.0
    assert (patches[:, 0] == patches[0, 0]).all()


def test_without_room_a_patch_touches_as_little_as_it_can_and_says_so() -> None:
    objects = np.array([[[0, 0, 10, 8]]])
    patches = random_patches(objects, 10, 10, np.random.default_rng(0))
    assert touched_share(patches, objects, 10, 10) == pytest.approx(60 / 80)


@settings(max_examples=60)
@given(
    boxes=st.lists(
        st.lists(st.tuples(*[st.floats(0, 1)] * 4) | st.none(), min_size=2, max_size=2), min_size=1, max_size=4
    ),
    seed=st.integers(0, 2**31),
)
def test_patches_always_have_the_sizes_of_the_objects_and_lie_inside(
    boxes: list[list[tuple[float, ...] | None]], seed: int
) -> None:
    array = np.array([[NAN if box is None else box for box in frame] for frame in boxes])
    objects = rectangles(array, 24, 36)
    patches = random_patches(objects, 24, 36, np.random.default_rng(seed))
    assert ((patches[..., 2:] - patches[..., :2]) == (objects[..., 2:] - objects[..., :2])).all()
    assert (patches >= 0).all()
    assert (patches[..., 2] <= 36).all()
    assert (patches[..., 3] <= 24).all()


def test_a_clips_patches_are_the_same_for_every_checkpoint() -> None:
    first, again, other, reseeded = (clip_rng(*key).random() for key in ((0, "a"), (0, "a"), (0, "b"), (1, "a")))
    assert first == again
    assert len({first, other, reseeded}) == 3


def test_masked_clips_read_as_the_clips_they_cover() -> None:
    class Source:
        def read(self, clip_id: str) -> Frames:
            return Frames(np.full((2, 4, 4, 3), 9, np.uint8) * np.arange(4, dtype=np.uint8)[:, None], np.arange(2.0))

        def plan(self, clip_id: str) -> FramePlan:
            return FramePlan(times_seconds=(0.0, 1.0), width=4, height=4, frames_per_second=1.0,
                             short_clip_policy="error")  # fmt: skip

    source = Source()
    masked = MaskedClips(source, {"a": np.array([[[0, 0, 4, 4]], [[0, 0, 0, 0]]])})
    assert (masked.read("a").data[0] == 14).all()
    assert np.array_equal(masked.read("a").data[1], source.read("a").data[1])
    assert np.array_equal(masked.read("b").data, source.read("b").data)
    assert masked.plan("a") == source.plan("a")
