"""SIGTERM and Ctrl-C end long work at the next safe point, within 25 seconds, so that the same command continues.

The commands of long work are `stoppable`; whoever imports rbft as a library gets no handlers. Work in batches calls
`check` where all that was finished is on disk; training is `finishing` the step in hand. What does not come to such a
point in time (a model that is being loaded, a save that takes minutes) is ended by a watchdog: everything on disk is
safe from kills anyway. A signal is for the whole process, and so is what is kept here.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rbft.errors import StoppedError

GRACE_SECONDS = 20.0
"""From the first signal to the end by the watchdog: schedulers and supervisors often kill after 30."""
AT_ONCE_SECONDS = 1.0
"""The same from a second Ctrl-C, in which what is open is closed."""
POLL_SECONDS = 0.2
"""How often those look at `asked` who wait for others."""
SECOND_INTERRUPT = 130
PR_SET_PDEATHSIG = 1
"""From <linux/prctl.h>: the signal that a process gets when its parent dies."""


class _Stop:
    asked = False
    finishing = False


def asked() -> bool:
    """Whether the process was asked to end."""
    return _Stop.asked


def check() -> None:
    """Raise StoppedError where the process was asked to end, and nothing is being finished first."""
    if _Stop.asked and not _Stop.finishing:
        raise StoppedError


@contextmanager
def while_importing() -> Iterator[None]:
    """Until the first modules of a command are there, a signal to end is taken at its word: nothing is begun yet."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, _ended) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def end_on_sigterm() -> None:
    """From now on, and where no `stoppable` work hears it, SIGTERM raises StoppedError: there is nothing to finish."""
    signal.signal(signal.SIGTERM, _raised)


def _raised(*_: object) -> None:
    raise StoppedError


def _ended(*_: object) -> None:
    _say(f"rbft: {StoppedError()}\n")
    os._exit(StoppedError.exit_code)


@contextmanager
def finishing() -> Iterator[None]:
    """Let `check` pass until the block ends: whoever is in it looks at `asked` and ends by itself."""
    before, _Stop.finishing = _Stop.finishing, True
    try:
        yield
    finally:
        _Stop.finishing = before


@contextmanager
def stoppable() -> Iterator[None]:
    """The work of a command: a signal to end is heard, and one that the terminal is gone is not.

    Outside the main thread, where Python lets nobody handle signals, and within another such block nothing changes.
    """
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGINT) is _heard:
        yield
        return
    with contextlib.ExitStack() as undo:
        ours, theirs = (undo.enter_context(end) for end in socket.socketpair())
        theirs.setblocking(False)
        watchdog = threading.Thread(target=_watch, args=(ours,), name="rbft-watchdog", daemon=True)
        watchdog.start()
        undo.callback(watchdog.join)
        undo.callback(theirs.shutdown, socket.SHUT_RDWR)
        undo.callback(signal.set_wakeup_fd, signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False))
        os.register_at_fork(after_in_child=_forked)
        undo.callback(_forget)
        for number, handler in _handlers().items():
            undo.callback(signal.signal, number, signal.signal(number, handler))
        yield


def _forget() -> None:
    _Stop.asked = False


def _handlers() -> dict[int, Any]:
    handlers: dict[int, Any] = {signal.SIGINT: _heard, signal.SIGTERM: _heard}
    if sys.platform != "win32":
        handlers[signal.SIGHUP] = signal.SIG_IGN  # children ignore it too
    return handlers


def _forked() -> None:
    """In a forked child, a reader of training: signals to all are the parent's to heed, and it outlives no parent.

    They are blocked and not ignored, since torch gives its readers a handler that ends them.
    """
    signal.set_wakeup_fd(-1)
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _heard(number: int, _: object) -> None:
    if _Stop.asked and number == signal.SIGINT:
        raise KeyboardInterrupt
    if not _Stop.asked:
        _Stop.asked = True
        _say("rbft: stopping at the next safe point, in 25 seconds at most; Ctrl-C (again) stops at once\n")


def _watch(signals: socket.socket) -> None:
    """End the process where it does not end itself. A thread hears of signals while others are in foreign code."""
    deadline, code = None, StoppedError.exit_code
    while True:
        signals.settimeout(None if deadline is None else max(0.001, deadline - time.monotonic()))
        try:
            numbers = signals.recv(64)
        except TimeoutError:
            _say(f"rbft: {StoppedError()}\n")
            os._exit(code)
        if not numbers:
            return
        for number in numbers:
            if deadline is None and number in (signal.SIGINT, signal.SIGTERM):
                deadline = time.monotonic() + GRACE_SECONDS
            elif number == signal.SIGINT:
                deadline, code = time.monotonic() + AT_ONCE_SECONDS, SECOND_INTERRUPT


def _say(text: str) -> None:
    """Past Python's streams, which may be in the midst of writing; to a terminal with its cursor shown."""
    shown = "\x1b[?25h" if os.isatty(2) else ""
    with contextlib.suppress(OSError):  # nobody reads it: no reason not to end
        os.write(2, (shown + text).encode())
