"""Files of questions: what is written is read again, in either layout; faults by line; clips by path and window."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rbft.clips.grouped import Bad
from rbft.clips.questions import QuestionRow, find_videos, read_questions, write_questions
from rbft.clips.videorft import row_of, write_videorft
from rbft.errors import ManifestError
from rbft.records import Question

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
ROWS = st.lists(
    st.builds(
        QuestionRow,
        question_id=TEXT,
        path=TEXT.filter(lambda path: "\0" not in path),
        start=st.none() | st.floats(0, 5),
        end=st.none() | st.floats(6, 1e6),
        kind=st.sampled_from(("multiple choice", "numerical", "regression", "OCR", "free-form", "label")),
        text=TEXT,
        options=st.lists(TEXT, max_size=3).map(tuple),
        answer=st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
        category=st.lists(TEXT, max_size=2).map(tuple),
    ),
    max_size=4,
    unique_by=lambda row: row.question_id,
)


def row(**fields: Any) -> QuestionRow:
    given = {"question_id": "1", "path": "a/b.mp4", "kind": "OCR", "text": "What stands there?", "answer": "stop"}
    return QuestionRow.model_validate(given | fields)


@given(ROWS)
def test_what_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, rows: list[QuestionRow]) -> None:
    path = tmp_path_factory.mktemp("q") / "q.jsonl"
    write_questions(path, rows)
    found = read_questions(path)
    assert (list(found.rows), found.bad) == (rows, ())


def test_videorft_rows_become_the_same_questions(tmp_path: Path) -> None:
    asked = Question(question_id="7", clip_id="a.mp4", kind="numerical", text="How many?", answer="3")
    write_videorft(tmp_path / "q.jsonl", [row_of(asked, path="a.mp4", data_source="x")])
    [found] = read_questions(tmp_path / "q.jsonl").rows
    assert (found.question, found.path) == (asked, "a.mp4")
    with (tmp_path / "q.jsonl").open("a") as file:
        file.write('{"problem_id": 8, "data_type": "image"}\n')
    assert [bad.reason for bad in read_questions(tmp_path / "q.jsonl").bad] == ["not_video"]


def test_a_window_is_part_of_the_clips_name() -> None:
    assert row().clip_id == "a/b.mp4"
    assert row(start=1.5, end=3).clip_id == "a/b.mp4@1.5-3"
    assert (row(end=3).clip_id, row(start=2).clip_id) == ("a/b.mp4@0-3", "a/b.mp4@2-")
    assert row(start=2).question.clip_id == "a/b.mp4@2-"


def test_faults_by_line(tmp_path: Path) -> None:
    good = row().model_dump_json()
    lines = [good, "{", good, good.replace('"1"', '"2"').replace('"end":null', '"end":0'),
             good.replace('"1"', '"3"').replace('"OCR"', '"essay"'), good.replace('"answer"', '"anser"')]  # fmt: skip
    (tmp_path / "q.jsonl").write_text("\n".join(lines))
    found = read_questions(tmp_path / "q.jsonl")
    assert found.rows == (row(),)
    assert [(bad.place, bad.reason, bad.detail[:45]) for bad in found.bad] == [
        ("q.jsonl:2", "fields", "Invalid JSON: EOF while parsing an object at "),
        ("q.jsonl:3", "twice", "question_id '1' stands in q.jsonl:1 too; give"),
        ("q.jsonl:4", "fields", "end 0 is not after start 0"),
        ("q.jsonl:5", "fields", "kind: input should be 'label', 'multiple choi"),
        ("q.jsonl:6", "fields", "answer: field required"),
        ("q.jsonl:6", "fields", "anser: extra inputs are not permitted"),
    ]
    (tmp_path / "q.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(ManifestError, match="not UTF-8 at byte 0; save it as UTF-8"):
        read_questions(tmp_path / "q.jsonl")


def test_clips_are_found_once_and_stay_in_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "videos"
    (folder / "a").mkdir(parents=True)
    (folder / "a" / "b.mp4").write_bytes(b"")
    (tmp_path / "secret.mp4").write_bytes(b"")
    (folder / "link.mp4").symlink_to(tmp_path / "secret.mp4")
    rows = [row(), row(question_id="2"), row(question_id="3", end=2), row(question_id="4", path="none.mp4"),
            row(question_id="5", path="link.mp4"), row(question_id="6", path="../secret.mp4")]  # fmt: skip
    found = find_videos(tmp_path / "q.jsonl", rows, folder)
    assert [(clip.clip_id, clip.end) for clip in found.listing.rows] == [("a/b.mp4", None), ("a/b.mp4@0-2", 2.0)]
    assert [row.question_id for row in found.missing] == ["4"]
    assert list(found.outside) == [
        f"question '{number}': path '{path}' leads outside {folder}; move the clip there, or name its folder with "
        "--videos"
        for number, path in (("5", "link.mp4"), ("6", "../secret.mp4"))
    ]


def test_paths_that_no_file_system_knows_are_told(tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    ours = {"question_id": "a", "path": "a\0.mp4", "kind": "free-form", "text": "x", "answer": "a dog"}
    theirs = {
        "problem_id": 1, "problem": "x", "data_type": "video", "problem_type": "free-form", "options": [],
        "solution": "<answer>a dog</answer>", "path": "a\0.mp4", "data_source": "s",
    }  # fmt: skip
    for row in (ours, theirs):
        path.write_text(json.dumps(row), encoding="utf-8")
        [bad] = read_questions(path).bad
        assert bad.detail == "path holds a null character, which no path does"
    path.write_text(json.dumps(theirs | {"path": "a.mp4", "problem": ""}), encoding="utf-8")
    [bad] = read_questions(path).bad
    assert bad == Bad("q.jsonl: problem 1", "fields", "text: string should have at least 1 character")
    path.write_text(json.dumps(ours | {"path": "x" * 400}), encoding="utf-8")
    rows = read_questions(path).rows
    assert find_videos(path, rows, tmp_path).missing == rows
