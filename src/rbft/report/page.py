"""`report.json` and `report.html`: one page that holds everything it shows and asks nothing of the network."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from pydantic import BaseModel

from rbft.errors import StoreError
from rbft.files import write_record, write_text
from rbft.progress import printable
from rbft.records import Record
from rbft.report import tables, views
from rbft.report.glossary import REASON_MEANINGS, glossary
from rbft.report.material import (
    ArmAnswer,
    DroppedExample,
    ExampleClip,
    LossCurve,
    ReliabilityBin,
    ReportMaterial,
)
from rbft.results import Report

__all__ = [
    "ArmAnswer",
    "DroppedExample",
    "ExampleClip",
    "LossCurve",
    "ReliabilityBin",
    "ReportMaterial",
    "render_page",
    "write_report",
]

MAX_DROPPED_EXAMPLES = 12
MAX_LEFT_OUT_ROWS = 60
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def write_report(folder: Path, report: Report, material: ReportMaterial) -> Path:
    """Write `report.json` and `report.html` into `folder`, each whole or not at all; returns the page's path.

    Raises StoreError where the disk refuses, or where a number of the report is not finite.
    """
    return write_whole(folder, report, lambda: render_page(report, material))


def write_whole(folder: Path, report: Record, render: Callable[[], str]) -> Path:
    """Write a report and its page; raises StoreError where a number of the report is not finite."""
    broken = _not_finite(report, "report")
    if broken:
        raise StoreError(f"{folder / 'report.json'}: not finite: {', '.join(broken)}; every number of a report is")
    html = render()
    write_record(folder / "report.json", report)
    page = folder / "report.html"
    write_text(page, html)
    return page


def render_page(report: Report, material: ReportMaterial) -> str:
    """The whole page as HTML. The same input gives the same text."""
    return rendered("page.html.j2", **_context(report, material))


def rendered(template: str, **context: Any) -> str:
    """A page from its template; control characters are escaped, and what is no text (half a character) becomes `?`."""
    html = _CONTROLS.sub(lambda found: printable(found[0]), environment().get_template(template).render(context))
    return html.encode("utf-8", "replace").decode("utf-8")


@cache
def environment() -> Environment:
    """The templates of every page, with their filters."""
    made = Environment(
        loader=PackageLoader("rbft.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(
        percent=tables.percent,
        points=tables.points,
        p_value=tables.p_value,
        unbroken=tables.unbroken,
        interval=tables.interval_text,
        value=tables.value_of,
        duration=views.duration,
        instant=views.instant,
        cut=views.cut,
        link=_relative_link,
        plain=printable,
    )
    return made


def _context(report: Report, material: ReportMaterial) -> dict[str, Any]:
    rows = tables.main_rows(report)
    columns = tables.main_columns(report)
    labels = list(report.dataset.labels)
    tall_headings = len(labels) > 3 or max(map(len, labels), default=0) > 12
    many_labels = len(labels) > tables.MANY_LABELS
    return {
        "report": report,
        "material": material,
        "colours": views.arm_colours(report.arms),
        "seeds": sorted({seed for arm in report.arms.values() for seed in arm.seeds}),
        "trains_on_rationales": any(views.uses_rationales(report, name) for name in report.arms),
        "headline": views.first_sentence(report.headline),
        "curves": views.curve_panels(report),
        "pairs": views.pairs_of(report.comparisons),
        "once": len({len(arm.seeds) for arm in report.arms.values()}) > 1,
        "rows": rows,
        "columns": [column for column in columns if not (many_labels and column.label is not None)],
        "label_columns": [column for column in columns if column.label is not None] if many_labels else [],
        "value_text": tables.value_text,
        "accuracy_scale": views.accuracy_scale(rows),
        "difference_scale": views.difference_scale(report.comparisons),
        "labels": labels,
        "tall_headings": tall_headings,
        "confusion_width": 8 + 2.45 * (len(labels) + 1) if tall_headings else 6.5 + 5.2 * (len(labels) + 1),
        "confusions": {name: views.confusion_rows(labels, arm.confusion) for name, arm in report.arms.items()},
        "left_out_counts": views.left_out_counts(material.left_out),
        "left_out_rows": material.left_out[:MAX_LEFT_OUT_ROWS],
        "loss_panels": views.loss_panels(material.loss_curves),
        "reliability_panels": views.reliability_panels(report, material),
        "examples": views.example_views(material.examples),
        "dropped_examples": views.dropped_examples(material.dropped_examples, MAX_DROPPED_EXAMPLES),
        "reason_meanings": REASON_MEANINGS,
        "glossary": glossary(report),
        "settings": views.settings_yaml(report.experiment),
    }


def _relative_link(path: str) -> str:
    """A link below the page's folder; the leading `./` keeps a path with a colon from being read as a scheme."""
    return "./" + quote(path, errors="replace")


def _not_finite(value: Any, where: str) -> list[str]:
    match value:
        case float():
            return [] if math.isfinite(value) else [f"{where} is {value}"]
        case BaseModel():
            return [line for name, part in value for line in _not_finite(part, f"{where}.{name}")]
        case dict():
            return [line for name, part in value.items() for line in _not_finite(part, f"{where}.{name}")]
        case list() | tuple():
            return [line for i, part in enumerate(value) for line in _not_finite(part, f"{where}[{i}]")]
        case _:
            return []
