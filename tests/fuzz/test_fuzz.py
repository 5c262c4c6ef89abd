"""Whatever bytes a stranger writes, rbft reads a value or refuses in words: small here, long with `-m nightly`."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))
from seeds import SEEDS
from targets import FOLDER, TARGETS, ExecutedError, read

NAMES = pytest.mark.parametrize("name", TARGETS)
_BITS = [
    b"", b"\0", b"\n", b"\r", b",", b'"', b"\xff", b"\xed\xa0\x80", b"[", b"{", b"}", b": ", b"- ", b"!!python/name:os",
    b"&a ", b"*a", b"<<: ", b"NaN", b"1e999", b"-1", b"9" * 400, b"null", b"true", b"'", b"../", b"http://",
    "\u202e".encode(), "\ufeff".encode(), "\u2028".encode(), "½".encode(), b"[" * 200, b"<answer>", b"</think>",
    b"\\ud800",
]  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _folder() -> Iterator[None]:
    yield
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(exist_ok=True)


@st.composite
def mutated(draw: st.DrawFn, name: str) -> bytes:
    """A well-formed input in which parts are replaced, cut out or doubled."""
    data = draw(st.sampled_from(SEEDS[name]))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(data)))
        end = min(len(data), start + draw(st.integers(0, 12)))
        part = draw(st.sampled_from(_BITS) | st.binary(max_size=6) | st.just(data[start:end] * 2))
        data = data[:start] + part + data[end:]
    return data


def run(name: str, examples: int) -> None:
    @settings(max_examples=examples, suppress_health_check=list(HealthCheck), database=None)
    @given(mutated(name) | st.binary(max_size=60) | st.text(max_size=60).map(lambda text: text.encode("utf-8")))
    def holds(data: bytes) -> None:
        TARGETS[name](data)

    holds()


@NAMES
def test_any_bytes_are_read_or_refused_in_words(name: str) -> None:
    run(name, 15)


@pytest.mark.nightly
@NAMES
def test_many_bytes_are_read_or_refused_in_words(name: str) -> None:
    run(name, 3_000)


@NAMES
def test_what_fuzzing_starts_from_is_well_formed(name: str) -> None:
    assert SEEDS[name]
    for seed in SEEDS[name]:
        TARGETS[name](seed)


def test_a_reader_that_would_run_something_is_found_out() -> None:
    with pytest.raises(ExecutedError, match=r"^os\.system"):
        read(lambda: __import__("os").system("true"))
