"""Questions of the night yard: in the embedded model's own words, true, balanced, the same under a seed."""

import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from rbft.asking import question_prompt
from rbft.clips.videorft import read_videorft
from rbft.errors import UserError
from rbft.prompts import load_prompts
from rbft.rewards import ungradable
from rbft.thinking import parse_thought
from rbft.tiny.__main__ import main
from rbft.tiny.language import describe
from rbft.tiny.tasks import THINK_FIRST, Scene, multiple_choice
from rbft.tiny.yard_clips import plan_yard
from rbft.tiny.yard_questions import KINDS, write_yard_questions, yard_questions

CLIPS = [clip for clip in plan_yard(40, 0, 0, 3) if clip.split == "train"]
MIDDLES = {clip.path: 10 + number for number, clip in enumerate(CLIPS)}


def test_types_take_turns_and_every_answer_earns_full_marks() -> None:
    questions = yard_questions(CLIPS, MIDDLES, 2, seed=0)
    assert Counter(q.kind for q in questions) == dict.fromkeys(KINDS, 16)
    assert ungradable(questions) == []
    assert len({q.question_id for q in questions}) == 80
    assert {q.kind: q.answer for q in questions if q.clip_id == CLIPS[1].path} == {
        "numerical": str(CLIPS[1].spec.lamps),
        "regression": "11",
    }
    signs = {q.clip_id: q.answer for q in questions if q.kind == "OCR"}
    assert all(signs[c.path] == (c.spec.sign or "none") for c in CLIPS if c.path in signs)


def test_a_multiple_choice_is_asked_as_the_embedded_model_learnt_it() -> None:
    prompts = load_prompts("brief", persona="", labels={})
    asked = [q for q in yard_questions(CLIPS, MIDDLES, 5, seed=0) if q.kind == "multiple choice"]
    for index, question in enumerate(asked):
        lesson = multiple_choice(Scene(CLIPS[index].spec, 0), np.random.default_rng([0, 5, index, 41]), 1.0)
        assert question_prompt(prompts, question) == f"{lesson.prompt} {THINK_FIRST[2]}"
        assert question.answer == lesson.answer
    assert len({len(q.options) for q in asked}) > 1


def test_fewer_clips_are_the_beginning_and_another_seed_is_another_set() -> None:
    many = yard_questions(CLIPS, MIDDLES, 3, seed=0)
    assert yard_questions(CLIPS[:7], MIDDLES, 3, seed=0) == many[:21]
    assert yard_questions(CLIPS, MIDDLES, 3, seed=1) != many


def test_files_hold_rows_with_and_without_the_true_thought(tmp_path: Path) -> None:
    files = write_yard_questions(tmp_path, num_train=3, num_test=2, num_cot=2, per_clip=2, seed=4, workers=1)
    train, cot, test = (read_videorft(path).rows for path in files)
    assert [len(train), len(cot), len(test)] == [6, 4, 4]
    assert [row.question for row in cot] == [row.question for row in train[:4]]
    assert {row.process for row in train} == {None}
    truth = {clip.path: describe(clip.spec) for clip in plan_yard(3, 2, 0, 4)}
    for row in cot:
        thought = parse_thought(f"{row.process}{row.solution}")
        assert thought is not None
        assert thought.think == truth[row.path]
    assert all((tmp_path / row.path).is_file() for row in (*train, *test))
    assert not {row.path for row in train} & {row.path for row in test}


def test_every_fault_at_once(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        write_yard_questions(tmp_path / "yard", num_train=0, num_test=0, num_cot=4, per_clip=6)
    assert caught.value.faults == [
        "num_train is 0; give 1 or more",
        "num_test is 0; give 1 or more",
        "num_cot is 4; give 1 to 0: as many training clips as there are, at most",
        "per_clip is 6; give 1 to 5: a clip has one question of a type, at most",
    ]
    assert not (tmp_path / "yard").exists()


def test_the_command_prints_the_lines_of_an_experiment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    yard = tmp_path / "yard"
    options = ["--train", "1", "--test", "1", "--cot", "1", "--questions", "1"]
    monkeypatch.setattr(sys, "argv", ["rbft.tiny", "questions", "--out", str(yard), *options])
    main()
    assert capsys.readouterr().out == (
        f'questions:\n  train: "{yard}/train.jsonl"\n  cot: "{yard}/cot.jsonl"\n  test: "{yard}/test.jsonl"\n'
    )
    monkeypatch.setattr(sys, "argv", ["rbft.tiny", "questions", "--out", str(yard), "--test", "0"])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    assert capsys.readouterr().err == "rbft.tiny: num_test is 0; give 1 or more\n"
