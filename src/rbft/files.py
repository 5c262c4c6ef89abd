"""Reading and writing files so that nothing is lost: atomic writes, a lock, torn JSONL tails, safe YAML, hashes."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import platform
import re
import secrets
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from io import FileIO
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError
from pydantic_core import PydanticSerializationError
from yaml.composer import ComposerError
from yaml.constructor import ConstructorError

from rbft.errors import ExperimentError, StoreError
from rbft.records import Record

if sys.platform != "win32":
    import fcntl

MAX_YAML_BYTES = 1_000_000
MAX_YAML_DEPTH = 50
LOCK = ".lock"
TEMPORARY = "rbft-"
LEFTOVER_SECONDS = 24 * 3600.0
"""A temporary file that was not written to for so long has no writer any more."""
MAKE_AGAIN = "move it away: the same command makes it again"
"""What to do about a damaged file that is made of other things."""
WITHOUT_LOG = "move the file away: the same command goes on, and its report is without what the file held"
MAKE_ROWS_AGAIN = "move the file away: the same command makes again what is not there"
PAUSES_SECONDS = (0.2, 1.0, 5.0)
"""Before what a device or a network share refused is tried again."""
_MAX_DIGITS = 300
_PASSING = (errno.EIO, errno.ESTALE)
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
_PART = re.compile(r"\..{1,40}\.[0-9a-f]{12}\.part", re.DOTALL)
_TAG = "tag:yaml.org,2002:"
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
R = TypeVar("R", bound=Record)
T = TypeVar("T")


@contextlib.contextmanager
def written_whole(path: Path, needed_bytes: int | None = None) -> Iterator[Path]:
    """Give a temporary path beside `path`; rename it into place when the block ends, remove it when the block fails.

    A killed process leaves `path` as it was, and at worst a hidden `.part` file that nobody reads. Raises StoreError,
    naming the path, where the disk refuses; `needed_bytes` is said then.
    """
    temporary = path.with_name(f".{path.name[:40]}.{secrets.token_hex(6)}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch(exist_ok=False)
    except OSError as error:
        raise refused(path, error, needed_bytes) from error
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise refused(path, error, needed_bytes) from error
    finally:
        temporary.unlink(missing_ok=True)


def retried(action: Callable[[], T]) -> T:
    """What an action on files gives; three more times, after longer and longer pauses, where the device fails (EIO)
    or a network share has lost the file (ESTALE)."""
    for pause in PAUSES_SECONDS:
        try:
            return action()
        except (OSError, StoreError) as error:
            fault = error.__cause__ if isinstance(error, StoreError) else error
            if not isinstance(fault, OSError) or fault.errno not in _PASSING:
                raise
            time.sleep(pause)
    return action()


def require_room(folder: Path, needed_bytes: int, what: str) -> None:
    """Raise StoreError, before anything is written, where the disk of a folder has less room than `what` needs."""
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    free = shutil.disk_usage(there).free
    if needed_bytes > free:
        raise StoreError(
            f"{folder}: no room for {what}: {_size(needed_bytes)} needed, {_size(free)} free. {_MAKE_ROOM}"
        )


_ELSEWHERE = "or name another place with `output` or --out"
_LOOK_AT_DISK = "look at the disk or the network share, and give the same command again"
_MAKE_ROOM = "Free some space there, or name another `output`, and give the same command again"


def sweep(folder: Path) -> None:
    """Remove the temporary files that killed writers left below a folder: named by `written_whole`, and a day old.

    Their age is asked, and not whether a process lives: processes of other machines may write into the same folder.
    """
    before = time.time() - LEFTOVER_SECONDS
    for base, _, names in os.walk(folder):
        for path in (Path(base, name) for name in names if _PART.fullmatch(name)):
            with contextlib.suppress(OSError):  # gone by now, or another user's: a later run finds it again
                if path.lstat().st_mtime < before:
                    path.unlink()


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Keep a folder for this process until the block ends; the system lets go of it too when the process is killed.

    Raises StoreError, naming the other process, where one works there. Windows, and file systems without locks, hold
    nothing.
    """
    path = folder / LOCK
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = path.open("a+b", buffering=0)
    except OSError as error:
        raise refused(path, error) from error
    with file:
        try:
            _lock(file)
            file.truncate(0)
            file.write(f"{os.getpid()} on {platform.node()}".encode())
        except BlockingIOError:
            raise _taken(folder, path) from None
        except OSError as error:
            raise refused(path, error) from error
        yield


@contextlib.contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder of the system's temporary one, removed when the block ends.

    Those that killed processes of this user left are removed too: a day old, and held by nobody.
    """
    with tempfile.TemporaryDirectory(prefix=TEMPORARY) as name, held(Path(name)):
        _sweep_beside(Path(name))
        yield Path(name)


def _sweep_beside(folder: Path) -> None:
    owner, before = folder.stat().st_uid, time.time() - LEFTOVER_SECONDS
    for left in folder.parent.glob(f"{TEMPORARY}*"):
        with contextlib.suppress(OSError, StoreError):  # gone by now, or another process works there
            found = left.lstat()
            if stat.S_ISDIR(found.st_mode) and found.st_uid == owner and found.st_mtime < before:
                with held(left):
                    shutil.rmtree(left)


def _lock(file: FileIO) -> None:
    """Lock an open file; raises BlockingIOError where another process has it."""
    if sys.platform == "win32":
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
            raise


def _taken(folder: Path, lock: Path) -> StoreError:
    pid = lock.read_bytes().decode()
    who = f"another rbft (process {pid})" if pid else "another rbft"
    return StoreError(
        f"{folder}: {who} works here; wait until it has ended, or end it and give the same command again, "
        "or give this run a `name` of its own"
    )


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text, whole or not at all."""

    def write() -> None:
        with written_whole(path, len(text.encode(errors="replace"))) as temporary:
            temporary.write_text(text, encoding="utf-8", newline="\n")

    retried(write)


def write_record(path: Path, record: Record) -> None:
    """Write one record as indented JSON, whole or not at all."""
    write_text(path, _json(path, record, indent=2))


def read_record(path: Path, kind: type[R], step: str = MAKE_AGAIN) -> R:
    """Read one record; raises StoreError, naming the file, the field and the next `step`, where it does not fit."""
    try:
        return kind.model_validate_json(retried(path.read_bytes))
    except OSError as error:
        raise _unread(path, error, step) from error
    except ValidationError as error:
        fault = f"{path}: {_misfit(kind, error)}"
        raise StoreError(f"{fault}; {step}" if step else fault) from None


def write_jsonl(path: Path, records: Iterable[Record]) -> None:
    """Write records one a line, whole or not at all."""
    write_text(path, "".join(_json(path, record) for record in records))


def read_jsonl(path: Path, kind: type[R], step: str = MAKE_ROWS_AGAIN) -> list[R]:
    """Read records one a line; a torn last line (no newline: the writer was killed) is not there.

    Raises StoreError, naming the line and the next `step`, where a finished line does not fit or the file cannot be
    read.
    """
    records: list[R] = []
    try:
        for line in finished_lines(path, step):
            records.append(kind.model_validate_json(line))
    except ValidationError as error:
        fault = f"{path}:{len(records) + 1}: {_misfit(kind, error)}"
        raise StoreError(f"{fault}; delete the line, or {step}") from None
    return records


def _unread(path: Path, error: OSError, step: str) -> StoreError:
    if error.errno in _PASSING:
        step = _LOOK_AT_DISK
    elif isinstance(error, PermissionError):
        step = "make it readable for you, and give the same command again"
    told = f"{path}: cannot be read: {error.strerror}"
    return StoreError(f"{told}; {step}" if step and not isinstance(error, FileNotFoundError) else told)


def misnamed(path: Path, wrong: str) -> StoreError:
    """The error of a file of records that was copied or renamed to another one's name; `wrong` is the first of them."""
    return StoreError(f"{path}: holds records of something else than its name says: {wrong}; {MAKE_ROWS_AGAIN}")


def finished_lines(path: Path, step: str = MAKE_ROWS_AGAIN) -> list[bytes]:
    """The lines of a file that end, without their ends; raises StoreError where it cannot be read."""
    try:
        return retried(lambda: [line[:-1] for line in _finished_lines(path)])
    except OSError as error:
        raise _unread(path, error, step) from error


class JsonlAppender:
    """Append records to a JSONL file, each flushed to disk as it comes; a torn tail is cut off first.

    Raises StoreError, naming the path, where the disk refuses.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = retried(self._opened)
        except OSError as error:
            raise refused(path, error) from error

    def _opened(self) -> FileIO:
        if self._path.exists():
            whole = sum(len(line) for line in _finished_lines(self._path))
            if whole < self._path.stat().st_size:
                os.truncate(self._path, whole)
        return self._path.open("ab", buffering=0)

    def append(self, records: Iterable[Record]) -> None:
        """Write records and wait until they are on disk, all of them or (StoreError: the disk refuses) none."""
        text = "".join(_json(self._path, record) for record in records).encode()
        try:
            retried(lambda: self._append(text))
        except OSError as error:
            raise refused(self._path, error, len(text)) from error

    def _append(self, text: bytes) -> None:
        if self._file.closed:
            self._file = self._opened()
        size, rest = os.fstat(self._file.fileno()).st_size, memoryview(text)
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
            os.fsync(self._file.fileno())
        except OSError:
            with self._file, contextlib.suppress(OSError):  # what cannot be cut off is cut off when it is opened again
                self._file.truncate(size)
            raise

    def __enter__(self) -> JsonlAppender:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def why_unread(path: Path, error: OSError) -> str:
    """Why a file that a user names cannot be read; an address is no file of this machine."""
    return f"cannot be read: {error.strerror}{address_hint(path)}"


def address_hint(path: str | Path) -> str:
    """What to say after "there is no such file" where the path is an address, else nothing."""
    if not _ADDRESS.match(str(path)):
        return ""
    return "; it is an address, and rbft reads files of this machine alone: download it and name the file"


def sha256_of(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""

    def hashed() -> str:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    return retried(hashed)


def read_yaml(path: Path, *, text_below: tuple[str, ...] = ()) -> Any:
    """Read a YAML file of at most 1 MB: safe tags only, no aliases, no name twice in one mapping.

    Scalars below the root keys `text_below` stay text: `no` is "no" there, and `2024-01-01` no date. Raises
    ExperimentError, naming the file and the line.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_YAML_BYTES + 1)
    except OSError as error:
        raise ExperimentError(f"{path}: {why_unread(path, error)}") from None
    if len(raw) > MAX_YAML_BYTES:
        raise ExperimentError(f"{path}: longer than {MAX_YAML_BYTES} bytes; is this the file you meant?")
    try:
        return parse_yaml(raw.decode("utf-8-sig"), text_below=text_below)
    except UnicodeDecodeError as error:
        raise ExperimentError(f"{path}: not UTF-8 at byte {error.start}; save it as UTF-8") from None
    except yaml.YAMLError as error:
        raise ExperimentError(f"{path}: not readable as YAML: {yaml_fault(error)}") from None


def parse_yaml(text: str, *, text_below: tuple[str, ...] = (), all_text: bool = False) -> Any:
    """Parse YAML text as `read_yaml` does; with `all_text` every scalar stays text. Raises yaml.YAMLError."""
    loader = _Loader(text)
    root = loader.get_single_node()
    if root is None:
        return None
    if all_text:
        _mark_as_text(root)
    elif isinstance(root, yaml.MappingNode):
        for key, value in root.value:
            if key.value in text_below:
                _mark_as_text(value)
    return loader.construct_document(root)


def yaml_fault(error: yaml.YAMLError) -> str:
    """What is wrong, and where, in one line."""
    if not isinstance(error, yaml.MarkedYAMLError):
        return " ".join(str(error).split())
    mark = error.problem_mark or error.context_mark
    where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
    return where + ", ".join(part for part in (error.context, error.problem) if part)


class _Loader(yaml.SafeLoader):
    """Safe tags only. No aliases and no merges: nothing an experiment needs, and the way to endless expansion."""

    _depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
        if self.check_event(yaml.AliasEvent):
            raise ComposerError(None, None, "aliases (*name) are not used here", mark)
        self._depth += 1
        if self._depth > MAX_YAML_DEPTH:
            raise ComposerError(None, None, f"nested more than {MAX_YAML_DEPTH} deep", mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def compose_mapping_node(self, anchor: Any) -> Any:
        """A mapping; a name that stands in it twice would silently replace the first."""
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if key.tag == _TAG + "merge":
                raise ComposerError(None, None, "merges (<<) are not used here", key.start_mark)
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise ComposerError(None, None, f"{key.value!r:.80} stands here twice; keep one", key.start_mark)
            seen.add(key.value if isinstance(key, yaml.ScalarNode) else id(key))
        return node

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        """A value; what looks like a number or a date and is none (`2024-13-01`) is a fault with a place."""
        try:
            if node.tag == _TAG + "int" and len(node.value) > _MAX_DIGITS:
                raise ValueError("too many digits")
            return super().construct_object(node, deep)
        except (ValueError, KeyError, AttributeError):
            fault = f"{node.value!r:.80} cannot be read as {node.tag.removeprefix(_TAG)}; text goes in quotes"
            raise ConstructorError(None, None, fault, node.start_mark) from None


def _mark_as_text(node: yaml.Node) -> None:
    if isinstance(node, yaml.ScalarNode):
        if node.tag.removeprefix(_TAG) in ("null", "bool", "int", "float", "timestamp", "value"):
            node.tag = _TAG + "str"
    elif isinstance(node, yaml.SequenceNode):
        for part in node.value:
            _mark_as_text(part)
    elif isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            _mark_as_text(key)
            _mark_as_text(value)


def _finished_lines(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                yield line


def _json(path: Path, record: Record, *, indent: int | None = None) -> str:
    try:
        return record.model_dump_json(indent=indent) + "\n"
    except PydanticSerializationError as error:  # a lone surrogate: a file name that is not UTF-8
        raise StoreError(f"{path}: a {type(record).__name__} cannot be written as UTF-8: {error}") from None


def refused(path: Path, error: OSError, needed_bytes: int | None = None) -> StoreError:
    """The error of a disk that did not take a file: why, and what to do."""
    what = f"{path}: cannot be written: {error.strerror or error}"
    there = next(place for place in path.absolute().parents if place.exists())
    if error.errno in _NO_ROOM:
        facts = [] if needed_bytes is None else [f"{_size(needed_bytes)} needed"]
        if error.errno == errno.ENOSPC:  # beside a quota, what the disk has free says nothing
            facts.append(f"{_size(shutil.disk_usage(there).free)} free")
        return StoreError(what + (f" ({', '.join(facts)})" if facts else "") + f". {_MAKE_ROOM}")
    if not there.is_dir():
        return StoreError(f"{what}. {there} is a file where a folder is needed: move it away, {_ELSEWHERE}")
    if error.errno == errno.EISDIR:
        return StoreError(f"{what}. It is a folder where a file is needed: move it away, {_ELSEWHERE}")
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return StoreError(f"{what}. Make it writable, {_ELSEWHERE}")
    if error.errno in _PASSING:
        return StoreError(f"{what}; {_LOOK_AT_DISK}")
    return StoreError(f"{what}. Mend that, {_ELSEWHERE}")


def _size(count: int) -> str:
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.1f} MB"


def _misfit(kind: type[Record], error: ValidationError) -> str:
    fault = error.errors()[0]
    what = f"{'an' if kind.__name__[0] in 'AEIO' else 'a'} {kind.__name__}"
    return f"not {what} of this version: {'.'.join(map(str, fault['loc'])) or 'line'}: {fault['msg']}"
