"""Files that are whole or not there, JSONL that survives a kill, and YAML that can do nothing but hold values."""

from __future__ import annotations

import codecs
import errno
import hashlib
import math
import os
import platform
import resource
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from rbft.errors import ExperimentError, StoreError
from rbft.files import (
    LOCK,
    MAKE_AGAIN,
    MAKE_ROWS_AGAIN,
    MAX_YAML_BYTES,
    JsonlAppender,
    held,
    parse_yaml,
    read_jsonl,
    read_record,
    read_yaml,
    sha256_of,
    sweep,
    temporary_folder,
    write_jsonl,
    write_record,
    write_text,
    written_whole,
)
from rbft.records import Box, LeftOut, LossPoint

POINTS = [LossPoint(step=i, loss=0.5 / (i + 1), learning_rate=1e-5) for i in range(3)]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@contextmanager
def full_disk(free_bytes: int) -> Iterator[None]:
    """No file can grow beyond `free_bytes`; Python ignores the signal and gets an OSError, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (free_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


# -- atomic writes -------------------------------------------------------------------------------------------------


def test_text_is_utf8_with_plain_line_ends(tmp_path: Path) -> None:
    write_text(tmp_path / "deep" / "er" / "a.txt", "é\nツ\n")
    assert (tmp_path / "deep" / "er" / "a.txt").read_bytes() == "é\nツ\n".encode()
    assert names(tmp_path / "deep" / "er") == ["a.txt"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, MemoryError])
def test_a_writer_that_fails_leaves_the_old_file_whole_and_nothing_else(
    error: type[BaseException], tmp_path: Path
) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(error), written_whole(path) as temporary:
        temporary.write_text("half of the n")
        raise error
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_a_killed_writer_leaves_the_old_file_whole(tmp_path: Path) -> None:
    """Every kill -9, whenever it comes: the file is the old or a new one, never a half, and is written again after."""
    path = tmp_path / "a.txt"
    write_text(path, "old" * 100_000)
    script = (
        "import sys\nfrom pathlib import Path\nfrom rbft.files import written_whole\n"
        "with written_whole(Path(sys.argv[1])) as temporary:\n"
        "    temporary.write_text('half')\n    print('now', flush=True)\n    sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"now\n"
        writer.kill()
    assert writer.returncode == -signal.SIGKILL
    assert path.read_text() == "old" * 100_000
    assert all(name == "a.txt" or (name.startswith(".a.txt.") and name.endswith(".part")) for name in names(tmp_path))
    write_text(path, "new")
    assert path.read_text() == "new"


def test_a_full_disk_leaves_the_old_file_whole_and_names_it(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with full_disk(1_000), pytest.raises(StoreError) as caught:
        write_text(path, "new" * 1_000)
    assert (
        str(caught.value)
        == f"{path}: cannot be written: {os.strerror(27)}. Mend that, or name another place with `output` or --out"
    )
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    path = tmp_path / "file" / "deeper" / "a.txt"
    for write in (lambda: write_text(path, "x"), lambda: JsonlAppender(path)):
        with pytest.raises(StoreError) as caught:
            write()
        assert str(caught.value) == (
            f"{path}: cannot be written: Not a directory. {tmp_path / 'file'} is a file where a folder is needed: "
            "move it away, or name another place with `output` or --out"
        )


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_folder_without_permission_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    path = tmp_path / "a.txt"
    for write in (lambda: write_text(path, "x"), lambda: JsonlAppender(path)):
        with pytest.raises(StoreError) as caught:
            write()
        told = "Permission denied. Make it writable, or name another place with `output` or --out"
        assert str(caught.value) == f"{path}: cannot be written: {told}"
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("code", "written", "read"),
    [
        (errno.EACCES, "Make it writable, or name another place with `output` or --out", "make it readable for you"),
        (errno.EPERM, "Make it writable, or name another place with `output` or --out", "make it readable for you"),
        (errno.EROFS, "Make it writable, or name another place with `output` or --out", MAKE_AGAIN),
        (errno.EIO, "look at the disk or the network share", "look at the disk or the network share"),
        (errno.ENAMETOOLONG, "Mend that, or name another place with `output` or --out", MAKE_AGAIN),
    ],
)
def test_a_refusal_says_what_to_do(
    code: int, written: str, read: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("time.sleep", lambda _: None)
    for name, action, told in (
        ("touch", lambda: write_text(tmp_path / "a.json", "x"),
         f"cannot be written: {os.strerror(code)}[.;] {written}"),
        ("read_bytes", lambda: read_record(tmp_path / "a.json", LossPoint),
         f"cannot be read: {os.strerror(code)}; {read}"),
    ):  # fmt: skip
        monkeypatch.setattr(f"pathlib.Path.{name}", refuse)
        with pytest.raises(StoreError, match=rf"a\.json: {told}"):
            action()


def test_a_folder_in_the_place_of_the_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.txt").mkdir()
    for write in (lambda: write_text(tmp_path / "a.txt", "x"), lambda: JsonlAppender(tmp_path / "a.txt")):
        with pytest.raises(StoreError) as caught:
            write()
        assert str(caught.value) == (
            f"{tmp_path / 'a.txt'}: cannot be written: Is a directory. It is a folder where a file is needed: move it "
            "away, or name another place with `output` or --out"
        )
    assert names(tmp_path) == ["a.txt"]


def test_files_have_the_users_own_permissions(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "a.txt", "x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == 0o640


def test_the_longest_name_can_be_written(tmp_path: Path) -> None:
    for name in ("x" * 255, "🎬" * 63):
        write_text(tmp_path / name, "x")
        assert (tmp_path / name).read_text() == "x"


@given(st.binary(max_size=3_000))
@settings(max_examples=50)
def test_sha256_is_that_of_hashlib(tmp_path_factory: pytest.TempPathFactory, raw: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "sha256"
    path.write_bytes(raw)
    assert sha256_of(path) == hashlib.sha256(raw).hexdigest()


# -- records -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, 5e-324, 0.1 + 0.2, 1e300])
def test_every_number_that_is_written_is_read_back(number: float, tmp_path: Path) -> None:
    """A loss that became nan must be readable afterwards: it is what the user looks for."""
    write_jsonl(tmp_path / "a.jsonl", [LossPoint(step=1, loss=number, learning_rate=1.0)])
    [point] = read_jsonl(tmp_path / "a.jsonl", LossPoint)
    assert repr(point.loss) == repr(number)


def test_a_record_that_does_not_fit_names_file_and_field(tmp_path: Path) -> None:
    path = tmp_path / "point.json"
    write_record(path, POINTS[0])
    assert read_record(path, LossPoint) == POINTS[0]
    for text, fault in {
        '{"step":1,"loss":1,"learning_rate":1,"colour":2}': "colour: Extra inputs are not permitted",
        '{"step":1,"loss":1}': "learning_rate: Field required",
        '{"step":"x","loss":1,"learning_rate":1}': "step: Input should be a valid integer, unable "
        "to parse string as an integer",
    }.items():
        path.write_text(text)
        with pytest.raises(StoreError) as caught:
            read_record(path, LossPoint)
        assert str(caught.value) == f"{path}: not a LossPoint of this version: {fault}; {MAKE_AGAIN}"
    for raw in (b"", b"{", b"\xff", b"null", b'"text"'):
        path.write_bytes(raw)
        with pytest.raises(StoreError, match=r"point\.json: not a LossPoint of this version: line: "):
            read_record(path, LossPoint)
    with pytest.raises(StoreError, match=r"none\.json: cannot be read: No such file or directory"):
        read_record(tmp_path / "none.json", LossPoint)


def test_a_name_that_is_not_utf8_is_a_fault_with_the_path(tmp_path: Path) -> None:
    record = LeftOut(clip_id="a", path=os.fsdecode(b"\xff.mp4"), reason="missing", detail="")
    path = tmp_path / "a"
    with JsonlAppender(path) as file:
        for write in (
            lambda: write_record(path, record),
            lambda: write_jsonl(path, [record]),
            lambda: file.append([record]),
        ):
            with pytest.raises(StoreError, match=r"a: a LeftOut cannot be written as UTF-8: .*surrogates not allowed"):
                write()
    assert names(tmp_path) == ["a"]
    assert path.read_bytes() == b""


# -- JSONL ---------------------------------------------------------------------------------------------------------


def test_torn_at_every_byte_of_the_last_line(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    write_jsonl(path, POINTS)
    raw = path.read_bytes()
    start = raw.rstrip(b"\n").rindex(b"\n") + 1
    for end in range(start, len(raw) + 1):
        whole = POINTS if end == len(raw) else POINTS[:2]
        path.write_bytes(raw[:end])
        assert read_jsonl(path, LossPoint) == whole
        assert path.read_bytes() == raw[:end], "reading changes nothing"
        with JsonlAppender(path) as file:
            file.append(POINTS[2:])
        assert read_jsonl(path, LossPoint) == [*whole, POINTS[2]]


def test_torn_in_the_first_line_and_empty(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    for raw in (b"", b'{"st'):
        path.write_bytes(raw)
        assert read_jsonl(path, LossPoint) == []
        with JsonlAppender(path) as file:
            file.append([])
        assert path.read_bytes() == b""


@given(st.lists(st.builds(Box, t=st.floats(0, 1e6), box=st.tuples(*[st.floats(0, 1)] * 4)), max_size=6), st.data())
@settings(max_examples=60)
def test_cut_anywhere_the_finished_lines_are_there(
    tmp_path_factory: pytest.TempPathFactory, boxes: list[Box], data: st.DataObject
) -> None:
    path = tmp_path_factory.getbasetemp() / "cut.jsonl"
    write_jsonl(path, boxes)
    raw = path.read_bytes()
    cut = raw[: data.draw(st.integers(0, len(raw)))]
    path.write_bytes(cut)
    assert read_jsonl(path, Box) == boxes[: cut.count(b"\n")]


def test_lines_end_at_a_line_feed_and_nowhere_else(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    record = LeftOut(clip_id="a\u2028b\x85c\rd\ne", path="x", reason="missing", detail="")
    write_jsonl(path, [record, record])
    assert read_jsonl(path, LeftOut) == [record, record]


def test_a_finished_line_that_does_not_fit_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    write_jsonl(path, POINTS)
    for line, fault in {
        b'{"step":1,"loss":1,"learning_rate":1,"colour":2}': "colour: Extra inputs are not permitted",
        b'{"step":1': "line: Invalid JSON: EOF while parsing an object at line 1 column 9",
        b"": "line: Invalid JSON: EOF while parsing a value at line 1 column 0",
    }.items():
        path.write_bytes(b"".join(p.model_dump_json().encode() + b"\n" for p in POINTS[:2]) + line + b"\n")
        with pytest.raises(StoreError) as caught:
            read_jsonl(path, LossPoint)
        told = f"{path}:3: not a LossPoint of this version: {fault}; delete the line, or {MAKE_ROWS_AGAIN}"
        assert str(caught.value) == told


def test_a_jsonl_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError) as caught:
        read_jsonl(tmp_path / "a.jsonl", LossPoint)
    assert str(caught.value) == f"{tmp_path / 'a.jsonl'}: cannot be read: No such file or directory"


def test_what_does_not_fit_on_the_disk_is_not_half_there(tmp_path: Path) -> None:
    """A batch is appended whole or not at all, closing raises nothing more, and the same appender goes on after."""
    path = tmp_path / "a.jsonl"
    with JsonlAppender(path) as file:
        file.append(POINTS[:1])
        size = path.stat().st_size
        with full_disk(size + 70), pytest.raises(StoreError) as caught:
            file.append(POINTS[1:])
        assert path.stat().st_size == size
        file.append(POINTS[1:])
    assert (
        str(caught.value)
        == f"{path}: cannot be written: {os.strerror(27)}. Mend that, or name another place with `output` or --out"
    )
    assert read_jsonl(path, LossPoint) == POINTS
    with full_disk(path.stat().st_size), pytest.raises(StoreError), JsonlAppender(path) as file:
        file.append(POINTS)
    assert read_jsonl(path, LossPoint) == POINTS


# -- YAML ----------------------------------------------------------------------------------------------------------


def fault(folder: Path, raw: str | bytes) -> str:
    """What `read_yaml` says about a file, without the file's name."""
    path = folder / "x.yaml"
    path.write_bytes(raw.encode() if isinstance(raw, str) else raw)
    with pytest.raises(ExperimentError) as caught:
        read_yaml(path, text_below=("labels",))
    assert len(caught.value.faults) == 1
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"{path}: ")
    return str(caught.value).removeprefix(f"{path}: ").removeprefix("not readable as YAML: ")


@pytest.mark.parametrize("tag", ["!!python/object:os.system", "!!python/name:os.system", "!!python/tuple", "!mine"])
@pytest.mark.parametrize(
    "where", ["{} {{}}", "a: {} b", "labels: {} {{a: b}}", "labels: {{a: {} b}}", "labels: {{{} a: b}}"]
)
def test_only_safe_tags(tag: str, where: str, tmp_path: Path) -> None:
    assert "could not determine a constructor for the tag" in fault(tmp_path, where.format(tag))


def test_aliases_are_refused_before_they_expand(tmp_path: Path) -> None:
    levels = [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 30)]
    bomb = "\n".join(["a0: &a0 [x, x]", *levels])
    assert fault(tmp_path, bomb) == "line 2, column 10: aliases (*name) are not used here"
    assert fault(tmp_path, "&a [*a]") == "line 1, column 5: aliases (*name) are not used here"
    assert fault(tmp_path, "a: {<<: {b: 1}}") == "line 1, column 5: merges (<<) are not used here"


@pytest.mark.parametrize("bomb", ["[" * 5_000, "{a: " * 5_000, "- " * 5_000, "? " * 5_000, "[" * 60 + "]" * 60])
def test_nesting_is_bounded(bomb: str, tmp_path: Path) -> None:
    assert fault(tmp_path, bomb).endswith("nested more than 50 deep")
    assert parse_yaml("[" * 50 + "]" * 50)


def test_size_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_bytes(b"a: " + b"x" * (MAX_YAML_BYTES - 3))
    assert len(read_yaml(path)["a"]) == MAX_YAML_BYTES - 3
    assert fault(tmp_path, path.read_bytes() + b"x") == ("longer than 1000000 bytes; is this the file you meant?")


def test_an_endless_file_is_not_read_to_its_end() -> None:
    with pytest.raises(ExperimentError, match="longer than 1000000 bytes"):
        read_yaml(Path("/dev/zero"))


def test_not_utf8_names_the_byte_and_a_byte_order_mark_is_nothing(tmp_path: Path) -> None:
    assert fault(tmp_path, b"a: caf\xe9") == "not UTF-8 at byte 6; save it as UTF-8"
    assert fault(tmp_path, "a: 1".encode("utf-16")) == "not UTF-8 at byte 0; save it as UTF-8"
    path = tmp_path / "x.yaml"
    path.write_bytes(codecs.BOM_UTF8 + "a: é\r\nb: 2\r\n".encode())
    assert read_yaml(path) == {"a": "é", "b": 2}


def test_labels_stay_text(tmp_path: Path) -> None:
    words = [
        "no",
        "on",
        "NULL",
        "~",
        "1e3",
        "01",
        "0x1F",
        "true",
        "Yes",
        "2024-01-01",
        "1_000",
        "12:30:00",
        ".inf",
        "=",
    ]
    path = tmp_path / "x.yaml"
    path.write_text("labels:\n" + "".join(f"  {word}: {word}\n" for word in words))
    assert read_yaml(path, text_below=("labels",)) == {"labels": {word: word for word in words}}
    path.write_text("labels: [" + ", ".join(words) + "]\nother: {labels: [no]}\n")
    assert read_yaml(path, text_below=("labels",)) == {"labels": words, "other": {"labels": [False]}}
    assert parse_yaml("{no: on}", all_text=True) == {"no": "on"}
    assert parse_yaml("no", all_text=True) == "no"
    assert parse_yaml("", all_text=True) is None


def test_a_name_twice_in_one_mapping_is_a_fault(tmp_path: Path) -> None:
    assert fault(tmp_path, "fps: 1\na: {b: 1}\nfps: 2") == "line 3, column 1: 'fps' stands here twice; keep one"
    assert fault(tmp_path, "labels: {no: a, 'no': b}") == "line 1, column 17: 'no' stands here twice; keep one"
    assert parse_yaml("{a: {x: 1}, b: {x: 2}}") == {"a": {"x": 1}, "b": {"x": 2}}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: 2024-13-01", "line 1, column 4: '2024-13-01' cannot be read as timestamp; text goes in quotes"),
        ("a: !!int x", "line 1, column 4: 'x' cannot be read as int; text goes in quotes"),
        ("a: !!bool x", "line 1, column 4: 'x' cannot be read as bool; text goes in quotes"),
        ("a: !!timestamp x", "line 1, column 4: 'x' cannot be read as timestamp; text goes in quotes"),
        ("a: 0x_", "line 1, column 4: '0x_' cannot be read as int; text goes in quotes"),
        ("? [a]\n: b", "line 1, column 3: while constructing a mapping, found unhashable key"),
        ("a: [1", "line 1, column 6: while parsing a flow sequence, expected ',' or ']', but got '<stream end>'"),
        ("a: b: c", "line 1, column 5: mapping values are not allowed here"),
        ("a: 1\n---\nb: 2", "line 2, column 1: expected a single document in the stream, but found another document"),
    ],
)  # fmt: skip
def test_faults_name_line_and_column(text: str, expected: str, tmp_path: Path) -> None:
    assert fault(tmp_path, text) == expected


def test_numbers_of_many_digits_are_refused(tmp_path: Path) -> None:
    for number in ("9" * 5_000, "0x" + "f" * 5_000, ":".join(["59"] * 5_000)):
        assert fault(tmp_path, f"a: {number}").endswith("cannot be read as int; text goes in quotes")


@pytest.mark.parametrize(("name", "why"), [("none.yaml", "No such file or directory"), ("", "Is a directory")])
def test_a_file_that_cannot_be_read(name: str, why: str, tmp_path: Path) -> None:
    with pytest.raises(ExperimentError) as caught:
        read_yaml(tmp_path / name)
    assert str(caught.value) == f"{tmp_path / name}: cannot be read: {why}"


@given(st.text(alphabet="ab01 :-?[]{}!&*#|>'\"%@`,\n\t<=._~\\x\x00é", max_size=40))
@settings(max_examples=300)
def test_any_text_is_a_value_or_a_yaml_error(text: str) -> None:
    try:
        value = parse_yaml(text, text_below=("a",))
    except yaml.YAMLError as error:
        assert str(error)
    else:
        assert isinstance(value, type(None) | bool | int | float | str | list | dict | set | bytes | date)


# -- what killed writers leave -------------------------------------------------------------------------------------


KILLED = """
import os, signal, sys
from pathlib import Path
from rbft.files import written_whole
with written_whole(Path(sys.argv[1])) as temporary:
    temporary.write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_leftovers_of_killed_writers_are_swept_after_a_day(tmp_path: Path) -> None:
    below = tmp_path / "predictions" / "ab"
    killed = subprocess.run([sys.executable, "-c", KILLED, str(below / "k.jsonl")], check=False)
    assert killed.returncode == -signal.SIGKILL
    [left] = below.iterdir()
    sweep(tmp_path)
    assert names(below) == [left.name], "a writer may be at it still"
    os.utime(left, (0, 0))
    sweep(tmp_path)
    assert names(below) == []


@pytest.mark.parametrize(
    "name",
    ["k.jsonl", "film.part", ".film.part", ".k.0123456789ab.tmp", ".k.0123456789xy.part", "k.0123456789ab.part",
     ".k.0123456789ab.part.mp4"],
)  # fmt: skip
def test_other_old_files_are_not_swept(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"mine")
    os.utime(tmp_path / name, (0, 0))
    sweep(tmp_path)
    assert names(tmp_path) == [name]


def test_sweeping_follows_no_link_out_of_the_folder(tmp_path: Path) -> None:
    part = tmp_path / "other" / ".k.0123456789ab.part"
    part.parent.mkdir()
    part.write_bytes(b"theirs")
    os.utime(part, (0, 0))
    run = tmp_path / "run"
    run.mkdir()
    (run / "link").symlink_to(part.parent)
    sweep(run)
    sweep(run / "none")
    assert part.read_bytes() == b"theirs"


# -- one process at a time -----------------------------------------------------------------------------------------


HOLDING = """
import sys
from pathlib import Path
from rbft.files import held
with held(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_folder_is_held_by_one_process_until_it_ends_or_is_killed(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "x"
    for ending in (signal.SIGKILL, None):
        other = subprocess.Popen(
            [sys.executable, "-c", HOLDING, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert other.stdin is not None and other.stdout is not None
        with other, other.stdout, other.stdin:
            assert other.stdout.readline() == "held\n"
            with pytest.raises(StoreError) as caught, held(folder):
                pass
            assert str(caught.value) == (
                f"{folder}: another rbft (process {other.pid} on {platform.node()}) works here; wait until it has "
                "ended, or end it and give the same command again, or give this run a `name` of its own"
            )
            assert (folder / LOCK).read_text() == f"{other.pid} on {platform.node()}", (
                "a refused process writes nothing"
            )
            if ending is not None:
                other.send_signal(ending)
        with held(folder):
            assert (folder / LOCK).read_text() == f"{os.getpid()} on {platform.node()}"


def test_what_happens_inside_ends_the_hold(tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(OSError, match="mine"), held(tmp_path):
            raise OSError("mine")


def test_a_file_system_without_locks_is_used_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(code: int) -> None:
        def flock(*_: object) -> None:
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr("fcntl.flock", flock)

    for code in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
        refused(code)
        with held(tmp_path):
            pass
    refused(errno.EIO)
    with pytest.raises(StoreError) as caught, held(tmp_path):
        pass
    told = "Input/output error; look at the disk or the network share, and give the same command again"
    assert str(caught.value) == f"{tmp_path / LOCK}: cannot be written: {told}"


def test_a_folder_that_cannot_be_made_is_not_held(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError) as caught, held(tmp_path / "file" / "run"):
        pass
    assert str(caught.value) == (
        f"{tmp_path / 'file' / 'run' / LOCK}: cannot be written: Not a directory. {tmp_path / 'file'} is a file where "
        "a folder is needed: move it away, or name another place with `output` or --out"
    )


# -- temporary folders ---------------------------------------------------------------------------------------------


def test_temporary_folders_of_killed_processes_are_removed_when_a_day_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not a young one, not one where a process works, not what a link leads to, and no other program's."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    kept = {"rbft-young", "rbft-held", "rbft-link", "rbft-file", "other"}
    for name in ("rbft-old", "rbft-young", "rbft-held", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "frames").write_bytes(b"x")
    (tmp_path / "rbft-link").symlink_to(tmp_path / "other")
    (tmp_path / "rbft-file").write_bytes(b"x")
    with held(tmp_path / "rbft-held"):
        for name in ("rbft-old", "rbft-held", "rbft-link", "rbft-file", "other"):
            os.utime(tmp_path / name, (0, 0), follow_symlinks=False)
        with temporary_folder() as folder:
            assert folder.parent == tmp_path and names(folder) == [LOCK]
            assert set(names(tmp_path)) == kept | {folder.name}
    assert set(names(tmp_path)) == kept
    assert (tmp_path / "other" / "frames").read_bytes() == b"x"


def test_a_temporary_folder_of_another_user_is_let_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    theirs = tmp_path / "rbft-theirs"
    theirs.mkdir()
    os.utime(theirs, (0, 0))
    real = Path.lstat

    def lstat(self: Path) -> os.stat_result:
        found = list(real(self))
        found[4] += self == theirs  # st_uid
        return os.stat_result(found)

    monkeypatch.setattr(Path, "lstat", lstat)
    with temporary_folder():
        pass
    assert names(tmp_path) == ["rbft-theirs"]
