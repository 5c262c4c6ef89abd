"""The questions of an experiment: what is read, and every fault of rows, clips, arms and prompts at once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rbft.clips.question_set import QuestionSet, read_question_set, used_questions
from rbft.errors import ManifestError
from rbft.experiment import Experiment, make_experiment
from rbft.prompts import Prompts, load_prompts
from rbft.records import Clip, Manifest

PROMPTS = load_prompts("brief", persona="", labels={})


def row(number: int, path: str, **changes: Any) -> dict[str, Any]:
    return {
        "problem_id": number, "problem": "How many lamps are lit?", "data_type": "video", "problem_type": "numerical",
        "options": [], "solution": f"<answer>{number}</answer>", "path": path, "data_source": "yard",
    } | changes  # fmt: skip


def write(path: Path, *rows: dict[str, Any] | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [one if isinstance(one, str) else json.dumps(one) for one in rows]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def experiment(folder: Path, **changes: Any) -> Experiment:
    questions = {name: str(folder / f"{name}.jsonl") for name in ("train", "test")}
    named = changes.pop("questions", {})
    return make_experiment({"name": "q", "model": "embedded", "questions": questions | named} | changes)


def read(folder: Path, prompts: Prompts = PROMPTS, **changes: Any) -> QuestionSet:
    return read_question_set(experiment(folder, **changes), prompts)


def test_thoughts_are_the_training_rows_with_a_process(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", row(1, "a.mp4", process="<think>One.</think>\n"), row(2, "b.mp4"))
    write(tmp_path / "test.jsonl", row(1, "c.mp4"))
    found = read(tmp_path)
    assert [q.question_id for q in found.train] == ["1", "2"]
    assert [(t.question.question_id, t.answer) for t in found.cot] == [("1", "<think>One.</think>\n<answer>1</answer>")]
    assert [(r.clip_id, r.split, r.path) for r in found.listing.rows] == [
        ("a.mp4", "train", tmp_path.resolve() / "a.mp4"),
        ("b.mp4", "train", tmp_path.resolve() / "b.mp4"),
        ("c.mp4", "test", tmp_path.resolve() / "c.mp4"),
    ]


def test_a_file_of_thoughts_and_a_folder_of_videos(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", row(1, "a.mp4"))
    cot = write(tmp_path / "elsewhere" / "cot.jsonl", row(1, "b.mp4", process="<think>x</think>"), row(7, "a.mp4"))
    write(tmp_path / "test.jsonl", row(9, "c.mp4"))
    found = read(tmp_path, questions={"cot": str(cot), "videos": str(tmp_path / "videos")})
    assert [t.question.clip_id for t in found.cot] == ["b.mp4"], "a row without a process has nothing to learn"
    assert {r.path.parent for r in found.listing.rows} == {tmp_path.resolve() / "videos"}
    assert [r.clip_id for r in found.listing.rows] == ["a.mp4", "c.mp4", "b.mp4"], "each once"


def test_rows_of_a_benchmark_are_read_too(tmp_path: Path) -> None:
    own = {"question_id": "m1", "path": "a.mp4", "kind": "numerical", "text": "How many?", "answer": "3", "end": 4.0}
    write(tmp_path / "train.jsonl", row(1, "b.mp4", process="<think>x</think>"))
    write(tmp_path / "test.jsonl", own)
    found = read(tmp_path)
    assert [q.clip_id for q in found.test] == ["a.mp4@0-4"]
    assert found.listing.rows[-1].window == (None, 4.0)


def test_every_fault_at_once(tmp_path: Path) -> None:
    train = write(
        tmp_path / "train.jsonl",
        row(1, "a.mp4", process="thought without tags"),
        "no JSON",
        row(2, "../b.mp4"),
        row(3, "c.mp4", solution="<answer>many</answer>"),
        row(4, "d.mp4", data_type="image"),
    )
    test = write(tmp_path / "test.jsonl", row(1, "a.mp4"))
    with pytest.raises(ManifestError) as caught:
        read(tmp_path)
    assert caught.value.faults == [
        "train.jsonl:2: not_json: Expecting value: line 1 column 1 (char 0); a row is one JSON object on one line",
        "train.jsonl:5: problem 4: not_video: data_type 'image' is not 'video'; rbft learns from clips alone",
        "train.jsonl: 2 faults in rows that cannot be used (1 not_json, 1 not_video): mend or remove the rows, or go "
        "on without them with on_bad_clip: leave-out",
        "train.jsonl: question '3': the answer 'many' cannot be graded; a numerical answer is one plain number, like "
        "3, 1,234.5 or 50%",
        "train.jsonl: problem 1: process: process 'thought without tags' is not one <think>…</think> and nothing else",
        "train.jsonl: 1 faults in rows that cannot be used (1 process): mend or remove the rows, or go on without them "
        "with on_bad_clip: leave-out",
        f"train.jsonl: question 2: path '../b.mp4' leads outside {tmp_path}; move the clip there, or name its "
        "folder as questions.videos, or allow it with allow_outside: true",
        "leak: a.mp4 is asked about in the test (test.jsonl: question 1) and learnt from (train.jsonl: question 1); a "
        "clip is in one of them",
        f"arm 'cot', stage 1 (cot): no row of {train} has a `process` to learn; name a file with thoughts as "
        "questions.cot, or leave the arm out",
        f"arm 'cot+grpo', stage 1 (cot): no row of {train} has a `process` to learn; name a file with thoughts as "
        "questions.cot, or leave the arm out",
    ]
    assert test.is_file()


def test_bad_rows_are_left_out_with_a_note_where_bad_clips_are(tmp_path: Path) -> None:
    good = row(1, "a.mp4", process="<think>x</think>")
    write(tmp_path / "train.jsonl", good, row(2, "b.mp4", data_type="image"), row(3, "c.mp4", process="none"))
    write(tmp_path / "test.jsonl", row(1, "d.mp4"))
    found = read(tmp_path, on_bad_clip="leave-out")
    assert [q.question_id for q in found.train] == ["1", "3"]
    assert len(found.cot) == 1
    assert found.listing.notes == (
        "left out: 1 faults in rows of train.jsonl (1 not_video)",
        "left out: 1 faults in rows of train.jsonl (1 process)",
    )


def test_files_that_cannot_be_read_or_are_empty(tmp_path: Path) -> None:
    write(tmp_path / "test.jsonl")
    with pytest.raises(ManifestError) as caught:
        read(tmp_path, arms=["zero-shot"])
    assert caught.value.faults == [
        f"{tmp_path / 'train.jsonl'}: cannot be read: No such file or directory",
        f"{tmp_path / 'test.jsonl'}: holds no question",
    ]


def test_one_path_that_means_two_files(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", row(1, "a.mp4"))
    test = write(tmp_path / "other" / "test.jsonl", row(1, "a.mp4"))
    here, there = tmp_path.resolve() / "a.mp4", tmp_path.resolve() / "other" / "a.mp4"
    with pytest.raises(ManifestError) as caught:
        read(tmp_path, arms=["zero-shot"], questions={"test": str(test)})
    assert caught.value.faults == [
        f"'a.mp4' means {here} (train.jsonl: question 1) and {there} (test.jsonl: question 1); put the files of "
        "questions side by side, or name the clips' folder as questions.videos"
    ]


def test_clips_outside_are_allowed_by_name(tmp_path: Path) -> None:
    write(tmp_path / "in" / "train.jsonl", row(1, "../a.mp4"))
    write(tmp_path / "in" / "test.jsonl", row(1, "b.mp4"))
    found = read(tmp_path / "in", arms=["zero-shot"], allow_outside=True)
    assert found.listing.rows[0].path == tmp_path.resolve() / "a.mp4"


def test_prompts_without_questions_are_a_fault(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", row(1, "a.mp4"))
    write(tmp_path / "test.jsonl", row(1, "b.mp4"))
    bare = PROMPTS.model_copy(update={"templates": PROMPTS.templates.model_copy(update={"question": None})})
    with pytest.raises(ManifestError, match="the prompts 'brief' have no template `question`, which questions are"):
        read(tmp_path, bare, arms=["zero-shot"])


def test_questions_of_clips_that_are_left_out(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", row(1, "a.mp4", process="<think>x</think>"), row(2, "b.mp4"), row(3, "b.mp4"))
    write(tmp_path / "test.jsonl", row(1, "c.mp4"))
    found = read(tmp_path)

    def manifest(*clip_ids: str) -> Manifest:
        clips = [Clip(clip_id=c, path=c, sha256=c, duration_seconds=1.0, split="train") for c in clip_ids]
        return Manifest(labels={}, clips=tuple(clips))

    used = used_questions(found, manifest("a.mp4", "c.mp4"))
    assert ([q.question_id for q in used.train], len(used.cot), len(used.test)) == (["1"], 1, 1)
    assert used.left_out == 2
    with pytest.raises(ManifestError) as caught:
        used_questions(found, manifest("b.mp4"))
    assert caught.value.faults == [
        "every question with a thought is about a clip that is left out; mend the clips",
        "every question of the test is about a clip that is left out; mend the clips",
    ]
