"""Train and test: given splits are kept; otherwise stratified by label, in whole groups, by a seed."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from rbft.clips.manifest import Row
from rbft.errors import ManifestError
from rbft.experiment import SplitRule
from rbft.records import Split

_PASSES = 20
UNEVEN = 10
"""How many times more training clips one label has than another before it is said."""


def assign_splits(
    rows: Sequence[Row], rule: SplitRule, *, contents: Mapping[str, str] | None = None
) -> dict[str, Split]:
    """A split for every clip, by clip id. The order of rows does not matter.

    Rows of one group, of one file, or of equal contents (`contents`: clip id to hash) stay together. Unlabelled clips
    follow their group, and else go to train. Raises ManifestError with every fault that the result has.
    """
    splits = propose_splits(rows, rule, contents=contents)
    faults = split_faults(rows, splits)
    if faults:
        raise ManifestError(faults)
    return splits


def propose_splits(
    rows: Sequence[Row], rule: SplitRule, *, contents: Mapping[str, str] | None = None
) -> dict[str, Split]:
    """What `assign_splits` does, faults or not. Raises ManifestError for folds that cannot be made."""
    if any(row.split for row in rows):
        if rule.folds is not None:
            raise ManifestError("split.folds: the clips have a split of their own; leave out its column, or the folds")
        return {row.clip_id: row.split or "train" for row in rows}
    if rule.folds is not None:
        return _fold(rows, rule, contents or {})
    units = [_Unit.of(members, rule.seed) for members in _together(rows, contents or {})]
    units.sort(key=lambda unit: unit.order)
    totals = Counter(row.label for row in rows if row.label is not None)
    balance = _Balance(totals, rule.test_share)
    in_test: set[int] = set()
    for _ in range(_PASSES):
        moved = False
        for number, unit in enumerate(units):
            if unit.labels and balance.gains(unit.labels, enters=number not in in_test):
                balance.move(unit.labels, enters=number not in in_test)
                in_test ^= {number}
                moved = True
        if not moved:
            break
    return {
        clip_id: "test" if number in in_test else "train"
        for number, unit in enumerate(units)
        for clip_id in unit.clip_ids
    }


def _fold(rows: Sequence[Row], rule: SplitRule, contents: Mapping[str, str]) -> dict[str, Split]:
    """The clips of one fold are tested: scikit-learn's stratified folds of whole groups, shuffled by the seed."""
    from sklearn.model_selection import StratifiedGroupKFold

    units = [_Unit.of(members, rule.seed) for members in _together(rows, contents)]
    unit_of = {clip_id: unit.clip_ids[0] for unit in units for clip_id in unit.clip_ids}
    labelled = sorted((row for row in rows if row.label is not None), key=lambda row: row.clip_id)
    named = [unit_of[row.clip_id] for row in labelled]
    assert rule.folds is not None and rule.fold is not None
    if faults := _fold_faults(labelled, unit_of, rule.folds):
        raise ManifestError(faults)
    folds = StratifiedGroupKFold(rule.folds, shuffle=True, random_state=rule.seed % 2**32)
    chosen = list(folds.split(named, [str(row.label) for row in labelled], named))[rule.fold - 1][1]
    tested = {named[number] for number in chosen}
    return {clip_id: "test" if unit in tested else "train" for clip_id, unit in unit_of.items()}


def _fold_faults(labelled: Sequence[Row], unit_of: Mapping[str, str], folds: int) -> list[str]:
    """Labels with fewer clips that can be parted than folds: one fold would have none of them to measure on."""
    sources: dict[str, set[str]] = defaultdict(set)
    for row in labelled:
        sources[str(row.label)].add(unit_of[row.clip_id])
    return [
        f"split.folds: {folds} folds, and label {label!r} has clips of {len(units)} groups (a clip without a group is "
        f"one of its own); every fold needs one: "
        + (f"take at most {len(units)} folds" if len(units) > 1 else "find other sources of it, or leave the label out")
        for label, units in sources.items()
        if len(units) < folds
    ]


def split_faults(rows: Sequence[Row], splits: Mapping[str, Split]) -> list[str]:
    """What is wrong with a split: a group on both sides, a label absent from one, fewer than two clips of a label."""
    faults = []
    sides: dict[str, set[Split]] = defaultdict(set)
    for row in rows:
        if row.group is not None:
            sides[row.group].add(splits[row.clip_id])
    for group, both in sides.items():
        if len(both) > 1:
            faults.append(f"group {group!r} is in train and in test; a group is one source and stays in one split")
    labels = list(dict.fromkeys(row.label for row in rows if row.label is not None))
    if len(labels) == 1:
        faults.append(f"every labelled clip is {labels[0]!r}; a classifier needs two labels or more")
    counts = Counter((row.label, splits[row.clip_id]) for row in rows)
    for label in labels:
        train, test = counts[label, "train"], counts[label, "test"]
        if train + test < 2:
            faults.append(f"label {label!r} has 1 clip; two are needed, one to learn from and one to measure on")
        elif not train or not test:
            empty = "train" if not train else "test"
            faults.append(
                f"label {label!r} has no clip in {empty} ({train} in train, {test} in test); "
                + ("its clips are all of one group" if _one_group(rows, label) else "give it clips there")
            )
    return faults


def split_notes(rows: Iterable[Row], splits: Mapping[str, Split]) -> list[str]:
    """A note where one label has at least `UNEVEN` times the training clips of another."""
    counts = Counter(row.label for row in rows if row.label is not None and splits[row.clip_id] == "train")
    if not counts:
        return []
    (most, many), (least, few) = counts.most_common()[0], counts.most_common()[-1]
    if many < UNEVEN * few:
        return []
    return [
        f"labels are uneven: {many:,} training clips are {most!r} and {few:,} {least!r}, {many / few:.0f} times fewer; "
        "read macro-F1 rather than accuracy, and training.class_weights: balanced weighs every label the same"
    ]


def _one_group(rows: Iterable[Row], label: str) -> bool:
    groups = {row.group for row in rows if row.label == label}
    return len(groups) == 1 and None not in groups


@dataclass(frozen=True)
class _Unit:
    """Clips that stay together, at their place in the seeded order."""

    order: str
    clip_ids: tuple[str, ...]
    labels: Counter[str]

    @classmethod
    def of(cls, members: Sequence[Row], seed: int) -> _Unit:
        ids = tuple(sorted(row.clip_id for row in members))
        order = hashlib.sha256(f"{seed}\0{ids[0]}".encode()).hexdigest()
        return cls(order, ids, Counter(row.label for row in members if row.label is not None))


class _Balance:
    """How far the test clips of each label are from their share; every label wants a clip on either side."""

    def __init__(self, totals: Mapping[str, int], test_share: float) -> None:
        self._totals = totals
        self._targets = {
            label: min(max(round(test_share * count), 1), max(count - 1, 0)) for label, count in totals.items()
        }
        self._test = dict.fromkeys(totals, 0)

    def gains(self, labels: Mapping[str, int], *, enters: bool) -> bool:
        """Whether moving a unit into or out of test brings the labels nearer to their targets."""
        return sum(self._cost(label, n if enters else -n) - self._cost(label, 0) for label, n in labels.items()) < 0

    def move(self, labels: Mapping[str, int], *, enters: bool) -> None:
        """Move a unit into or out of test."""
        for label, count in labels.items():
            self._test[label] += count if enters else -count

    def _cost(self, label: str, change: int) -> float:
        total, test = self._totals[label], self._test[label] + change
        bare = 10.0 * total**2 if total > 1 and test in (0, total) else 0.0
        return (test - self._targets[label]) ** 2 + bare


def _together(rows: Sequence[Row], contents: Mapping[str, str]) -> list[list[Row]]:
    """Rows that share a group, a file or contents, transitively."""
    parent: dict[Hashable, Hashable] = {}

    def find(item: Hashable) -> Hashable:
        parent.setdefault(item, item)
        while parent[item] != item:
            parent[item] = parent[parent[item]]
            item = parent[item]
        return item

    for row in rows:
        keys: list[Hashable] = [("path", row.path)]
        if row.group is not None:
            keys.append(("group", row.group))
        if row.clip_id in contents:
            keys.append(("contents", contents[row.clip_id]))
        for key in keys:
            parent[find(key)] = find(("clip", row.clip_id))
    members: dict[Hashable, list[Row]] = defaultdict(list)
    for row in rows:
        members[find(("clip", row.clip_id))].append(row)
    return list(members.values())
