"""What the process that reads clips cannot do any more, and what it still can."""

from __future__ import annotations

import os
import re
import signal
import struct
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

import rbft
from rbft.clips.child import Request
from rbft.clips.confine import _MACHINES, _filter
from rbft.clips.pool import Reader
from rbft.experiment import ClipLimits, Sampling
from rbft.records import Grid

ALLOWED, REFUSED = "allowed", "refused"
CALLS = {
    # read, write, openat, mmap, clone, exit_group; then socket, execve, execveat, ptrace, process_vm_writev, io_uring
    "x86_64": ([0, 1, 257, 9, 56, 231], [41, 59, 322, 101, 311, 425]),
    "aarch64": ([63, 64, 56, 222, 220, 94], [198, 221, 281, 117, 271, 425]),
}
linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux confines")


def verdict(program: bytes, machine: int, call: int) -> str:
    """What a kernel makes of a filter: the few instructions that ours has."""
    steps = list(struct.iter_unpack("=HBBI", program))
    place, value = 0, 0
    while True:
        operation, yes, no, number = steps[place]
        place += 1
        match operation:
            case 0x20:
                value = {0: call, 4: machine}[number]
            case 0x15:
                place += yes if value == number else no
            case 0x35:
                place += yes if value >= number else no
            case 0x06:
                return {0x7FFF0000: ALLOWED, 0x00050001: REFUSED}[number]


@pytest.mark.parametrize("machine", CALLS)
def test_calls_that_are_refused(machine: str) -> None:
    name, small, _, refused = _MACHINES[machine]
    program = _filter(name, small, refused)
    usual, denied = CALLS[machine]
    assert {verdict(program, name, call) for call in usual} == {ALLOWED}
    assert {verdict(program, name, call) for call in denied} == {REFUSED}
    assert verdict(program, name, 0x40000000 + 1) == REFUSED, "the second table of calls"
    assert verdict(program, small, 1) == REFUSED, "calls of a 32-bit program go by other numbers"
    assert verdict(program, 0x80000016, denied[0]) == ALLOWED, "an emulated machine: its own numbers mean nothing here"


def confined(code: str, *arguments: str) -> str:
    """What a process prints that runs `code` after it was confined; skips where the kernel does not take part."""
    code = f"from rbft.clips.confine import confine\nprint(confine())\n{textwrap.dedent(code)}"
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    worked, said = done.stdout.split("\n", 1)
    if worked != "True":
        pytest.skip("this kernel, or the machine around it, allows no seccomp")
    return said.strip()


@linux
def test_no_sockets_and_no_programs() -> None:
    code = """
        import os, socket, subprocess
        for attempt in (socket.socket, lambda: subprocess.run(["true"]), lambda: os.execv("/bin/true", ["true"])):
            try:
                attempt()
            except PermissionError:
                print("refused")
    """
    assert confined(code).split() == ["refused"] * 3


@linux
def test_threads_that_were_there_before_are_confined_too() -> None:
    code = """
        import socket, threading
        from rbft.clips.confine import confine
        go, out = threading.Event(), []
        def attempt():
            go.wait()
            try:
                socket.socket()
            except PermissionError:
                out.append("refused")
        thread = threading.Thread(target=attempt)
        thread.start()
        confine()
        go.set()
        thread.join()
        print(out)
    """
    assert confined("").split() == []
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['refused']"


@linux
def test_files_are_read_and_written_as_before(tmp_path: Path) -> None:
    """Also those that only their owner may touch: nothing here changes who the process is."""
    secret = tmp_path / "secret"
    secret.write_text("mine")
    secret.chmod(0o600)
    code = """
        import os, sys
        from pathlib import Path
        path = Path(sys.argv[1])
        print(path.read_text(), os.getuid())
        path.with_name("made").write_text("new")
        path.with_name("made").replace(path.with_name("moved"))
    """
    assert confined(code, str(secret)) == f"mine {os.getuid()}"
    assert (tmp_path / "moved").read_text() == "new" and (tmp_path / "moved").stat().st_uid == os.getuid()


def test_only_the_confined_process_opens_videos() -> None:
    """One call in all of rbft opens a file with FFmpeg, and the modules around it are imported by the child alone.

    What shows, explains, covers or measures frames reads the cache. `rbft.tiny` writes and judges its own clips, and
    `rbft doctor` writes one for the reader.
    """
    source = Path(rbft.__file__).parent
    texts = {
        path.relative_to(source).as_posix(): path.read_text(encoding="utf-8")
        for path in source.rglob("*.py")
        if "tiny" not in path.parts and path.name != "places.py"
    }
    opening = re.compile(r"\bav\.open\b|\bcv2\b|\btorchvision\b|\bimageio\b|\bdecord\b|\btorchcodec\b|\bffmpeg\b")
    assert [name for name, text in texts.items() if opening.search(text)] == ["clips/container.py"]
    reading = re.compile(r"rbft\.clips\.(decode|probe)\b|container import .*\b(opened|packets)\b")
    assert {name for name, text in texts.items() if reading.search(text)} == {
        "clips/child.py", "clips/decode.py", "clips/probe.py",
    }  # fmt: skip


def asked(clip: Path) -> Request:
    return Request(path=str(clip), sha256="0" * 64, sampling=Sampling(), grid=Grid(), limits=ClipLimits())


@linux
def test_readers_are_confined(clip: Path) -> None:
    confined("")
    reader = Reader()
    try:
        assert reader.ask(asked(clip)).problem is None
        assert reader._process is not None
        status = dict(
            line.split(":\t", 1) for line in Path(f"/proc/{reader._process.pid}/status").read_text().splitlines()
        )
        limits = Path(f"/proc/{reader._process.pid}/limits").read_text()
    finally:
        reader.close()
    assert (status["Seccomp"], status["NoNewPrivs"]) == ("2", "1")
    assert [line.split()[4:6] for line in limits.splitlines() if line.startswith("Max core")] == [["0", "0"]]


@linux
def test_even_a_reader_that_hangs_ends_with_its_parent(clip: Path) -> None:
    """Stopped, it cannot notice that its input is closed; the kernel ends it."""
    code = """
        import os, signal, sys
        from rbft.clips.child import Request
        from rbft.clips.pool import Reader
        reader = Reader()
        reader.ask(Request.model_validate_json(sys.argv[1]))
        os.kill(reader._process.pid, signal.SIGSTOP)
        print(reader._process.pid, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), asked(clip).model_dump_json()], capture_output=True, text=True
    )
    assert done.returncode == -signal.SIGKILL
    child = int(done.stdout)
    for _ in range(200):
        if not _lives(child):
            return
        time.sleep(0.05)
    os.kill(child, signal.SIGKILL)
    pytest.fail("the reader outlived its parent")


def _lives(process: int) -> bool:
    try:
        return ") Z " not in Path(f"/proc/{process}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
