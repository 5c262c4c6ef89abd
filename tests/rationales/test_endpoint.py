"""The engine behind chat completions, against real servers, good and bad; pauses are noted, not waited."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rbft.clips.frames import Frames
from rbft.curation import MAX_FAILED_IN_A_ROW, Engine
from rbft.errors import BudgetError, EngineError, StoppedError
from rbft.rationales.budget import Budget
from rbft.rationales.endpoint import GRACE_SECONDS, MAX_GARBLED, EndpointEngine, retry_after
from rbft.rationales.engines import Ask, Reply, Unanswered
from rbft.records import FramePlan
from servers import Drip, Hang, Reset, Server, Status, Torn, completion, faulty, pictures_of, prompt_of, scripted

FRAMES = Frames(np.full((3, 28, 56, 3), [250, 20, 10], np.uint8), np.arange(3.0))


class Red:
    """Three red frames, whatever the clip."""

    def read(self, clip_id: str) -> Frames:
        return FRAMES

    def plan(self, clip_id: str) -> FramePlan:
        raise AssertionError("an endpoint is sent what was read")


def engine(
    server: Server,
    pauses: list[float] | None = None,
    budget: Budget | None = None,
    sleep: Callable[[float], object] | None = None,
    **changes: Any,
) -> EndpointEngine:
    settings = Engine.model_validate({"endpoint": server.url, "model": "m", "retries": 3, "concurrency": 4} | changes)
    noted: Callable[[float], object] = [].append if pauses is None else pauses.append  # type: ignore[assignment]
    return EndpointEngine(settings, "secret", Red(), budget, sleep=sleep or noted, rng=random.Random(0))


def asks(number: int, **more: Any) -> list[Ask]:
    return [Ask(f"k{i}", f"i{i}", f"prompt {i}", **more) for i in range(number)]


def only(made: EndpointEngine, **more: Any) -> Reply | Unanswered:
    [(_, reply)] = made.replies(asks(1, **more))
    return reply


def test_text_tokens_and_key_are_sent_and_read() -> None:
    with scripted(lambda body, _: completion(prompt_of(body).upper(), read=7, written=3)) as server:
        assert only(engine(server, max_new_tokens=9)) == Reply("PROMPT 0", True, 7, 3, served_by="m")
    [body] = server.requests
    assert body == {
        "model": "m", "messages": [{"role": "user", "content": "prompt 0"}], "max_tokens": 9, "temperature": 0.0,
        "top_p": 1.0,
    }  # fmt: skip
    assert server.keys == ["Bearer secret"]


def test_frames_are_sent_as_pictures_in_order_and_a_schema_as_response_format() -> None:
    with scripted(lambda *_: completion("{}", finish="length")) as server:
        reply = only(engine(server, limit_name="max_completion_tokens", temperature=None), clip_id="c", schema={"a": 1})
        only(engine(server, strict_json=False), schema={"a": 1})
    assert isinstance(reply, Reply) and not reply.finished
    first, second = server.requests
    assert first["max_completion_tokens"] == 1024 and not {"max_tokens", "temperature", "top_p"} & set(first)
    assert first["response_format"]["json_schema"] == {"name": "representation", "strict": True, "schema": {"a": 1}}
    assert "response_format" not in second
    pictures = pictures_of(first)
    assert [p.shape for p in pictures] == [(28, 56, 3)] * 3
    assert np.abs(pictures[0].mean((0, 1)) - [250, 20, 10]).max() < 4, "red stays red"


@pytest.mark.parametrize(
    ("fault", "pauses"),
    [
        (Status(429), [(0.5, 1)]),
        (Status(429, headers={"Retry-After": "7"}), [(7, 7)]),
        (Status(500), [(0.5, 1)]),
        (Status(503, headers={"Retry-After": "2.5"}), [(2.5, 2.5)]),
        (Reset(), [(0.5, 1)]),
        (Torn(), [(0.5, 1)]),
        (b'{"choices": [', [(0.5, 1)]),
        (completion("x") | {"choices": []}, [(0.5, 1)]),
        (completion(None), [(0.5, 1)]),
    ],
    ids=["429", "429-after", "500", "503-after", "reset", "torn", "not-json", "no-choices", "no-text"],
)
def test_a_fault_is_tried_again_after_a_pause(fault: Any, pauses: list[tuple[float, float]]) -> None:
    slept: list[float] = []
    with scripted(lambda _, number: fault if number == 0 else completion("good")) as server:
        reply = only(engine(server, slept))
    assert isinstance(reply, Reply) and reply.text == "good" and reply.attempts == 2
    assert len(server.requests) == 2
    assert len(slept) == 1 and pauses[0][0] <= slept[0] <= pauses[0][1]


def test_a_hanging_server_is_given_up_after_the_timeout() -> None:
    with scripted(lambda _, number: Hang() if number == 0 else completion("good")) as server:
        assert only(engine(server, timeout_seconds=0.3)).text == "good"  # type: ignore[union-attr]
        assert len(server.requests) == 2
    with scripted(lambda *_: Hang()) as server:
        reply = only(engine(server, timeout_seconds=0.1, retries=1))
    assert reply == Unanswered("no answer within 0.1 s, after 2 tries", unreachable=True)


def test_a_server_that_drips_is_given_up_after_the_timeout() -> None:
    """Every read gets a byte in time; the deadline is of the whole exchange."""
    started = time.monotonic()
    with scripted(lambda _, number: Drip() if number == 0 else completion("good")) as server:
        assert only(engine(server, timeout_seconds=0.3)).text == "good"  # type: ignore[union-attr]
        assert len(server.requests) == 2
    assert time.monotonic() - started < 10 * 0.3


def test_where_three_of_ten_requests_fail_every_row_is_answered_in_few_tries() -> None:
    """Crowded, broken, hanging, reset, torn and dripping answers to a seeded 30 % of the requests."""
    with scripted(faulty(lambda body: completion(prompt_of(body)), seed=1)) as server:
        made = list(engine(server, timeout_seconds=2, retries=12, concurrency=8).replies(asks(80)))
    replies = [reply for _, reply in made if isinstance(reply, Reply)]
    assert len(made) == len(replies) == 80 and {r.text for r in replies} == {ask.prompt for ask in asks(80)}
    assert sum(r.attempts for r in replies) == len(server.requests) <= 1.6 * 80


def test_a_crowded_server_is_asked_as_much_as_it_takes_and_nothing_is_lost() -> None:
    """It takes three requests at once, each for 20 ms, and refuses what is more; sixteen are allowed."""
    lock, inside = threading.Lock(), [0]

    def handle(*_: Any) -> Any:
        with lock:
            if inside[0] == 3:
                return Status(429, headers={"Retry-After": "0.02"})
            inside[0] += 1
        time.sleep(0.02)
        with lock:
            inside[0] -= 1
        return completion("good")

    started = time.monotonic()
    with scripted(handle) as server:
        made = list(engine(server, concurrency=16, retries=10, sleep=time.sleep).replies(asks(150)))
    assert sum(isinstance(reply, Reply) for _, reply in made) == 150
    assert len(server.requests) <= 1.6 * 150
    assert time.monotonic() - started < 10 * (150 * 0.02 / 3)


def test_pauses_double_with_jitter_and_end() -> None:
    slept: list[float] = []
    with scripted(lambda *_: Status(500)) as server:
        reply = only(engine(server, slept, retries=4, longest_wait_seconds=3))
    assert isinstance(reply, Unanswered) and reply.detail.startswith("status 500") and "after 5 tries" in reply.detail
    assert len(server.requests) == 5
    for pause, bound in zip(slept, (1, 2, 3, 3), strict=True):
        assert min(bound / 2, 3) <= pause <= bound
    assert len(set(slept)) > 2, "jittered"


def test_tokens_of_failed_tries_are_counted() -> None:
    def handle(_: Any, number: int) -> Any:
        return completion(None, read=10, written=4) if number == 0 else completion("good", read=10, written=5)

    with scripted(handle) as server:
        assert only(engine(server)) == Reply("good", True, 20, 9, attempts=2, served_by="m")


def test_a_pause_longer_than_allowed_is_not_waited_for() -> None:
    slept: list[float] = []
    with scripted(lambda *_: Status(429, headers={"Retry-After": "3600"})) as server:
        reply = only(engine(server, slept))
    assert isinstance(reply, Unanswered) and reply.detail.endswith("(asks for a pause of 3600 s)")
    assert slept == [] and len(server.requests) == 1


def test_what_the_server_refuses_is_not_sent_again() -> None:
    with scripted(lambda *_: Status(400, '{"error": {"message": "too long"}}')) as server:
        reply = only(engine(server))
    assert isinstance(reply, Unanswered) and reply.detail.startswith("status 400") and not reply.unreachable
    assert len(server.requests) == 1


def answering(message: Any, **more: Any) -> bytes:
    return json.dumps({"choices": [{"message": message} | more]}).encode()


GARBLED: list[tuple[bytes | Status, str]] = [
    (b"", "the response is not JSON: ''"),
    (b"{", "the response is not JSON: '{'"),
    (b'{"choices": [{"message": {"content": "go', 'the response is not JSON: \'{"choices": [{'),
    (b"<html><body>busy</body></html>", "the response is not JSON: '<html><body>busy</body></html>'"),
    (Status(200, "<html>log in</html>", {"Content-Type": "text/html"}), "the response is not JSON: '<html>log in</ht"),
    (b'data: {"choices": []}\n\ndata: [DONE]', "the response is not JSON: 'data: {"),
    (b"null", "the response has no choices: None"),
    (b"[1, 2]", "the response has no choices: [1, 2]"),
    (b'"good"', "the response is not JSON: 'good'"),
    (b"7", "the response has no choices: 7"),
    (b"NaN", "the response has no choices: nan"),
    (b"{}", "the response has no choices: {}"),
    (b'{"choices": []}', 'the response has no choices: {"choices":[]}'),
    (b'{"choices": null}', 'the response has no choices: {"choices":null}'),
    (b'{"choices": "abc"}', 'the response has no choices: {"choices":"abc"}'),
    (b'{"error": {"message": "overloaded"}}', 'the response has no choices: {"error":{"message":"overloaded"}}'),
    (b'{"choices": [null]}', "the response has no text"),
    (b'{"choices": ["good"]}', "the response has no text"),
    (b'{"choices": [{}]}', "the response has no text"),
    (answering(None), "the response has no text"),
    (answering({"role": "assistant"}), "the response has no text"),
    (answering({"content": None}), "the response has no text"),
    (answering({"content": None, "refusal": "I cannot"}), "declined: I cannot"),
    (answering({"content": [1]}), "the response's text is none: [1]"),
    (answering({"content": {"a": 1}}), "the response's text is none: {'a': 1}"),
    (answering({"content": 7}), "the response's text is none: 7"),
    (b"\xff\xfe\x00", "the response is not JSON"),
]


@pytest.mark.parametrize(("body", "said"), GARBLED)
def test_a_garbled_response_is_no_answer_and_is_asked_for_at_most_thrice(body: bytes | Status, said: str) -> None:
    with scripted(lambda *_: body) as server:
        reply = only(engine(server, retries=9))
    assert isinstance(reply, Unanswered) and reply.unreachable
    assert reply.detail.startswith(said) and reply.detail.endswith(", after 3 tries") and len(reply.detail) < 300
    assert len(server.requests) == MAX_GARBLED == 3


@pytest.mark.parametrize(
    ("body", "text", "finished"),
    [
        (answering({"content": "good"}), "good", True),
        (answering({"content": "goo"}, finish_reason="length"), "goo", False),
        (answering({"content": "good"}, logprobs={"content": [{"logprob": float("nan")}]}), "good", True),
        (answering({"content": "good"}, finish_reason="stop", index="first"), "good", True),
        (answering({"content": "   "}, finish_reason="stop"), "", True),
    ],
)  # fmt: skip
def test_what_is_odd_beside_the_text_does_not_matter(body: bytes, text: str, finished: bool) -> None:
    with scripted(lambda *_: body) as server:
        assert only(engine(server)) == Reply(text, finished)


@pytest.mark.parametrize("usage", ["[1]", "7", '{"prompt_tokens": "many", "completion_tokens": null}', "null"])
def test_tokens_that_are_no_numbers_are_not_counted(usage: str) -> None:
    body = f'{{"choices": [{{"finish_reason": "stop", "message": {{"content": "good"}}}}], "usage": {usage}}}'
    with scripted(lambda *_: body.encode()) as server:
        assert only(engine(server)) == Reply("good", True)


def test_half_an_emoji_becomes_a_question_mark() -> None:
    """A lone surrogate, which no file of UTF-8 can hold, would stop the work at every attempt."""
    with scripted(lambda *_: completion("good \ud83d")) as server:
        reply = only(engine(server))
    assert isinstance(reply, Reply) and reply.text == "good ?"


@pytest.mark.parametrize(
    ("status", "changes", "text"),
    [
        (401, {"key_from": "MY_KEY"}, "status 401: the key in $MY_KEY is not accepted; set that environment variable, "
         "or name another one with key_from"),
        (403, {}, "status 403: the server wants a key; name the environment variable that holds it with key_from"),
        (404, {}, "status 404: no model 'm', or no chat completions there; look at endpoint (it often ends with /v1) "
         "and model"),
    ],
)  # fmt: skip
def test_wrong_settings_stop_at_once_and_name_no_key(status: int, changes: dict[str, str], text: str) -> None:
    with scripted(lambda *_: Status(status)) as server, pytest.raises(EngineError) as error:
        list(engine(server, **changes).replies(asks(50)))
    assert str(error.value) == f"{server.url}: {text}"
    assert len(server.requests) <= 8 and "secret" not in str(error.value)


def test_what_is_paid_for_when_settings_turn_out_wrong_is_still_given() -> None:
    with scripted(lambda _, number: Status(401) if number == 3 else completion("good")) as server:
        given = []
        with pytest.raises(EngineError):
            for ask, _ in engine(server).replies(asks(20)):
                given.append(ask.key)
    assert len(given) == len(set(given)) == len(server.requests) - 1


def test_a_refused_key_stops_the_work_though_other_requests_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    assert GRACE_SECONDS < 5
    monkeypatch.setattr("rbft.rationales.endpoint.GRACE_SECONDS", 0.2)
    started = time.monotonic()
    with scripted(lambda _, number: Status(401) if number == 3 else Hang()) as server:
        with pytest.raises(EngineError, match="status 401"):
            list(engine(server).replies(asks(50)))
        assert len(server.requests) == 4
    assert time.monotonic() - started < 5


def test_left_alone_it_gives_up_what_is_on_its_way() -> None:
    """An interruption, or an error of whoever reads the answers, waits for no timeout."""
    started = time.monotonic()
    with scripted(lambda _, number: Hang() if number else completion("good")) as server:
        replies = engine(server).replies(asks(50))
        next(replies)
        replies.close()  # type: ignore[attr-defined]
    assert time.monotonic() - started < 10


# -- what may be spent ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("concurrency", [1, 4])
def test_requests_stop_at_the_budget_to_one_retries_included(concurrency: int) -> None:
    def handle(_: Any, number: int) -> Any:
        return Status(500) if number % 3 == 0 else completion("good")

    given: list[Reply] = []
    with scripted(handle) as server, pytest.raises(BudgetError) as error:
        made = engine(server, budget=Budget(max_requests=17), concurrency=concurrency)
        for _, reply in made.replies(asks(50)):
            assert isinstance(reply, Reply)
            given.append(reply)
    assert len(server.requests) == 17
    assert len(given) == 17 - 6, "what was paid for is given"
    assert error.value.exit_code == 1
    if concurrency == 1:
        assert str(error.value) == (
            "max_requests 17 is spent: 17 requests, 165 tokens read and written. What was answered is kept; raise "
            "max_requests, and the same command continues"
        )


@pytest.mark.parametrize("concurrency", [1, 4])
def test_tokens_stop_at_the_budget_give_or_take_what_is_on_its_way(concurrency: int) -> None:
    with scripted(lambda *_: completion("good")) as server, pytest.raises(BudgetError, match="max_tokens 100 is spent"):
        list(engine(server, budget=Budget(max_tokens=100), concurrency=concurrency).replies(asks(50)))
    assert 7 <= len(server.requests) < 7 + concurrency, "15 tokens a request"


def test_what_was_spent_before_counts() -> None:
    budget = Budget(max_requests=10, max_tokens=1000)
    budget.begin(8, 999)
    budget.take()
    budget.count(1)
    with pytest.raises(BudgetError, match=r"max_tokens 1,000 is spent: 9 requests, 1,000 tokens"):
        budget.take()


# -- who answers ---------------------------------------------------------------------------------------------------


def test_the_model_that_a_server_says_it_is_is_noted() -> None:
    with scripted(lambda *_: completion("good") | {"model": "m-2024-08"}) as server:
        assert only(engine(server)).served_by == "m-2024-08"  # type: ignore[union-attr]
        server.models = [{"id": "other", "root": "/models/other"}, {"id": "m", "root": "/models/first"}]
        assert only(engine(server)).served_by == "m-2024-08 (/models/first)"  # type: ignore[union-attr]


def test_other_weights_under_the_same_name_are_noticed_after_a_torn_connection() -> None:
    def handle(_: Any, number: int) -> Any:
        if number == 5:
            server.models = [{"id": "m", "root": "/models/second"}]
            return Reset()
        return completion("good")

    with scripted(handle) as server:
        server.models = [{"id": "m", "root": "/models/first"}]
        made = [r.served_by for _, r in engine(server, concurrency=1).replies(asks(9)) if isinstance(r, Reply)]
    assert made == ["m (/models/first)"] * 5 + ["m (/models/second)"] * 4


def test_a_server_that_is_gone_stops_the_work() -> None:
    with scripted(lambda *_: completion("x")) as server:
        pass
    with pytest.raises(EngineError, match="requests in a row were given up; the last: connection failed"):
        list(engine(server, retries=0).replies(asks(50)))


@pytest.mark.parametrize("seed", range(3))
def test_everything_asked_arrives_once_whatever_the_server_does(seed: int) -> None:
    """A seeded schedule of faults on a third of the requests, four at a time."""
    rng = random.Random(seed)
    faults = [Status(429), Status(429, headers={"Retry-After": "1"}), Status(500), Status(502), Reset(), b"{",
              completion("x") | {"choices": []}, completion(None)]  # fmt: skip
    schedule = [rng.choice(faults) if rng.random() < 0.33 else None for _ in range(2000)]

    def handle(body: dict[str, Any], number: int) -> Any:
        return schedule[number] or completion(f"answer to {prompt_of(body)}")

    with scripted(handle) as server:
        made = list(engine(server, retries=20).replies(asks(60)))
    assert sorted(ask.key for ask, _ in made) == sorted(ask.key for ask in asks(60))
    good = [(ask, reply) for ask, reply in made if isinstance(reply, Reply)]
    assert all(reply.text == f"answer to {ask.prompt}" for ask, reply in good)
    garbled = [reply.detail for _, reply in made if isinstance(reply, Unanswered)]
    assert len(garbled) < 6 and all(said.startswith("the response ") for said in garbled), "thrice in a row"
    assert len(server.requests) >= sum(reply.attempts for _, reply in good) > 60


def test_a_server_that_refuses_everything_stops_the_work() -> None:
    refused = Status(422, '{"error": {"message": "no such field"}}')
    with scripted(lambda *_: refused) as server, pytest.raises(EngineError) as error:
        list(engine(server).replies(asks(50)))
    said = f"{server.url}: {MAX_FAILED_IN_A_ROW} requests in a row were given up; the last: status 422: "
    assert str(error.value).startswith(said)
    assert str(error.value).endswith("What was answered is kept; the same command continues")

    def handle(_: Any, number: int) -> Any:
        return refused if number else completion("good")

    with scripted(handle) as server:
        made = [reply for _, reply in engine(server, concurrency=1).replies(asks(30))]
    assert sum(isinstance(reply, Unanswered) for reply in made) == 29, "refused one by one, by what they hold"


def test_failures_that_are_few_leave_the_others_alone() -> None:
    with scripted(lambda body, _: Status(500) if prompt_of(body).endswith("3") else completion("good")) as server:
        made = {ask.prompt: reply for ask, reply in engine(server, retries=1).replies(asks(MAX_FAILED_IN_A_ROW))}
    assert [prompt for prompt, reply in made.items() if isinstance(reply, Unanswered)] == ["prompt 3"]
    assert len(made) == MAX_FAILED_IN_A_ROW


@pytest.mark.parametrize(
    ("header", "seconds"),
    [(None, None), ("0", 0), ("1.5", 1.5), ("-3", 0), ("nan", None), ("soon", None),
     ("Thu, 01 Jan 1970 00:01:00 GMT", 10), ("Thu, 01 Jan 1970 00:00:10 GMT", 0)],
)  # fmt: skip
def test_retry_after(header: str | None, seconds: float | None) -> None:
    assert retry_after(header, now=50.0) == seconds


def test_key_is_the_same_at_another_address_and_differs_by_revision(tmp_path: Path) -> None:
    def key(url: str, **changes: Any) -> str:
        return engine(Server(url), **changes).fingerprint

    assert key("http://a/v1") == key("http://b/v1")
    assert len({key("http://a/v1"), key("http://a/v1", revision="2"), key("http://a/v1", max_new_tokens=5)}) == 3


# -- asked to end --------------------------------------------------------------------------------------------------


def test_asked_to_end_what_is_on_its_way_is_kept_and_nothing_more_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of twenty, four on their way: the first asks to end, the second answers, two hang and are given up."""
    monkeypatch.setattr("rbft.rationales.endpoint.PATIENCE_SECONDS", 1.0)
    asked, hanging = threading.Event(), threading.Event()

    def answer(body: dict[str, Any], _: int) -> Any:
        number = int(prompt_of(body).split()[1])
        if number == 0:
            asked.set()
        elif number == 1:
            asked.wait()
        else:
            hanging.wait()
        return completion(f"answer {number}")

    monkeypatch.setattr("rbft.rationales.endpoint.asked", asked.is_set)
    monkeypatch.setattr("rbft.rationales.endpoint.check", _stop)
    kept = []
    with scripted(answer) as server:
        try:
            with pytest.raises(StoppedError):
                for ask, reply in engine(server).replies(asks(20)):
                    kept.append((ask.item, reply))
        finally:
            hanging.set()
    assert sorted(item for item, _ in kept) == ["i0", "i1"]
    assert all(isinstance(reply, Reply) for _, reply in kept)
    assert len(server.requests) == 4


def test_asked_to_end_no_pause_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that is busy for an hour: its pause is broken off, and the request is no failed one."""
    asked = threading.Event()

    def busy(body: dict[str, Any], _: int) -> Any:
        asked.set()
        return Status(503, headers={"retry-after": "3000"})

    monkeypatch.setattr("rbft.rationales.endpoint.asked", asked.is_set)
    monkeypatch.setattr("rbft.rationales.endpoint.check", _stop)
    with scripted(busy) as server:
        settings = Engine.model_validate({"endpoint": server.url, "model": "m", "longest_wait_seconds": 3600})
        with pytest.raises(StoppedError):
            list(EndpointEngine(settings, "secret", Red()).replies(asks(1)))


def _stop() -> None:
    raise StoppedError
