"""`python -m rbft`, and what the command `rbft` starts."""

import atexit
import os
import sys
from typing import NoReturn

from rbft.cli import main
from rbft.progress import lasting

STDOUT_CLOSED = 120
"""What Python itself ends with where nobody reads its last words."""


def command() -> NoReturn:
    """`main`, then the end of the process.

    What is registered for the end is done and all output written; the interpreter is not taken apart, which takes
    longer than a second with torch in it and frees what the system frees anyway.
    """
    code: object = 0
    sys.stdout, sys.stderr = lasting(sys.stdout, pipes=False), lasting(sys.stderr, pipes=True)
    try:
        main()
    except SystemExit as stop:
        code = stop.code or 0
    if not isinstance(code, int):
        sys.stderr.write(f"{code}\n")
        code = 1
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        code = code or STDOUT_CLOSED
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    command()
