"""What is said about long work, where no terminal is."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from rbft.progress import Reporter, plural


def plain() -> tuple[Reporter, io.StringIO]:
    file = io.StringIO()
    return Reporter(Console(file=file, width=40)), file


def test_a_line_stays_one_line_and_nothing_in_it_is_markup() -> None:
    reporter, file = plain()
    text = f"left out: {'long/' * 30}[bold]x[/bold].mp4: missing"
    reporter.say(text)
    assert file.getvalue() == text + "\n"


def test_the_terminal_is_not_steered_by_a_file_name() -> None:
    reporter, file = plain()
    reporter.say("a\x1b[2J\nb\u202ec\udcff é日本")
    assert file.getvalue() == "a\\x1b[2J\\nb\\u202ec\\udcff é日本\n"


def test_counted_without_a_terminal_is_one_line_at_the_end() -> None:
    reporter, file = plain()
    with reporter.counted("Reading clips", 5) as advance:
        advance(2)
        advance(3)
        assert file.getvalue() == ""
    assert re.fullmatch(r"Reading clips: 5 clips in \d+\.\d s\n", file.getvalue())


def test_one_thing_is_said_in_the_singular() -> None:
    reporter, file = plain()
    with reporter.counted("Reading clips", 1) as advance:
        advance(1)
    assert file.getvalue().startswith("Reading clips: 1 clip in ")
    assert [plural(count, "clip is", "clips are") for count in (0, 1, 1200)] == [
        "0 clips are", "1 clip is", "1,200 clips are",
    ]  # fmt: skip


def test_work_that_fails_is_not_said_to_be_done() -> None:
    reporter, file = plain()
    with pytest.raises(ValueError, match="no"), reporter.counted("Reading", 5):
        raise ValueError("no")
    assert file.getvalue() == ""


def test_quiet() -> None:
    file = io.StringIO()
    reporter = Reporter(Console(file=file), quiet=True)
    reporter.say("x")
    with reporter.counted("Reading", 1) as advance:
        advance(1)
    assert file.getvalue() == ""


def test_a_terminal_gets_a_bar() -> None:
    file = io.StringIO()
    with Reporter(Console(file=file, force_terminal=True, width=100)).counted("Reading", 4, "files") as advance:
        advance(4)
    assert "4/4 files" in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", file.getvalue())
