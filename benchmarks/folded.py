"""What cross-validation on real clips left, and its section of docs/evidence.md."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

from benchmarks.markdown import RULE, cell, comparison, difference_rows, head, interval_cell, minutes, row
from benchmarks.tables import CONTROL

from rbft.files import read_record
from rbft.records import Record
from rbft.report.tables import Value
from rbft.results import ArmReport, Comparison

_PREFIX = "folds-"


class Folded(Record):
    """Every arm on the test clips of all folds together. `baselines` are accuracies, `train` clips by fold."""

    name: str
    seconds: float
    folds: int
    labels: dict[str, int]
    train: tuple[int, ...]
    arms: dict[str, ArmReport]
    comparisons: tuple[Comparison, ...]
    baselines: dict[str, float]
    model: str
    base: str
    device: str


def folded_path(reports: Path, name: str) -> Path:
    """Where the pooled numbers of an experiment are kept."""
    return reports / f"{_PREFIX}{name}.json"


def all_folded(reports: Path) -> list[Folded]:
    """Everything that was cross-validated, by name. Raises StoreError for a file of another version."""
    return [read_record(path, Folded) for path in sorted(reports.glob(f"{_PREFIX}*.json"))]


def folded_section(found: Folded) -> str:
    """What was measured on what, the rows of arms and baselines, and what each arm gains over the control."""
    clips = sum(found.labels.values())
    seeds = max((arm.seeds for arm in found.arms.values()), key=len)
    lines = [
        f"## Real clips: {found.name}, {found.folds} folds",
        "",
        f"* {clips} clips ({', '.join(f'{n} {label}' for label, n in found.labels.items())}), each tested once, by "
        f"models trained on the other folds ({min(found.train)} to {max(found.train)} clips); groups stay whole.",
        f"* Base `{found.model}` (fingerprint {found.base}); seeds {', '.join(map(str, seeds))}.",
        f"* Training these arms and asking them took {minutes(found.seconds)} of one {found.device} process.",
        "",
        *head(["arm", "accuracy", "macro-F1", *(f"F1 {label}" for label in found.labels), "steps"]),
    ]
    for name, arm in found.arms.items():
        scores = [interval_cell(score) for score in (arm.accuracy, arm.macro_f1, *arm.f1.values())]
        lines.append(row([f"`{name}`", *scores, f"{arm.num_steps:,}"]))
    rest = [RULE] * (len(found.labels) + 2)
    constant = max(found.labels, key=lambda label: found.labels[label])
    lines.append(row([f"_always {constant}_", _percent(found.labels[constant] / clips), *rest]))
    lines += [row([f"_{name} alone_", _percent(accuracy), *rest]) for name, accuracy in found.baselines.items()]
    pairs = [pair for pair in combinations(found.arms, 2) if CONTROL in pair or CONTROL not in found.arms]
    ordered = [(a, b) if b != CONTROL else (b, a) for a, b in pairs]
    lines += ["", *difference_rows([comparison(found, a, b, m) for a, b in ordered for m in ("accuracy", "macro_f1")])]
    return "\n".join(lines) + "\n"


def _percent(share: float) -> str:
    return cell(Value(share))
