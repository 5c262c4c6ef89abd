"""`rbft curate` on real files: labelled clips, published questions of five kinds, servers good and bad."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import yaml

from commands import command
from rbft.clips.videorft import VideoRFTRow, read_videorft
from rbft.files import MAKE_ROWS_AGAIN, read_jsonl, read_record
from rbft.models.vlm import VLM
from rbft.records import Curated, StepAnswer
from rbft.results import CurationReport
from rbft.thinking import parse_thought
from rbft.tiny.night_yard import LABEL_DEFINITIONS, write_night_yard
from servers import Reset, Status, completion, embedded_server, pictures_of, prompt_of, scripted

pytestmark = pytest.mark.usefixtures("one_thread")

SIZE = {"fps": 2, "min_pixels": 7056, "max_pixels": 7056}
THINK = "A thing moves through the yard while the lamps are lit"
KINDS: dict[str, tuple[str, list[str], str]] = {
    "multiple choice": ("What is it?", ["A. a dog", "B. a car"], "A"),
    "numerical": ("How many lamps are lit?", [], "2"),
    "OCR": ("What number is on the sign?", [], "17"),
    "free-form": ("Describe the clip in one sentence.", [], "A small red dog running left in the garden at night."),
    "regression": ("Where is the subject from left (0) to right (100)?", [], "40"),
}


@pytest.fixture(scope="module")
def yard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_night_yard(tmp_path_factory.mktemp("yard"), num_train=10, num_test=2, num_unlabelled=1, seed=3)


@pytest.fixture
def questions(yard: Path) -> Path:
    """A question of every kind about each of two clips, and a row about a picture."""
    clips = sorted((yard.parent / "clips").glob("train-*.mp4"))[:2]
    rows: list[dict[str, Any]] = [
        {"problem_id": 5 * place + number, "problem": text, "data_type": "video", "problem_type": kind,
         "options": options, "solution": f"<answer>{answer}</answer>", "path": f"clips/{clip.name}",
         "data_source": "yard"}
        for place, clip in enumerate(clips)
        for number, (kind, (text, options, answer)) in enumerate(KINDS.items())
    ]  # fmt: skip
    rows.append(rows[0] | {"problem_id": 99, "data_type": "image"})
    path = yard.parent / "questions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def settings(folder: Path, **asked: Any) -> Path:
    document = {"name": "made", "output": str(folder), "sampling": SIZE, "workers": 1, "prompts": "brief"} | asked
    path = folder / "curation.yaml"
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    return path


def report(folder: Path) -> CurationReport:
    return read_record(folder / "made" / "curation.json", CurationReport)


def local(yard: Path, folder: Path, **more: Any) -> Path:
    engine = {"model": "embedded", "max_new_tokens": 64, "batch_size": 16}
    return settings(folder, clips=str(yard), labels=LABEL_DEFINITIONS, engine=engine, **more)


# -- labelled clips, the embedded model ----------------------------------------------------------------------------


def test_the_embedded_model_curates_its_clips(
    yard: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert command("curate", str(local(yard, tmp_path))) == 0
    told = capfd.readouterr()
    made = report(tmp_path)
    assert (made.read, made.represented) == (10, 10) and 0 < made.kept <= made.revised <= made.reasoned < 10
    assert "wrong answer" in told.out and "Report: " in told.out
    assert "note: 3 clips without a label or of the test split: not asked" in told.err
    items = read_jsonl(tmp_path / "made" / "curated.jsonl", Curated)
    assert len(items) == 10 and all(item.verdict.kept or item.verdict.reasons for item in items)
    assert all(item.representation and item.representation.startswith("Subjects: ") for item in items)
    rows, bad = read_videorft(tmp_path / "made" / "cot.jsonl")
    assert len(rows) == made.kept and not bad
    for row in rows:
        assert row.problem == "Which label fits the clip?" and row.problem_type == "multiple choice"
        assert row.options[0] == "A. normal: anything else" and row.path.startswith("clips/train-")
        item = next(i for i in items if i.question.question_id == str(row.problem_id))
        assert row.process == f"<think>{item.think}</think>" and parse_thought(f"{row.process}{row.solution}")
        assert row.solution == f"<answer>{'AB'[list(LABEL_DEFINITIONS).index(item.question.answer)]}</answer>"
    every, _ = read_videorft(tmp_path / "made" / "rl.jsonl")
    assert len(every) == 10 and {row.process for row in every} == {None}
    page = (tmp_path / "made" / "curation.html").read_text(encoding="utf-8")
    assert f"{made.kept} of 10 questions have a thought to learn" in page and "wrong answer" in page
    assert "http:" not in page.replace("http://www.w3.org", "") and "<script" not in page

    monkeypatch.setattr(VLM, "load", lambda *_, **__: pytest.fail("a model was loaded"))
    before = {f.name: f.read_bytes() for f in (tmp_path / "made").iterdir()}
    assert command("curate", str(local(yard, tmp_path)), "--json") == 0
    assert CurationReport.model_validate_json(capfd.readouterr().out) == made
    assert {f.name: f.read_bytes() for f in (tmp_path / "made").iterdir()} == before

    assert command("curate", str(local(yard, tmp_path)), "revise=none") == 0, "the ablation asks nothing anew"
    assert report(tmp_path).kept == report(tmp_path).reasoned == made.reasoned


def test_a_damaged_file_of_a_curation_says_what_helps(
    yard: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert command("curate", str(local(yard, tmp_path))) == 0
    folder = tmp_path / "made"
    before = {f.name: f.read_bytes() for f in folder.iterdir()}
    asked = ("represent.jsonl", "reason.jsonl", "revise.jsonl")
    for name in asked:
        lines = before[name].splitlines(keepends=True)
        (folder / name).write_bytes(b"".join([lines[0], b"garbage\n", *lines[2:]]))
        capfd.readouterr()
        assert command("curate", str(local(yard, tmp_path))) == 1
        assert capfd.readouterr().err.splitlines()[-1] == (
            f"rbft: {folder / name}:2: not a StepAnswer of this version: line: Invalid JSON: expected value at line 1 "
            f"column 1; delete the line, or {MAKE_ROWS_AGAIN}"
        )
        (folder / name).write_bytes(b"".join([lines[0], *lines[2:]]))
        assert command("curate", str(local(yard, tmp_path))) == 0
        assert sorted((folder / name).read_bytes().splitlines(keepends=True)) == sorted(lines)
        (folder / name).unlink()
        assert command("curate", str(local(yard, tmp_path))) == 0
        assert (folder / name).read_bytes() == before[name]
    for name in before.keys() - {*asked, ".lock"}:
        (folder / name).write_text("garbage")
    assert command("curate", str(local(yard, tmp_path))) == 0
    assert {f.name: f.read_bytes() for f in folder.iterdir()} == before, "results are written anew each time"


def test_each_step_on_an_engine_of_its_own(yard: Path, tmp_path: Path) -> None:
    """Represented by the local model, reasoned by a server, revised by a file."""
    path = local(yard, tmp_path)
    document = yaml.safe_load(path.read_text())
    said = tmp_path / "revised.jsonl"
    clips = [row.split(",")[0].removesuffix(".mp4") for row in yard.read_text().splitlines()[1:]]
    said.write_text("".join(json.dumps({"id": i, "text": f"<think>{THINK}, {i}</think>"}) + "\n" for i in clips))
    with scripted(lambda *_: completion(f"<think>{THINK}</think><answer>normal</answer>")) as server:
        document |= {"reason": {"endpoint": server.url, "model": "m"}, "revise": {"answers": str(said)}}
        path.write_text(yaml.safe_dump(document, sort_keys=False))
        assert command("curate", str(path)) == 0
        assert len(server.requests) == 10 and not any(pictures_of(body) for body in server.requests)
        assert all("Subjects: " in prompt_of(body) for body in server.requests)
    kept = [item for item in read_jsonl(tmp_path / "made" / "curated.jsonl", Curated) if item.verdict.kept]
    assert kept and all(item.think == f"{THINK}, {item.question.question_id}" for item in kept)
    assert {item.question.answer for item in kept} == {"normal"}
    assert [used.engine for used in report(tmp_path).usage.values()] == ["embedded", "m", "revised.jsonl"]


def test_clips_of_the_command_that_cannot_be_asked(
    yard: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "clips.csv"
    bad.write_text("path,label\na.mp4,\nb.mp4,\n")
    engine = {"model": "embedded"}
    assert command("curate", str(settings(tmp_path, clips=str(bad), engine=engine))) == 2
    assert f"{bad}: no training clip has a label; fill a column named `label`" in capfd.readouterr().err
    bad.write_text("path,label\na.mp4,normal\nb.mp4,abnormal\n")
    assert command("curate", str(settings(tmp_path, clips=str(bad), engine=engine))) == 2
    assert "2 clips cannot be used (2 missing): mend or remove the files" in capfd.readouterr().err


# -- published questions, a server ---------------------------------------------------------------------------------


def notes(body: dict[str, Any]) -> str:
    """A good representation of what a request shows."""
    elements = {
        "objects": ["a dog"], "actions": [], "scene": "", "notable_features": [], "spatial_relations": [],
        "human_attributes": None, "potential_interactions": [],
    }  # fmt: skip
    times = prompt_of(body).partition("in seconds: ")[2].partition(".\n")[0].split(", ")
    frames = [{"timestamp": float(t), "caption": "a dog", "key_elements": elements} for t in times]
    assert len(frames) == len(pictures_of(body))
    return json.dumps({"caption": "A dog runs.", "frames": frames})


def answer_to(body: dict[str, Any]) -> str:
    """What a good model says to a request of any step."""
    prompt = prompt_of(body)
    if "one JSON object" in prompt:
        return notes(body)
    if "Compare every step" in prompt:
        return f"<think>{THINK}, and back</think>"
    assert "A dog runs." in prompt and not pictures_of(body), "it reasons from notes alone"
    answer = next(answer for text, _, answer in KINDS.values() if text in prompt)
    return f"<think>{THINK}</think><answer>{answer}</answer>"


def ask_server(folder: Path, questions: Path, url: str, **engine: Any) -> Path:
    given = {"endpoint": url, "model": "m", "concurrency": 4, "input_price": 1.0, "output_price": 2.0} | engine
    return settings(folder, questions=str(questions), prompts="default", engine=given)


def test_rows_of_five_kinds_come_back_with_their_thoughts(
    questions: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RBFT_TEST_KEY", "top-secret")
    with scripted(lambda body, _: completion(answer_to(body))) as server:
        assert command("curate", str(ask_server(tmp_path, questions, server.url, key_from="RBFT_TEST_KEY"))) == 0
        assert len(server.requests) == 2 + 10 + 10, "two clips, ten questions"
        assert set(server.keys) == {"Bearer top-secret"}
        schemas = [b["response_format"]["json_schema"]["name"] for b in server.requests if "response_format" in b]
        assert schemas == ["representation"] * 2
    made = report(tmp_path)
    assert (made.read, made.represented, made.reasoned, made.revised, made.kept) == (10,) * 5
    assert made.kinds == dict.fromkeys(sorted(KINDS), (2, 2))
    assert made.usage["reason"].cost == pytest.approx(10 * (10 * 1 + 5 * 2) / 1e6)
    asked = [VideoRFTRow.model_validate_json(line) for line in questions.read_text().splitlines()[:-1]]
    lines = (tmp_path / "made" / "cot.jsonl").read_text().splitlines()
    for row, line in zip(asked, lines, strict=True):
        found = json.loads(line)
        assert list(found) == [
            "problem_id", "problem", "data_type", "problem_type", "options", "process", "solution", "path",
            "data_source",
        ]  # fmt: skip
        assert found.pop("process") == f"<think>{THINK}, and back</think>"
        assert VideoRFTRow.model_validate_json(json.dumps(found)) == row
    plain = (tmp_path / "made" / "rl.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in plain] == [
        json.loads(line) for line in questions.read_text().splitlines()[:-1]
    ]
    assert "questions.jsonl: 1 not_video: rows that are not about a video are left out" in capfd.readouterr().err
    written = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert not any(b"top-secret" in file.read_bytes() for file in written), "the key is written nowhere"


@pytest.mark.parametrize("seed", [0, 1])
def test_a_server_that_fails_loses_nothing(
    seed: int, questions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A seeded third of the requests fail: everything is answered once, and every drop has its reason."""
    monkeypatch.setattr("rbft.rationales.endpoint.FIRST_PAUSE_SECONDS", 0.0)
    rng = random.Random(seed)
    faults = ["429", "429 after", "500", "reset", "torn", "wrong schema"]
    schedule = [rng.choice(faults) if rng.random() < 0.35 else "" for _ in range(1000)]
    served: list[str] = []

    def handle(body: dict[str, Any], number: int) -> Any:
        represents = "one JSON object" in prompt_of(body)
        match schedule[number]:
            case "429":
                return Status(429)
            case "429 after":
                return Status(429, headers={"Retry-After": "0"})
            case "500":
                return Status(500)
            case "reset":
                return Reset()
            case "torn" if represents:
                text = notes(body)[:70]
            case "wrong schema" if represents:
                text = '{"caption": 3}'
            case _:
                text = answer_to(body)
        served.append(prompt_of(body))
        return completion(text)

    with scripted(handle) as server:
        assert command("curate", str(ask_server(tmp_path, questions, server.url, retries=30))) == 0
        number = len(server.requests)
        assert command("curate", str(ask_server(tmp_path, questions, server.url, retries=30))) == 0
        assert len(server.requests) == number, "the same command again asks nothing"
    items = read_jsonl(tmp_path / "made" / "curated.jsonl", Curated)
    assert len(items) == 10 and all(item.verdict.kept or item.verdict.reasons == ("not_json",) for item in items)
    folder = tmp_path / "made"
    answers = [a for name in ("represent", "repair", "reason", "revise") if (folder / f"{name}.jsonl").exists()
               for a in read_jsonl(folder / f"{name}.jsonl", StepAnswer)]  # fmt: skip
    assert len(answers) == len({a.key for a in answers}) == len(served) == len(set(served)) + _same(served)
    assert sum(a.attempts for a in answers) == number


def _same(prompts: list[str]) -> int:
    """Clips of like length are asked with one text, but with other pictures."""
    return len(prompts) - len(set(prompts))


def test_the_embedded_model_behind_a_server_says_what_it_says_here(yard: Path, tmp_path: Path) -> None:
    """Over HTTP, as JPEG pictures: text alone is the same to the letter, clips are represented in its form."""
    with embedded_server() as server:
        engine = {"endpoint": server.url, "model": "embedded", "max_new_tokens": 64, "concurrency": 2}
        asked = {"clips": str(yard), "labels": LABEL_DEFINITIONS, "engine": engine}
        assert command("curate", str(settings(tmp_path, **asked))) == 0
        first = read_jsonl(tmp_path / "made" / "reason.jsonl", StepAnswer)
        shown = [body for body in server.requests if pictures_of(body)]
        assert len(shown) == 10 + report(tmp_path).reasoned
    made = report(tmp_path)
    assert made.read == made.represented == 10 and made.kept > 0
    assert made.usage["represent"].num_tokens > 0
    items = read_jsonl(tmp_path / "made" / "curated.jsonl", Curated)
    assert all(i.representation and i.representation.startswith("Subjects: ") for i in items)
    from rbft.models.generate import generate_text

    vlm = VLM.load("embedded")
    prompts = [prompt_of(body) for body in server.requests if not pictures_of(body)]
    told = {g.text for p in prompts for g in generate_text(vlm, [vlm.encode_text(p)], max_new_tokens=64)}
    assert {answer.text for answer in first} == told


def test_a_server_that_wants_a_key_is_told_in_one_line(
    questions: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with scripted(lambda *_: Status(401)) as server:
        assert command("curate", str(ask_server(tmp_path, questions, server.url))) == 2
    said = f"rbft: {server.url}: status 401: the server wants a key; name the environment variable that holds it with"
    assert said in capfd.readouterr().err


def test_interrupted_it_continues_with_what_is_missing(questions: Path, tmp_path: Path) -> None:
    """The server begins to refuse the key after eight requests: what was answered is kept."""
    path = tmp_path

    def failing(body: dict[str, Any], number: int) -> Any:
        return Status(401) if number >= 8 else completion(answer_to(body))

    with scripted(failing) as server:
        assert command("curate", str(ask_server(path, questions, server.url))) == 2
    with scripted(lambda body, _: completion(answer_to(body))) as server:
        assert command("curate", str(ask_server(path, questions, server.url))) == 0
        assert len(server.requests) == 22 - 8, "the address is another one, the engine is not"
    assert report(path).kept == 10


def test_it_stops_at_what_may_be_spent_and_continues_with_more(
    questions: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with scripted(lambda body, _: completion(answer_to(body))) as server:
        path = str(ask_server(tmp_path, questions, server.url))
        assert command("curate", path, "max_requests=8") == 1
        told = capfd.readouterr().err
        assert "rbft: max_requests 8 is spent: 8 requests, " in told
        assert "What was answered is kept; raise max_requests, and the same command continues" in told
        assert len(server.requests) == 8
        assert command("curate", path, "max_requests=8") == 1 and len(server.requests) == 8
        assert command("curate", path, "max_tokens=200") == 1
        assert 14 <= len(server.requests) < 14 + 4, "15 tokens each, of which 8 were paid for before"
        assert command("curate", path, "max_requests=22") == 0 and len(server.requests) == 22
    assert report(tmp_path).kept == 10


def test_another_model_at_the_same_address_stops_the_command(
    questions: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def handle(body: dict[str, Any], number: int) -> Any:
        return completion(answer_to(body)) | {"model": "large" if number < 6 else "small"}

    with scripted(handle) as server:
        assert command("curate", str(ask_server(tmp_path, questions, server.url, concurrency=1))) == 2
    assert "rbft: m: the server answered as 'large', and now as 'small'; texts of two models" in capfd.readouterr().err
    with scripted(lambda body, _: completion(answer_to(body)) | {"model": "large"}) as server:
        assert command("curate", str(ask_server(tmp_path, questions, server.url))) == 0
        assert len(server.requests) == 22 - 6
    assert report(tmp_path).kept == 10


@pytest.mark.parametrize("at", [1, 6, 15])
def test_killed_by_the_system_it_loses_what_was_in_flight(at: int, questions: Path, tmp_path: Path) -> None:
    """The server kills the command while request number `at`, counted from 0, waits for its answer."""
    process: list[subprocess.Popen[bytes]] = []
    started = threading.Event()

    def deadly(body: dict[str, Any], number: int) -> Any:
        if number == at:
            started.wait()
            process[0].kill()
            process[0].wait()
            return Reset()
        return completion(answer_to(body))

    with scripted(deadly) as server:
        path = ask_server(tmp_path, questions, server.url, concurrency=1)
        process.append(subprocess.Popen([sys.executable, "-m", "rbft", "curate", str(path)], stderr=subprocess.DEVNULL))
        started.set()
        assert process[0].wait() == -signal.SIGKILL
    with scripted(lambda body, _: completion(answer_to(body))) as server:
        assert command("curate", str(ask_server(tmp_path, questions, server.url))) == 0
        assert len(server.requests) == 22 - at
    assert report(tmp_path).kept == 10


def test_faults_of_questions_are_told_at_once(
    yard: Path, questions: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    good = json.loads(questions.read_text().splitlines()[1])
    bad = [
        good | {"problem_id": "1"}, good | {"problem_id": 50, "path": "../out.mp4"}, {"problem_id": 51},
        good | {"problem_id": 52, "solution": "<answer>many</answer>"},
    ]  # fmt: skip
    path = yard.parent / "bad.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in [good, *bad]))
    assert command("curate", str(ask_server(tmp_path, path, "http://localhost:1/v1"))) == 2
    told = capfd.readouterr().err
    for line in (
        "problem_id 1 stands there as a number and as text; give each row its own",
        "problem 50: path '../out.mp4' leads outside",
        "bad.jsonl:4: problem 51: fields: problem: field required",
        "question '52': the answer 'many' cannot be graded; a numerical answer is one plain number",
    ):
        assert line in told, line
    assert not (tmp_path / "made").exists()
