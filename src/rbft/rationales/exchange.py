"""Requests to OpenAI's chat completions, each within a deadline that holds for all of it."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Coroutine
from typing import Any

from rbft.curation import Engine as EngineSettings
from rbft.errors import EngineError

_LIST_SECONDS = 10.0
"""Longest wait for a list of models."""


class Exchange:
    """A client in an event loop of its own.

    The client's own timeout bounds each read, so that a server which sends a byte now and then would be waited for
    without end; in a loop a whole exchange can be given up, and so can all that is on its way.
    """

    def __init__(self, settings: EngineSettings, key: str) -> None:
        import openai

        self._seconds = settings.timeout_seconds
        self._client = openai.AsyncOpenAI(
            base_url=settings.endpoint, api_key=key, timeout=settings.timeout_seconds, max_retries=0
        )
        self._given_up = False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def complete(self, request: dict[str, Any]) -> Any:
        """The response. Raises what the client raises, TimeoutError, and CancelledError where it was closed."""
        return self._run(self._client.chat.completions.create(**request), self._seconds)

    def weights_of(self, model: str) -> str | None:
        """What a server of open weights (vLLM, say) loaded under that name; None where it does not tell."""
        import openai

        try:
            listed = self._run(_listed(self._client), min(self._seconds, _LIST_SECONDS))
        except (openai.APIError, TimeoutError, json.JSONDecodeError, UnicodeDecodeError):
            return None  # many servers have no list of models, and what is wrong otherwise the first request tells
        root = next((getattr(each, "root", None) for each in listed if getattr(each, "id", None) == model), None)
        return root if isinstance(root, str) and root != model else None

    def give_up(self) -> None:
        """Cancel what is on its way."""
        asyncio.run_coroutine_threadsafe(self._cancelled(), self._loop).result()

    def close(self) -> None:
        """End the loop, once nobody asks any more."""
        asyncio.run_coroutine_threadsafe(self._client.close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, work: Coroutine[Any, Any, Any], seconds: float) -> Any:
        return asyncio.run_coroutine_threadsafe(self._within(work, seconds), self._loop).result()

    async def _within(self, work: Coroutine[Any, Any, Any], seconds: float) -> Any:
        if self._given_up:
            work.close()
            raise asyncio.CancelledError
        async with asyncio.timeout(seconds):
            return await work

    async def _cancelled(self) -> None:
        """Cancel every task of this loop but this one, and see them end."""
        self._given_up = True
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _listed(client: Any) -> list[Any]:
    found = getattr(await client.models.list(), "data", None)
    return found if isinstance(found, list) else []


def needs_openai() -> None:
    """Raise EngineError where the client is not installed."""
    try:
        import openai  # noqa: F401
    except ImportError:
        raise EngineError(
            "an endpoint needs the package openai, which is not installed; pip install 'rbft[curate]'"
        ) from None
