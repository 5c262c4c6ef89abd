"""Splits: stratified, in whole groups, by the seed and nothing else."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from rbft.clips.manifest import Row
from rbft.clips.split import assign_splits, propose_splits, split_faults
from rbft.errors import ManifestError
from rbft.experiment import SplitRule
from rbft.records import Split

TRAIN: Split = "train"
TEST: Split = "test"


def row(number: int, label: str | None, group: str | None = None, split: Split | None = None, path: str = "") -> Row:
    return Row(
        f"c{number}", Path("/clips", path or f"{number}.mp4"), f"{number}.mp4", f"row {number}", label, split, group
    )


def test_shares_by_hand() -> None:
    rows = [row(i, "a") for i in range(50)] + [row(50 + i, "b") for i in range(10)]
    splits = assign_splits(rows, SplitRule(test_share=0.2))
    counts = Counter((r.label, splits[r.clip_id]) for r in rows)
    assert counts == {("a", "train"): 40, ("a", "test"): 10, ("b", "train"): 8, ("b", "test"): 2}


def test_every_label_has_a_clip_on_either_side() -> None:
    rows = [row(i, "a") for i in range(50)] + [row(50, "b"), row(51, "b")]
    splits = assign_splits(rows, SplitRule(test_share=0.05))
    assert {splits["c50"], splits["c51"]} == {"train", "test"}


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10), st.randoms(use_true_random=False))
def test_order_does_not_matter_and_groups_stay_whole(seed: int, chance: random.Random) -> None:
    rows = [row(i, "ab"[i % 2], f"g{i // 5}") for i in range(60)] + [row(100 + i, None, f"g{i}") for i in range(4)]
    splits = assign_splits(rows, SplitRule(seed=seed))
    shuffled = rows[:]
    chance.shuffle(shuffled)
    assert assign_splits(shuffled, SplitRule(seed=seed)) == splits
    for group in {r.group for r in rows}:
        assert len({splits[r.clip_id] for r in rows if r.group == group}) == 1
    tested = Counter(r.label for r in rows if splits[r.clip_id] == "test")
    assert 5 <= tested["a"] + tested["b"] <= 20


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10), st.integers(2, 6), st.randoms(use_true_random=False))
def test_every_clip_is_in_one_fold_and_groups_stay_whole(seed: int, folds: int, chance: random.Random) -> None:
    rows = [row(i, "ab"[i % 2], f"g{i // 5}") for i in range(60)] + [row(100 + i, None, f"g{i}") for i in range(4)]
    rows += [row(200, None)]
    rules = [SplitRule(seed=seed, folds=folds, fold=n) for n in range(1, folds + 1)]
    splits = [assign_splits(rows, rule) for rule in rules]
    shuffled = rows[:]
    chance.shuffle(shuffled)
    assert [assign_splits(shuffled, rule) for rule in rules] == splits
    for r in rows[:-1]:
        assert [split[r.clip_id] for split in splits].count("test") == 1
        assert {s[r.clip_id] for s in splits} <= {"train", "test"}
    for group in {r.group for r in rows[:-1]}:
        assert all(len({split[r.clip_id] for r in rows if r.group == group}) == 1 for split in splits)
    assert {split["c200"] for split in splits} == {"train"}


def test_folds_that_cannot_be_made_are_refused() -> None:
    grouped = [row(i, "ab"[i % 2], f"g{i // 4}") for i in range(8)]
    with pytest.raises(ManifestError) as caught:
        assign_splits(grouped, SplitRule(folds=3, fold=1))
    assert str(caught.value).splitlines() == [
        f"split.folds: 3 folds, and label '{label}' has clips of 2 groups (a clip without a group is one of its own); "
        "every fold needs one: take at most 2 folds"
        for label in "ab"
    ]
    few = [row(0, "a"), row(1, "a"), row(2, "a"), row(3, "b"), row(4, "b")]
    with pytest.raises(ManifestError, match="label 'b' has clips of 2 groups"):
        assign_splits(few, SplitRule(folds=3, fold=1))
    assert set(assign_splits(few, SplitRule(folds=2, fold=1, seed=-1)).values()) == {"train", "test"}
    alone = [row(0, "a"), row(1, "a"), row(2, "b", "g"), row(3, "b", "g")]
    with pytest.raises(ManifestError, match=r"clips of 1 groups .* find other sources of it, or leave the label out"):
        assign_splits(alone, SplitRule(folds=2, fold=1))
    given_split = [row(0, "a", split=TRAIN), row(1, "b", split=TEST)]
    with pytest.raises(ManifestError, match=r"split\.folds: the clips have a split of their own; leave out its column"):
        assign_splits(given_split, SplitRule(folds=2, fold=1))
    with pytest.raises(ValidationError, match="folds and fold belong together: folds: 5 and fold: 1 tests the first"):
        SplitRule(folds=5)
    with pytest.raises(ValidationError, match="fold 3 is not one of 2; they count from 1"):
        SplitRule(folds=2, fold=3)


def test_seeds_differ() -> None:
    rows = [row(i, "ab"[i % 2]) for i in range(40)]
    assert len({frozenset(assign_splits(rows, SplitRule(seed=s)).items()) for s in range(5)}) == 5


def test_one_file_and_equal_contents_stay_together() -> None:
    rows = [row(i, "ab"[i % 2], path=f"{i // 4}.mp4") for i in range(40)]
    contents = {f"c{i}": f"hash{i // 8}" for i in range(40)}
    splits = assign_splits(rows, SplitRule(), contents=contents)
    for start in range(0, 40, 8):
        assert len({splits[f"c{i}"] for i in range(start, start + 8)}) == 1


def test_given_splits_are_kept_and_unlabelled_clips_train() -> None:
    rows = [
        row(0, "a", split=TEST),
        row(1, "a", split=TRAIN),
        row(2, "b", split=TEST),
        row(3, "b", split=TRAIN),
    ]
    assert assign_splits([*rows, row(4, None)], SplitRule()) == {
        "c0": "test", "c1": "train", "c2": "test", "c3": "train", "c4": "train",
    }  # fmt: skip
    assert propose_splits([row(i, None) for i in range(9)], SplitRule()) == {f"c{i}": "train" for i in range(9)}


@pytest.mark.parametrize(
    ("rows", "fault"),
    [
        ([row(0, "a"), row(1, "a")], "every labelled clip is 'a'; a classifier needs two labels or more"),
        ([row(0, "a"), row(1, "b"), row(2, "b")], "label 'a' has 1 clip; two are needed"),
        (
            [row(0, "a", split=TRAIN), row(1, "a", split=TRAIN), row(2, "b", split=TRAIN), row(3, "b", split=TEST)],
            "label 'a' has no clip in test (2 in train, 0 in test); give it clips there",
        ),
        (
            [row(0, "a", "g"), row(1, "a", "g"), row(2, "b"), row(3, "b")],
            "(2 in train, 0 in test); its clips are all of one group",
        ),
        (
            [row(0, "a", "g", TRAIN), row(1, "a", "g", TEST), row(2, "b", None, TRAIN), row(3, "b", None, TEST)],
            "group 'g' is in train and in test; a group is one source and stays in one split",
        ),
    ],
)  # fmt: skip
def test_faults(rows: list[Row], fault: str) -> None:
    with pytest.raises(ManifestError) as caught:
        assign_splits(rows, SplitRule())
    assert fault in str(caught.value)


def test_a_sound_split_has_no_faults() -> None:
    rows = [row(i, "ab"[i % 2]) for i in range(10)]
    assert split_faults(rows, assign_splits(rows, SplitRule())) == []
