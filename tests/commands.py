"""The real command, in the process of a test."""

import sys

from rbft.cli import main


def command(*arguments: str) -> int:
    """`rbft ARGUMENTS` in this process; returns its exit code."""
    before = sys.argv
    sys.argv = ["rbft", *arguments]
    try:
        main()
    except SystemExit as stop:
        return int(stop.code or 0)
    finally:
        sys.argv = before
    return 0
