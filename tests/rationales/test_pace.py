"""How many requests may be on their way, by hand."""

from __future__ import annotations

import threading

from rbft.rationales.pace import Pace


def entered(pace: Pace, number: int) -> list[int]:
    marks = [pace.enter() for _ in range(number)]
    return [mark for mark in marks if mark is not None]


def test_requests_that_were_on_their_way_together_halve_the_room_once() -> None:
    pace = Pace(16)
    together = entered(pace, 16)
    for mark in together:
        pace.leave(mark, crowded=True)
    assert pace.room == 8
    for mark in entered(pace, 8):
        pace.leave(mark, crowded=True)
    assert pace.room == 4


def test_room_is_never_below_one() -> None:
    pace = Pace(2)
    for _ in range(5):
        [mark] = entered(pace, 1)
        pace.leave(mark, crowded=True)
        assert pace.room == 1


def test_room_grows_by_one_after_as_many_answers_and_never_beyond() -> None:
    pace = Pace(3)
    for mark in entered(pace, 2):
        pace.leave(mark, crowded=True)
    assert pace.room == 1
    rooms = []
    for _ in range(9):
        [mark] = entered(pace, 1)
        pace.leave(mark, crowded=False)
        rooms.append(pace.room)
    assert rooms == [2, 2, 3, 3, 3, 3, 3, 3, 3], "from 1.5: 2.17, 2.63, and 3 at the most"


def test_more_wait_until_one_comes_back_and_stopping_lets_them_go() -> None:
    pace = Pace(1)
    [mark] = entered(pace, 1)
    got: list[int | None] = []
    waiting = threading.Thread(target=lambda: got.append(pace.enter()))
    waiting.start()
    waiting.join(0.05)
    assert got == []
    pace.leave(mark, crowded=False)
    waiting.join()
    assert got == [0]
    stuck = threading.Thread(target=lambda: got.append(pace.enter()))
    stuck.start()
    pace.stop()
    stuck.join()
    assert got == [0, None] and pace.enter() is None
    pace.start()
