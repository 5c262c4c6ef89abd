"""How many requests may be on their way to a server that says when it is too many."""

from __future__ import annotations

import threading


class Pace:
    """Room for requests: as many as a crowded server took, and one more after twice as many answers.

    A request that is refused takes its place with it, so that what is left are those that the server works on; never
    above `most`.
    """

    def __init__(self, most: int) -> None:
        self._most, self._room = most, float(most)
        self._flying = 0
        self._changed = threading.Condition()
        self._stopped = False

    @property
    def room(self) -> int:
        """Requests that may be on their way now."""
        return int(self._room)

    def enter(self) -> bool:
        """Wait for room; False where the work was stopped meanwhile."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or self._flying < self.room)
            self._flying += not self._stopped
            return not self._stopped

    def leave(self, *, crowded: bool) -> None:
        """A request came back; `crowded`: refused because there are too many."""
        with self._changed:
            self._flying -= 1
            if crowded:
                self._room = max(1.0, min(self._room, self._flying))
            else:
                self._room = min(self._most, self._room + 0.5 / self._room)
            self._changed.notify_all()

    def stop(self) -> None:
        """Let nothing wait any longer."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def start(self) -> None:
        """Let requests in again."""
        self._stopped = False
