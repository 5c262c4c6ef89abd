"""Clips that are there twice: what is planted is found, and nothing else is said."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from copies import changed, save, walkers
from rbft.clips.check import check
from rbft.clips.duplicates import split_and_leaks
from rbft.clips.ingest import build_manifest, inspect_clips
from rbft.clips.inspection import Inspection
from rbft.clips.manifest import Row, read_manifest
from rbft.clips.split import split_faults
from rbft.errors import ManifestError
from rbft.experiment import ClipLimits, Sampling, SplitRule
from rbft.records import Grid, Manifest, Split

SMALL = Sampling(min_pixels=28 * 28, max_pixels=140 * 140)


def seen(number: int, content: str, label: str, split: Split | None, group: str | None = None) -> Inspection:
    row = Row(f"c{number}", Path(f"/{number}.mp4"), f"{number}.mp4", f"row {number}", label, split, group)
    return Inspection(row, hashlib.sha256(content.encode()).hexdigest())


def test_twenty_planted_copies_across_splits_are_found_among_two_hundred_clean_clips() -> None:
    clean = [seen(n, f"clip {n}", "ab"[n % 2], "test" if n % 5 == 0 else "train") for n in range(200)]
    assert split_and_leaks(clean, SplitRule())[1:] == ([], [])
    copies = [seen(1_000 + n, f"clip {n}", "ab"[n % 2], "train" if n % 5 == 0 else "test") for n in range(0, 200, 10)]
    _, faults, notes = split_and_leaks([*clean, *copies], SplitRule())
    assert len(copies) == 20 and notes == []
    assert len(faults) == 11 and faults[10] == "and 10 more leaks of this kind"
    expected = [f"leak: {1000 + n}.mp4 (row {1000 + n}) and {n}.mp4 (row {n})" for n in range(0, 100, 10)]
    assert [fault.split(" hold the same bytes, in train and in test")[0] for fault in faults[:10]] == expected


def test_five_groups_in_both_splits_are_found(tmp_path: Path) -> None:
    lines = ["path,label,group,split"]
    for n in range(40):
        torn = n < 10
        lines.append(f"{n}.mp4,{'ab'[n % 2]},g{n // 2 if torn else n},{'train' if n % 2 or not torn else 'test'}")
    (tmp_path / "clips.csv").write_text("\n".join(lines) + "\n")
    listing = read_manifest(tmp_path / "clips.csv", labels={})
    assert [fault.split(" is in train")[0] for fault in listing.faults] == [
        f"clips.csv: group 'g{n}'" for n in range(5)
    ]
    splits = {row.clip_id: row.split or "train" for row in listing.rows}
    assert sum("is in train and in test" in fault for fault in split_faults(listing.rows, splits)) == 5


def test_ten_clips_under_two_labels_are_found_by_path_and_by_content(tmp_path: Path) -> None:
    lines = [f"{n}.mp4,{'ab'[n % 2]},one{n}" for n in range(30)] + [f"{n}.mp4,{'ba'[n % 2]},two{n}" for n in range(10)]
    (tmp_path / "clips.csv").write_text("path,label,clip_id\n" + "\n".join(lines) + "\n")
    listing = read_manifest(tmp_path / "clips.csv", labels={})
    assert len(listing.faults) == 10
    assert listing.faults[0] == (
        "clips.csv: 0.mp4 is listed with different labels, 'a' and 'b' (row 2 and row 32); keep one"
    )
    clips = [seen(n, f"clip {n}", "ab"[n % 2], "train") for n in range(30)]
    clips += [seen(100 + n, f"clip {n}", "ba"[n % 2], "train") for n in range(10)]
    _, faults, notes = split_and_leaks(clips, SplitRule())
    twice = [fault for fault in faults if not fault.startswith("label ")]
    assert len(twice) == 10 and notes == []
    assert twice[0] == (
        "0.mp4 (row 0) and 100.mp4 (row 100) hold the same bytes under different labels, 'a' and 'b'; keep one"
    )


@given(st.lists(st.tuples(st.integers(0, 11), st.sampled_from(["train", "test"])), min_size=1, max_size=24))
def test_every_pair_of_equal_bytes_across_splits_is_a_leak_and_no_other(clips: Sequence[tuple[int, Split]]) -> None:
    listed = [seen(n, f"clip {content}", "a", split) for n, (content, split) in enumerate(clips)]
    _, faults, _ = split_and_leaks(listed, SplitRule())
    pairs = sum(a == b and s != t for i, (a, s) in enumerate(clips) for b, t in clips[:i])
    told = sum(fault.startswith("leak: ") for fault in faults)
    assert told == min(pairs, 10)
    assert (f"and {pairs - 10} more leaks of this kind" in faults) == (pairs > 10)


# -- nearly the same -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def camera(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six clips of one camera, and changed copies of the first three."""
    folder, clips = tmp_path_factory.mktemp("camera"), walkers(6, seed=8)
    for number, clip in enumerate(clips):
        save(folder / f"{number}.mp4", clip, crf="20")
    for number, how in enumerate(("faster", "logo", "brightness")):
        changed(how, folder, clips[number], np.random.default_rng(1)).rename(folder / f"copy{number}.mp4")
    return folder


@pytest.fixture(scope="module")
def inspected(camera: Path) -> dict[str, Inspection]:
    """What was learned about each of them, by its name."""
    names = [*(f"{n}.mp4" for n in range(6)), *(f"copy{n}.mp4" for n in range(3))]
    listing = read_manifest(listed(camera, [f"{name},a" for name in names]), labels={})
    found = inspect_clips(listing, sampling=SMALL, grid=Grid(), limits=ClipLimits(), workers=1)
    return dict(zip(names, found, strict=True))


def listed(folder: Path, rows: list[str]) -> Path:
    header = "path,label,split" if rows[0].count(",") == 2 else "path,label"
    (folder / "clips.csv").write_text("\n".join([header, *rows]) + "\n")
    return folder / "clips.csv"


def build(path: Path, rule: SplitRule, inspected: dict[str, Inspection]) -> Manifest:
    listing = read_manifest(path, labels={})
    found = [replace(inspected[row.listed], row=row) for row in listing.rows]
    return build_manifest(listing, found, split_rule=rule)


def without_share(text: str) -> str:
    """The text with its only share of likeness, at least 90 %, as `N %`."""
    before, _, rest = text.partition(" show nearly the same (")
    share, _, after = rest.partition(" % alike)")
    assert 90 <= int(share) <= 100
    return f"{before} show nearly the same (N % alike){after}"


GIVEN = ["0.mp4,a,train", "1.mp4,b,train", "2.mp4,a,test", "3.mp4,b,test", "copy0.mp4,a,test", "copy1.mp4,b,train"]
ACROSS = "near duplicates: 0.mp4 (row 2) and copy0.mp4 (row 6) show nearly the same (N % alike), in train and in test"
ADVICE = (
    ". Look at both clips of a pair; then remove one, put both in one split, or go on as they are with "
    "split.near_duplicates: note"
)
WITHIN = "1.mp4 (row 3) and copy1.mp4 (row 7) show nearly the same (N % alike); both are used, in train"


def test_near_duplicates_across_a_given_split_stop_a_run(camera: Path, inspected: dict[str, Inspection]) -> None:
    with pytest.raises(ManifestError) as caught:
        build(listed(camera, GIVEN), SplitRule(), inspected)
    assert [without_share(fault) for fault in caught.value.faults] == [ACROSS + ADVICE]


def test_near_duplicates_are_noted_or_not_looked_for(camera: Path, inspected: dict[str, Inspection]) -> None:
    path = listed(camera, GIVEN)
    notes = build(path, SplitRule(near_duplicates="note"), inspected).notes
    assert [without_share(note) for note in notes] == [ACROSS, WITHIN]
    assert build(path, SplitRule(near_duplicates="off"), inspected).notes == ()


def test_check_lists_near_duplicates(camera: Path) -> None:
    result = check(
        listed(camera, GIVEN), labels={}, sampling=SMALL, grid=Grid(), limits=ClipLimits(), split=SplitRule(), workers=1
    )
    assert result.exit_code == 2
    assert [without_share(fault) for fault in result.faults] == [ACROSS + ADVICE]
    assert result.summary == "A run would stop: 1 fault to mend first."
    assert [without_share(note) for note in result.notes] == [WITHIN]


def test_near_duplicates_under_different_labels_are_noted(camera: Path, inspected: dict[str, Inspection]) -> None:
    path = listed(camera, ["0.mp4,a,train", "copy0.mp4,b,train", "2.mp4,a,test", "3.mp4,b,test"])
    assert [without_share(note) for note in build(path, SplitRule(), inspected).notes] == [
        "0.mp4 (row 2) and copy0.mp4 (row 3) show nearly the same (N % alike), as 'a' and as 'b'; is one mislabelled?"
    ]


def test_a_label_that_near_duplicates_keep_in_one_split_is_one_fault(inspected: dict[str, Inspection]) -> None:
    found = [
        replace(i, row=replace(i.row, label="b" if n in ("0.mp4", "copy0.mp4") else "a")) for n, i in inspected.items()
    ]
    _, faults, _ = split_and_leaks(found, SplitRule())
    [fault] = faults
    assert fault.startswith("label 'b' has no clip in ") and fault.endswith(
        ". 3 pairs of clips show nearly the same and stay in one split; is that why? split.near_duplicates: off parts "
        "them"
    )
    pair = [i for i in found if i.row.label == "b" or not i.row.clip_id.startswith("copy")]
    _, [fault], _ = split_and_leaks(pair, SplitRule())
    assert ". 1 pair of clips shows nearly the same and stays in one split; is that why? " in fault


def test_near_duplicates_stay_together_in_a_split_that_is_made(inspected: dict[str, Inspection]) -> None:
    found = [replace(i, row=replace(i.row, label="ab"[n % 6 % 2])) for n, i in enumerate(inspected.values())]
    apart = {"stop": 0, "off": 0}
    for seed in range(6):
        for look in apart:
            rule = SplitRule(test_share=0.4, seed=seed, near_duplicates=look)  # type: ignore[arg-type]
            splits, faults, notes = split_and_leaks(found, rule)
            apart[look] += sum(splits[str(n)] != splits[f"copy{n}"] for n in range(3))
            assert faults == [] and len(notes) == (3 if look == "stop" else 0)
    assert apart["stop"] == 0 < apart["off"]
