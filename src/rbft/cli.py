"""The commands: parse, call, print. `rbft --help` loads no torch."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from rbft import __version__
from rbft.errors import RbftError, UserError
from rbft.progress import printable

app = typer.Typer(
    name="rbft",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Teach a video-language model a new domain: labelled clips in; a classifier, and numbers that say whether "
    "rationales helped, out.\n\nStart with `rbft demo`, then `rbft check CLIPS`, then `rbft run EXPERIMENT.yaml`.",
)
INTERRUPTED = 130
JSON = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


@app.command()
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

    _print_outcome(run_demo(output, overrides or []))


@app.command()
def check(
    clips: Annotated[
        Path,
        typer.Argument(
            metavar="CLIPS",
            help="A CSV or JSONL manifest (path,label[,split,group,…]), LLaVA/ShareGPT JSON, a folder with one folder "
            "per label, or one video.",
        ),
    ],
    as_json: JSON = False,
    model: Annotated[str | None, typer.Option(help="Use this model's frame grid (default: Qwen2.5-VL's).")] = None,
    labels: Annotated[str | None, typer.Option(help="The allowed labels, separated by commas.")] = None,
    fps: Annotated[float, typer.Option(help="Frames per second to sample.", min=0.001, max=60)] = 1.0,
    allow_outside: Annotated[bool, typer.Option(help="Clips may lie outside the manifest's folder.")] = False,
    workers: Annotated[int, typer.Option(help="Processes that read clips; 0: one per processor.", min=0)] = 0,
) -> None:
    """Read every clip once: readable? labels, splits, duplicates, leaks, frames and tokens per clip.

    Exits with 0 where every clip can be used and, given labels, a run could start; with 2 where not.
    """
    from rbft.clips.check import check as check_clips
    from rbft.clips.check import render_table, to_json_lines
    from rbft.experiment import ClipLimits, Sampling
    from rbft.records import Grid

    grid = Grid()
    if model is not None:
        from rbft.models.vlm import load_grid

        grid = load_grid(model)
    result = check_clips(
        clips,
        labels={label.strip(): "" for label in (labels or "").split(",") if label.strip()},
        sampling=Sampling(fps=fps),
        grid=grid,
        limits=ClipLimits(),
        workers=workers,
        allow_outside=allow_outside,
    )
    if as_json:
        sys.stdout.write(to_json_lines(result))
    else:
        render_table(result, Console())
    raise typer.Exit(result.exit_code)


@app.command()
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
    from rbft.experiment import load_experiment

    asked = load_experiment(experiment, overrides or [])
    from rbft.runs import run_experiment  # loads torch; a fault in the file is told before that

    _print_outcome(run_experiment(asked))


@app.command()
def predict(
    checkpoint: Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="A checkpoint folder of a run.")],
    clips: Annotated[list[Path], typer.Argument(metavar="CLIP", help="Video files.")],
    rationale: Annotated[bool, typer.Option("--rationale", help="Also let the model explain each clip.")] = False,
    as_json: JSON = False,
) -> None:
    """Label and probabilities of clips, with the labels, prompts and frames that the checkpoint was trained with."""
    from rbft.serving.predictor import Classifier, render_answers

    answers = Classifier.load(checkpoint).answer(clips, rationale=rationale)
    if as_json:
        for answer in answers:
            sys.stdout.write(answer.model_dump_json() + "\n")
    else:
        render_answers(answers, Console())


@app.command()
def compare(
    a: Annotated[Path, typer.Argument(metavar="A.csv", help="Predictions: clip_id, label, predicted.")],
    b: Annotated[Path, typer.Argument(metavar="B.csv", help="Others, on the same clips.")],
    as_json: JSON = False,
) -> None:
    """Two prediction files on the same clips: difference, interval, exact McNemar test and a verdict in words."""
    from rbft.evaluation.compare import compare_pair, read_pair, render_comparison

    pair = read_pair(a, b)
    result = compare_pair(pair)
    if as_json:
        sys.stdout.write(json.dumps(result, ensure_ascii=False) + "\n")
    else:
        render_comparison(result, Console(), names=(a.name, b.name), notes=pair.notes)


@app.command()
def explain(
    checkpoint: Annotated[
        str,
        typer.Argument(
            metavar="CHECKPOINT|RUN", help="A checkpoint folder, a base model (name, folder or `embedded`), or a run."
        ),
    ],
    clips: Annotated[list[Path] | None, typer.Argument(metavar="CLIP", help="Video files; a run needs none.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for the pictures of clips, one folder a clip.")] = Path("explained"),
    label: Annotated[str | None, typer.Option(help="Explain this label (default: the predicted one).")] = None,
    experiment: Annotated[
        Path | None, typer.Option(help="EXPERIMENT.yaml with the labels and prompts to ask a base model with.")
    ] = None,
    as_json: JSON = False,
) -> None:
    """Where an answer looks in a clip: attention over the frames, as numbers, a film strip and an animation."""
    from rbft.serving.explain import explain as explain_files
    from rbft.serving.explain import render_explanations

    made = explain_files(checkpoint, clips or [], out, label=label, experiment=experiment)
    if as_json:
        for one in made:
            sys.stdout.write(one.explanation.model_dump_json() + "\n")
    else:
        render_explanations(made, Console())


def _version(value: bool) -> None:
    if value:
        sys.stdout.write(f"rbft {__version__}\n")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None: ...


def _print_outcome(outcome: Any) -> None:
    from rbft.report.tables import render_table

    console = Console()
    render_table(outcome.report, console)
    console.print(f"\n{outcome.report.headline}", markup=False, highlight=False)
    console.print(f"\nReport:   {outcome.page}", markup=False, highlight=False, soft_wrap=True)
    if outcome.classifier is not None:
        console.print(
            f"Classify: rbft predict {outcome.classifier} CLIP…", markup=False, highlight=False, soft_wrap=True
        )


def main() -> None:
    """The entry point: errors of the user in plain words and exit code 2, other known errors 1, interruption 130."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        app()
    except RbftError as error:
        faults = error.faults if isinstance(error, UserError) else [str(error)]
        for fault in faults:
            sys.stderr.write(f"rbft: {printable(fault)}\n")
        sys.exit(error.exit_code)
    except SystemExit as stop:
        if stop.code == INTERRUPTED:
            sys.stderr.write("rbft: interrupted; the same command continues from here\n")
        raise
