"""Tables of numbers as Markdown: shares as percent, differences as points, each with its interval."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from rbft.report.tables import Value, comparison_name, interval_text, p_value, percent, points
from rbft.results import Comparison, Interval

RULE = "–"
"""An empty cell."""


def head(headings: Sequence[str], *, text_last: bool = False) -> list[str]:
    """The two lines that begin a table: the first column is text, the others are numbers (but the last, where said)."""
    rule = ["---", *("---:" for _ in headings[1:])]
    if text_last:
        rule[-1] = "---"
    return [row(headings), row(rule)]


def row(cells: Sequence[str]) -> str:
    """One line of a table."""
    return f"| {' | '.join(cells)} |"


def cell(value: Value | None, *, signed: bool = False) -> str:
    """`63.3 (54.2–71.7)`; a signed one is a difference: `−2.0 (−6.5 to +2.4)`."""
    if value is None:
        return RULE
    if signed:
        assert value.low is not None and value.high is not None
        return f"{points(value.mean)} ({points(value.low)} to {points(value.high)})"
    interval = interval_text(value)
    return percent(value.mean) + (f" ({interval})" if interval else "")


def interval_cell(interval: Interval | None, *, signed: bool = False) -> str:
    """`cell` of a number with an interval."""
    return cell(None if interval is None else Value(interval.mean, interval.low, interval.high), signed=signed)


def difference_rows(comparisons: Sequence[Comparison]) -> list[str]:
    """A table of comparisons with interval, p and verdict."""
    lines = head(["difference", "points", "95 % interval", "p", "verdict"], text_last=True)
    for one in comparisons:
        interval = f"{points(one.low)} to {points(one.high)}"
        lines.append(row([comparison_name(one), points(one.difference), interval, p_value(one.p), one.verdict]))
    return lines


def minutes(seconds: float) -> str:
    """`12 minutes`, `1 minute`, `40 seconds`."""
    if seconds < 60:
        return f"{seconds:.0f} seconds"
    whole = round(seconds / 60)
    return f"{whole} minute{'s' if whole != 1 else ''}"


class Compared(Protocol):
    """What has a name and comparisons: a report, or pooled folds."""

    @property
    def name(self) -> str: ...  # noqa: D102

    @property
    def comparisons(self) -> tuple[Comparison, ...]: ...  # noqa: D102


def comparison(report: Compared, a: str, b: str, metric: str) -> Comparison:
    """The report's comparison of two arms as b minus a. Raises KeyError where it has none."""
    for one in report.comparisons:
        if one.metric == metric and {one.a, one.b} == {a, b}:
            return one if one.a == a else mirrored(one)
    raise KeyError(f"{report.name}: no comparison of {a} and {b} in {metric}")


def mirrored(one: Comparison) -> Comparison:
    """The same comparison, a minus b."""
    words = {"helped": "hurt", "hurt": "helped"}.get(one.verdict, one.verdict)
    return one.model_copy(
        update={"a": one.b, "b": one.a, "difference": -one.difference, "low": -one.high, "high": -one.low,
                "verdict": words}
    )  # fmt: skip
