"""ROUGE against numbers worked by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rbft.rouge import mean_rouge, rouge_1, rouge_l, rouge_n

GOLD = "the police killed the gunman"


@pytest.mark.parametrize(
    ("text", "one", "two", "longest"),
    [
        # Lin 2004, section 3: both share three words in order, or two
        ("police kill the gunman", 2 * 3 / 9, 2 * 1 / 7, 2 * 3 / 9),
        ("the gunman kill police", 2 * 3 / 9, 2 * 1 / 7, 2 * 2 / 9),
        (GOLD, 1.0, 1.0, 1.0),
        ("The police, killed: the GUNMAN!", 1.0, 1.0, 1.0),
        ("the the the the", 2 * 2 / 9, 0.0, 2 * 2 / 9),
        ("a dog", 0.0, 0.0, 0.0),
        ("", 0.0, 0.0, 0.0),
        ("gunman", 2 / 6, 0.0, 2 / 6),
    ],
)
def test_by_hand(text: str, one: float, two: float, longest: float) -> None:
    assert rouge_1(text, GOLD) == pytest.approx(one)
    assert rouge_n(text, GOLD, 2) == pytest.approx(two)
    assert rouge_l(text, GOLD) == pytest.approx(longest)
    assert mean_rouge(text, GOLD) == pytest.approx((one + two + longest) / 3)


def test_a_gold_text_of_one_word_has_no_pairs_and_still_earns_full_marks() -> None:
    assert mean_rouge("dog", "dog") == 1.0
    assert mean_rouge("cat", "dog") == 0.0
    assert mean_rouge("a dog", "dog") == pytest.approx(2 / 3)


def test_without_words_nothing_can_be_compared() -> None:
    assert mean_rouge("a dog", "?!") is None
    assert rouge_1("", "") == rouge_n("a", "b", 2) == rouge_l("", "") == 1.0


TEXT = st.lists(st.sampled_from(["a", "b", "c"]), max_size=8).map(" ".join)


@given(TEXT, TEXT)
def test_bounds_symmetry_and_order(a: str, b: str) -> None:
    for score in (rouge_1, rouge_l, lambda x, y: rouge_n(x, y, 2)):
        assert 0 <= score(a, b) <= 1
        assert score(a, b) == score(b, a)
        assert score(a, a) == 1.0
    assert rouge_l(a, b) <= rouge_1(a, b)


@given(TEXT, TEXT)
def test_the_longest_common_subsequence_is_the_recursive_one(a: str, b: str) -> None:
    def common(x: list[str], y: list[str]) -> int:
        if not x or not y:
            return 0
        if x[-1] == y[-1]:
            return common(x[:-1], y[:-1]) + 1
        return max(common(x[:-1], y), common(x, y[:-1]))

    first, second = a.split(), b.split()
    if first or second:
        assert rouge_l(a, b) == 2 * common(first, second) / (len(first) + len(second))
