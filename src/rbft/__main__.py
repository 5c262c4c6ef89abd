"""`python -m rbft`, and what the command `rbft` starts."""

import atexit
import errno
import multiprocessing
import os
import sys
from typing import NoReturn

from rbft.stopping import end_on_sigterm, while_importing

with while_importing():
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
    end_on_sigterm()
    try:
        main()
    except SystemExit as stop:
        code = stop.code or 0
    except OSError as error:
        code = _unsaid(error)
    if not isinstance(code, int):
        sys.stderr.write(f"{code}\n")
        code = 1
    for child in multiprocessing.active_children():
        child.kill()  # a reader that is stuck would be waited for
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        code = code or STDOUT_CLOSED
    except OSError as error:
        if not code:
            sys.stderr.write(f"{_unsaid(error)}\n")
        code = code or 1
    sys.stderr.flush()
    os._exit(code)


def _unsaid(error: OSError) -> int | str:
    """What to end with where the output goes nowhere; raises what is no fault of the output."""
    if isinstance(error, BrokenPipeError):
        return STDOUT_CLOSED
    if error.filename is not None or error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        raise error
    return f"rbft: the output cannot be written: {error.strerror}"


if __name__ == "__main__":
    command()
