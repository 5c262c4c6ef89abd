"""What cross-validation on real clips left, and its section of docs/evidence.md."""

from __future__ import annotations

from pathlib import Path

from benchmarks.markdown import RULE, cell, comparison, difference_rows, head, interval_cell, minutes, row

from rbft.files import read_record
from rbft.records import Record
from rbft.report.tables import Value
from rbft.results import ArmReport, Comparison

CONTROL = "direct-matched"
_PREFIX = "folds-"


class Folded(Record):
    """Every arm on the test clips of all folds together. `baselines` are accuracies, `train` clips by fold."""

    fingerprint: str
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


def folded_path(root: Path, name: str) -> Path:
    """Where the pooled numbers of an experiment are kept."""
    return root / "reports" / f"{_PREFIX}{name}.json"


def read_folded(root: Path, name: str) -> Folded | None:
    """The pooled numbers of an experiment, None where there are none."""
    path = folded_path(root, name)
    return read_record(path, Folded) if path.is_file() else None


def all_folded(root: Path) -> list[Folded]:
    """Everything that was cross-validated, by name."""
    return [read_record(path, Folded) for path in sorted((root / "reports").glob(f"{_PREFIX}*.json"))]


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
    if CONTROL in found.arms:
        others = [name for name in found.arms if name != CONTROL]
        pairs = [comparison(found, CONTROL, name, metric)
                 for name in others for metric in ("accuracy", "macro_f1")]  # fmt: skip
        lines += ["", *difference_rows(pairs)]
    return "\n".join(lines) + "\n"


def _percent(share: float) -> str:
    return cell(Value(share))
