"""`make evidence`: the paper's experiments and those beyond it on the embedded model, written into docs/evidence.md.

    python -m benchmarks.evidence                                 everything, five seeds
    python -m benchmarks.evidence --only table1,table3 --seeds 0,1
    python -m benchmarks.evidence --base2 FOLDER                  Table 1 from a second base too

Interrupted, the same command continues; after the end it runs nothing and writes the same document. The reports behind
the document stand beside it, in docs/evidence, and what they hold is not measured again; to do so, name other places:
--root runs/again --out runs/again/evidence.md. Tables of one yard share a run directory, so what they have in common is
trained once.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.page import write_document
from benchmarks.running import Prefixed, reports_of, run_all, use_one_thread
from benchmarks.tables import TABLES, Table

from rbft.errors import RbftError, UserError

DOCUMENT = Path(__file__).parents[1] / "docs" / "evidence.md"
ROOT = Path("runs/evidence")
SECOND_BASE = "table1-base2"


def arguments(description: str, only: str) -> argparse.ArgumentParser:
    """The options that evidence and map have in common; `only` says what `--only` takes."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="settings, as for `rbft run`")
    parser.add_argument("--only", help=only)
    parser.add_argument("--seeds", help="other seeds, separated by commas (default: those of the files)")
    parser.add_argument("--jobs", type=int, default=min(os.cpu_count() or 1, 2), help="processes (default: at most 2)")
    parser.add_argument("--root", type=Path, default=ROOT, help=f"folder of clips and runs (default: {ROOT})")
    parser.add_argument("--out", type=Path, default=DOCUMENT, help="the document to write (default: docs/evidence.md)")
    parser.add_argument("--test", type=int, help="test clips (default: 200)")
    return parser


def chosen(asked: str | None, allowed: Sequence[str], what: str) -> list[str]:
    """The names of `--only`, in the order of `allowed`; all of them without it. Raises UserError for an unknown one."""
    names = list(allowed) if asked is None else [name.strip() for name in asked.split(",") if name.strip()]
    unknown = [name for name in names if name not in allowed]
    if unknown or not names:
        raise UserError(f"--only {asked!r}: no {what} {', '.join(map(repr, unknown))}; there are {', '.join(allowed)}")
    return [name for name in allowed if name in names]


def with_seeds(overrides: Sequence[str], seeds: str | None) -> tuple[str, ...]:
    """The overrides with `--seeds` among them."""
    return (*overrides, *([] if seeds is None else [f"seeds=[{seeds}]"]))


def tables_for(args: argparse.Namespace) -> list[Table]:
    """The tables to run: those of `--only`; the second base's needs `--base2`."""
    known = [table.key for table in TABLES if table.key != SECOND_BASE or args.base2 is not None]
    keys = chosen(args.only, known, "table")
    return [table for table in TABLES if table.key in keys]


def main(argv: Sequence[str] | None = None) -> None:
    """Run the tables that are not finished, then write the document."""
    parser = arguments("The paper's experiments on the embedded model, and beyond.", "tables, separated by commas")
    parser.add_argument("--base2", help="a folder with a second base model, for Table 1 again")
    parser.add_argument("--train", type=int, help="labelled training clips (default: 200)")
    args = parser.parse_args(argv)
    use_one_thread()
    reports = reports_of(args.out)
    reporter, start = Prefixed("evidence"), time.monotonic()
    tasks = []
    for table in tables_for(args):
        model = [f"model={args.base2}"] if table.key == SECOND_BASE else []
        tasks.append(table.task(with_seeds([*model, *args.overrides], args.seeds), args.train, args.test))
    run_all(tasks, args.root, reports, jobs=args.jobs, reporter=reporter)
    write_document(args.root, args.out)
    reporter.say(f"{args.out}: {len(tasks)} tables, {(time.monotonic() - start) / 60:.1f} minutes now")


def guarded(command: Callable[[], None]) -> None:
    """Call a command; errors of the user in plain words and their exit code."""
    try:
        command()
    except RbftError as error:
        sys.stderr.write("".join(f"{line}\n" for line in str(error).splitlines()))
        raise SystemExit(error.exit_code) from None


if __name__ == "__main__":
    guarded(main)
