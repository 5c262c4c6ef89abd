"""The renderer is a pure function, its boxes are true, its specs are checked."""

import dataclasses

import numpy as np
import pytest

from rbft.tiny.pool import open_pool, spec_at
from rbft.tiny.shift import Shift
from rbft.tiny.world import ACTIONS, DIMENSIONS, SUBJECTS, SceneSpec, render, sample_spec

TIMES = [0.0, 0.5, 1.0, 1.5]


def spec(**changes: object) -> SceneSpec:
    plain = SceneSpec("dog", "red", "medium", "standing", "garden", "day", seed=5)
    return dataclasses.replace(plain, **changes)  # type: ignore[arg-type]


def test_the_same_spec_gives_the_same_pixels_and_another_seed_others() -> None:
    frames, boxes = render(spec(), TIMES)
    again, boxes_again = render(spec(), TIMES)
    other, _ = render(spec(seed=6), TIMES)
    assert frames.shape == (4, 168, 168, 3) and frames.dtype == np.uint8
    assert boxes.shape == (4, 4) and boxes.dtype == np.float32
    np.testing.assert_array_equal(frames, again)
    np.testing.assert_array_equal(boxes, boxes_again)
    assert (frames != other).any()


def test_a_frame_does_not_depend_on_the_other_frames_asked_for() -> None:
    frames, _ = render(spec(action="running left"), TIMES)
    alone, _ = render(spec(action="running left"), [1.0])
    np.testing.assert_array_equal(frames[2], alone[0])


@pytest.mark.parametrize("action", ACTIONS)
def test_boxes_hold_exactly_what_changes_with_the_subjects_colour(action: str) -> None:
    red, boxes = render(spec(subject="ball", size="small", action=action, colour="red"), TIMES)
    blue, _ = render(spec(subject="ball", size="small", action=action, colour="blue"), TIMES)
    for index, box in enumerate(boxes):
        rows, columns = np.nonzero((red[index] != blue[index]).any(-1))
        seen = np.asarray([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]) / 168
        assert np.abs(seen - box).max() < 0.04


def test_actions_move_the_box_as_their_names_say() -> None:
    def boxes(action: str) -> np.ndarray:
        return render(spec(subject="box", action=action), TIMES)[1]

    def middle(b: np.ndarray) -> np.ndarray:
        return b[:, 0] + b[:, 2]

    assert (np.diff(middle(boxes("running left"))) < 0).all()
    assert (np.diff(middle(boxes("running right"))) > 0).all()
    assert (np.diff(boxes("climbing")[:, 3]) < 0).all()
    assert (np.diff(boxes("falling")[:2, 3]) > 0).all()
    approaching = boxes("approaching")
    assert (np.diff(approaching[:, 2] - approaching[:, 0]) > 0).all()


def test_every_subject_looks_different() -> None:
    pictures = {s: render(spec(subject=s), [0.0])[0].tobytes() for s in SUBJECTS}
    assert len(set(pictures.values())) == len(SUBJECTS)


def test_a_sign_and_lamps_are_drawn_where_they_are_said_to_be() -> None:
    plain, _ = render(spec(), [0.0])
    signed, _ = render(spec(sign="42"), [0.0])
    lit, _ = render(spec(lamps=3), [0.0])
    rows, columns = np.nonzero((plain[0] != signed[0]).any(-1))
    assert columns.min() > 0.65 * 168 and rows.max() < 0.3 * 168
    rows, columns = np.nonzero((plain[0] != lit[0]).any(-1))
    assert columns.max() < 0.5 * 168 and rows.max() < 0.2 * 168


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"subject": "unicorn"}, "subject is 'unicorn'; allowed: person, dog"),
        ({"lamps": 9}, "lamps is 9; allowed: 0 to 4"),
        ({"sign": "7"}, "sign is '7'; allowed: two digits, or empty"),
    ],
)
def test_a_wrong_spec_is_refused_by_name(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        spec(**changes)


def test_samples_use_every_word() -> None:
    rng = np.random.default_rng(0)
    specs = [sample_spec(rng) for _ in range(400)]
    for name, words in DIMENSIONS.items():
        assert {getattr(s, name) for s in specs} == set(words)


def test_the_shift_grows_with_its_dial_and_zero_does_nothing() -> None:
    frames, _ = render(spec(), TIMES)
    away = [
        np.abs(Shift(severity).apply(frames, np.random.default_rng(1)).astype(int) - frames).mean()
        for severity in (0.0, 0.3, 0.6, 1.0)
    ]
    assert away[0] == 0
    assert (np.diff(away) > 3).all()
    with pytest.raises(ValueError, match=r"severity is 2; allowed: 0 \(none\) to 1.5"):
        Shift(2)


def test_a_pool_is_rendered_once_and_holds_its_specs(tmp_path) -> None:  # type: ignore[no-untyped-def]
    pool = open_pool(tmp_path, 5, seed=3, workers=1)
    written = (tmp_path / "frames.u8").stat().st_mtime_ns
    again = open_pool(tmp_path, 5, seed=3, workers=1)
    assert (tmp_path / "frames.u8").stat().st_mtime_ns == written
    assert pool.specs == again.specs == [spec_at(3, index)[0] for index in range(5)]
    assert pool.frames.shape == (5, 4, 84, 84, 3)
    assert pool.targets().shape == (5, 10)
    np.testing.assert_array_equal(pool.targets()[:, 0], [SUBJECTS.index(s.subject) for s in pool.specs])
