"""How many requests may be on their way to a server that says when it is too many."""

from __future__ import annotations

import threading


class Pace:
    """Room for requests: halved when the server says that it is crowded, one more after as many good answers.

    Additive increase, multiplicative decrease, as TCP does it (Chiu and Jain 1989); never above `most`.
    """

    def __init__(self, most: int) -> None:
        self._most, self._room = most, float(most)
        self._flying = self._cuts = 0
        self._changed = threading.Condition()
        self._stopped = False

    @property
    def room(self) -> int:
        """Requests that may be on their way now."""
        return int(self._room)

    def enter(self) -> int | None:
        """Wait for room; what it gives is handed back to `leave`. None where the work was stopped."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or self._flying < self.room)
            if self._stopped:
                return None
            self._flying += 1
            return self._cuts

    def leave(self, entered: int, *, crowded: bool) -> None:
        """A request came back. Of those that were on their way together, the first that finds it crowded halves."""
        with self._changed:
            self._flying -= 1
            if not crowded:
                self._room = min(self._most, self._room + 1 / self._room)
            elif entered == self._cuts:
                self._room = max(1.0, self._room / 2)
                self._cuts += 1
            self._changed.notify_all()

    def stop(self) -> None:
        """Let nothing wait any longer."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def start(self) -> None:
        """Let requests in again."""
        self._stopped = False
