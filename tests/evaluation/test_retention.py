"""What is forgotten: word F1 with human descriptions by dimension, worked by hand, and differences with intervals."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rbft.evaluation.retention import MEAN, description_f1, retention_report
from rbft.prompts import DIMENSIONS, load_prompts

TEMPLATE = load_prompts("brief", persona="p", labels={}).templates.dimensions
HUMAN = "Subjects: a dog. Attributes: small, red. Actions: running left. Scenes: garden, night."


def test_each_dimension_by_hand() -> None:
    said = "Subjects: a cat. Attributes: small, red. Actions: jumping. Scenes: in the garden by night."
    scores = description_f1(said, HUMAN, TEMPLATE)
    assert scores == pytest.approx(
        {"subjects": 0.5, "attributes": 1.0, "actions": 0.0, "scenes": 2 * 2 / (5 + 2), MEAN: (1.5 + 4 / 7) / 4}
    )


def test_without_the_form_nothing_is_in_common_and_plain_texts_are_compared_whole() -> None:
    assert description_f1("a small red dog", HUMAN, TEMPLATE)[MEAN] == 0.0
    assert description_f1("", HUMAN, TEMPLATE) == dict.fromkeys([*DIMENSIONS, MEAN], 0.0)
    assert description_f1("a dog runs", "a dog sleeps", TEMPLATE) == pytest.approx({"text": 2 / 3, MEAN: 2 / 3})
    assert description_f1(HUMAN, "Scenes: garden", TEMPLATE) == pytest.approx({"scenes": 2 / 3, MEAN: 2 / 3})


def test_arms_against_the_base() -> None:
    human = {f"c{i}": HUMAN for i in range(4)}
    worse = HUMAN.replace("dog", "cat")
    base = human | {"c3": worse}
    runs = {"same": {0: base, 1: base}, "worse": {0: dict.fromkeys(human, worse), 1: human}}
    made = retention_report(base, runs, human, dimensions=TEMPLATE, resamples=200)
    assert made.clips == 4
    assert list(made.base) == [*DIMENSIONS, MEAN]
    assert made.base["subjects"].mean == pytest.approx((3 + 0.5) / 4)
    assert made.base["actions"].mean == 1.0
    assert made.arms["same"].difference["subjects"].model_dump() == {"mean": 0.0, "low": 0.0, "high": 0.0}
    subjects = made.arms["worse"].f1["subjects"]
    assert subjects.per_seed == pytest.approx((0.5, 1.0))
    change = made.arms["worse"].difference["subjects"]
    assert change.mean == pytest.approx(0.75 - 0.875)
    assert change.low < change.mean < change.high


def test_an_interval_of_a_share_stays_within_0_and_1() -> None:
    human = {f"c{n}": "Subjects: a dog. Scenes: garden, day." for n in range(20)}
    worse = human | {"c3": "Subjects: a dog. Scenes: garden, night."}
    found = retention_report(
        human, {"rb-ft": {0: human, 1: human, 2: worse}}, human, dimensions=TEMPLATE, resamples=200
    )
    scores = [*found.base.values(), *found.arms["rb-ft"].f1.values()]
    assert all(0 <= one.low <= one.mean <= one.high <= 1 for one in scores)
    assert found.arms["rb-ft"].f1["scenes"].low < found.arms["rb-ft"].f1["scenes"].mean < 1


def test_a_dimension_is_measured_where_the_human_text_has_it() -> None:
    human = {"a": HUMAN, "b": "Subjects: a dog."}
    made = retention_report(human, {}, human, dimensions=TEMPLATE, resamples=100)
    assert made.base["scenes"].mean == made.base["subjects"].mean == 1.0
    assert made.arms == {}


@given(st.lists(st.sampled_from(["dog", "cat", "red", "runs", "a"]), min_size=1, max_size=8))
def test_the_human_text_itself_is_perfect(words: list[str]) -> None:
    text = f"Subjects: {' '.join(words)}."
    assert description_f1(text, text, TEMPLATE) == {"subjects": 1.0, MEAN: 1.0}
