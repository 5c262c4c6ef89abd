"""Many lines of one kind as the first ten and a count: what a person reads, and where the rest stands."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

MAX_LINES = 10
"""Lines of one kind that are shown."""


class Bad(NamedTuple):
    """What cannot be used: its place in words, one word (of a clip: `records.ClipProblem`), and an explanation."""

    place: str
    reason: str
    detail: str


def first_of(lines: Sequence[str], more: str) -> list[str]:
    """The first ten lines; where there are more of them, a last one: `and 990 more `, then `more`."""
    hidden = len(lines) - MAX_LINES
    return list(lines) if hidden <= 0 else [*lines[:MAX_LINES], f"and {hidden:,} more {more}"]


def by_reason(bad: Iterable[Bad], rest: str) -> list[str]:
    """Lines by reason, the commonest first, ten of each; `rest` says where those that are not shown stand."""
    groups: dict[str, list[str]] = defaultdict(list)
    for place, reason, detail in bad:
        groups[reason].append(f"{place}: {reason}: {detail}")
    ordered = sorted(groups.items(), key=lambda group: -len(group[1]))
    return [line for reason, lines in ordered for line in first_of(lines, f"({reason}); {rest}")]


def counted(bad: Iterable[Bad]) -> str:
    """`980 missing, 10 empty`: how many of each reason, the commonest first."""
    return ", ".join(f"{count:,} {reason}" for reason, count in Counter(b.reason for b in bad).most_common())
