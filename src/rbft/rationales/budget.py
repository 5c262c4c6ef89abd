"""What may still be asked of endpoints: counted before each request, and stopped with everything kept."""

from __future__ import annotations

import threading

from rbft.errors import BudgetError


class Budget:
    """Requests, and tokens read and written, of all endpoints of a curation together; None: as many as it takes."""

    def __init__(self, max_requests: int | None = None, max_tokens: int | None = None) -> None:
        self._max_requests, self._max_tokens = max_requests, max_tokens
        self._lock = threading.Lock()
        self._requests = self._tokens = 0

    def begin(self, requests: int, tokens: int) -> None:
        """Count what is on disk already."""
        self._requests, self._tokens = requests, tokens

    def take(self) -> None:
        """One more request. Raises BudgetError where none is left."""
        with self._lock:
            if self._max_requests is not None and self._requests >= self._max_requests:
                raise self._spent("max_requests", self._max_requests)
            if self._max_tokens is not None and self._tokens >= self._max_tokens:
                raise self._spent("max_tokens", self._max_tokens)
            self._requests += 1

    def count(self, tokens: int) -> None:
        """What a response took."""
        with self._lock:
            self._tokens += tokens

    def _spent(self, name: str, most: int) -> BudgetError:
        return BudgetError(
            f"{name} {most:,} is spent: {self._requests:,} requests, {self._tokens:,} tokens read and written. "
            f"What was answered is kept; raise {name}, and the same command continues"
        )
