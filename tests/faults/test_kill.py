"""Every command is killed, or asked to end, again and again, and given again: it leaves what an unharmed one leaves."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from killing import STOPPED, At, Ended, ForkServer, Survived, killed_at_random, parts, run_process, same, same_results
from rbft.files import read_jsonl
from rbft.records import Rationale
from rbft.store import is_sealed, read_card
from servers import completion, pictures_of, prompt_of, scripted
from victims import READ, RUN, VICTIMS, WRITE, write_questions

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

FORWARD = "transformers.models.qwen2_5_vl.modeling_qwen2_5_vl:Qwen2_5_VLForConditionalGeneration.forward"
TRAINING_STEP = "rbft.training.supervised:AnswerTrainer.training_step"
PUBLISH = "rbft.training.stages:publish"
POINTS = {
    "a clip's frames are in the cache": At(READ, 3, after=True),
    "the manifest is not written": At("rbft.preparing:write_record", 2),
    "in the fourth token of the second batch of rationales": At(FORWARD, 4, within=At(WRITE, 2)),
    "in the second step": At(TRAINING_STEP, 2),
    "the optimizer is not saved": At("rbft.training.supervised:StageTrainer._save_optimizer_and_scheduler"),
    "a save has no checksums yet": At("rbft.training.saves:seal"),
    "the child is written, and not sealed": At(PUBLISH),
    "the child is sealed, and not in its place": At("rbft.store:seal", after=True, within=At(PUBLISH)),
    "the child is in its place, its work not removed": At(PUBLISH, after=True),
    "a batch of predictions is written": At("rbft.evaluation.predict:JsonlAppender.append", after=True),
    "the report is written, and not in its place": At(
        "pathlib:Path.replace", within=At("rbft.report.page:render_page")
    ),
    "the report has no page yet": At("rbft.report.page:write_text"),
}


@pytest.fixture(scope="module")
def whole(forks: ForkServer, base: Path) -> Ended:
    """The run that nothing happened to, in `base / "whole"`."""
    (base / "whole").mkdir()
    return forks.run(base / "whole", *RUN.arguments, noted=RUN.noted)


def test_a_run_is_killed_at_every_kind_of_artifact(forks: ForkServer, base: Path, whole: Ended) -> None:
    folder = base / "points"
    folder.mkdir()
    attempts = [forks.run(folder, *RUN.arguments, at=point, noted=RUN.noted) for point in POINTS.values()]
    assert [name for name, attempt in zip(POINTS, attempts, strict=True) if not attempt.was_killed] == []
    left = parts(folder)
    assert left, "a half-written file"
    for path in left:
        os.utime(path, (0, 0))
    Survived(folder, (*attempts, forks.run(folder, *RUN.arguments, noted=RUN.noted))).check(whole, base / "whole")
    assert parts(folder) == [], "swept, as they are a day old"


SAID = "rbft: interrupted; the same command continues from here\n"


def test_asked_to_end_in_reading_writing_and_training_it_is_the_same_run(
    forks: ForkServer, base: Path, whole: Ended
) -> None:
    """In the fifth clip, the tenth token of the second batch, the second of three steps of the second stage."""
    folder, steps = base / "asked to end", "rbft.training.supervised:AnswerTrainer.compute_loss"
    folder.mkdir()
    run = folder / "runs" / "made"

    def stopped_at(function: str, call: int, number: signal.Signals) -> Counter[str]:
        point = At(function, call, ask=number)
        ended = forks.run(folder, *RUN.arguments, "training.save_every_steps=100", at=point, noted=(steps,))
        assert ended.code == STOPPED, function
        assert ended.err.endswith(SAID)
        return ended.count()

    stopped_at("rbft.clips.ingest:sha256_of", 5, signal.SIGTERM)
    assert not (run / "manifest.json").exists()
    assert 0 < len(list((folder / "runs" / "cache" / "frames" / "probes").rglob("*.json"))) < 10

    stopped_at("rbft.models.generate:_Asked.__call__", 42, signal.SIGINT)
    [texts] = run.glob("rationales/*.jsonl")
    assert len(read_jsonl(texts, Rationale)) == 3, "the first batch; half texts of the second are given up"

    stopped_at(steps, 5, signal.SIGTERM)
    [save] = run.glob("checkpoints/.*.work/checkpoint-*")
    assert save.name == "checkpoint-2", "the step in hand was finished and saved, long before save_every_steps"
    assert is_sealed(save)

    assert stopped_at(steps, 1, signal.SIGTERM) == {steps: 1}, "the last step, after which the child is made"
    assert len(list(run.glob("checkpoints/[!.]*"))) == 2
    assert forks.run(folder, *RUN.arguments, "training.save_every_steps=100").code == 0
    same_results(run, base / "whole" / "runs" / "made")


@pytest.mark.nightly
def test_a_run_is_killed_by_the_clock(forks: ForkServer, base: Path, whole: Ended) -> None:
    [survived] = killed_at_random(
        forks.run, base / "clock", RUN.arguments, seconds=whole.seconds / 2, kills=1, seed=2, noted=RUN.noted
    )
    survived.check(whole, base / "whole")


# -- nightly -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ready(base: Path, whole: Ended) -> None:
    """Everything that commands are given: questions, a finished run, and one of its checkpoints."""
    write_questions(base)
    cards = [read_card(folder).checkpoint for folder in (base / "whole/runs/made/checkpoints").iterdir()]
    [label] = [card.fingerprint for card in cards if card.stage == "label"]
    (base / "model").symlink_to(base / "whole/runs/made/checkpoints" / label)


@pytest.mark.nightly
@pytest.mark.parametrize("verb", VICTIMS)
@pytest.mark.usefixtures("ready")
def test_fifty_kills_by_the_clock(verb: str, forks: ForkServer, base: Path) -> None:
    victim, unharmed = VICTIMS[verb], base / f"{verb}-unharmed"
    start = base / victim.start if victim.start else None
    shutil.copytree(start, unharmed) if start else unharmed.mkdir()
    whole = forks.run(unharmed, *victim.arguments, noted=victim.noted)
    done_again: Counter[str] = Counter()
    kills = folders = 0
    for survived in killed_at_random(
        forks.run, base / verb, victim.arguments, seconds=whole.seconds, kills=50, seed=0, noted=victim.noted,
        start=start,
    ):  # fmt: skip
        survived.check(whole, unharmed, in_flight=victim.in_flight)
        kills, folders = kills + survived.kills, folders + 1
        done_again += survived.redone(whole)
        shutil.rmtree(survived.folder)
    assert kills == 50
    print(f"{verb}: {whole.seconds:.1f} s whole, {kills} kills in {folders} folders, done again {dict(done_again)}")


@pytest.mark.nightly
def test_processes_of_their_own_leave_the_same(base: Path, whole: Ended) -> None:
    """Not forked, and killed with all their children, from their first import on."""
    alone = base / "alone"
    alone.mkdir()
    seconds = run_process(alone, *RUN.arguments).seconds
    same(alone, base / "whole")
    for survived in killed_at_random(
        run_process, base / "process", RUN.arguments, seconds=seconds, kills=5, seed=1, noted=RUN.noted
    ):
        survived.check(whole, base / "whole")


@pytest.mark.nightly
def test_fifty_kills_of_a_curation_by_a_server(forks: ForkServer, base: Path) -> None:
    """Nothing that was answered is asked again: at most the requests in flight are sent twice."""

    def answer(body: dict[str, Any], _: int) -> Any:
        thought = "<think>A thing moves through the yard while the lamps are lit</think>"
        if not pictures_of(body):
            return completion(f"{thought}<answer>normal</answer>")
        return completion(thought if "<think>" in prompt_of(body) else "Subjects: a dog. Place: the yard.")

    with scripted(answer) as server:
        engine = {"endpoint": server.url, "model": "m", "concurrency": 2}
        (base / "served.yaml").write_text(
            json.dumps(json.loads((base / "curate.yaml").read_text()) | {"engine": engine})
        )
        unharmed = base / "served-unharmed"
        unharmed.mkdir()
        whole = forks.run(unharmed, "curate", "../served.yaml")
        asked = len(server.requests)
        assert asked > 6
        kills = redone = 0
        for survived in killed_at_random(
            forks.run, base / "served", ("curate", "../served.yaml"), seconds=whole.seconds, kills=50, seed=0
        ):
            again = len(server.requests) - 2 * asked
            assert 0 <= again <= 2 * survived.kills
            del server.requests[asked:]
            kills, redone = kills + survived.kills, redone + again
            for name in ("represent", "reason", "revise"):
                ours, theirs = (folder / f"runs/made/{name}.jsonl" for folder in (survived.folder, unharmed))
                assert sorted(ours.read_text().splitlines()) == sorted(theirs.read_text().splitlines())
                ours.write_bytes(theirs.read_bytes())  # answers come in any order
            survived.check(whole, unharmed)
            shutil.rmtree(survived.folder)
    print(f"curate by a server: {whole.seconds:.1f} s whole, {kills} kills, {redone} requests sent again")
