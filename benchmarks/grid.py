"""The map: in every setting of shift, rule and number of clips, what an arm gains over its control."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from benchmarks.markdown import cell, comparison, head, interval_cell, minutes, row
from benchmarks.running import Saved, all_seconds
from benchmarks.tables import CELLS, CONTROL, Cell

from rbft.report.tables import Value, p_value, points
from rbft.results import Comparison, Report

WORTH = 0.05
"""The gain in macro-F1 that is worth the trouble, 0 to 1."""
_TEXT = """## When it pays: the map

Rows of the picture are the severity of the shift, columns the number of labelled training clips; one half for each
label rule. Every setting runs `zero-shot`, `direct`, `direct-matched` and `rb-ft` on the same test clips. A difference
is in points of macro-F1, from the report of that setting, with its 95 % interval."""


def arms_of(cells: Mapping[str, Saved]) -> list[str]:
    """The arms that have a map: `rb-ft`, and what was run beside it with a control of its own."""
    names = [name for saved in cells.values() for name in saved.report.arms]
    return list(dict.fromkeys(["rb-ft", *(arm for arm in names if f"matched-{arm}" in names)]))


def control_of(report: Report, arm: str) -> str:
    """The control with as many steps as an arm: its own, or `direct-matched`."""
    own = f"matched-{arm}"
    return own if own in report.arms else CONTROL


def gains(cells: Mapping[str, Saved], arm: str) -> dict[Cell, Comparison]:
    """An arm's gain over its control in every setting where it was measured, in the grid's order."""
    found = {}
    for setting in CELLS:
        report = cells[setting.name].report if setting.name in cells else None
        if report is not None and arm in report.arms:
            found[setting] = comparison(report, control_of(report, arm), arm, "macro_f1")
    return found


def image(arm: str) -> str:
    """The file name of an arm's map."""
    return "map.png" if arm == "rb-ft" else f"map-{arm}.png"


def map_section(cells: Mapping[str, Saved], pictures: Collection[str] = ()) -> str:
    """For each arm that was mapped: in how many settings it pays, the picture where it is there, and the numbers."""
    reports = [saved.report for saved in cells.values()]
    seconds = all_seconds(reports)
    tests = " or ".join(map(str, sorted({report.dataset.test for report in reports})))
    seeds = " or ".join(sorted({", ".join(map(str, report.experiment["seeds"])) for report in reports}))
    lines = [_TEXT, "", f"* {tests} test clips; seeds {seeds}; {len(cells)} of {len(CELLS)} settings."]
    lines += [f"* All of it took {minutes(seconds)} of one process."]
    for arm in arms_of(cells):
        lines += ["", f"### {arm}", "", summary(arm, list(gains(cells, arm).values()))]
        if image(arm) in pictures:
            lines += ["", f"![What {arm} gains over its control in every setting](images/{image(arm)})"]
        lines += ["", *_rows(cells, arm)]
    return "\n".join(lines) + "\n"


def summary(arm: str, found: list[Comparison]) -> str:
    """In how many settings an arm is ahead by enough, ahead at all, or behind, each with an interval that says so."""
    enough = sum(c.difference >= WORTH and c.low > 0 for c in found)
    ahead, behind = sum(c.low > 0 for c in found), sum(c.high < 0 for c in found)
    return (
        f"Of {len(found)} settings, {arm} is ahead of its control by {points(WORTH)} points of macro-F1 or more, with "
        f"an interval above zero, in {enough}; ahead by any number with an interval above zero in {ahead}; behind with "
        f"one below zero in {behind}."
    )


def _rows(cells: Mapping[str, Saved], arm: str) -> list[str]:
    """A row for each setting: zero-shot, direct, control and arm in macro-F1, then the difference."""
    lines = head(
        ["severity, rule, clips", "zero-shot", "direct", "control", arm, "difference", "p", "verdict"], text_last=True
    )
    for setting, found in gains(cells, arm).items():
        report = cells[setting.name].report
        scores = [report.arms[name].macro_f1 for name in ("zero-shot", "direct", found.a, arm)]
        name = f"{setting.severity}, `{setting.rule}`, {setting.clips}"
        gained = cell(Value(found.difference, found.low, found.high), signed=True)
        lines.append(row([name, *map(interval_cell, scores), gained, p_value(found.p), found.verdict]))
    return lines
