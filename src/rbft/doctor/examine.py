"""`rbft doctor`: everything that a run needs of this machine, looked at one by one, each with what to do next."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from rbft.doctor.findings import Finding
from rbft.doctor.hardware import (
    gpu_finding,
    import_all,
    memory_finding,
    process_findings,
    processor_finding,
    processor_quota,
)
from rbft.doctor.packages import package_findings, python_finding, requirements
from rbft.doctor.places import clip_findings, model_findings, output_findings
from rbft.machine import available_processors, container_limits, machine_memory


def examine(
    output: Path, environment: Mapping[str, str], *, model: str | None = None, revision: str | None = None
) -> Iterator[Finding]:
    """Look at everything, in order; nothing is fetched, and nothing is left behind."""
    needed = requirements()
    imported = import_all([one.name for one in needed if one.marker is None], environment)
    yield python_finding()
    yield from package_findings(needed, imported.broken)
    yield gpu_finding(imported.torch, environment)
    yield processor_finding(available_processors(), processor_quota())
    yield memory_finding(machine_memory(), container_limits())
    yield from process_findings()
    yield from clip_findings()
    yield from output_findings(output)
    yield from model_findings(model, revision)
