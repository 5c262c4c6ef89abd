"""General clips on disk: what is written is what they show, and it is seeded."""

from __future__ import annotations

import csv
from pathlib import Path

from rbft.files import sha256_of
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
