"""The command line: which commands there are, and how what goes wrong is told. `rbft --help` loads no torch."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from rbft import __version__
from rbft.commands import JSON, answers, clips, runs
from rbft.errors import RbftError, UserError
from rbft.progress import printable
from rbft.stopping import SECOND_INTERRUPT

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

app.command()(runs.demo)
app.command()(clips.check)
app.command(name="import")(clips.import_)
app.command()(runs.run)
app.command()(runs.curate)
app.command()(answers.predict)
app.command()(answers.ask)
app.command()(answers.compare)
app.command()(answers.explain)


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
    except KeyboardInterrupt:  # before a command's own work; there it ends with the code below
        sys.stderr.write("rbft: interrupted; the same command continues from here\n")
        sys.exit(SECOND_INTERRUPT)
    except SystemExit as stop:
        if stop.code == SECOND_INTERRUPT:
            sys.stderr.write("rbft: interrupted; the same command continues from here\n")
        raise
