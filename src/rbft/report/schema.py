"""The JSON schemas of `report.json`, published beside this module: of a run on labelled clips, and about questions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rbft.files import write_text
from rbft.records import Record
from rbft.results import QuestionReport, Report

SCHEMA_PATH = Path(__file__).with_name("report.schema.json")
QUESTION_SCHEMA_PATH = Path(__file__).with_name("question-report.schema.json")


def report_schema(record: type[Record] = Report) -> dict[str, Any]:
    """The schema of what is written, drawn from the record: `Report` or `QuestionReport`."""
    schema = record.model_json_schema(by_alias=True, mode="serialization")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def write_schema(path: Path = SCHEMA_PATH, record: type[Record] = Report) -> None:
    """Write a published file anew."""
    write_text(path, json.dumps(report_schema(record), indent=2, ensure_ascii=False) + "\n")


def write_schemas() -> None:
    """Write both anew: `python -c "from rbft.report.schema import write_schemas; write_schemas()"`."""
    write_schema()
    write_schema(QUESTION_SCHEMA_PATH, QuestionReport)
