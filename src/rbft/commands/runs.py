"""What is learnt: a demo, a run, a curation."""

from __future__ import annotations

import atexit
import gc
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from rbft.commands import JSON
from rbft.printing import print_answers, print_outcome
from rbft.stopping import stoppable


@stoppable()
def demo(
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Settings, for example `seeds=[0]`.")
    ] = None,
    output: Annotated[Path, typer.Option(help="Folder for run directories.")] = Path("runs"),
) -> None:
    """The whole method on the embedded model and its rendered night-camera clips: minutes on a laptop.

    Results are in `runs/demo`; the same command again continues, or ends in seconds.
    """
    from rbft.runs import run_demo

    _keep_imports()
    print_outcome(run_demo(output, overrides or []))


@stoppable()
def run(
    experiment: Annotated[
        Path, typer.Argument(metavar="EXPERIMENT.yaml", help="An experiment file; see `examples/` and docs/guide.md.")
    ],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Settings, for example `training.epochs=2`.")
    ] = None,
) -> None:
    """Arms x seeds of an experiment: checkpoints, predictions, `report.html` and `report.json` in `runs/NAME`.

    Interrupted at any point, the same command continues. The smallest experiment; all else has the paper's defaults:

    * `clips: clips.csv`
    * `model: Qwen/Qwen2.5-VL-7B-Instruct`
    * `domain: Smart Home Security Expert`
    * `labels: {normal: routine activity, abnormal: a threat to people, pets or property}`
    * `arms: [zero-shot, direct, direct-matched, rb-ft]`
    """
    from rbft.ahead import reading
    from rbft.experiment import load_experiment

    asked = load_experiment(experiment, overrides or [])
    with reading(asked) as ahead:
        from rbft import runs  # loads torch, which takes as long as many clips

        _keep_imports()
        if asked.questions is None:
            print_outcome(runs.run_experiment(asked, ahead=ahead))
        else:
            print_answers(runs.run_question_experiment(asked))


@stoppable()
def curate(
    settings: Annotated[
        Path, typer.Argument(metavar="CURATION.yaml", help="A settings file; see `examples/curation.yaml`.")
    ],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Settings, for example `reason.concurrency=32`.")
    ] = None,
    as_json: JSON = False,
) -> None:
    """Write chains of thought to learn: represent each clip in words, reason from them, revise with the clip, filter.

    Clips with labels, or VideoRFT's JSON lines of questions; the smallest file:

    * `clips: clips.csv`
    * `labels: {normal: routine activity, abnormal: a threat to people, pets or property}`
    * `engine: {endpoint: https://api.example.com/v1, model: NAME, key_from: EXAMPLE_KEY}`

    An engine is a local `model`, an `endpoint` with its `model`, or a file of `answers`; `represent`, `reason` and
    `revise` may each name one of their own (`revise: none` leaves that step out). The key is read from the
    environment variable that `key_from` names, and written nowhere.

    `runs/NAME` gets `cot.jsonl` (thoughts to learn), `rl.jsonl` (every question, for rewards), `curated.jsonl` (each
    question with why it is kept or dropped), `curation.html` and `curation.json`. Every answer is on disk as it comes:
    interrupted, the same command continues, and nothing is asked twice.
    """
    from rbft.rationales.job import load_curation

    job = load_curation(settings, overrides or [])
    from rbft.curated import run_curation  # loads torch; a fault in the file is told before that
    from rbft.report.curation import render_funnel

    made = run_curation(job)
    if as_json:
        sys.stdout.write(made.report.model_dump_json() + "\n")
        return
    console = Console()
    render_funnel(made.report, console)
    console.print(f"\nRows:   {made.folder / 'cot.jsonl'}", markup=False, highlight=False, soft_wrap=True)
    console.print(f"Report: {made.page}", markup=False, highlight=False, soft_wrap=True)


def _keep_imports() -> None:
    """Take what was imported out of the garbage collector's sight: each look at it takes 0.4 s, and finds nothing."""
    gc.freeze()
    atexit.register(gc.unfreeze)  # else triton reports what its bindings hold as leaked when the process ends
