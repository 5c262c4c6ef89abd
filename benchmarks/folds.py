"""`python -m benchmarks.folds`: cross-validation on real clips.

    python -m benchmarks.folds                                          examples/fight.yaml, into docs/evidence.md
    python -m benchmarks.folds --file home.yaml --folds 10 seeds=[0]    your clips, which have no split of their own

Every clip is tested once, by models that were trained on the other folds; groups stay whole. Each fold is an ordinary
run with a report of its own, below `--root`; interrupted, the same command continues, and what is trained is not
trained again. Rows and differences over all clips are printed, and written to ROOT/NAME-10-folds.md or, for the default
file, into docs/evidence.md.
"""

from __future__ import annotations

import argparse
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from benchmarks.evidence import DOCUMENT, ROOT, guarded
from benchmarks.folded import Folded, folded_path, folded_section
from benchmarks.page import write_document
from benchmarks.running import Prefixed, reports_of, spent_seconds, use_one_thread

from rbft.errors import UserError
from rbft.evaluation.compare import read_answers
from rbft.evaluation.verdict import arm_report, compare_all
from rbft.experiment import Experiment, load_experiment, make_experiment
from rbft.files import write_record, write_text
from rbft.progress import Reporter
from rbft.records import Prediction
from rbft.results import ArmReport, Report

FILE = Path(__file__).parents[1] / "examples" / "fight.yaml"
Runs = dict[int, list[Prediction]]
Work = Callable[[Experiment, Reporter], Report]


def experiments(whole: Experiment, folds: int, root: Path) -> list[Experiment]:
    """The run of every fold; raises ExperimentError."""
    return [
        make_experiment(
            whole.model_dump() | {
                "name": f"{whole.name}-{fold}-of-{folds}",
                "output": root.as_posix(),
                "split": whole.split.model_dump() | {"folds": folds, "fold": fold},
            }
        )
        for fold in range(1, folds + 1)
    ]  # fmt: skip


def run_folds(whole: Experiment, folds: int, root: Path, reporter: Reporter, work: Work | None = None) -> Folded:
    """Run every fold, or read what it left, and pool their test clips."""
    reports, answered = [], []
    for experiment in experiments(whole, folds, root):
        reporter.say(f"{experiment.name}: {len(experiment.arms)} arms")
        reports.append((work or _run)(experiment, reporter))
        answered.append(predictions_of(root / experiment.name, reports[-1]))
    return pooled(whole.name, reports, answered)


def _run(experiment: Experiment, reporter: Reporter) -> Report:
    from rbft.runs import run_experiment  # loads torch

    return run_experiment(experiment, reporter).report


def predictions_of(run: Path, report: Report) -> dict[str, Runs]:
    """A finished run's answers by arm and seed, from the CSV files beside its report."""
    found: dict[str, Runs] = {}
    for arm, row in report.arms.items():
        found[arm] = {}
        for seed in row.seeds:
            answers = read_answers(run / "predictions" / f"{arm}-seed{seed}.csv")
            found[arm][seed] = [
                Prediction(
                    clip_id=clip_id, checkpoint=f"{run.name}:{arm}", truth=truth, label=label or None,
                    log_probabilities={}, probabilities={},
                )
                for clip_id, (truth, label) in answers.items()
            ]  # fmt: skip
    return found


def pooled(name: str, reports: Sequence[Report], answered: Sequence[Mapping[str, Runs]]) -> Folded:
    """Rows and differences over the test clips of all folds together: in each seed every clip is answered once."""
    runs: dict[str, Runs] = {arm: defaultdict(list) for arm in reports[0].arms}
    for fold in answered:
        for arm, seeds in fold.items():
            for seed, made in seeds.items():
                runs[arm][seed] += made
    labels = list(reports[0].dataset.labels)
    resamples = int(reports[0].experiment["evaluation"]["resamples"])
    first = reports[0].arms
    arms: dict[str, ArmReport] = {
        arm: arm_report(of, labels=labels, stages=first[arm].stages, resamples=resamples,
                        num_steps=max(report.arms[arm].num_steps for report in reports))
        for arm, of in runs.items()
    }  # fmt: skip
    tests = [report.dataset.test for report in reports]
    counts = sum((Counter(report.dataset.labels) for report in reports), Counter())
    return Folded(
        name=name,
        seconds=sum(map(spent_seconds, reports)),
        folds=len(reports),
        labels={label: counts[label] for label in labels},
        train=tuple(report.dataset.train for report in reports),
        arms=arms,
        comparisons=tuple(compare_all(runs, labels=labels, resamples=resamples)),
        baselines={
            feature: sum(report.baselines[feature] * n for report, n in zip(reports, tests, strict=True)) / sum(tests)
            for feature in reports[0].baselines
        },
        model=str(reports[0].experiment["model"]),
        base=reports[0].fingerprints["base"],
        device=reports[0].environment["device"],
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Run the folds that are not finished, then write the document."""
    parser = argparse.ArgumentParser(description="Cross-validation on real clips.")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="settings, as for `rbft run`")
    parser.add_argument("--file", type=Path, default=FILE, help="the experiment (default: examples/fight.yaml)")
    parser.add_argument("--folds", type=int, default=5, help="default: 5")
    parser.add_argument(
        "--root", type=Path, default=ROOT, help=f"folder of the runs, in place of `output` (default: {ROOT})"
    )
    parser.add_argument("--out", type=Path, help="the document to write")
    args = parser.parse_args(argv)
    use_one_thread()
    if args.folds < 2:
        raise UserError(f"--folds {args.folds}: cross-validation takes 2 or more")
    ours = args.file.resolve() == FILE
    whole = load_experiment(args.file, args.overrides)
    document = args.out or (DOCUMENT if ours else args.root / f"{whole.name}-{args.folds}-folds.md")
    reports = reports_of(document)
    made = run_folds(whole, args.folds, args.root, Prefixed("folds"))
    section = folded_section(made)
    print(section)
    if ours:
        write_record(folded_path(reports, made.name), made)
        write_document(args.root, document)
    else:
        write_text(document, section)
    print(f"written to {document}")


if __name__ == "__main__":
    guarded(main)
