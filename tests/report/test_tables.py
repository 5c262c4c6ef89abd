from __future__ import annotations

import io
import json
from collections.abc import Callable

import pytest
from rich.console import Console

from rbft.report.material import ReportMaterial
from rbft.report.page import render_page
from rbft.report.tables import (
    main_columns,
    main_rows,
    p_value,
    percent,
    points,
    render_table,
    render_words,
    to_markdown,
    unbroken,
)
from rbft.results import Report


def printed(report: Report, width: int = 200) -> str:
    stream = io.StringIO()
    render_table(report, Console(file=stream, width=width))
    return stream.getvalue()


def numbers_of_json(report: Report) -> dict[str, list[str]]:
    """The cells of each arm, worked out from report.json alone."""
    found = json.loads(report.model_dump_json())
    rows = {}
    for name, arm in found["arms"].items():
        shares = [arm["accuracy"]["mean"], arm["macro_f1"]["mean"], *(f["mean"] for f in arm["f1"].values())]
        shares += [arm["unreadable_rate"], arm["generated_accuracy"]["mean"], arm["generated_unreadable_rate"]]
        rows[name] = [f"{100 * share:.1f}" for share in shares] + [str(arm["num_steps"])]
    return rows


def test_page_table_equals_json(report: Report, material_of: Callable, page_of: Callable) -> None:
    bare = material_of(report, 0, loss_curves=(), reliability={})
    table = page_of(render_page(report, bare)).tables[0]
    assert table[0][0] == "arm"
    cells = {row[0]: [cell.split(" ")[0] for i, cell in enumerate(row[1:]) if i != 1] for row in table[1:]}
    for name, numbers in numbers_of_json(report).items():
        assert cells[name] == numbers
    low, high = report.arms["rb-ft"].accuracy.low, report.arms["rb-ft"].accuracy.high
    assert table[4][1] == f"80.5 {100 * low:.1f}–{100 * high:.1f}"


def test_page_and_terminal_show_the_same_rows(report: Report, material: ReportMaterial, page_of: Callable) -> None:
    names = [row.name for row in main_rows(report)]
    table = page_of(render_page(report, material)).tables[0]
    assert [row[0].removesuffix(" the majority class") for row in table[1:]] == names
    lines = [line.split("  ")[0] for line in printed(report).splitlines()]
    assert [line for line in lines if line in names][: len(names)] == names


def test_terminal_table_equals_json(report: Report) -> None:
    lines = printed(report).splitlines()
    for name, numbers in numbers_of_json(report).items():
        row = next(line for line in lines if line.startswith(f"{name} "))
        assert [word for word in row.split()[1:] if "–" not in word] == numbers


def test_markdown_equals_json(report: Report) -> None:
    lines = to_markdown(report).splitlines()
    for name, numbers in numbers_of_json(report).items():
        row = next(line for line in lines if line.startswith(f"| {name} |"))
        assert [cell.split()[0] for cell in row.strip("| ").split(" | ")[1:]] == numbers
    assert lines[0].startswith("**What to use.** Use rb-ft: it labels 80.5 % of 196 test clips correctly")
    widths = {line.count("|") for line in lines[6 : 6 + 4 + len(report.arms)]}
    assert widths == {10}


def test_the_terminal_begins_with_the_words(report: Report, small_report: Report) -> None:
    stream = io.StringIO()
    render_words(report, Console(file=stream, width=1000))
    assert report.advice is not None
    assert stream.getvalue().splitlines() == [
        f"What to use. {report.headline}",
        f"How sure. {report.advice.how_sure}",
        f"More clips. {report.advice.more_clips}",
    ]
    stream = io.StringIO()
    alarmed = small_report.model_copy(update={"alarms": ("rb-ft gives all test clips one label.", "So does direct.")})
    render_words(alarmed, Console(file=stream, width=1000))
    assert stream.getvalue().splitlines()[-2:] == [
        "Alarm. rb-ft gives all test clips one label.", "Alarm. So does direct.",
    ]  # fmt: skip
    stream = io.StringIO()
    hostile = small_report.model_copy(update={"headline": "Use \x1b[31m[bold]x[/bold]"})
    render_words(hostile, Console(file=stream, width=1000))
    assert stream.getvalue() == "What to use. Use \ufffd[31m[bold]x[/bold]\n"


@pytest.mark.parametrize("width", [80, 120])
def test_terminal_table_fits(report: Report, long_report: Report, width: int) -> None:
    for shown in (report, long_report):
        text = printed(shown, width)
        assert max(map(len, text.splitlines())) <= width
        assert "steps" in text
        assert "…" not in text
        for arm in shown.arms:
            assert arm in text


def test_majority_row_is_worked_out_from_the_counts(report: Report) -> None:
    """128 of 196: F1 is 2 x 128 / (128 + 196) = 0.7901 for the label itself, 0 for the other."""
    row = next(row for row in main_rows(report) if row.kind == "baseline")
    assert row.name == "always abnormal"
    assert [round(row.values[key].mean, 4) for key in ("accuracy", "macro_f1", "f1:normal", "f1:abnormal")] == [
        0.6531, 0.3951, 0.0, 0.7901,
    ]  # fmt: skip
    assert [row.name for row in main_rows(report)].count("majority") == 0


def test_a_label_without_test_clips_has_no_f1(report_of: Callable) -> None:
    report = report_of({"a": 6, "b": 2, "never": 0})
    row = next(row for row in main_rows(report) if row.kind == "baseline")
    assert "f1:never" not in row.values
    assert row.values["macro_f1"].mean == pytest.approx((12 / 14 + 0) / 2)


def test_columns_without_a_value_are_not_shown(small_report: Report) -> None:
    assert [c.key for c in main_columns(small_report)] == [
        "accuracy",
        "macro_f1",
        "f1:a",
        "f1:b",
        "unreadable",
        "steps",
    ]


def test_terminal_is_not_steered_by_labels(report_of: Callable) -> None:
    text = printed(report_of({"\x1b[2Jwiped\u202e": 3, "[bold]b[/bold]": 4, "日本": 2}))
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "[bold]b[/bold]" in text
    assert "日本" in text


def test_markdown_is_not_steered_by_labels(report_of: Callable) -> None:
    text = to_markdown(report_of({"a|b": 3, "<img src=x>\n# big": 4, "*c*": 2}))
    assert "F1 a\\|b %" in text
    assert "<img" not in text
    assert "&lt;img src=x&gt; \\# big" in text
    assert "\\*c\\*" in text


@pytest.mark.parametrize(
    ("difference", "text"), [(0.066, "+6.6"), (-0.01, "−1.0"), (0.0, "0.0"), (-0.0001, "0.0"), (1.0, "+100.0")]
)
def test_points(difference: float, text: str) -> None:
    assert points(difference) == text


def test_shares_and_p() -> None:
    assert percent(162 / 196) == "82.7"
    assert p_value(0.0121) == "0.012"
    assert p_value(0.0002) == "< 0.001"


def test_p_values_stay_on_one_line() -> None:
    assert unbroken("5 points (p = 0.012) and p < 0.001; up = 3, p = x") == (
        "5 points (p\u00a0=\u00a00.012) and p\u00a0<\u00a00.001; up = 3, p = x"
    )
