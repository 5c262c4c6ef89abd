"""The JSON schema of `report.json`, published beside this module as `report.schema.json`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rbft.files import write_text
from rbft.results import Report

SCHEMA_PATH = Path(__file__).with_name("report.schema.json")


def report_schema() -> dict[str, Any]:
    """The schema of what `write_report` writes, drawn from the `Report` record."""
    schema = Report.model_json_schema(by_alias=True, mode="serialization")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def write_schema(path: Path = SCHEMA_PATH) -> None:
    """Write the published file anew: `python -c "from rbft.report.schema import write_schema; write_schema()"`."""
    write_text(path, json.dumps(report_schema(), indent=2, ensure_ascii=False) + "\n")
