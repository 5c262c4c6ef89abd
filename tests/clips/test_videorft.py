"""Rows of VideoRFT's files: exact there and back, and every row that cannot be used named with its line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rbft.clips.grouped import Bad, by_reason
from rbft.clips.videorft import VideoRFTRow, read_videorft, row_of, write_videorft
from rbft.errors import ManifestError
from rbft.records import Question

COT = {
    "problem_id": 17,
    "problem": "What does the dog do?",
    "data_type": "video",
    "problem_type": "multiple choice",
    "options": ["A. It runs.", "B. It sleeps."],
    "process": "<think>The video shows a dog on a lawn.</think>",
    "solution": "<answer>A</answer>",
    "path": "./LLaVA-Video-178K/dog.mp4",
    "data_source": "LLaVA-Video-178K",
}
RL = {name: value for name, value in COT.items() if name != "process"}


def written(folder: Path, *rows: object) -> Path:
    path = folder / "rows.jsonl"
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return path


@pytest.mark.parametrize("row", [COT, RL, COT | {"process": None}, RL | {"problem_id": "a\u2028b", "problem": "ü\n狗"}])
def test_a_file_comes_back_byte_for_byte(tmp_path: Path, row: dict[str, object]) -> None:
    path = written(tmp_path, row)
    found = read_videorft(path)
    assert found.bad == ()
    write_videorft(tmp_path / "again.jsonl", found.rows)
    assert (tmp_path / "again.jsonl").read_bytes() == path.read_bytes()


def test_a_row_is_a_question_about_the_clip_at_its_path(tmp_path: Path) -> None:
    (row,) = read_videorft(written(tmp_path, COT)).rows
    assert row.question == Question(
        question_id="17",
        clip_id="./LLaVA-Video-178K/dog.mp4",
        kind="multiple choice",
        text="What does the dog do?",
        options=("A. It runs.", "B. It sleeps."),
        answer="A",
    )


KINDS = st.sampled_from(["multiple choice", "numerical", "OCR", "free-form", "regression"])


@given(
    st.integers(min_value=0, max_value=10**17) | st.text().filter(lambda t: not t.isdigit()), st.text(), KINDS,
    st.lists(st.text(), max_size=3), st.none() | st.text(), st.text(),
    st.text().filter(lambda path: "\0" not in path),
)  # fmt: skip
def test_question_and_row_invert_each_other(
    problem_id: int | str, text: str, kind: str, options: list[str], process: str | None, answer: str, path: str
) -> None:
    fields = {
        "problem_id": problem_id, "problem": text, "data_type": "video", "problem_type": kind, "options": options,
        "solution": f"<answer>{answer}</answer>", "path": path, "data_source": "s",
    } | ({} if process is None else {"process": process})  # fmt: skip
    row = VideoRFTRow.model_validate_json(json.dumps(fields))
    assert row.question.answer == answer
    assert row_of(row.question, path=path, data_source="s", process=process) == row


@pytest.mark.parametrize(
    ("row", "bad"),
    [
        (
            RL | {"data_type": "image", "problem_type": "math"},
            Bad(
                "rows.jsonl:1: problem 17",
                "not_video",
                "data_type 'image' is not 'video'; rbft learns from clips alone",
            ),
        ),
        (
            RL | {"problem_type": "math"},
            Bad(
                "rows.jsonl:1: problem 17",
                "unknown_type",
                "problem_type 'math' is unknown; input should be 'multiple choice', 'numerical', 'OCR', 'free-form' or "
                "'regression'",
            ),
        ),
        (
            RL | {"solution": "A"},
            Bad(
                "rows.jsonl:1: problem 17",
                "fields",
                "solution 'A' is not one <answer>…</answer> and nothing else",
            ),
        ),
        (
            RL | {"solution": "<answer>A</answer><answer>B</answer>"},
            Bad(
                "rows.jsonl:1: problem 17",
                "fields",
                "solution '<answer>A</answer><answer>B</answer>' is not one <answer>…</answer> and nothing else",
            ),
        ),
        (RL | {"path": 3}, Bad("rows.jsonl:1: problem 17", "fields", "path: input should be a valid string")),
        (RL | {"extra": 1}, Bad("rows.jsonl:1: problem 17", "fields", "extra: extra inputs are not permitted")),
        (RL | {"problem_id": 1.5}, Bad("rows.jsonl:1", "fields", "problem_id 1.5 is neither a number nor text")),
        (
            '{"path": "a", "path": "b"}',
            Bad(
                "rows.jsonl:1",
                "not_json",
                "the field 'path' stands there twice; a row is one JSON object on one line",
            ),
        ),
        (
            '{"path": ',
            Bad(
                "rows.jsonl:1",
                "not_json",
                "Expecting value: line 2 column 1 (char 10); a row is one JSON object on one line",
            ),
        ),
    ],
)
def test_a_row_that_cannot_be_used_is_named_and_the_others_stay(tmp_path: Path, row: object, bad: Bad) -> None:
    found = read_videorft(written(tmp_path, row, COT | {"problem_id": 18}))
    assert found.bad == (bad,)
    assert [r.problem_id for r in found.rows] == [18]


def test_a_problem_id_stands_once(tmp_path: Path) -> None:
    found = read_videorft(written(tmp_path, RL, "", COT))
    assert len(found.rows) == 1
    assert found.bad == (
        Bad("rows.jsonl:3", "twice", "problem_id 17 stands in rows.jsonl:1 too; give each row its own"),
    )


def test_many_rows_about_images_are_ten_lines_and_a_count(tmp_path: Path) -> None:
    images = [RL | {"problem_id": n, "data_type": "image"} for n in range(30)]
    lines = by_reason(read_videorft(written(tmp_path, *images)).bad, "the file has them all")
    assert len(lines) == 11
    assert lines[-1] == "and 20 more (not_video); the file has them all"


def test_a_file_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"none\.jsonl: cannot be read: No such file"):
        read_videorft(tmp_path / "none.jsonl")
    (tmp_path / "latin.jsonl").write_bytes(b"\n\xff\n")
    with pytest.raises(ManifestError, match=r"latin\.jsonl: line 2: not UTF-8 at byte 0; save it as UTF-8"):
        read_videorft(tmp_path / "latin.jsonl")


def test_what_a_row_cannot_hold_is_refused() -> None:
    label = Question(question_id="q", clip_id="c", kind="label", text="?", options=("a", "b"), answer="a")
    with pytest.raises(ManifestError, match="question 'q': problem_type 'label' is unknown; input should be 'multiple"):
        row_of(label, path="c.mp4", data_source="s")
    tagged = label.model_copy(update={"kind": "free-form", "answer": "</answer>"})
    with pytest.raises(ManifestError, match="question 'q': solution '<answer></answer></answer>' is not one <answer>"):
        row_of(tagged, path="c.mp4", data_source="s")
