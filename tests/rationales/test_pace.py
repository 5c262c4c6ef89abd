"""How many requests may be on their way, by hand."""

from __future__ import annotations

import threading

from rbft.rationales.pace import Pace


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
