"""Before anything is learnt: clips checked, and benchmarks imported."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from rbft.commands import JSON
from rbft.errors import UserError
from rbft.printing import print_imported, print_imported_questions
from rbft.progress import printable
from rbft.stopping import stoppable


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
