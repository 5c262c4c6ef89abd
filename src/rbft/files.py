"""Reading and writing files so that nothing is lost: atomic writes, JSONL with a torn tail, safe YAML, checksums."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from rbft.errors import ExperimentError, StoreError
from rbft.records import Record

MAX_YAML_BYTES = 1_000_000
R = TypeVar("R", bound=Record)


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; rename it into place when the block ends, remove it when the block fails.

    Raises StoreError, naming the path, where the disk refuses.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:100]}.", suffix=".part")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as error:
        raise StoreError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text, whole or not at all."""
    with written_whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_record(path: Path, record: Record) -> None:
    """Write one record as indented JSON, whole or not at all."""
    write_text(path, record.model_dump_json(indent=2) + "\n")


def read_record(path: Path, kind: type[R]) -> R:
    """Read one record; raises StoreError, naming the file and the field, where it does not fit."""
    try:
        return kind.model_validate_json(path.read_bytes())
    except OSError as error:
        raise StoreError(f"{path}: cannot be read: {error.strerror}") from error
    except ValidationError as error:
        raise StoreError(f"{path}: not a {kind.__name__} of this version: {_first(error)}") from None


def write_jsonl(path: Path, records: Iterable[Record]) -> None:
    """Write records one a line, whole or not at all."""
    write_text(path, "".join(record.model_dump_json() + "\n" for record in records))


def read_jsonl(path: Path, kind: type[R]) -> list[R]:
    """Read records one a line; a torn last line (no newline: the writer was killed) is not there.

    Raises StoreError, naming the line, where a finished line does not fit.
    """
    records = []
    for number, line in enumerate(_finished_lines(path), 1):
        try:
            records.append(kind.model_validate_json(line))
        except ValidationError as error:
            raise StoreError(f"{path}:{number}: not a {kind.__name__} of this version: {_first(error)}") from None
    return records


class JsonlAppender:
    """Append records to a JSONL file, each flushed to disk as it comes; a torn tail is cut off first."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            whole = sum(len(line) for line in _finished_lines(path))
            if whole < path.stat().st_size:
                os.truncate(path, whole)
        self._path = path
        self._file = path.open("ab")

    def append(self, records: Iterable[Record]) -> None:
        """Write records and wait until they are on disk; raises StoreError where the disk refuses."""
        try:
            self._file.write(b"".join(record.model_dump_json().encode() + b"\n" for record in records))
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise StoreError(f"{self._path}: cannot be written: {error.strerror or error}") from error

    def __enter__(self) -> JsonlAppender:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def sha256_of(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_yaml(path: Path, *, text_below: tuple[str, ...] = ()) -> Any:
    """Read a YAML file: safe tags only, no aliases, at most 1 MB; scalars below the root keys `text_below` stay text.

    Raises ExperimentError.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ExperimentError(f"{path}: cannot be read: {error.strerror}") from None
    if len(raw) > MAX_YAML_BYTES:
        raise ExperimentError(f"{path}: {len(raw)} bytes; at most {MAX_YAML_BYTES} are read")
    try:
        return parse_yaml(raw.decode("utf-8-sig"), text_below=text_below)
    except UnicodeDecodeError as error:
        raise ExperimentError(f"{path}: not UTF-8 at byte {error.start}; save it as UTF-8") from None
    except (yaml.YAMLError, RecursionError) as error:
        raise ExperimentError(f"{path}: not readable as YAML: {str(error) or 'nested too deeply'}") from None


def parse_yaml(text: str, *, text_below: tuple[str, ...] = ()) -> Any:
    """Parse YAML text as `read_yaml` does; raises yaml.YAMLError."""
    loader = _Loader(text)
    root = loader.get_single_node()
    if root is None:
        return None
    if isinstance(root, yaml.MappingNode):
        for key, value in root.value:
            if key.value in text_below:
                _mark_as_text(value)
    return loader.construct_document(root)


class _Loader(yaml.SafeLoader):
    """Safe tags only, and no aliases: nothing an experiment needs, and the way to a file that expands without end."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases (*name) are not used here")
        return super().compose_node(parent, index)


def _mark_as_text(node: yaml.Node) -> None:
    if isinstance(node, yaml.ScalarNode):
        node.tag = "tag:yaml.org,2002:str"
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


def _first(error: ValidationError) -> str:
    fault = error.errors()[0]
    return f"{'.'.join(map(str, fault['loc'])) or 'line'}: {fault['msg']}"
