"""Running experiments once: the report of each is kept, and the same experiment again is read and not run.

Experiments on clips of the same dials share a run directory, so what they have in common is trained once. They are run
one after another; those of other dials at the same time, one process each, each with one thread.

ROOT/yards/NAME             clips and manifests
ROOT/general                general clips with descriptions: what an arm forgets
ROOT/cache                  frames
ROOT/NAME-BASE              run directories: the dials, and the first digits of the base's fingerprint
DOCUMENT/KEY.json           what came out, in the folder of the document's name: docs/evidence
"""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from pathlib import Path

from benchmarks.tables import YARD_SEED, Task
from rich.console import Console

from rbft import __version__
from rbft.errors import UserError
from rbft.experiment import Experiment, load_experiment
from rbft.files import read_record, write_record
from rbft.models.sources import resolve
from rbft.progress import Reporter
from rbft.records import Record, fingerprint
from rbft.results import Grounding, Report
from rbft.tiny.general import write_general

GENERAL_CLIPS = 100
"""General clips that every checkpoint describes."""


class Saved(Record):
    """What a finished experiment left; `fingerprint` is that of what was asked."""

    fingerprint: str
    report: Report
    grounding: Grounding | None = None


Work = Callable[[Task, Experiment, Reporter], tuple[Report, Grounding | None]]


def use_one_thread() -> None:
    """One thread here and in child processes: two beside another busy process are slower, and sums stay the same.

    Call it before torch is loaded.
    """
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


class Prefixed(Reporter):
    """Says every line with the name of what it is about; no bars, since several processes write at once."""

    def __init__(self, prefix: str) -> None:
        super().__init__(Console(stderr=True, force_terminal=False, soft_wrap=True))
        self._prefix = prefix

    def say(self, text: str) -> None:
        """One line of text behind the prefix."""
        super().say(f"{self._prefix}: {text}")


# -- what is asked, and what is there ------------------------------------------------------------------------------


def experiment_of(task: Task, root: Path) -> Experiment:
    """The experiment of a task below `root`; raises ExperimentError and CheckpointError."""
    places = [
        f"clips={json.dumps(task.yard.path(root).as_posix())}",
        f"evaluation.retention={json.dumps(general_path(root).as_posix())}",
        f"output={json.dumps(root.as_posix())}",
    ]
    experiment = load_experiment(task.file, [*places, *task.overrides])
    return experiment.model_copy(update={"name": f"{task.yard.name}-{_base(experiment)[:8]}"})


def general_path(root: Path) -> Path:
    """Where the list of general clips is, below the folder of the evidence."""
    return root / "general" / "clips.csv"


def _base(experiment: Experiment) -> str:
    source = resolve(experiment.model, revision=experiment.revision, allow_remote_code=experiment.allow_remote_code)
    return source.fingerprint()


def _asked(task: Task, experiment: Experiment) -> str:
    """Fingerprint of everything that decides a report.

    Defaults are left out, so that a setting which is new and not asked for leaves finished experiments finished.
    """
    yard = asdict(task.yard) | {"seed": YARD_SEED}
    asked = experiment.model_dump(mode="json", exclude={"clips", "output"}, exclude_defaults=True)
    asked["evaluation"]["retention"] = GENERAL_CLIPS
    return fingerprint(__version__, yard, asked, _base(experiment), task.grounding)


def reports_of(document: Path) -> Path:
    """The folder of the reports that a document is written from: `docs/evidence` for `docs/evidence.md`.

    Raises UserError for a document without that ending.
    """
    if document.suffix != ".md":
        raise UserError(f"--out {document}: give a file that ends in .md; its reports go into the folder of its name")
    return document.with_suffix("")


def saved_path(reports: Path, key: str) -> Path:
    """Where the report of that key is kept."""
    return reports / f"{key}.json"


def read_saved(reports: Path, key: str) -> Saved | None:
    """What an experiment left; None where it never ended. Raises StoreError for another version."""
    path = saved_path(reports, key)
    step = "delete the file: what is trained stays, and its report is made again"
    return read_record(path, Saved, step) if path.is_file() else None


def finished(task: Task, root: Path, reports: Path) -> Saved | None:
    """What is kept of exactly this experiment, or None where there is something to do."""
    saved = read_saved(reports, task.key)
    return saved if saved is not None and saved.fingerprint == _asked(task, experiment_of(task, root)) else None


def spent_seconds(report: Report) -> float:
    """What training a report's arms and asking them took, in this run directory, for whichever table it was done."""
    return sum(
        seconds
        for step, seconds in report.timing.items()
        for arm in report.arms
        if step == f"predict {arm}" or step.startswith(f"train {arm}: ")
    )


# -- running -------------------------------------------------------------------------------------------------------


def all_seconds(reports: Iterable[Report]) -> float:
    """What everything in the run directories of these reports took; of those that share one, the last counts all."""
    spent: dict[str, float] = {}
    for report in reports:
        spent[report.name] = max(spent.get(report.name, 0.0), sum(report.timing.values()))
    return sum(spent.values())


def run_task(task: Task, root: Path, reports: Path, *, work: Work | None = None) -> Saved:
    """Run an experiment and keep what it left, or read that."""
    saved = finished(task, root, reports)
    if saved is not None:
        return saved
    experiment = experiment_of(task, root)
    report, grounding = (work or run_and_explain)(task, experiment, Prefixed(task.key))
    saved = Saved(fingerprint=_asked(task, experiment), report=report, grounding=grounding)
    write_record(saved_path(reports, task.key), saved)
    return saved


def run_and_explain(task: Task, experiment: Experiment, reporter: Reporter) -> tuple[Report, Grounding | None]:
    """The run itself, and what its arms look at where the task asks for it."""
    from rbft.runs import run_experiment  # loads torch

    report = run_experiment(experiment, reporter).report
    if not task.grounding:
        return report, None
    from rbft.grounded import explain_run

    folder = Path(experiment.output) / experiment.name
    return report, explain_run(folder, masks=True, attention=True, reporter=reporter).grounding


def run_all(tasks: Sequence[Task], root: Path, reports: Path, *, jobs: int, reporter: Reporter) -> None:
    """Run what is not finished: clips first, then up to `jobs` run directories at a time."""
    pending = [task for task in tasks if finished(task, root, reports) is None]
    for task in tasks:
        if task not in pending:
            reporter.say(f"{task.key}: measured already, {saved_path(reports, task.key)}")
    for yard in dict.fromkeys(task.yard for task in pending):
        count = yard.num_train + yard.num_test + yard.num_unlabelled
        reporter.say(f"clips: {yard.path(root)} ({count}; those that are there are not rendered again)")
        yard.render(root)
    if pending:
        write_general(general_path(root).parent, GENERAL_CLIPS)
    groups: dict[str, list[Task]] = {}
    for task in pending:
        groups.setdefault(experiment_of(task, root).name, []).append(task)
    if jobs == 1 or len(groups) <= 1:
        for group in groups.values():
            _run_group(group, root, reports)
        return
    spawning = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=min(jobs, len(groups)), mp_context=spawning) as pool:
        for running in as_completed([pool.submit(_run_group, group, root, reports) for group in groups.values()]):
            running.result()


def _run_group(tasks: Sequence[Task], root: Path, reports: Path) -> None:
    """The experiments of one run directory in their order."""
    for task in tasks:
        arms = len(experiment_of(task, root).arms)
        Prefixed(task.key).say(f"{arms} arms")
        run_task(task, root, reports)
        Prefixed(task.key).say("finished")
