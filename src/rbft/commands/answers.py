"""What models say: of clips, to questions, compared, and where they look."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from rbft.commands import JSON
from rbft.errors import StoppedError, UserError
from rbft.stopping import stoppable


@stoppable()
def predict(
    checkpoint: Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="A checkpoint folder of a run.")],
    clips: Annotated[list[Path], typer.Argument(metavar="CLIP", help="Video files.")],
    rationale: Annotated[bool, typer.Option("--rationale", help="Also let the model explain each clip.")] = False,
    as_json: JSON = False,
) -> None:
    """Label and probabilities of clips, with the labels, prompts and frames that the checkpoint was trained with.

    With `--json` a clip's line is printed as soon as it is classified.
    """
    from rbft.clips.container import file_faults
    from rbft.clips.grouped import first_of
    from rbft.store import checkpoint_faults

    faults, unread = checkpoint_faults(checkpoint), file_faults(clips)
    if faults or len(unread) == len(clips):  # else the others are read too, so that all that cannot be are named
        raise UserError(faults + first_of(unread, "clips like these"))
    from rbft.serving.predictor import classify, render_answers

    answers = []
    try:
        for answer in classify(checkpoint, clips, rationale=rationale):
            answers.append(answer)
            if as_json:
                sys.stdout.write(answer.model_dump_json() + "\n")
                sys.stdout.flush()
    except StoppedError:
        told = f"interrupted; {len(answers):,} of {len(clips):,} clips were classified and printed"
        again = "give the command again with the others" if answers else "give the command again"
        raise StoppedError(f"{told}: {again}") from None
    finally:
        if answers and not as_json:
            render_answers(answers, Console())


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
