"""How many requests may be on their way, by hand; by night, how near that comes to what a crowded server can do."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from rbft.curation import Engine
from rbft.rationales.endpoint import EndpointEngine
from rbft.rationales.engines import Ask, Reply
from rbft.rationales.pace import Pace
from servers import Status, completion, scripted


def test_what_a_crowded_server_took_is_the_room_that_is_left() -> None:
    pace = Pace(16)
    assert all(pace.enter() for _ in range(16))
    for _ in range(13):
        pace.leave(crowded=True)
    assert pace.room == 3
    for _ in range(3):
        pace.leave(crowded=False)
    assert pace.room == 3, "half a place more"


def test_room_is_never_below_one() -> None:
    pace = Pace(2)
    for _ in range(5):
        assert pace.enter()
        pace.leave(crowded=True)
        assert pace.room == 1


def test_room_grows_by_one_after_twice_as_many_answers_and_never_beyond() -> None:
    pace = Pace(3)
    assert pace.enter()
    pace.leave(crowded=True)
    rooms = []
    for _ in range(9):
        assert pace.enter()
        pace.leave(crowded=False)
        rooms.append(pace.room)
    assert rooms == [1, 1, 2, 2, 2, 2, 2, 3, 3], "from 1: 1.5, 1.83, 2.11, 2.34, 2.56, 2.75, 2.93, and 3 at the most"


def test_more_wait_until_one_comes_back_and_stopping_lets_them_go() -> None:
    pace = Pace(1)
    assert pace.enter()
    got: list[bool] = []
    waiting = threading.Thread(target=lambda: got.append(pace.enter()))
    waiting.start()
    waiting.join(0.05)
    assert got == []
    pace.leave(crowded=False)
    waiting.join()
    assert got == [True]
    stuck = threading.Thread(target=lambda: got.append(pace.enter()))
    stuck.start()
    pace.stop()
    stuck.join()
    assert got == [True, False] and not pace.enter()
    pace.leave(crowded=False)
    pace.start()
    assert pace.enter()


# -- nightly -------------------------------------------------------------------------------------------------------


def slots(number: int, seconds: float, headers: dict[str, str]) -> Callable[[dict[str, Any], int], Any]:
    """A server that works on so many requests at once, each for so long, and refuses more."""
    free = threading.Semaphore(number)

    def handle(_: dict[str, Any], __: int) -> Any:
        if not free.acquire(blocking=False):
            return Status(429, headers=headers)
        time.sleep(seconds)
        free.release()
        return completion("A dog.")

    return handle


def allowance(rate: float, seconds: float, headers: dict[str, str]) -> Callable[[dict[str, Any], int], Any]:
    """A server that takes so many requests a second, as many at once, and refuses more."""
    lock, left, latest = threading.Lock(), rate, time.monotonic()

    def handle(_: dict[str, Any], __: int) -> Any:
        nonlocal left, latest
        with lock:
            now = time.monotonic()
            left, latest = min(rate, left + rate * (now - latest)), now
            if left < 1:
                return Status(429, headers=headers)
            left -= 1
        time.sleep(seconds)
        return completion("A dog.")

    return handle


@pytest.mark.nightly
@pytest.mark.parametrize("headers", [{"Retry-After": "1"}, {}], ids=["says when", "says nothing"])
@pytest.mark.parametrize(
    ("make", "per_second"),
    [
        pytest.param(lambda headers: slots(4, 1.0, headers), 4.0, id="4 at once"),
        pytest.param(lambda headers: slots(8, 2.0, headers), 4.0, id="8 slow ones at once"),
        pytest.param(lambda headers: allowance(5.0, 0.5, headers), 5.0, id="5 a second"),
    ],
)
def test_a_crowded_server_is_used_to_four_fifths(
    make: Callable[[dict[str, str]], Any], per_second: float, headers: dict[str, str]
) -> None:
    """Over HTTP, from 16 requests at once on; on a machine that does little else."""
    asks = [Ask(str(number), str(number), "What is there?") for number in range(150)]
    with scripted(make(headers)) as server:
        engine = EndpointEngine(Engine(endpoint=server.url, model="m", concurrency=16), "none", None)  # type: ignore[arg-type]
        began = time.monotonic()
        replies = list(engine.replies(asks))
        share = len(asks) / (time.monotonic() - began) / per_second
    assert all(isinstance(reply, Reply) for _, reply in replies)
    assert len(replies) == len(asks)
    print(f"\n{share:.0%} of the limit, {len(server.requests) - len(asks)} refused, {engine._pace.room} at the end")
    assert share >= 0.8
