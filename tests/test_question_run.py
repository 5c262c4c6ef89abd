"""An experiment about questions through the real command on the embedded model: stages, answers, report, kills."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

import rbft
from commands import command
from rbft.asking import question_prompt
from rbft.clips.questions import read_questions
from rbft.clips.videorft import read_videorft
from rbft.errors import ExperimentError
from rbft.files import read_jsonl, read_record
from rbft.models.vlm import VLM
from rbft.prompts import load_prompts
from rbft.records import Answered, Example, RolloutRecord
from rbft.results import QuestionReport
from rbft.rewards import accuracy
from rbft.store import Card, read_card
from rbft.thinking import read_answer
from rbft.tiny.yard_questions import KINDS, YardQuestions, write_yard_questions
from rbft.training.batches import Collator
from rbft.training.plan import MemoryPlan
from rbft.training.rollouts import Grader

pytestmark = pytest.mark.usefixtures("one_thread")

SETTINGS = """\
questions: {train: train.jsonl, cot: cot.jsonl, test: test.jsonl}
model: embedded
prompts: brief
seeds: [0]
workers: 1
sampling: {fps: 2, min_pixels: 7056, max_pixels: 7056}
training: {learning_rate: 3e-4, micro_batch_size: 1, batch_size: 1, save_every_steps: 1}
reinforce: {samples: 3, max_new_tokens: 48, batch_size: 5, learning_rate: 1e-4, temperature: 1.5, save_every_steps: 1}
evaluation: {batch_size: 4, resamples: 100}
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> YardQuestions:
    folder = tmp_path_factory.mktemp("questions")
    made = write_yard_questions(folder, num_train=5, num_test=5, num_cot=2, per_clip=2, seed=3, workers=1)
    (folder / "asked.yaml").write_text(SETTINGS, encoding="utf-8")
    return made


def run(files: YardQuestions, output: Path, *settings: str) -> int:
    return command("run", str(files.train.with_name("asked.yaml")), f"output={json.dumps(str(output))}", *settings)


@dataclass(frozen=True)
class Finished:
    root: Path
    report: QuestionReport
    printed: str

    def cards(self) -> dict[str, Card]:
        """By stage."""
        found = [read_card(folder) for folder in (self.root / "checkpoints").iterdir() if folder.is_dir()]
        return {card.checkpoint.stage: card for card in found}

    def answers(self, arm: str) -> list[Answered]:
        stage = {"cot": "cot", "cot+grpo": "reinforce"}[arm]
        key = self.cards()[stage].checkpoint.fingerprint
        made = [read_jsonl(file, Answered) for file in (self.root / "answers").glob("*.jsonl")]
        return next(part for part in made if part[0].checkpoint == key)


@pytest.fixture(scope="module")
def finished(files: YardQuestions, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    output = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "200")
        capture: list[str] = []
        patch.setattr("sys.stdout.write", capture.append, raising=False)
        assert run(files, output) == 0
    root = output / "asked"
    return Finished(root, read_record(root / "report.json", QuestionReport), "".join(capture))


def test_the_arms_are_zero_shot_cot_and_cot_then_reinforced(finished: Finished) -> None:
    report, cards = finished.report, finished.cards()
    assert {name: arm.num_steps for name, arm in report.arms.items()} == {"zero-shot": 0, "cot": 4, "cot+grpo": 6}
    assert report.arms["cot+grpo"].stages == ("thoughts and answers", "reinforced by rewards")
    assert set(cards) == {"cot", "reinforce"}, "the cot stage is trained once for both arms"
    assert cards["reinforce"].checkpoint.parent == cards["cot"].checkpoint.fingerprint
    assert (report.data.train, report.data.cot, report.data.test) == (10, 4, 10)
    assert dict(report.data.kinds) == dict.fromkeys(KINDS, 2)
    assert [(c.a, c.b, c.metric) for c in report.comparisons] == [
        ("zero-shot", "cot", "score"),
        ("zero-shot", "cot+grpo", "score"),
        ("cot", "cot+grpo", "score"),
    ]


def test_answers_are_graded_and_the_table_is_their_mean(finished: Finished, files: YardQuestions) -> None:
    asked = {row.question_id: row.question for row in read_questions(files.test).rows}
    answers = finished.answers("cot+grpo")
    assert {a.question_id for a in answers} == set(asked)
    for answered in answers:
        assert answered.score == accuracy(asked[answered.question_id], read_answer(answered.text))
    worth = [a.headline for a in answers if a.headline is not None]
    assert finished.report.arms["cot+grpo"].answers.overall.score.mean == pytest.approx(sum(worth) / 10)


def test_a_cot_stage_learns_process_and_solution_of_its_rows(
    files: YardQuestions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learnt: list[Example] = []

    def seen(self: Collator, batch: list[Example]) -> dict[str, torch.Tensor]:
        learnt.extend(batch)
        raise KeyboardInterrupt

    monkeypatch.setattr(Collator, "__call__", seen)
    assert run(files, tmp_path, "arms=[cot]", "training.batch_size=4", "training.micro_batch_size=4") == 130
    prompts = load_prompts("brief", persona="", labels={})
    rows = read_videorft(files.cot).rows
    assert {(e.clip_id, e.prompt, e.answer, e.source) for e in learnt} == {
        (row.path, question_prompt(prompts, row.question), f"{row.process}{row.solution}", "curated") for row in rows
    }


def test_rollouts_are_asked_as_the_test_is(
    files: YardQuestions, finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logs = finished.root / "logs" / finished.cards()["reinforce"].checkpoint.fingerprint
    rollouts = read_jsonl(logs / "rollouts.jsonl", RolloutRecord)
    questions = [row.question for row in read_questions(files.train).rows]
    assert {r.question_id for r in rollouts} == {q.question_id for q in questions}
    assert len(rollouts) == 30
    asked: list[str] = []
    encode = VLM.encode

    def seen(self: VLM, frames: Any, plan: Any, prompt: str) -> Any:
        asked.append(prompt)
        return encode(self, frames, plan, prompt)

    monkeypatch.setattr(VLM, "encode", seen)
    settings = ["arms=[{name: grpo, stages: [{kind: reinforce}]}]", "reinforce.samples=2"]
    monkeypatch.setattr(Grader, "group", _interrupt)
    assert run(files, tmp_path, *settings) == 130
    prompts = load_prompts("brief", persona="", labels={})
    held_out = [row.question for row in read_questions(files.test).rows]
    assert {question_prompt(prompts, q) for q in held_out} <= set(asked), "the held-out curve asks them"
    assert set(asked) <= {question_prompt(prompts, q) for q in [*questions, *held_out]}


def _interrupt(*_: object) -> Any:
    raise KeyboardInterrupt


def test_the_page_has_scores_curves_and_answers_with_frames(finished: Finished) -> None:
    page = (finished.root / "report.html").read_text(encoding="utf-8")
    for said in (
        "Mean reward of cot+grpo, reinforce stage: from ", "Mean length of cot+grpo, reinforce stage: from ",
        "Divergence from the parent of cot+grpo, reinforce stage: from ", "Training loss of cot, cot stage: from ",
        "regression (MRA)", "Where is the subject from left (0) to right (100)?", "data:image/jpeg;base64,",
    ):  # fmt: skip
        assert said in page
    assert page.count('<article class="example">') == 10
    assert "<script" not in page


def test_the_terminal_ends_with_the_table(files: YardQuestions, finished: Finished, tmp_path: Path) -> None:
    printed = finished.printed
    assert finished.report.headline in printed
    for said in (
        "multiple choice",
        "regression (MRA)",
        "cot+grpo − zero-shot",
        "on 10 questions about 5 clips",
    ):
        assert said in printed
    assert f"Report:   {finished.root / 'report.html'}" in printed
    assert "Ask:      rbft ask " in printed


def test_the_checkpoint_is_asked_and_not_for_labels(
    files: YardQuestions, finished: Finished, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = finished.root / "checkpoints" / finished.cards()["reinforce"].checkpoint.fingerprint
    clip = next(files.train.parent.glob("clips/test-*.mp4"))
    refused = (
        f"rbft: {folder}: answers questions and knows no labels; ask it with `rbft ask {folder} QUESTIONS.jsonl`\n"
    )
    assert command("predict", str(folder), str(clip)) == 2
    assert capsys.readouterr().err == refused
    assert command("explain", str(folder), str(clip)) == 2
    assert capsys.readouterr().err == refused
    assert command("explain", str(finished.root)) == 2
    assert "a run about questions has no labels to explain; its report shows answers" in capsys.readouterr().err
    assert command("ask", str(folder), str(files.test), "--out", str(tmp_path / "asked")) == 0
    alone = {a.question_id: a.text for a in read_jsonl(tmp_path / "asked" / "answers.jsonl", Answered)}
    assert alone == {a.question_id: a.text for a in finished.answers("cot+grpo")}


def test_the_memory_was_expected_of_questions_and_thoughts(files: YardQuestions, finished: Finished) -> None:
    plan = read_record(finished.root / "memory.json", MemoryPlan)
    assert [row.phase for row in plan.rows if row.chosen] == [
        "full fine-tuning",
        "reinforcing, full fine-tuning",
        "answering",
    ]
    vlm = VLM.load("embedded")
    prompts = load_prompts("brief", persona="", labels={})
    rows = [row for path in files for row in read_videorft(path).rows]
    longest = max(len(vlm.processor.tokenizer(question_prompt(prompts, row.question)).input_ids) for row in rows)
    answer = max(len(vlm.answer_ids(f"{row.process}{row.solution}")) for row in rows if row.process)
    text = plan.median_tokens - plan.median_visual_tokens
    assert longest + answer <= text <= longest + answer + 24, "the turn's own tokens stand around them"


def test_run_again_it_redoes_nothing(files: YardQuestions, finished: Finished, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(VLM, "load", lambda *_, **__: pytest.fail("a model was loaded"))
    assert run(files, finished.root.parent) == 0
    assert read_record(finished.root / "report.json", QuestionReport).arms == finished.report.arms


def _failing_at(number: int, original: Callable[..., Any]) -> Callable[..., Any]:
    calls: list[int] = []

    def call(*arguments: Any, **more: Any) -> Any:
        calls.append(0)
        if len(calls) == number:
            raise KeyboardInterrupt
        return original(*arguments, **more)

    return call


def test_killed_in_cot_in_reinforce_and_in_answering_it_is_the_same_run(
    files: YardQuestions, finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After one of four steps, after one of two steps, and in the second batch of the last arm's answers."""
    from rbft.evaluation import questions

    for target, name, number in (
        (Collator, "__call__", 3),
        (Grader, "group", 7),
        (questions, "graded", 6),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(target, name, _failing_at(number, getattr(target, name)))
            assert run(files, tmp_path) == 130, name
        saved = list((tmp_path / "asked" / "checkpoints").glob(".*.work/checkpoint-*"))
        assert len(saved) == (0 if name == "graded" else 1)
    written = [read_jsonl(file, Answered) for file in (tmp_path / "asked" / "answers").glob("*.jsonl")]
    assert sorted(map(len, written)) == [4, 10, 10]
    with monkeypatch.context() as patch:
        patch.setattr(Collator, "__call__", _interrupt)
        patch.setattr(Grader, "group", _interrupt)
        assert run(files, tmp_path) == 0, "stages are there"
    report = read_record(tmp_path / "asked" / "report.json", QuestionReport)
    assert report.arms == finished.report.arms
    assert report.comparisons == finished.report.comparisons


def test_python_runs_it_by_a_name_of_its_own(files: YardQuestions, finished: Finished) -> None:
    experiment = rbft.load_experiment(files.train.with_name("asked.yaml"), [f"output={finished.root.parent}"])
    with pytest.raises(ExperimentError, match=r"asked: an experiment about questions; run it with rbft\.run_questions"):
        rbft.run(experiment)
    outcome = rbft.run_questions(experiment, quiet=True)
    assert outcome.report.arms == finished.report.arms
    assert outcome.checkpoint is not None
    assert (outcome.checkpoint / "card.json").is_file()
    labelled = rbft.Experiment(name="other", clips="clips.csv", model="embedded")
    with pytest.raises(ExperimentError, match=r"other: has no `questions`; run it with rbft\.run"):
        rbft.run_questions(labelled)


def test_a_test_clip_under_another_name_is_a_leak(
    files: YardQuestions, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clip = next(files.train.parent.glob("clips/test-*.mp4"))
    rows = files.train.read_text(encoding="utf-8")
    first = json.loads(rows.splitlines()[0])["path"]
    twin = files.train.parent / "clips" / "twin.mp4"
    twin.write_bytes(clip.read_bytes())
    other = files.train.with_name("leak.jsonl")
    other.write_text(rows.replace(first, "clips/twin.mp4"), encoding="utf-8")
    assert run(files, tmp_path, "questions.train=" + json.dumps(str(other))) == 2
    printed = capsys.readouterr().err
    assert f"leak: clips/twin.mp4 (leak.jsonl: question train-00000-multiple-choice) and clips/{clip.name} " in printed
    assert "hold the same bytes, in train and in test" in printed
    assert not (tmp_path / "asked" / "checkpoints").exists()


def test_check_reads_the_clips_of_questions(
    files: YardQuestions, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    experiment = files.train.with_name("asked.yaml")
    assert command("check", str(experiment), "--json") == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {row["clip_id"] for row in rows} == {f"clips/{s}-0000{n}.mp4" for s in ("train", "test") for n in range(5)}
    assert {row["sampled_frames"] for row in rows} == {4}
    bad = files.train.with_name("bad.yaml")
    bad.write_text(SETTINGS.replace("cot: cot.jsonl, ", ""), encoding="utf-8")
    assert command("check", str(bad)) == 2
    assert "arm 'cot', stage 1 (cot): no row of " in capsys.readouterr().err
