"""Children that read files: their limits, their deaths, and the parent that outlives them."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from rbft.clips.cache import FrameCache
from rbft.clips.child import Reply, Request, answer, serve
from rbft.clips.pool import Reader, ReaderClosedError, readers
from rbft.errors import StoreError
from rbft.experiment import ClipLimits, Sampling
from rbft.records import Grid
from videos import picture

Make = Callable[..., Path]
SMALL = Sampling(fps=4.0, min_pixels=28 * 28, max_pixels=56 * 84)


def request(path: Path, *, cache: Path | None = None, sampling: Sampling = SMALL, **limits: float) -> Request:
    return Request(
        path=str(path), sha256="0" * 64, sampling=sampling, grid=Grid(), limits=ClipLimits(**limits),
        cache=None if cache is None else str(cache),
    )  # fmt: skip


@pytest.fixture
def reader() -> Reader:
    reader = Reader()
    yield reader
    reader.close()


def test_an_answer(clip: Path, tmp_path: Path) -> None:
    reply = answer(request(clip, cache=tmp_path))
    assert reply.decoded and reply.problem is None and reply.key is not None
    assert FrameCache(tmp_path).read(reply.key).data.shape == (12, 56, 56, 3)
    again = answer(request(clip, cache=tmp_path))
    assert again == reply.model_copy(update={"decoded": False})
    assert answer(request(clip)).key is None


def test_problems_are_answers(tmp_path: Path, clip: Path) -> None:
    assert answer(request(tmp_path / "absent.mp4")).problem == ("missing", "there is no such file")
    refused = answer(request(clip, sampling=SMALL.model_copy(update={"min_frames": 40, "too_few_frames": "error"})))
    assert refused.problem is not None and refused.problem[0] == "too_short"
    assert refused.probe is not None and refused.probe.num_frames == 30
    (tmp_path / "file").write_text("in the way")
    assert "cannot be written" in str(answer(request(clip, cache=tmp_path / "file" / "cache")).store_error)


def test_serving_lines(clip: Path) -> None:
    replies = io.StringIO()
    serve([request(clip).model_dump_json().encode()], replies)
    assert Reply.model_validate_json(replies.getvalue()).decoded


def test_a_child_reads_and_is_used_again(reader: Reader, clip: Path) -> None:
    first = reader.ask(request(clip))
    process = reader._process
    assert first.decoded and reader.ask(request(clip)) == first
    assert reader._process is process


def test_children_load_no_torch(clip: Path) -> None:
    code = "import sys, rbft.clips.child, rbft.clips.check; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_too_slow(reader: Reader, make: Make) -> None:
    big = make("big.mp4", [picture(i, 640, 480) for i in range(60)])
    reply = reader.ask(request(big, seconds=0.01))
    assert reply.problem is not None and reply.problem[0] == "too_slow"
    assert "more than 0.01 processor seconds (limits.seconds)" in reply.problem[1]
    assert reader.ask(request(big)).problem is None


def test_too_large(reader: Reader, make: Make) -> None:
    """Frames of 67 million pixels, each of them 100 MB, in a child that may have 64."""
    big = make("big.mp4", [picture(0, 8192, 8192)] * 2, encoder={"preset": "ultrafast", "crf": "40"})
    reply = reader.ask(request(big, megabytes=64, pixels=2**27))
    assert reply.problem is not None and reply.problem[0] == "too_large"
    assert "limits.megabytes" in reply.problem[1]
    assert reader.ask(request(big)).problem == (
        "too_large",
        "frames of 8192x8192; limits.pixels allows 33177600 in all",
    )


@pytest.mark.parametrize(
    ("end", "problem"),
    [
        (signal.SIGSEGV, ("unreadable", f"the reader stopped with exit code {-signal.SIGSEGV}")),
        (
            signal.SIGKILL,  # as the system does where memory ends
            ("too_large", "the system ended the reader, probably for its memory; see limits.megabytes"),
        ),
        (
            signal.SIGALRM,  # as its own timer does where it waits for ever
            ("too_slow", "the reader hung and was ended; is the disk or the network share slow?"),
        ),
    ],
)
def test_a_killed_child_is_a_problem_of_its_file_and_is_replaced(
    reader: Reader, clip: Path, end: signal.Signals, problem: tuple[str, str]
) -> None:
    def kill() -> None:
        while reader._process is None:
            time.sleep(0.001)
        reader._process.send_signal(end)

    killer = threading.Thread(target=kill)
    killer.start()
    reply = reader.ask(request(clip))
    killer.join()
    assert reply.problem == problem
    assert reader.ask(request(clip)).problem is None
    reader._process.kill()
    reader._process.wait()
    assert reader.ask(request(clip)).problem is None, "a child that died between two files is no fault of the second"


def test_a_child_that_hangs_is_ended(reader: Reader, clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped, it cannot even end itself; the parent's patience does it, and the next file gets a new child."""
    assert reader.ask(request(clip)).problem is None
    reader._process.send_signal(signal.SIGSTOP)
    with monkeypatch.context() as patch:
        patch.setattr("rbft.clips.pool._patience_seconds", lambda limits: 0.3)
        reply = reader.ask(request(clip))
    assert reply.problem == ("too_slow", "the reader hung and was ended; is the disk or the network share slow?")
    assert reader.ask(request(clip)).problem is None


def test_a_child_ends_itself_where_it_waits_for_ever() -> None:
    code = (
        "import time, rbft.clips.child as child\nchild.wall_seconds = lambda seconds: 0.2\n"
        "with child.bounded_seconds(5):\n    time.sleep(60)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == -signal.SIGALRM


def test_a_child_that_breaks_says_why(reader: Reader, clip: Path) -> None:
    class Nonsense(Request):
        def model_dump_json(self, **_: object) -> str:
            return "{}"

    reply = reader.ask(Nonsense.model_validate(request(clip).model_dump()))
    assert reply.problem is not None and reply.problem[0] == "unreadable"
    assert reply.problem[1].startswith("the reader stopped: ")


def test_a_full_or_blocked_cache_is_not_the_files_fault(reader: Reader, clip: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreError, match="cannot be written"):
        reader.ask(request(clip, cache=tmp_path / "file"))


def test_a_child_ends_with_its_parent(make: Make) -> None:
    """Its input closes in the midst of a file: it ends, though the work is not done."""
    slow = make("slow.mp4", [picture(i, 320, 240) for i in range(200)])
    child = subprocess.Popen([sys.executable, "-m", "rbft.clips.child"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdin is not None and child.stdout is not None
    many = (request(slow).model_dump_json() + "\n").encode() * 200
    child.stdin.write(many)
    child.stdin.flush()
    assert child.stdout.readline().startswith(b'{"probe":')
    child.stdin.close()
    assert child.wait(timeout=30) == 0
    answered = child.stdout.read().count(b"\n")
    child.stdout.close()
    assert answered < 199


def test_order_and_parallelism(clip: Path, tmp_path: Path) -> None:
    paths = [clip, tmp_path / "absent.mp4"] * 6
    with readers(2) as run:
        replies = list(run(lambda reader, path: reader.ask(request(path)), paths))
    assert [reply.problem is None for reply in replies] == [True, False] * 6


def test_no_child_is_left_behind(clip: Path) -> None:
    with pytest.raises(KeyboardInterrupt), readers(1) as run:
        for _ in run(lambda reader, path: reader.ask(request(path)), [clip] * 3):
            raise KeyboardInterrupt
    assert not [p for p in _children() if "rbft.clips.child" in p]


def _children() -> list[str]:
    lines = []
    for entry in Path("/proc").glob("[0-9]*") if sys.platform == "linux" else ():
        try:
            parent = entry.joinpath("stat").read_text().rsplit(")", 1)[1].split()[1]
            if parent == str(os.getpid()):
                lines.append(entry.joinpath("cmdline").read_text().replace("\0", " "))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return lines


def test_what_one_file_made_the_decoder_say_is_not_said_of_the_next(reader: Reader, make: Make) -> None:
    """FFmpeg repeats itself; a message that was kept back, or told late, would change the verdict."""
    path = make("header.avi", 3, codec="mjpeg", pixel_format="yuvj420p")
    data = path.read_bytes().replace(b"\xff\xc0\x00\x11\x08\x00\x30\x00\x40", b"\xff\xc0\x00\x11\x08\xff\xdc\xff\xdc")
    path.write_bytes(data)
    noise = path.with_name("noise.mp4")
    noise.write_bytes(bytes(5_000))
    too_large = ("too_large", "frames of 65500x65500; limits.pixels allows 33177600 in all")
    assert [reader.ask(request(path)).problem for _ in range(2)] == [too_large, too_large]
    assert reader.ask(request(noise)).problem == (
        "unreadable",
        "while reading the header: Invalid data found when processing input",
    )


def test_replies_are_plain_json(clip: Path) -> None:
    assert set(json.loads(answer(request(clip)).model_dump_json())) == {
        "probe", "plan", "key", "decoded", "thumbnails", "problem", "store_error",
    }  # fmt: skip


def test_a_closed_reader_starts_no_child(clip: Path) -> None:
    reader = Reader()
    reader.close()
    with pytest.raises(ReaderClosedError):
        reader.ask(request(clip))
    assert reader._process is None
