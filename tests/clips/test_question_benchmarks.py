"""Questions of published benchmarks: rows made by hand in the layouts of their authors, mapped, listed, imported."""

import json
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from commands import command
from rbft.choices import lettered
from rbft.clips.question_benchmarks import QUESTION_BENCHMARKS, read_benchmark
from rbft.clips.question_import import import_questions
from rbft.clips.questions import LeftOutQuestion, QuestionRow, read_questions
from rbft.errors import ManifestError
from rbft.files import read_jsonl
from rbft.rewards import accuracy

VSI = {"id": 3, "dataset": "arkitscenes", "scene_name": "41069025", "pruned": False}
ROUTE = VSI | {
    "id": 4, "question_type": "route_planning", "question": "Fill in the turn.", "ground_truth": "B",
    "options": ["A. Turn Back", "B. Turn Left", "C. Turn Right"],
}  # fmt: skip
COUNT = VSI | {
    "question_type": "object_counting",
    "question": "How many table(s)?",
    "ground_truth": "4",
    "options": None,
}


def write(path: Path, rows: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(row) + "\n" for row in rows) if path.suffix == ".jsonl" else json.dumps(rows, indent=1)
    path.write_text(lines, encoding="utf-8")
    return path


def read(name: str, *files: Path) -> tuple[list[QuestionRow], list[tuple[str, str]]]:
    rows, left = read_benchmark(QUESTION_BENCHMARKS[name], files)
    for row in rows:
        assert accuracy(row.question, row.answer) == 1.0
    return rows, [(one.question_id, one.reason) for one in left]


def test_vsi_bench(tmp_path: Path) -> None:
    easy = ROUTE | {"id": 5, "question_type": "object_rel_direction_easy", "ground_truth": "C"}
    other = ROUTE | {"id": 6, "question_type": "smelling"}
    wrong = ROUTE | {"id": 7, "ground_truth": "D"}
    many = COUNT | {"id": 8, "ground_truth": "a few"}
    rows, left = read("vsi-bench", write(tmp_path / "test.jsonl", [COUNT, ROUTE, easy, other, wrong, many, COUNT]))
    assert rows[0] == QuestionRow(
        question_id="3", path="arkitscenes/41069025.mp4", kind="regression", text="How many table(s)?", answer="4",
        category=("object_counting",),
    )  # fmt: skip
    assert (rows[1].kind, rows[1].options, rows[1].answer) == ("multiple choice", tuple(ROUTE["options"]), "B")
    assert rows[2].category == ("object_rel_direction", "object_rel_direction_easy"), "one task of three levels"
    assert left == [("6", "unknown_type"), ("7", "not_gradable"), ("8", "not_gradable"), ("3", "twice")]


def test_videommmu(tmp_path: Path) -> None:
    ten = [f"{letter}. {n}" for n, letter in enumerate("ABCDEFGHIJ", 1)]
    choice = {
        "id": "dev_Art_Theory_1",
        "question": "Which?",
        "question_type": "perception",
        "options": ten,
        "answer": "J",
    }
    bare = choice | {"id": "validation_Math_2", "options": ["red", "blue"], "answer": "B"}
    number = choice | {"id": "test_Math_3", "question_type": "open", "options": [], "answer": "1,234.5"}
    text = number | {"id": "test_Math_4", "answer": "the mean value theorem"}
    several = number | {"id": "test_Math_5", "answer": "['12', 'twelve']"}
    first = write(tmp_path / "Perception" / "test" / "0000.jsonl", [choice, bare])
    last = write(tmp_path / "adaptation.json", [choice, number, text, several])
    lost = write(tmp_path / "all.json", [choice])
    rows, left = read("videommmu", first, last, lost)
    assert [row.question_id for row in rows] == [
        "perception/dev_Art_Theory_1", "perception/validation_Math_2", "adaptation/dev_Art_Theory_1",
        "adaptation/test_Math_3", "adaptation/test_Math_4",
    ]  # fmt: skip
    assert [row.path for row in rows[:2]] == ["dev_Art_Theory_1.mp4", "validation_Math_2.mp4"]
    assert rows[0].category == ("perception", "Art_Theory")
    assert list(lettered(rows[0].options)) == list("ABCDEFGHIJ")
    assert lettered(rows[1].options) == {"A": "red", "B": "blue"}
    assert [row.kind for row in rows] == ["multiple choice"] * 3 + ["numerical", "free-form"]
    assert left == [("test_Math_5", "several_answers"), ("dev_Art_Theory_1", "no_part")]


def test_mmvu(tmp_path: Path) -> None:
    empty = dict.fromkeys("ABCDE", "")
    open_ended = {
        "id": "validation_0", "video": "https://huggingface.co/datasets/x/resolve/main/videos/Art/0.mp4",
        "question_type": "open-ended", "question": "Which technique?", "choices": empty, "answer": "Dolly Zoom",
    }  # fmt: skip
    choices = {"A": "10.0", "B": "5.0", "C": "12.0", "D": "15.0", "E": "20.0"}
    chosen = open_ended | {"id": "validation_1", "question_type": "multiple-choice", "choices": choices, "answer": "A"}
    theirs = chosen | {"id": "validation_2", "video_path": "./videos/Law/7.mp4"}
    odd = open_ended | {"id": "validation_3", "question_type": "multiple-choice"}
    rows, left = read("mmvu", write(tmp_path / "validation.json", [open_ended, chosen, theirs, odd]))
    assert [(row.path, row.kind, row.category) for row in rows] == [
        ("Art/0.mp4", "free-form", ("Art",)), ("Art/0.mp4", "multiple choice", ("Art",)),
        ("Law/7.mp4", "multiple choice", ("Law",)),
    ]  # fmt: skip
    assert rows[1].options == ("A. 10.0", "B. 5.0", "C. 12.0", "D. 15.0", "E. 20.0")
    assert left == [("validation_3", "fields")]


def test_mvbench(tmp_path: Path) -> None:
    plain = {"video": "v.mp4", "question": "What happened?", "candidates": ["Opened.", "Closed."], "answer": "Closed."}
    window = plain | {"start": 1.5, "end": 7.25}
    absent = plain | {"answer": "Sat down."}
    letters = plain | {"candidates": ["C", "A", "B"], "answer": "A"}
    backwards = plain | {"start": 5, "end": 2}
    rows, left = read(
        "mvbench",
        write(tmp_path / "action_sequence.json", [window, absent, backwards]),
        write(tmp_path / "character_order" / "train" / "0000.jsonl", [plain, letters]),
        write(tmp_path / "episodic_reasoning.json", [plain]),
        write(tmp_path / "own.json", [plain]),
    )
    assert [row.question_id for row in rows] == ["action_sequence/0", "character_order/0"]
    assert rows[0].path == "star/Charades_v1_480/v.mp4"
    assert rows[0].clip_id == "star/Charades_v1_480/v.mp4@1.5-7.25"
    assert (rows[0].options, rows[0].answer) == (("Opened.", "Closed."), "B")
    assert rows[1].clip_id == rows[1].path == "perception/videos/v.mp4"
    assert left == [
        ("action_sequence.json: row 2", "not_gradable"), ("action_sequence.json: row 3", "fields"),
        ("character_order/1", "not_gradable"), ("episodic_reasoning.json: row 1", "no_video"),
        ("own.json: row 1", "no_part"),
    ]  # fmt: skip


def test_tempcompass(tmp_path: Path) -> None:
    """Nested by video and kind as its authors have it, or flat; forms are told by their lines."""
    choice = {"question": "What is he doing?\nA. dunking\nB. passing\nC.both", "answer": "B. passing"}
    yes_no = {"question": "Is he dunking?", "answer": "no"}
    caption = {
        "question": "Which sentence is better?\nSentence A: He dunks.\nSentence B: He passes.",
        "answer": "Sentence B: He passes.",
    }
    numbered = {"question": "Which fits?\nOption 1: He dunks.\nOption 2: He passes.", "answer": "Option 1: He dunks."}
    told = {"question": "Say it.\nInformation A: {}\nGenerated Caption:", "answer": "A. dunking"}
    odd = {"question": "What?\nA dunk\nB pass", "answer": "A dunk"}
    lost = choice | {"answer": "D. sleeping"}
    nested = {"10": {"action": [choice, yes_no, caption], "speed": [numbered, told, odd, lost]}, "11": ["?"]}
    with pytest.raises(ManifestError, match="not a file of TempCompass: a list of objects is needed"):
        read("tempcompass", write(tmp_path / "bad.json", nested))
    del nested["11"]
    flat = [yes_no | {"video_id": "12", "dim": "order"}, told | {"video_id": "12", "dim": "order", "mc_question": "?"}]
    rows, left = read("tempcompass", write(tmp_path / "q.json", nested), write(tmp_path / "flat.jsonl", flat))
    assert [(row.question_id, row.text, row.options, row.answer) for row in rows] == [
        ("10/action/multi-choice/0", "What is he doing?", ("A. dunking", "B. passing", "C.both"), "B"),
        ("10/action/yes/no/1", "Is he dunking?", ("yes", "no"), "no"),
        ("10/action/caption matching/2", "Which sentence is better?", ("He dunks.", "He passes."), "B"),
        ("10/speed/caption matching/3", "Which fits?", ("He dunks.", "He passes."), "A"),
        ("12/order/yes/no/0", "Is he dunking?", ("yes", "no"), "no"),
    ]
    assert {row.path for row in rows} == {"10.mp4", "12.mp4"}
    assert rows[0].category == ("action", "multi-choice")
    assert [reason for _, reason in left] == ["captioning", "unknown_form", "not_gradable", "captioning"]


def test_videomme_from_parquet(tmp_path: Path) -> None:
    row = {
        "video_id": "001", "duration": "short", "domain": "Multilingual", "sub_category": "Multilingual",
        "url": "https://x", "videoID": "fFjv93ACGo8", "question_id": "001-1", "task_type": "Counting Problem",
        "question": "How many?", "options": ["A. 3.", "B. 4.", "C. 2.", "D. 1."], "answer": "C",
    }  # fmt: skip
    path = tmp_path / "test-00000-of-00001.parquet"
    pq.write_table(pa.Table.from_pylist([row, row | {"question_id": "001-2", "answer": "E"}]), path)
    rows, left = read("videomme", path)
    assert rows == [
        QuestionRow(
            question_id="001-1", path="fFjv93ACGo8.mp4", kind="multiple choice", text="How many?",
            options=("A. 3.", "B. 4.", "C. 2.", "D. 1."), answer="C",
            category=("short", "Multilingual", "Counting Problem"),
        )
    ]  # fmt: skip
    assert left == [("001-2", "not_gradable")]


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("question", None, "question is None, and must be text"),
        ("question", " ", "question is ' ', and must be text"),
        ("ground_truth", True, "ground_truth is True, and must be text"),
        ("options", "A. x", "options is 'A. x', and must be a list of texts"),
    ],
)
def test_a_row_of_another_layout_is_listed_with_the_field(tmp_path: Path, field: str, value: Any, said: str) -> None:
    _, [left] = read_benchmark(QUESTION_BENCHMARKS["vsi-bench"], [write(tmp_path / "a.json", [ROUTE | {field: value}])])
    assert left == LeftOutQuestion(question_id="4", reason="fields", detail=said)
    task = write(tmp_path / "action_sequence.json", [{"video": "v", "question": "?", "candidates": ["a"], "answer": "a",
                                                      "start": "0:10"}])  # fmt: skip
    _, [left] = read_benchmark(QUESTION_BENCHMARKS["mvbench"], [task])
    assert left.detail == "start is '0:10', and must be a number of seconds"


def fault(name: str, *files: Path, **how: Any) -> str:
    with pytest.raises(ManifestError) as caught:
        import_questions(name, files, **how)
    return str(caught.value)


def test_files_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert fault("mmvu") == "mmvu: name the question files of MMVU"
    assert fault("mmvu", tmp_path / "a.csv") == (
        f"{tmp_path / 'a.csv'}: questions are read from .json, .jsonl, .ndjson, .parquet files"
    )
    assert "a.json: cannot be read: No such file" in fault("mmvu", tmp_path / "a.json")
    (tmp_path / "a.json").write_text("[{]")
    assert "a.json: not readable as JSON: " in fault("mmvu", tmp_path / "a.json")
    (tmp_path / "b.jsonl").write_text("{}\n[\n")
    assert "b.jsonl:2: not readable as JSON: " in fault("mmvu", tmp_path / "b.jsonl")
    (tmp_path / "c.parquet").write_bytes(b"no parquet")
    assert "c.parquet: not readable as Parquet: " in fault("mmvu", tmp_path / "c.parquet")
    assert "d.parquet: cannot be read: " in fault("mmvu", tmp_path / "d.parquet")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert fault("mmvu", tmp_path / "c.parquet").endswith(
        "c.parquet: Parquet files need pyarrow: pip install 'rbft[parquet]'; or give the file as JSON lines"
    )


def test_nothing_that_can_be_used(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", [ROUTE | {"ground_truth": "E"}])
    assert fault("vsi-bench", file).splitlines() == [
        "vsi-bench: not one of 1 rows is a question",
        "question '4': not_gradable: the answer 'E' cannot be graded; a multiple choice answer is exactly one of the "
        "options, which are 'A. Turn Back', 'B. Turn Left', 'C. Turn Right'",
        "1 question (1 not_gradable)",
    ]


# -- the command ---------------------------------------------------------------------------------------------------


@pytest.fixture
def bench(tmp_path: Path) -> Path:
    """VSI-Bench's file, with videos of two of its three scenes."""
    rows = [COUNT, ROUTE | {"scene_name": "2"}, ROUTE | {"id": 5, "scene_name": "3"}, ROUTE | {"id": 6, "options": []}]
    write(tmp_path / "test.jsonl", rows)
    for name in ("arkitscenes/41069025.mp4", "arkitscenes/2.webm", "scannet/3.mp4"):
        (tmp_path / "videos" / "vsi" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "videos" / "vsi" / name).write_bytes(b"")
    return tmp_path


def test_import_writes_questions_that_ask_reads(bench: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ("import", "vsi-bench", str(bench / "test.jsonl"), "--videos", str(bench / "videos"))
    assert command(*given) == 2
    assert (
        f"rbft: 1 of 3 questions have no video in {bench / 'videos'}: arkitscenes/3.mp4. Put them there, at the end of "
        "such a path, or leave these questions out with --leave-out-missing\n"
    ) == capsys.readouterr().err
    assert command(*given, "--leave-out-missing") == 0
    shown = capsys.readouterr().out
    out = bench / "videos" / "vsi-bench.jsonl"
    found = read_questions(out)
    assert found.bad == ()
    assert [(r.question_id, r.path) for r in found.rows] == [
        ("3", "vsi/arkitscenes/41069025.mp4"), ("4", "vsi/arkitscenes/2.webm"),
    ]  # fmt: skip
    left = read_jsonl(bench / "videos" / "vsi-bench.left-out.jsonl", LeftOutQuestion)
    assert [(one.question_id, one.reason) for one in left] == [("6", "not_gradable"), ("5", "missing")]
    assert "left out: question '5': missing: no video arkitscenes/3.mp4" in shown
    assert "left out: 2 questions (1 not_gradable, 1 missing)" in shown
    assert f"Next: rbft ask MODEL {out}\n" in shown
    assert command(*given, "--leave-out-missing") == 0, "the same file is no fault"
    capsys.readouterr()
    assert command(*given, "--leave-out-missing", "--out", str(bench / "q.jsonl")) == 0
    assert f"Next: rbft ask MODEL {bench / 'q.jsonl'} --videos {bench / 'videos'}\n" in capsys.readouterr().out
    write(bench / "test.jsonl", [COUNT, ROUTE | {"scene_name": "2"}])
    assert command(*given) == 0
    assert not (bench / "videos" / "vsi-bench.left-out.jsonl").exists(), "nothing is left out of the same questions"
    (bench / "q.jsonl").write_text("mine\n")
    assert command(*given, "--leave-out-missing", "--out", str(bench / "q.jsonl")) == 2
    assert "q.jsonl: is there already and differs; remove it, or name another with --out" in capsys.readouterr().err


def test_import_without_videos_counts(bench: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(bench.rglob("*"))
    assert command("import", "vsi-bench", str(bench / "test.jsonl")) == 0
    shown = capsys.readouterr().out
    assert "route_planning" in shown
    assert shown.endswith("Nothing is written without --videos FOLDER.\n")
    assert sorted(bench.rglob("*")) == before


def test_videos_are_never_guessed(bench: Path) -> None:
    (bench / "videos" / "old" / "arkitscenes").mkdir(parents=True)
    (bench / "videos" / "old" / "arkitscenes" / "2.mkv").write_bytes(b"")
    assert fault("vsi-bench", bench / "test.jsonl", videos=bench / "videos", leave_out_missing=True) == (
        "arkitscenes/2.mp4 may be each of old/arkitscenes/2.mkv, vsi/arkitscenes/2.webm; keep one, or name a folder "
        "that holds one"
    )
    (bench / "videos" / "old" / "arkitscenes" / "2.mp4").write_bytes(b"")
    found = import_questions("vsi-bench", [bench / "test.jsonl"], videos=bench / "videos", leave_out_missing=True)
    assert found.videos["arkitscenes/2.mp4"] == bench / "videos" / "old" / "arkitscenes" / "2.mp4"
    (bench / "none").mkdir()
    assert "3 of 3 questions have no video in" in fault(
        "vsi-bench", bench / "test.jsonl", videos=bench / "none", leave_out_missing=True
    )
    assert fault("vsi-bench", bench / "test.jsonl", videos=bench / "test.jsonl") == (
        f"--videos {bench / 'test.jsonl'}: is not a folder"
    )


def test_options_of_a_split_are_refused(bench: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("import", "vsi-bench", str(bench / "test.jsonl"), "--train", "x.json", "--drop-leaks") == 2
    assert capsys.readouterr().err == (
        "rbft: --train, --drop-leaks: vsi-bench is a benchmark of questions, without a split; leave it out\n"
    )
