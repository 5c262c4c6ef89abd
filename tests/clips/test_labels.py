"""Labels as people type them: what is near is proposed, never merged; words that are values elsewhere stay words."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from rbft.clips.manifest import Listing, Row, nearest_spelling, read_manifest
from rbft.clips.split import split_notes
from rbft.records import Split

LABELS = ("normal", "abnormal", "café", "no fight", "Fire")
TYPOS = {
    "normla": "normal", "norml": "normal", "NORMAL": "normal", "n0rmal": "normal", "ｎｏｒｍａｌ": "normal",
    "nоrmal": "normal", "nоrmаl": "normal", "abnromal": "abnormal", "аbnоrmаl": "abnormal", "abnorma": "abnormal",
    "ab normal": "abnormal", "cafe\u0301": "café", "cafe": "café", "CAFÉ": "café", "no  fight": "no fight",
    "no_fight": "no fight", "nofight": "no fight", "no\u00a0fight": "no fight", "fire": "Fire", "ﬁre": "Fire",
}  # fmt: skip


def read(folder: Path, text: str | bytes, name: str = "clips.csv", labels: tuple[str, ...] = ()) -> Listing:
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_manifest(folder / name, labels=dict.fromkeys(labels, ""))


def test_twenty_ways_to_miss_a_label_each_have_the_right_proposal_and_none_is_merged(tmp_path: Path) -> None:
    assert len(TYPOS) == 20
    listing = read(
        tmp_path, "path,label\n" + "".join(f"{n}.mp4,{typo}\n" for n, typo in enumerate(TYPOS)), labels=LABELS
    )
    assert listing.rows == () and len(listing.refused) == 20
    for refused, (typo, meant) in zip(listing.refused, TYPOS.items(), strict=True):
        assert f"is not in the list; did you mean {meant!r}?" in refused.detail, typo


def test_a_letter_of_another_alphabet_is_named() -> None:
    assert nearest_spelling("nоrmal", LABELS) == "; did you mean 'normal'? (its 'о' is CYRILLIC SMALL LETTER O)"
    assert nearest_spelling("normla", LABELS) == "; did you mean 'normal'?"


@pytest.mark.parametrize("twin", ["nоrmal", "ｎormal", "NORMAL", "nor\u00admal", "norm\u200bal", "normal "])
def test_labels_that_look_the_same_are_a_fault_where_the_list_names_them(tmp_path: Path, twin: str) -> None:
    listing = read(tmp_path, f"path,label\na.mp4,normal\nb.mp4,{twin}\n")
    if twin.strip() == "normal":  # spaces around a cell are not part of it
        assert listing.faults == () and list(listing.labels) == ["normal"]
    else:
        assert len(listing.faults) == 1
        assert "differ only in case, spaces or form of letters; spell them the same" in listing.faults[0]


def test_words_that_are_values_elsewhere_are_labels_in_a_table(tmp_path: Path) -> None:
    words = ["no", "on", "1e3", "NULL", "None", "nan", "true", "01", "2024-01-01", "N/A"]
    listing = read(
        tmp_path, "path,label\n" + "".join(f"{n}.mp4,{w}\n" for n, w in enumerate(words)) + "x.mp4,\ny.mp4,  \n"
    )
    assert listing.faults == () and list(listing.labels) == words
    assert [row.label for row in listing.rows] == [*words, None, None]


def test_what_is_no_text_in_json_is_refused_and_null_is_no_label(tmp_path: Path) -> None:
    lines = '{"path": "a.mp4", "label": null}\n{"path": "b.mp4", "label": true}\n{"path": "c.mp4", "label": 1e3}\n'
    listing = read(tmp_path, lines + '{"path": "d.mp4", "label": "null"}\n{"path": "e.mp4", "label": 3}\n', "c.jsonl")
    assert [row.label for row in listing.rows] == [None, "null", "3"]
    assert listing.faults == (
        "c.jsonl: line 2: label is True; it must be text",
        "c.jsonl: line 3: label is 1000.0; it must be text",
    )


def test_ten_times_fewer_clips_of_a_label_are_noted() -> None:
    rows = [Row(f"c{n}", Path(f"/{n}"), f"{n}", f"row {n}", "ab"[n >= 20]) for n in range(22)]
    train: dict[str, Split] = {r.clip_id: "train" for r in rows}
    assert split_notes(rows, train) == [
        "labels are uneven: 20 training clips are 'a' and 2 'b', 10 times fewer; read macro-F1 rather than accuracy, "
        "and training.class_weights: balanced weighs every label the same"
    ]
    assert split_notes(rows[1:], train | {rows[0].clip_id: "test"}) == []
    assert split_notes([], {}) == []


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (b"path,label,label\na.mp4,x,y\n", "clips.csv: the header names 'label' twice; keep one"),
        (b'path,label\na.mp4,"x\nb.mp4,y\n', "clips.csv: "),
    ],
)
def test_tables_that_cannot_be_read(tmp_path: Path, data: bytes, fault: str) -> None:
    listing = read(tmp_path, data)
    assert listing.rows == () and len(listing.faults) >= 1
    assert listing.faults[0].startswith(fault)


def test_marks_line_ends_and_quoted_lines_of_a_spreadsheet(tmp_path: Path) -> None:
    data = '\ufeffpath,label,rationale\r\na.mp4,x,"two\r\nlines"\r\n"b,1.mp4",y,"say ""no"""\r\n'.encode()
    listing = read(tmp_path, data)
    assert listing.faults == ()
    assert [(r.listed, r.label, r.rationale) for r in listing.rows] == [
        ("a.mp4", "x", "two\r\nlines"), ("b,1.mp4", "y", 'say "no"'),
    ]  # fmt: skip


@pytest.mark.nightly
def test_a_million_rows_are_read_within_a_gigabyte(tmp_path: Path) -> None:
    with (tmp_path / "clips.csv").open("w") as file:
        file.write("path,label,clip_id,group\n")
        file.writelines(f"clips/{n % 1000}/{n}.mp4,label{n % 10},c{n},g{n % 5000}\n" for n in range(1_000_000))
    code = (
        "import resource, sys, time\nfrom pathlib import Path\nfrom rbft.clips.manifest import read_manifest\n"
        "begun = time.monotonic()\nlisting = read_manifest(Path(sys.argv[1]), labels={})\n"
        "assert len(listing.rows) == 1_000_000 and not listing.faults\n"
        "peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024\n"
        "print(peak, time.monotonic() - begun, time.process_time())\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "clips.csv")]
    megabytes, seconds, processor = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    print(f"{megabytes} MB, {float(seconds):.0f} s, of them {float(processor):.0f} s of the processor")
    assert int(megabytes) <= 1_000
    assert float(seconds) <= 600
