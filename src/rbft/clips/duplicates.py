"""Clips that are there twice: of equal bytes, and those that show nearly the same, across splits and under labels."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from rbft.clips.grouped import first_of
from rbft.clips.inspection import Inspection
from rbft.clips.manifest import show
from rbft.clips.near_duplicates import near_duplicates
from rbft.clips.split import propose_splits, split_faults
from rbft.experiment import SplitRule
from rbft.records import Split

_Twins = tuple[Inspection, Inspection, float]
"""Two clips of different bytes that show nearly the same, and how alike they are, from 0 to 1."""


def split_and_leaks(
    inspections: Sequence[Inspection], rule: SplitRule
) -> tuple[dict[str, Split], list[str], list[str]]:
    """The split of every clip, given or made, with its faults, and faults and notes about clips that are there twice.

    Where the split is made, clips of equal or nearly equal contents stay together. Raises ManifestError for folds that
    cannot be made.
    """
    rows = [i.row for i in inspections]
    twins = _twins(inspections) if rule.near_duplicates != "off" else []
    splits = propose_splits(rows, rule, contents=_contents(inspections, twins))
    faults, notes = _equal(inspections, splits)
    near_faults, near_notes = _nearly_equal(twins, splits, stop=rule.near_duplicates == "stop")
    uneven = split_faults(rows, splits) if any(row.label is not None for row in rows) else []
    if twins and uneven and not any(row.split for row in rows):
        pairs = "1 pair of clips shows" if len(twins) == 1 else f"{len(twins):,} pairs of clips show"
        uneven[-1] += (
            f". {pairs} nearly the same and stay{'s' * (len(twins) == 1)} in one split; is that why? "
            "split.near_duplicates: off parts them"
        )
    return splits, uneven + faults + near_faults, notes + near_notes


def _twins(inspections: Sequence[Inspection]) -> list[_Twins]:
    """Every pair of clips that show nearly the same; those of equal bytes are told of elsewhere."""
    shown = [(i, i.thumbnails) for i in inspections if i.thumbnails]
    pairs = near_duplicates([small for _, small in shown])
    found = [(shown[pair.first][0], shown[pair.second][0], pair.alike) for pair in pairs]
    return [(a, b, alike) for a, b, alike in found if a.sha256 != b.sha256]


def _contents(inspections: Sequence[Inspection], twins: Sequence[_Twins]) -> dict[str, str]:
    """By clip id the hash of its bytes, or of one of the clips that show nearly the same."""
    same: dict[str, str] = {}

    def find(sha256: str) -> str:
        while sha256 in same:
            sha256 = same[sha256]
        return sha256

    for a, b, _ in twins:
        assert a.sha256 is not None and b.sha256 is not None, "what was decoded has a hash"
        first, second = find(a.sha256), find(b.sha256)
        if first != second:
            same[second] = first
    return {i.row.clip_id: find(i.sha256) for i in inspections if i.sha256 is not None}


def _nearly_equal(twins: Sequence[_Twins], splits: Mapping[str, Split], *, stop: bool) -> tuple[list[str], list[str]]:
    leaks, notes = [], []
    for a, b, alike in twins:
        nearly = f"{_pair(a, b)} show nearly the same ({100 * alike:.0f} % alike)"
        if splits[a.row.clip_id] != splits[b.row.clip_id]:
            leaks.append(f"near duplicates: {nearly}, in {splits[a.row.clip_id]} and in {splits[b.row.clip_id]}")
        elif a.row.label != b.row.label and a.row.label is not None and b.row.label is not None:
            notes.append(
                f"{nearly}, as {show(repr(a.row.label))} and as {show(repr(b.row.label))}; is one mislabelled?"
            )
        else:
            notes.append(f"{nearly}; both are used, in {splits[a.row.clip_id]}")
    kept = first_of(leaks, "near duplicates in train and in test")
    if leaks and stop:
        kept[-1] += (
            ". Look at both clips of a pair; then remove one, put both in one split, or go on as they are with "
            "split.near_duplicates: note"
        )
    notes = first_of(notes, "pairs that show nearly the same")
    return (kept, notes) if stop else ([], kept + notes)


def _equal(inspections: Sequence[Inspection], splits: Mapping[str, Split]) -> tuple[list[str], list[str]]:
    """Clips of equal bytes. Faults: in both splits, or the same instants under different labels. Notes: in one."""
    same: dict[str, list[Inspection]] = defaultdict(list)
    for inspection in inspections:
        if inspection.sha256 is not None:
            same[inspection.sha256].append(inspection)
    leaks, labels, notes = [], [], []
    for members in same.values():
        train = [i for i in members if splits[i.row.clip_id] == "train"]
        test = [i for i in members if splits[i.row.clip_id] == "test"]
        leaks += [f"leak: {_pair(a, b)} hold the same bytes, in train and in test" for a in train for b in test]
        first: dict[tuple[float | None, float | None], Inspection] = {}
        for inspection in members:
            other = first.setdefault(inspection.row.window, inspection)
            if other is inspection:
                continue
            if other.row.label != inspection.row.label:
                labels.append(
                    f"{_pair(other, inspection)} hold the same bytes under different labels, "
                    f"{show(repr(other.row.label))} and {show(repr(inspection.row.label))}; keep one"
                )
            elif (
                other.row.clip_id != inspection.row.clip_id
                and splits[other.row.clip_id] == splits[inspection.row.clip_id]
            ):
                notes.append(f"{_pair(other, inspection)} hold the same bytes; both are used")
    faults = first_of(leaks, "leaks of this kind") + first_of(labels, "pairs of the same bytes under different labels")
    return faults, first_of(notes, "pairs of the same bytes")


def _pair(a: Inspection, b: Inspection) -> str:
    return f"{show(a.row.listed)} ({a.row.where}) and {show(b.row.listed)} ({b.row.where})"
