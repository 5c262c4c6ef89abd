"""The commands: parse, call, print. `rbft --help` loads no torch."""

from __future__ import annotations

import atexit
import gc
import json
import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from rbft import __version__
from rbft.errors import RbftError, UserError
from rbft.printing import print_answers, print_imported, print_imported_questions, print_outcome
from rbft.progress import printable
from rbft.stopping import SECOND_INTERRUPT, stoppable

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
JSON = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


@app.command()
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


@app.command()
@stoppable()
def check(
    clips: Annotated[
        Path,
        typer.Argument(
            metavar="CLIPS",
            help="A CSV or JSONL manifest (path,label[,split,group,…]), LLaVA/ShareGPT JSON, a folder with one folder "
            "per label, one video, or an experiment file, whose clips are read as its run would.",
        ),
    ],
    as_json: JSON = False,
    model: Annotated[str | None, typer.Option(help="Use this model's frame grid (default: Qwen2.5-VL's).")] = None,
    labels: Annotated[str | None, typer.Option(help="The allowed labels, separated by commas.")] = None,
    fps: Annotated[
        float | None, typer.Option(help="Frames per second to sample (default: 1).", min=0.001, max=60)
    ] = None,
    allow_outside: Annotated[bool, typer.Option(help="Clips may lie outside the manifest's folder.")] = False,
    workers: Annotated[int, typer.Option(help="Processes that read clips; 0: one per processor.", min=0)] = 0,
) -> None:
    """Read every clip once: readable? labels, splits, duplicates, leaks, frames and tokens per clip.

    Exits with 0 where every clip can be used and, given labels, a run could start; with 2 where not. Options change
    what an experiment file says.
    """
    from rbft.clips.check import check as check_clips
    from rbft.clips.check import render_table, to_json_lines
    from rbft.experiment import ClipLimits, Sampling, load_experiment
    from rbft.records import Grid

    allowed = [label.strip() for label in (labels or "").split(",") if label.strip()]
    if clips.suffix.lower() in (".yaml", ".yml"):
        changes = {"labels": allowed or None, "sampling.fps": fps, "workers": workers or None, "model": model}
        changes["allow_outside"] = allow_outside or None
        asked = load_experiment(clips, [f"{k}={json.dumps(v)}" for k, v in changes.items() if v is not None])
        from rbft.models.vlm import local_source  # loads torch; a fault in the file is told before that
        from rbft.preparing import check_run

        source = local_source(asked.model, revision=asked.revision, allow_remote_code=asked.allow_remote_code)
        result = check_run(asked, source)
    else:
        grid = Grid()
        if model is not None:
            from rbft.models.vlm import load_grid

            grid = load_grid(model)
        result = check_clips(
            clips,
            labels=dict.fromkeys(allowed, ""),
            sampling=Sampling(fps=fps or 1.0),
            grid=grid,
            limits=ClipLimits(),
            workers=workers,
            allow_outside=allow_outside,
        )
    if as_json:
        sys.stdout.write(to_json_lines(result))
        said = [f"note: {note}" for note in result.notes] + [f"fault: {fault}" for fault in result.faults]
        said += [f"memory: {line}" for line in result.memory]
        sys.stderr.writelines(f"rbft: {printable(line)}\n" for line in said)
    else:
        render_table(result, Console())
    raise typer.Exit(result.exit_code)


@app.command(name="import")
def import_(
    benchmark: Annotated[
        str,
        typer.Argument(
            metavar="BENCHMARK",
            help="`smarthome` or `multihateclip`; of questions `vsi-bench`, `videommmu`, `mmvu`, `mvbench`, "
            "`tempcompass` or `videomme`.",
        ),
    ],
    annotation: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="ANNOTATION", help="The benchmark's annotation files (default: those of --train and --test)."
        ),
    ] = None,
    train: Annotated[
        list[Path] | None,
        typer.Option(help="A file with the ids of the training clips: the authors' JSON, a table or one id a line."),
    ] = None,
    test: Annotated[list[Path] | None, typer.Option(help="The same for the test clips.")] = None,
    videos: Annotated[
        Path | None, typer.Option(help="Folder with the videos, named by their ids; without it clips are only counted.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The file to write (default: clips.csv, or BENCHMARK.jsonl, among the videos).")
    ] = None,
    drop_vague: Annotated[
        bool, typer.Option("--drop-vague", help="Leave out clips tagged Vague Abnormal (default: they are abnormal).")
    ] = False,
    drop_leaks: Annotated[
        bool, typer.Option("--drop-leaks", help="Keep ids that are in train and in test in test alone.")
    ] = False,
    leave_out_missing: Annotated[
        bool, typer.Option("--leave-out-missing", help="Leave out clips that have no video.")
    ] = False,
) -> None:
    """A published benchmark's own files and a folder of videos become a manifest for `run`, or questions for `ask`.

    * `rbft import smarthome Video_Annotation.csv --train sft_label.json --test test.json --videos videos`
    * `rbft import multihateclip --train train.tsv --train valid.tsv --test test.tsv --videos videos`
    * `rbft import vsi-bench test.jsonl --videos videos`
    """
    from rbft.clips.question_benchmarks import QUESTION_BENCHMARKS

    if benchmark in QUESTION_BENCHMARKS:
        options = {"--train": train, "--test": test, "--drop-vague": drop_vague, "--drop-leaks": drop_leaks}
        if given := [name for name, value in options.items() if value]:
            raise UserError(
                f"{', '.join(given)}: {benchmark} is a benchmark of questions, without a split; leave it out"
            )
        print_imported_questions(benchmark, annotation or [], videos, out, leave_out_missing)
        return
    from rbft.clips.benchmarks import import_benchmark

    imported = import_benchmark(
        benchmark,
        annotation or [],
        train=train or [],
        test=test or [],
        videos=videos,
        drop_vague=drop_vague,
        drop_leaks=drop_leaks,
        leave_out_missing=leave_out_missing,
    )
    print_imported(imported, videos, out)


@app.command()
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


@app.command()
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


@app.command()
def predict(
    checkpoint: Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="A checkpoint folder of a run.")],
    clips: Annotated[list[Path], typer.Argument(metavar="CLIP", help="Video files.")],
    rationale: Annotated[bool, typer.Option("--rationale", help="Also let the model explain each clip.")] = False,
    as_json: JSON = False,
) -> None:
    """Label and probabilities of clips, with the labels, prompts and frames that the checkpoint was trained with."""
    from rbft.clips.container import file_faults
    from rbft.store import checkpoint_faults

    faults = checkpoint_faults(checkpoint) + file_faults(clips)
    if faults:
        raise UserError(faults)
    from rbft.serving.predictor import Classifier, render_answers

    answers = Classifier.load(checkpoint).answer(clips, rationale=rationale)
    if as_json:
        for answer in answers:
            sys.stdout.write(answer.model_dump_json() + "\n")
    else:
        render_answers(answers, Console())


@app.command()
@stoppable()
def ask(
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL|CHECKPOINT", help="A base model (name, folder or `embedded`), or a checkpoint."),
    ],
    questions: Annotated[
        Path,
        typer.Argument(metavar="QUESTIONS.jsonl", help="Questions: VideoRFT's rows, or what `rbft import` writes."),
    ],
    videos: Annotated[
        Path | None, typer.Option(help="Where the paths of rows start (default: the folder of the questions).")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for answers.jsonl and summary.json (default: runs/QUESTIONS-MODEL).")
    ] = None,
    frames: Annotated[
        int | None, typer.Option(help="At most so many frames of a clip, evenly spaced (default: 32).", min=2)
    ] = None,
    fps: Annotated[
        float | None, typer.Option(help="Frames per second to aim at (default: 2).", min=0.001, max=60)
    ] = None,
    pixels: Annotated[int | None, typer.Option(help="Largest area of a frame (default: 200704).", min=1)] = None,
    prompts: Annotated[
        str | None, typer.Option(help="`default`, `brief` or a file (default: the checkpoint's own).")
    ] = None,
    max_new_tokens: Annotated[int | None, typer.Option(help="Longest answer (default: 1024).", min=1)] = None,
    batch_size: Annotated[int, typer.Option(help="Questions at once.", min=1)] = 8,
    leave_out_missing: Annotated[
        bool, typer.Option("--leave-out-missing", help="Leave out questions whose video is missing or unreadable.")
    ] = False,
    as_json: JSON = False,
) -> None:
    """Questions of all kinds about clips: greedy answers, graded, with scores by kind and category and intervals.

    A checkpoint is asked with its own prompts and frames, unless an option says otherwise. Interrupted at any point,
    the same command continues; run again, it redoes nothing.
    """
    from rbft.evaluation.ask import Choices, render_asked
    from rbft.evaluation.ask import ask as ask_questions

    choices = Choices(
        frames=frames,
        fps=fps,
        max_pixels=pixels,
        prompts=prompts,
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
        leave_out_missing=leave_out_missing,
    )
    asked = ask_questions(model, questions, videos=videos, out=out, choices=choices)
    if as_json:
        sys.stdout.write(asked.report.model_dump_json() + "\n")
    else:
        console = Console()
        render_asked(asked.report, console)
        console.print(f"\n{asked.folder}", markup=False, highlight=False, soft_wrap=True)


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
@stoppable()
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
    masks: Annotated[
        bool, typer.Option("--masks", help="Of a run: accuracy without the objects, and without random patches.")
    ] = False,
    attention: Annotated[
        bool, typer.Option("--attention", help="Of a run: attention on the objects (default: this and --masks).")
    ] = False,
    objects: Annotated[
        str,
        typer.Option(
            help="Of a run: objects are the manifest's `boxes`, what is in `motion`, or what a detector (a Hugging "
            "Face name or a folder) finds; `auto`: boxes where test clips have them, else motion."
        ),
    ] = "auto",
    as_json: JSON = False,
) -> None:
    """Where an answer looks: attention over the frames of clips; or, of a run, how much its arms need the objects.

    Clips: numbers, a film strip and an animation each. A run: every arm and seed on the test clips that have objects,
    with intervals, in `grounding.json` and `grounding/`; interrupted, the same command continues.
    """
    from rbft.store import folder_faults, is_run

    if not clips and is_run(Path(checkpoint)):
        from rbft.evaluation.grounding import render_grounding
        from rbft.grounded import explain_run

        both = not masks and not attention
        found = explain_run(Path(checkpoint), masks=masks or both, attention=attention or both, objects=objects)
        if as_json:
            sys.stdout.write(found.grounding.model_dump_json() + "\n")
        else:
            console = Console()
            render_grounding(found.grounding, console)
            for path in (found.path, *found.pictures):
                console.print(str(path), markup=False, highlight=False, soft_wrap=True)
        return
    from rbft.clips.container import file_faults
    from rbft.files import address_hint

    addresses = [clip for clip in clips or [] if address_hint(clip)]
    if faults := folder_faults(out, "--out") + file_faults(addresses):
        raise UserError(faults)
    from rbft.serving.explain import explain as explain_files
    from rbft.serving.explain import render_explanations

    made = explain_files(checkpoint, clips or [], out, label=label, experiment=experiment)
    if as_json:
        for one in made:
            sys.stdout.write(one.explanation.model_dump_json() + "\n")
    else:
        render_explanations(made, Console())


@app.command()
def doctor(
    output: Annotated[Path, typer.Option(help="The folder that runs will be written to.")] = Path("runs"),
    model: Annotated[str | None, typer.Option(help="Also look whether this model is on this machine, whole.")] = None,
    revision: Annotated[str | None, typer.Option(help="The commit or branch of that model.")] = None,
    as_json: JSON = False,
) -> None:
    """What is installed and what this machine can do: each thing is ok, a note or a fault, with what to do next.

    Fetches nothing and leaves nothing behind. Exits with 2 where rbft cannot be used as it is, else with 0.
    """
    from rbft.doctor.examine import examine
    from rbft.doctor.findings import Examination, render_examination

    seen = Examination(findings=tuple(examine(output, os.environ, model=model, revision=revision)))
    if as_json:
        sys.stdout.write(seen.model_dump_json() + "\n")
    else:
        render_examination(seen.findings, Console())
    raise typer.Exit(seen.exit_code)


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


def _keep_imports() -> None:
    """Take what was imported out of the garbage collector's sight: each look at it takes 0.4 s, and finds nothing."""
    gc.freeze()
    atexit.register(gc.unfreeze)  # else triton reports what its bindings hold as leaked when the process ends


def main() -> None:
    """The entry point: errors of the user in plain words and exit code 2, other known errors 1, asked to stop 75.

    130 where Ctrl-C ended it at once: a second one, or the first where there is nothing to finish.
    """
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        Path.cwd()
    except FileNotFoundError:
        sys.exit("rbft: the folder that you are in is not there any more; go to another one")
    try:
        app()
    except RbftError as error:
        faults = error.faults if isinstance(error, UserError) else [str(error)]
        for fault in faults:
            sys.stderr.write(f"rbft: {printable(fault)}\n")
        sys.exit(error.exit_code)
    except SystemExit as stop:
        if stop.code == SECOND_INTERRUPT:
            sys.stderr.write("rbft: interrupted; the same command continues from here\n")
        raise
