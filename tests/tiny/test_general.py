"""General clips on disk: what is written is what they show, and it is seeded."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

from rbft.errors import UserError
from rbft.files import sha256_of
from rbft.tiny.__main__ import main
from rbft.tiny.general import HELD_OUT_SEED, write_general
from rbft.tiny.language import parse_description, words_of
from rbft.tiny.pool import spec_at


def test_clips_and_their_true_descriptions(tmp_path: Path) -> None:
    manifest = write_general(tmp_path / "one", 2)
    with manifest.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == ["general-0000.mp4", "general-0001.mp4"]
    specs = [spec_at(HELD_OUT_SEED, index)[0] for index in range(2)]
    assert [parse_description(row["rationale"]) for row in rows] == [words_of(spec) for spec in specs]
    again = write_general(tmp_path / "two", 1)
    one, other = (folder / "general-0000.mp4" for folder in (manifest.parent, again.parent))
    assert sha256_of(one) == sha256_of(other)
    assert sha256_of(one) != sha256_of(manifest.parent / "general-0001.mp4")


def test_general_clips_by_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    def general(*options: str) -> None:
        monkeypatch.setattr("sys.argv", ["rbft.tiny", "general", "--out", str(tmp_path / "general"), *options])
        main()

    general("--clips", "2")
    listed = tmp_path / "general" / "clips.csv"
    assert capsys.readouterr().out == f'evaluation:\n  retention: "{listed}"\n'
    before = {path: path.stat().st_mtime_ns for path in listed.parent.iterdir()}
    general("--clips", "2")
    assert {path: path.stat().st_mtime_ns for path in listed.parent.iterdir()} == before
    general("--clips", "1")
    assert len(listed.read_text(encoding="utf-8").splitlines()) == 2
    listed.write_text("path,rationale\nmine.mp4,Subjects: a dog.\n", encoding="utf-8")
    with pytest.raises(SystemExit) as stopped:
        general("--clips", "1")
    assert stopped.value.code == 2
    assert (
        capsys.readouterr().err
        == f"rbft.tiny: {listed} lists other clips than these; remove it, or name another folder\n"
    )
    assert "mine.mp4" in listed.read_text(encoding="utf-8")
    listed.write_bytes("path,rationale\nschön.mp4,x\n".encode("latin-1"))
    with pytest.raises(SystemExit):
        general("--clips", "1")
    assert "lists other clips than these" in capsys.readouterr().err
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    with pytest.raises(UserError, match=r"file: cannot be written: File exists; name another folder"):
        write_general(tmp_path / "file", 1)
    with pytest.raises(SystemExit):
        general("--clips", "0")
    assert "--clips 0: there is nothing to write; give 1 or more" in capsys.readouterr().err
