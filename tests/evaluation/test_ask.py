"""`rbft ask` through the real command: rendered clips, the embedded model, what is refused, and what is not redone."""

import csv
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from commands import command
from rbft.clips.frames import frame_count
from rbft.clips.questions import QuestionRow, read_questions, write_questions
from rbft.clips.videorft import row_of, write_videorft
from rbft.evaluation.ask import SAMPLING, Choices, respondent_of
from rbft.files import MAKE_ROWS_AGAIN, read_jsonl, sha256_of, write_record
from rbft.models.vlm import VLM
from rbft.prompts import load_prompts
from rbft.records import Answered, Checkpoint
from rbft.results import AskReport
from rbft.store import CARD, Card, seal
from rbft.tiny.language import bare_text, parse_description
from rbft.tiny.night_yard import write_night_yard
from rbft.tiny.world import DIMENSIONS
from videos import picture, write_clip

ASKED = {"subject": "What is the subject?", "light": "What time of day is it?", "scene": "Where is it?"}


@pytest.fixture(scope="module")
def yard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve rendered clips with questions of two kinds about each."""
    folder = tmp_path_factory.mktemp("yard")
    write_night_yard(folder, num_train=6, num_test=6, seed=5)
    rows = []
    with (folder / "clips.csv").open(newline="", encoding="utf-8") as file:
        for number, clip in enumerate(csv.DictReader(file)):
            words = parse_description(clip["rationale"])
            assert words is not None
            for name, asked in ASKED.items():
                right, wrong = words[name], next(word for word in DIMENSIONS[name] if word != words[name])
                options = (bare_text(name, wrong), bare_text(name, right))[:: 1 if number % 2 else -1]
                fields = {"kind": "multiple choice", "text": asked, "options": options, "category": (name,)}
                answer = "B" if number % 2 else "A"
                rows.append(row(f"{number}-{name}", clip["path"], answer=answer, **fields))
            boxes = json.loads(clip["boxes"])
            middle = round(100 * sum((b["box"][0] + b["box"][2]) / 2 for b in boxes) / len(boxes))
            text = "Where is the subject from left (0) to right (100)?"
            rows.append(row(f"{number}-place", clip["path"], kind="regression", text=text, answer=str(middle)))
    write_questions(folder / "questions.jsonl", rows)
    return folder


def row(question_id: str, path: str, **fields: Any) -> QuestionRow:
    return QuestionRow.model_validate({"question_id": question_id, "path": path} | fields)


def ask(yard: Path, out: Path, *more: str, model: str = "embedded", file: str = "questions.jsonl") -> int:
    return command("ask", model, str(yard / file), "--out", str(out), *more)


@pytest.fixture(scope="module")
def asked(yard: Path) -> Path:
    """The folder of the answers."""
    out = yard / "asked"
    assert ask(yard, out) == 0
    return out


def report_in(out: Path) -> AskReport:
    return AskReport.model_validate_json((out / "summary.json").read_text(encoding="utf-8"))


def test_the_embedded_model_answers_better_than_chance(asked: Path, yard: Path) -> None:
    report = report_in(asked)
    answered = read_jsonl(asked / "answers.jsonl", Answered)
    assert {a.question_id for a in answered} == {r.question_id for r in read_questions(yard / "questions.jsonl").rows}
    told = report.summary
    assert told.overall.questions == len(answered) == 48
    assert told.overall.clips == 12
    choices = told.kinds["multiple choice"]
    assert choices.score.mean == pytest.approx(sum(a.score or 0 for a in answered if a.kind == "multiple choice") / 36)
    assert choices.score.low > 0.5, "of two options"
    assert set(told.categories) == {"subject", "light", "scene"}
    assert told.kinds["regression"].score.mean > 0.2, "MRA"
    assert report.asking.prompts == "brief"
    assert report.asking.sampling["max_frames"] == 32


def test_again_it_redoes_nothing(asked: Path, yard: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(VLM, "load", lambda *_, **__: pytest.fail("a model was loaded"))
    before = {name: (asked / name).read_bytes() for name in ("answers.jsonl", "summary.json", "asking.json")}
    assert ask(yard, asked) == 0
    assert {name: (asked / name).read_bytes() for name in before} == before


def test_again_it_sweeps_what_killed_writers_left(asked: Path, yard: Path) -> None:
    parts = [folder / ".left.0123456789ab.part" for folder in (asked, asked.parent / "cache" / "frames")]
    for part in parts:
        part.write_bytes(b"half")
        os.utime(part, (0, 0))
    assert ask(yard, asked) == 0
    assert [part for part in parts if part.exists()] == []


def test_interrupted_it_continues(asked: Path, yard: Path, tmp_path: Path) -> None:
    assert ask(yard, tmp_path / "part") == 0
    lines = (tmp_path / "part" / "answers.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "part" / "answers.jsonl").write_bytes(b"".join(lines[:20]) + lines[20][:30])
    (tmp_path / "part" / "summary.json").unlink()
    assert ask(yard, tmp_path / "part") == 0
    assert report_in(tmp_path / "part") == report_in(asked)
    assert (tmp_path / "part" / "answers.jsonl").read_bytes().splitlines(keepends=True)[:20] == lines[:20]


def test_table_and_json(asked: Path, yard: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ask(yard, asked) == 0
    shown = capsys.readouterr().out
    for name in ("all", "over categories", "multiple choice", "regression (MRA)", "subject", "unreadable"):
        assert name in shown
    assert ask(yard, asked, "--json") == 0
    assert AskReport.model_validate_json(capsys.readouterr().out) == report_in(asked)


def test_something_else_is_not_mixed_into_the_folder(
    asked: Path, yard: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (asked / "answers.jsonl").read_bytes()
    assert ask(yard, asked, "--frames", "2", "--max-new-tokens", "8") == 2
    said = capsys.readouterr().err
    assert "holds answers to something else (max new tokens, sampling differ); name another folder with --out" in said
    assert (asked / "answers.jsonl").read_bytes() == before


def test_videorft_rows_are_asked_as_they_are(asked: Path, yard: Path, tmp_path: Path) -> None:
    own = [r for r in read_questions(yard / "questions.jsonl").rows if r.kind == "multiple choice"][:6]
    rows = [row_of(r.question, path=r.path, data_source="yard") for r in own]
    write_videorft(tmp_path / "rft.jsonl", rows)
    out = tmp_path / "out"
    assert command("ask", "embedded", str(tmp_path / "rft.jsonl"), "--videos", str(yard), "--out", str(out)) == 0
    theirs = {a.question_id: a.answer for a in read_jsonl(asked / "answers.jsonl", Answered)}
    made = read_jsonl(out / "answers.jsonl", Answered)
    assert {a.question_id: a.answer for a in made} == {r.question_id: theirs[r.question_id] for r in own}


def test_a_window_of_a_file_is_a_clip_of_its_own(tmp_path: Path) -> None:
    write_clip(tmp_path / "a.mp4", [picture(n, 168, 168) for n in range(16)], fps=8)
    fields = {"kind": "multiple choice", "text": "What is the subject?", "options": ("a dog", "a cat"), "answer": "A"}
    rows = [row("1", "a.mp4", start=0.0, end=1.0, **fields), row("2", "a.mp4", start=1.0, end=2.0, **fields)]
    write_questions(tmp_path / "q.jsonl", rows)
    assert command("ask", "embedded", str(tmp_path / "q.jsonl"), "--out", str(tmp_path / "out")) == 0
    made = read_jsonl(tmp_path / "out" / "answers.jsonl", Answered)
    assert [a.clip_id for a in made] == ["a.mp4@0-1", "a.mp4@1-2"]
    assert len(list((tmp_path / "cache" / "frames").glob("??/*.safetensors"))) == 2


def test_from_a_benchmarks_own_file_to_its_score(
    yard: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """MVBench's layout around rendered clips: import, then ask."""
    rows = [r for r in read_questions(yard / "questions.jsonl").rows if r.category == ("subject",)]
    items = []
    for number, one in enumerate(rows):
        place = tmp_path / "video" / "star" / "Charades_v1_480" / f"{number}.mp4"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes((yard / one.path).read_bytes())
        answer = one.options["AB".index(one.answer)]
        fields = {"video": place.name, "question": one.text, "candidates": list(one.options), "answer": answer}
        items.append(fields | {"start": 0.0, "end": 2.0})
    (tmp_path / "action_sequence.json").write_text(json.dumps(items))
    videos = tmp_path / "video"
    assert command("import", "mvbench", str(tmp_path / "action_sequence.json"), "--videos", str(videos)) == 0
    assert command("ask", "embedded", str(videos / "mvbench.jsonl"), "--out", str(tmp_path / "out"), "--json") == 0
    report = AskReport.model_validate_json(capsys.readouterr().out.splitlines()[-1])
    assert report.summary.categories["action_sequence"].questions == 12
    assert report.summary.overall.score.low > 0.5, "of two options"
    made = read_jsonl(tmp_path / "out" / "answers.jsonl", Answered)
    assert {a.clip_id for a in made} == {f"star/Charades_v1_480/{n}.mp4@0-2" for n in range(12)}


# -- checkpoints ---------------------------------------------------------------------------------------------------


def checkpoint(folder: Path, **fields: Any) -> Path:
    """The embedded model as a checkpoint of a run."""
    VLM.load("embedded").save(folder)
    prompts = load_prompts("brief", persona="x", labels={"a": ""})
    base = dict.fromkeys(("path", "data_fingerprint", "prompts_fingerprint", "config_fingerprint"), "")
    told = {"fingerprint": "abc", "stage": "cot", "base": "embedded", "parent": None, "seed": 0, "num_steps": 1}
    trained = fields.pop("train_clip_sha256", ())
    sampling = {"fps": 2.0, "min_pixels": 7056, "max_pixels": 7056, "max_frames": 8}
    made = base | told | {"sampling_fingerprint": "", "train_clip_sha256": trained}
    card = {
        "checkpoint": Checkpoint.model_validate(made), "prompts": prompts, "sampling": sampling,
        "length_normalisation": "none", "questions": prompts.templates.asking,
    }  # fmt: skip
    write_record(folder / CARD, Card.model_validate(card | fields))
    seal(folder)
    return folder


def test_a_checkpoint_is_asked_with_its_own_prompts_and_frames(
    asked: Path, yard: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    learnt = sha256_of(yard / read_questions(yard / "questions.jsonl").rows[0].path)
    folder = checkpoint(tmp_path / "cot", train_clip_sha256=(learnt,))
    assert ask(yard, tmp_path / "out", "--max-new-tokens", "96", model=str(folder)) == 0
    asking = report_in(tmp_path / "out").asking
    assert (asking.checkpoint, asking.prompts, asking.sampling["max_frames"]) == ("abc", "brief", 8)
    assert asking.trained_on == ("0-subject", "0-light", "0-scene", "0-place")
    assert "note: the checkpoint was trained on the clips of 4 of these questions" in capsys.readouterr().out
    theirs = {a.question_id: a.text for a in read_jsonl(asked / "answers.jsonl", Answered)}
    assert {a.question_id: a.text for a in read_jsonl(tmp_path / "out" / "answers.jsonl", Answered)} == theirs


def test_a_card_without_templates_of_questions_needs_prompts(yard: Path, tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "old", questions=None)
    assert faults(yard, tmp_path, model=str(folder)) == [
        f"{folder}: its card does not say how it is asked questions; name the prompts that it was trained with: "
        "--prompts default, brief or a file"
    ]
    assert respondent_of(str(folder), Choices(prompts="brief")).prompts.templates.question is not None


def test_a_base_model_is_asked_as_in_the_paper_unless_told_otherwise() -> None:
    full = respondent_of("owner/name", Choices())
    assert (full.sampling, full.max_new_tokens, full.prompts.templates.name) == (SAMPLING, 1024, "default")
    told = respondent_of("owner/name", Choices(frames=2, fps=1.0, max_pixels=50_000, max_new_tokens=7, prompts="brief"))
    assert (told.sampling.max_frames, told.sampling.min_frames, told.sampling.fps) == (2, 2, 1.0)
    assert (told.sampling.max_pixels, told.sampling.min_pixels) == (50_000, 50_000)
    odd = respondent_of("owner/name", Choices(frames=3)).sampling
    assert frame_count(10.0, 300, odd) == frame_count(0.1, 3, odd) == 2, "at most three, in whole temporal patches"
    assert (told.max_new_tokens, told.prompts.templates.name) == (7, "brief")


# -- refusals ------------------------------------------------------------------------------------------------------


def faults(
    yard: Path, tmp_path: Path, *more: str, model: str = "embedded", file: Path | None = None, out: Path | None = None
) -> list[str]:
    """What the command says where it refuses; nothing is written or loaded."""
    from rbft.errors import UserError
    from rbft.evaluation.ask import ask as ask_questions

    with pytest.raises(UserError) as caught:
        ask_questions(model, file or yard / "questions.jsonl", videos=yard, out=out or tmp_path / "refused")
    assert not (tmp_path / "refused").exists()
    return caught.value.faults


def test_all_faults_in_one_message(yard: Path, tmp_path: Path) -> None:
    clip = next((yard / "clips").glob("*.mp4")).relative_to(yard)
    (tmp_path / "outside.mp4").write_bytes(b"x")
    options = {"options": ("a dog", "a cat")}
    rows = [
        row("1", str(clip), kind="multiple choice", text="?", answer="a fox", **options),
        row("2", "none.mp4", kind="OCR", text="?", answer="x"),
        row("3", "../" * 20 + str(tmp_path / "outside.mp4").lstrip("/"), kind="OCR", text="?", answer="x"),
        row("4", str(clip), kind="regression", text="?", answer="many"),
    ]
    file = tmp_path / "bad.jsonl"
    write_questions(file, rows)
    good = rows[1].model_dump_json()
    file.write_text(file.read_text() + good + "\n{}\n" + good.replace('"2"', '"5"').replace("none.mp4", ""))
    found = faults(yard, tmp_path, model=str(tmp_path / "nowhere"), file=file)
    assert found == [
        f"{tmp_path / 'nowhere'}: no such model folder; give a folder, a Hugging Face name, or `embedded`",
        *[f"bad.jsonl:6: fields: {name}: field required" for name in ("question_id", "path", "kind", "text", "answer")],
        "bad.jsonl:7: fields: path: string should have at least 1 character",
        "bad.jsonl:5: twice: question_id '2' stands in bad.jsonl:2 too; give each its own",
        "question '1': the answer 'a fox' cannot be graded; a multiple choice answer is exactly one of the options, "
        "which are 'a dog', 'a cat'",
        "question '4': the answer 'many' cannot be graded; a regression answer is one plain number, like 3, 1,234.5 or "
        "50%",
        f"question '3': path '{rows[2].path}' leads outside {yard}; move the clip there, or name its folder with "
        "--videos",
        f"1 of 4 questions have no video in {yard}: none.mp4. Put them there, name their folder with --videos, or "
        "leave these questions out with --leave-out-missing",
    ]


def test_missing_videos_are_left_out_only_when_asked(
    yard: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = list(read_questions(yard / "questions.jsonl").rows[:4])
    rows.append(rows[0].model_copy(update={"question_id": "gone", "path": "clips/gone.mp4"}))
    write_questions(tmp_path / "q.jsonl", rows)
    out = tmp_path / "out"
    given = ("ask", "embedded", str(tmp_path / "q.jsonl"), "--videos", str(yard), "--out", str(out))
    assert command(*given) == 2
    assert "1 of 5 questions have no video" in capsys.readouterr().err
    assert command(*given, "--leave-out-missing") == 0
    assert "left out: 1 of 5 questions; asking.json names them" in capsys.readouterr().err
    assert report_in(out).asking.left_out == ("gone",)
    assert report_in(out).summary.overall.questions == 4
    (tmp_path / "empty").mkdir()
    every = ("ask", "embedded", str(tmp_path / "q.jsonl"), "--videos", str(tmp_path / "empty"), "--leave-out-missing")
    assert command(*every) == 2
    assert "5 of 5 questions have no video" in capsys.readouterr().err


def test_clips_that_cannot_be_read_are_named_and_left_out_only_when_asked(
    yard: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file that is no video, and a window behind a clip's end."""
    good = read_questions(yard / "questions.jsonl").rows[0]
    (tmp_path / "broken.mp4").write_bytes(b"no video at all" * 40)
    (tmp_path / "good.mp4").write_bytes((yard / good.path).read_bytes())
    bad = [row("1", "broken.mp4", kind="OCR", text="?", answer="x"),
           good.model_copy(update={"question_id": "2", "path": "good.mp4", "start": 1.0, "end": 9.0})]  # fmt: skip
    write_questions(tmp_path / "q.jsonl", [*bad, good.model_copy(update={"path": "good.mp4"})])
    given = ("ask", "embedded", str(tmp_path / "q.jsonl"), "--out", str(tmp_path / "out"))
    assert command(*given) == 2
    said = capsys.readouterr().err
    assert "rbft: broken.mp4: " in said
    assert "rbft: good.mp4: too_short: the window ends at 9 s; the clip ends at 2 s" in said
    assert (
        "rbft: 2 of 3 clips cannot be read: mend the files, or leave their questions out with --leave-out-missing"
        in said
    )
    assert command(*given, "--leave-out-missing") == 0
    said = capsys.readouterr().err
    assert "left out: good.mp4: too_short: " in said
    assert "left out: 2 of 3 questions; asking.json names them" in said
    assert report_in(tmp_path / "out").asking.left_out == ("1", "2")
    assert report_in(tmp_path / "out").summary.overall.questions == 1
    write_questions(tmp_path / "q.jsonl", bad)
    assert command(*given, "--leave-out-missing") == 2
    assert "2 of 2 clips cannot be read" in capsys.readouterr().err


def test_what_else_is_refused(yard: Path, tmp_path: Path) -> None:
    (tmp_path / "none.jsonl").write_text("\n")
    assert faults(yard, tmp_path, file=tmp_path / "none.jsonl") == [f"{tmp_path / 'none.jsonl'}: holds no question"]
    assert faults(yard, tmp_path, file=tmp_path / "absent.jsonl") == [
        f"{tmp_path / 'absent.jsonl'}: cannot be read: No such file or directory",
    ]
    run = tmp_path / "run"
    (run / "checkpoints" / "k1").mkdir(parents=True)
    assert faults(yard, tmp_path, model=str(run)) == [
        f"{run}: a run directory; name one of its checkpoints: checkpoints/ holds k1"
    ]
    assert faults(yard, tmp_path, out=run) == [
        f"--out {run}: is the folder of a run; name another one, there or to be made"
    ]


def test_prompts_that_ask_no_questions(yard: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [
        "schema: 1", "name: own", "rationale: 'x {persona}'", "label: '{labels}'", "label_item: '{label}{definition}'",
        "label_item_bare: '{label}'", "dimensions: {subjects: [s], attributes: [a], actions: [b], scenes: [c]}",
    ]  # fmt: skip
    (tmp_path / "own.yaml").write_text("\n".join(lines))
    assert ask(yard, tmp_path / "out", "--prompts", str(tmp_path / "own.yaml")) == 2
    assert capsys.readouterr().err == "".join(
        f"rbft: the prompts 'own' have no template `{name}`, which questions are asked with; add it, or name others "
        "with --prompts\n"
        for name in ("question", "option")
    )


def test_answers_that_are_not_ours_are_let_be(yard: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "answers.jsonl").write_text("mine\n")
    assert ask(yard, out) == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"rbft: {out / 'answers.jsonl'}: is there already, and without asking.json nobody knows what it answers; move "
        f"{out} away, and the same command asks anew, or name another folder with --out"
    )
    assert (out / "answers.jsonl").read_text() == "mine\n"


def test_a_damaged_file_of_its_folder_says_what_helps(
    yard: Path, asked: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    shutil.copytree(asked, out)
    before = (out / "answers.jsonl").read_text().splitlines()
    (out / "summary.json").write_text("garbage")
    assert ask(yard, out) == 0, "it is written anew each time"
    (out / "answers.jsonl").write_text("".join(f"{line}\n" for line in [before[0], "garbage", *before[2:]]))
    assert ask(yard, out) == 1
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"rbft: {out / 'answers.jsonl'}:2: not an Answered of this version: line: Invalid JSON: expected value at "
        f"line 1 column 1; delete the line, or {MAKE_ROWS_AGAIN}"
    )
    (out / "answers.jsonl").write_text("".join(f"{line}\n" for line in [before[0], *before[2:]]))
    assert ask(yard, out) == 0
    assert sorted((out / "answers.jsonl").read_text().splitlines()) == sorted(before)
    (out / "answers.jsonl").unlink()
    assert ask(yard, out) == 0
    assert (out / "answers.jsonl").read_text().splitlines() == before
    other = json.loads(before[0]) | {"checkpoint": "another"}
    (out / "answers.jsonl").write_text(json.dumps(other) + "\n")
    assert ask(yard, out) == 1
    assert (
        f"answers.jsonl: holds records of something else than its name says: question {other['question_id']!r} is "
        "answered by checkpoint another, not "
    ) in capsys.readouterr().err
    (out / "answers.jsonl").write_text(json.dumps(json.loads(before[0]) | {"question_id": "none"}) + "\n")
    assert ask(yard, out) == 1
    told = f"no question 'none' is asked; {MAKE_ROWS_AGAIN}"
    assert capsys.readouterr().err.splitlines()[-1].endswith(told)
    (out / "asking.json").write_text("garbage")
    assert ask(yard, out) == 1
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"rbft: {out / 'asking.json'}: not an Asking of this version: line: Invalid JSON: expected value at line 1 "
        f"column 1; move {out} away, and the same command asks anew, or name another folder with --out"
    )
    shutil.rmtree(out)
    assert ask(yard, out) == 0
    assert (out / "answers.jsonl").read_text().splitlines() == before
