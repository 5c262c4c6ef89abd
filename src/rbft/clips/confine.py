"""What a process gives up before it opens files nobody vouches for: sockets, other programs, outliving its parent.

A hole in a decoder then reaches no network and starts nothing. The kernel refuses the calls (seccomp, which needs no
privilege and no namespace, so files are read and written as before), on Linux with x86-64 or ARM; elsewhere nothing is.
"""

from __future__ import annotations

import ctypes
import os
import signal
import struct
import sys

_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38
_SET_MODE_FILTER, _ALL_THREADS = 1, 1
_ALLOW, _REFUSE = 0x7FFF0000, 0x00050001
"""Let the call happen; fail it with EPERM."""
_LOAD, _IF_EQUAL, _IF_AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_X32_CALLS = 0x40000000
"""From here on x86-64 has every call a second time, for programs with short pointers."""

_MACHINES = {
    "x86_64": (0xC000003E, 0x40000003, 317, (41, 59, 322, 101, 311, 425)),
    "aarch64": (0xC00000B7, 0x40000028, 277, (198, 221, 281, 117, 271, 425)),
}
"""By machine: its name to the kernel, that of its 32-bit programs, its number of seccomp, and what is refused: socket,
execve, execveat, ptrace, process_vm_writev, io_uring_setup."""


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def confine() -> bool:
    """Give it all up, for good and in every thread; True where the kernel refuses the calls from now on."""
    if sys.platform != "linux":
        return False
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # what crashes on a file leaves no image of its memory
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    machine = _MACHINES.get(os.uname().machine)
    if machine is None or sys.maxsize < 2**32 or libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        return False
    name, small_name, seccomp, refused = machine
    code = _filter(name, small_name, refused)
    program = _Program(len(code) // 8, code)
    return bool(libc.syscall(seccomp, _SET_MODE_FILTER, _ALL_THREADS, ctypes.byref(program)) == 0)


def _filter(name: int, small_name: int, refused: tuple[int, ...]) -> bytes:
    """A program for the kernel: the refused calls fail, and all of 32-bit programs, which go by other numbers.

    Those of any other machine happen: there this one is emulated, and nothing here knows the numbers.
    """
    allow, refuse = len(refused) + 5, len(refused) + 6
    steps = [
        (_LOAD, 0, 0, 4),
        (_IF_EQUAL, refuse - 2, 0, small_name),
        (_IF_EQUAL, 0, allow - 3, name),
        (_LOAD, 0, 0, 0),
    ]
    for test, number in [(_IF_AT_LEAST, _X32_CALLS), *((_IF_EQUAL, number) for number in refused)]:
        steps.append((test, refuse - len(steps) - 1, 0, number))
    steps += [(_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _REFUSE)]
    return b"".join(struct.pack("=HBBI", *step) for step in steps)
