"""The main table, built once and shown three ways: on the page, in the terminal, as Markdown."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rbft.results import ArmReport, Comparison, Interval, Report

MANY_LABELS = 3
"""Above this many labels, F1 per label gets a table of its own wherever width is short."""
NARROW_TERMINAL = 110
_DIRECTION = frozenset("\u200e\u200f\u061c\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_P_VALUE = re.compile(r"\bp ([=<]) (\d)")
RowKind = Literal["arm", "baseline"]


@dataclass(frozen=True)
class Value:
    """A share (0 to 1) or a count, with its 95 % interval where there is one."""

    mean: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Column:
    """A column of the main table: where its value stands in a row, its heading, its unit."""

    key: str
    heading: str
    unit: Literal["percent", "count"] = "percent"

    short: str = ""
    """The heading where width is short."""
    label: str | None = None
    """The label whose F1 this is."""


@dataclass(frozen=True)
class Row:
    """A row of the main table. Only arms have seeds and intervals."""

    name: str
    kind: RowKind
    values: Mapping[str, Value]
    per_seed: tuple[float, ...] = ()
    note: str = ""


# -- building ------------------------------------------------------------------------------------------------------


def main_columns(report: Report) -> list[Column]:
    """The columns for which at least one row has a value, accuracy first."""
    columns = [
        Column("accuracy", "accuracy"),
        Column("macro_f1", "macro-F1"),
        *(Column(f"f1:{label}", f"F1 {label}", label=label) for label in report.dataset.labels),
        Column("unreadable", "unreadable", short="unread."),
        Column("generated", "generated accuracy", short="gen."),
        Column("generated_unreadable", "generated unreadable", short="gen.\nunread."),
        Column("steps", "steps", "count"),
    ]
    rows = main_rows(report)
    return [column for column in columns if any(column.key in row.values for row in rows)]


def main_rows(report: Report) -> list[Row]:
    """Arms in the experiment's order, then the majority class and other baselines: all that is measured here."""
    rows = [_arm_row(name, arm) for name, arm in report.arms.items()]
    rows.append(_majority_row(report))
    others = {name: accuracy for name, accuracy in report.baselines.items() if name != "majority"}
    return rows + [Row(name, "baseline", {"accuracy": Value(accuracy)}) for name, accuracy in others.items()]


def _arm_row(name: str, arm: ArmReport) -> Row:
    values = {
        "accuracy": value_of(arm.accuracy),
        "macro_f1": value_of(arm.macro_f1),
        **{f"f1:{label}": value_of(estimate) for label, estimate in arm.f1.items()},
        "unreadable": Value(arm.unreadable_rate),
        "steps": Value(arm.num_steps),
    }
    if arm.generated_accuracy is not None:
        values["generated"] = value_of(arm.generated_accuracy)
    if arm.generated_unreadable_rate is not None:
        values["generated_unreadable"] = Value(arm.generated_unreadable_rate)
    return Row(name, "arm", values, per_seed=arm.accuracy.per_seed)


def _majority_row(report: Report) -> Row:
    """Always the most frequent label: its F1 is 2m / (m + n) with m of n test clips, and 0 for every other label.

    A label without a test clip has no F1, as in `evaluation.metrics`.
    """
    data = report.dataset
    values = {"accuracy": Value(data.majority_accuracy)}
    right, total = data.labels.get(data.majority_label, 0), sum(data.labels.values())
    f1 = {label: 0.0 for label, count in data.labels.items() if count}
    if right:
        f1[data.majority_label] = 2 * right / (right + total)
        values["macro_f1"] = Value(sum(f1.values()) / len(f1))
        values |= {f"f1:{label}": Value(value) for label, value in f1.items()}
    return Row(f"always {data.majority_label}", "baseline", values, note="the majority class")


def value_of(interval: Interval) -> Value:
    """A score with its interval."""
    return Value(interval.mean, interval.low, interval.high)


# -- numbers as text -----------------------------------------------------------------------------------------------


def percent(share: float) -> str:
    """A share as percent with one decimal, without the sign: 0.8265 is `82.7`."""
    return f"{100 * share:.1f}"


def points(difference: float) -> str:
    """A difference of shares in percentage points with its sign: 0.066 is `+6.6`, -0.01 is `−1.0`."""
    text = f"{100 * difference:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text.replace("-", "−")


def p_value(p: float) -> str:
    """`0.013`, or `< 0.001`."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def unbroken(text: str) -> str:
    """A sentence whose p-values stay on one line: `p = 0.012` with no-break spaces."""
    return _P_VALUE.sub("p\N{NO-BREAK SPACE}\\1\N{NO-BREAK SPACE}\\2", text)


def value_text(column: Column, value: Value | None) -> str:
    """A cell's number; an empty cell is an en dash."""
    if value is None:
        return "–"
    return percent(value.mean) if column.unit == "percent" else f"{value.mean:,.0f}"


def interval_text(value: Value | None) -> str:
    """`76.8–87.4`, or nothing where there is no interval."""
    if value is None or value.low is None or value.high is None:
        return ""
    return f"{percent(value.low)}–{percent(value.high)}"


# -- words ---------------------------------------------------------------------------------------------------------


def report_words(report: Report) -> list[tuple[str, str]]:
    """What to use, how sure, what more clips would buy, and alarms: a title and a text each."""
    words = [("What to use", report.headline)]
    if report.advice is not None:
        words += [("How sure", report.advice.how_sure), ("More clips", report.advice.more_clips)]
    return words + [("Alarm", alarm) for alarm in report.alarms]


# -- terminal ------------------------------------------------------------------------------------------------------


def render_words(report: Report, console: Console) -> None:
    """Print what to use, how sure, what more clips would buy, and alarms: a paragraph each."""
    for title, text in report_words(report):
        console.print(Text.assemble((f"{title}. ", "bold"), _printable(text)))


def render_table(report: Report, console: Console) -> None:
    """Print the main table and the comparisons in accuracy; F1 per label stands apart where width is short."""
    columns = main_columns(report)
    labels = [column for column in columns if column.label is not None]
    split = len(labels) > MANY_LABELS or console.width < NARROW_TERMINAL
    console.print(_rich_table(report, [c for c in columns if not (split and c.label is not None)]))
    if split:
        console.print(_rich_labels(report, labels))
    accuracy = [comparison for comparison in report.comparisons if comparison.metric == "accuracy"]
    if accuracy:
        console.print(comparisons_table(accuracy))
    clips, seeds = report.dataset.test, sorted({seed for arm in report.arms.values() for seed in arm.seeds})
    console.print(
        Text(f"percent on {clips} test clips, 95 % intervals; seeds {', '.join(map(str, seeds))}", style="dim")
    )


def table_frame() -> Table:
    """How every table of results is drawn in a terminal."""
    return Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 2, 0, 0))


def _rich_table(report: Report, columns: Sequence[Column]) -> Table:
    """Arms and baselines as rows."""
    table = table_frame()
    table.add_column("arm", min_width=min(24, max(map(len, report.arms), default=0)), overflow="fold")
    for column in columns:
        heading = Text(column.short or _printable(column.heading))
        width = 16 if column.key == "accuracy" else None
        table.add_column(heading, justify="right", min_width=width, no_wrap=column.label is None)
    for row in main_rows(report):
        cells = [Text(_printable(row.name))]
        for column in columns:
            value = row.values.get(column.key)
            cell = Text(value_text(column, value))
            if column.key == "accuracy":
                cell.append(f" {interval_text(value):9}", style="dim")
            cells.append(cell)
        table.add_row(*cells, style="" if row.kind == "arm" else "dim")
    return table


def _rich_labels(report: Report, columns: Sequence[Column]) -> Table:
    """F1 of each label as a row, a column for each arm."""
    table = table_frame()
    rows = [row for row in main_rows(report) if row.kind == "arm"]
    table.add_column("F1 per label", overflow="fold", ratio=1)
    for row in rows:
        table.add_column(Text(_printable(row.name)), justify="right")
    for column in columns:
        values = [value_text(column, row.values.get(column.key)) for row in rows]
        table.add_row(Text(_printable(column.label or "")), *values)
    return table


def comparisons_table(comparisons: Sequence[Comparison]) -> Table:
    """Comparisons as rows, for a terminal."""
    table = table_frame()
    table.add_column("comparison", overflow="fold")
    for heading in ("difference", "95 % interval", "p"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("verdict", overflow="fold")
    for c in comparisons:
        interval = f"{points(c.low)} to {points(c.high)}"
        name = Text(_printable(comparison_name(c)))
        table.add_row(name, points(c.difference), interval, p_value(c.p), Text(_printable(c.verdict)))
    return table


def comparison_name(comparison: Comparison) -> str:
    """`rb-ft − direct`, and the metric where it is not accuracy."""
    metric = ", macro-F1" if comparison.metric == "macro_f1" else ""
    return f"{comparison.b} − {comparison.a}{metric}"


def _printable(text: str) -> str:
    """Text of strangers without characters that steer a terminal (escapes, direction overrides)."""
    return "".join("\ufffd" if unicodedata.category(c) in ("Cc", "Cs") or c in _DIRECTION else c for c in text)


# -- Markdown ------------------------------------------------------------------------------------------------------


def to_markdown(report: Report) -> str:
    """The words, the main table and the comparisons as GitHub Markdown, for pasting."""
    columns = main_columns(report)
    lines = [line for title, text in report_words(report) for line in (f"**{title}.** {_markdown(text)}", "")]
    lines += _markdown_head(["arm", *(f"{column.heading}{_unit(column)}" for column in columns)])
    for row in main_rows(report):
        cells = [_markdown_cell(column, row.values.get(column.key)) for column in columns]
        name = _markdown(row.name) if row.kind == "arm" else f"_{_markdown(row.name)}_"
        lines.append(f"| {' | '.join([name, *cells])} |")
    if report.comparisons:
        lines += ["", *_markdown_head(["comparison", "points", "95 % interval", "p", "verdict"], text_last=True)]
        for c in report.comparisons:
            interval = f"{points(c.low)} to {points(c.high)}"
            cells = [_markdown(comparison_name(c)), points(c.difference), interval, p_value(c.p), _markdown(c.verdict)]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _unit(column: Column) -> str:
    return " %" if column.unit == "percent" else ""


def _markdown_head(headings: Sequence[str], *, text_last: bool = False) -> list[str]:
    rule = ["---", *("---:" for _ in headings[1:])]
    if text_last:
        rule[-1] = "---"
    return [f"| {' | '.join(map(_markdown, headings))} |", f"| {' | '.join(rule)} |"]


def _markdown_cell(column: Column, value: Value | None) -> str:
    interval = interval_text(value) if column.key == "accuracy" else ""
    return value_text(column, value) + (f" ({interval})" if interval else "")


def _markdown(text: str) -> str:
    """Text that means nothing to Markdown: marks escaped, line breaks become spaces."""
    text = " ".join(_printable(text.replace("\n", " ")).split())
    text = "".join(f"\\{c}" if c in "\\`*_[]|#~!" else c for c in text)
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
