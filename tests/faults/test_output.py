"""Where the output of a command goes nowhere, and where the command is started from nowhere: one line, no traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("arguments", [["--version"], ["check", "clip.mp4"]], ids=["plain", "a table"])
def test_output_that_cannot_be_written_is_told(arguments: list[str], tmp_path: Path) -> None:
    (tmp_path / "clip.mp4").write_bytes(b"")
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(
            [sys.executable, "-m", "rbft", *arguments], stdout=full, stderr=subprocess.PIPE, text=True, check=False,
            cwd=tmp_path,
        )  # fmt: skip
    lines = [line for line in ended.stderr.splitlines() if not line.startswith("Reading clips")]
    assert lines in ([], ["rbft: the output cannot be written: No space left on device"])
    assert ended.returncode != 0 and (lines or ended.returncode == 2)


def test_a_folder_that_is_not_there_any_more_is_told(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    script = f"import os, runpy, sys\nos.rmdir({str(gone)!r})\nsys.argv = ['rbft', 'check', 'x.csv']\n"
    ended = subprocess.run(
        [sys.executable, "-P", "-c", script + "runpy.run_module('rbft', run_name='__main__')"], capture_output=True,
        text=True, check=False, cwd=gone, env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )  # fmt: skip
    assert ended.returncode == 1
    assert ended.stderr == "rbft: the folder that you are in is not there any more; go to another one\n"
