"""A note of every connection that Python tries, in this process or, as its `sitecustomize`, in others."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


def hook(note: Callable[[str], None]) -> None:
    """Have every connection, and every question for an address, noted from now on; hooks cannot be taken away."""

    def heard(event: str, arguments: tuple[Any, ...]) -> None:
        if event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
            if isinstance(arguments[-1], tuple):  # else a socket in this machine's file system
                note(f"{event} {arguments[-1]}")
        elif event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"):
            note(f"{event} {arguments[0]}")

    sys.addaudithook(heard)


@contextmanager
def connections() -> Iterator[list[str]]:
    """What this process connects to meanwhile."""
    noted: list[str] = []
    listening = [True]
    hook(lambda line: noted.append(line) if listening else None)
    yield noted
    listening.clear()


SITECUSTOMIZE = """
import os, sys
sys.path.append(os.environ["RBFT_TEST_HELPERS"])
from connections import hook

def refuse(line):
    with open(os.environ["RBFT_TEST_NOTED"], "a") as file:
        file.write(line + "\\n")
    raise PermissionError("no network in this test")

hook(refuse)
"""
"""Notes and refuses the connections of a process that finds this on its path."""
