"""An engine behind OpenAI's chat completions: many requests at once, retries that end, every token counted."""

from __future__ import annotations

import base64
import email.utils
import io
import json
import math
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, ThreadPoolExecutor, wait
from dataclasses import replace
from typing import Any

from PIL import Image
from pydantic import BaseModel

from rbft.curation import MAX_FAILED_IN_A_ROW
from rbft.curation import Engine as EngineSettings
from rbft.errors import BudgetError, EngineError
from rbft.models.vlm import FrameSource
from rbft.rationales.budget import Budget
from rbft.rationales.engines import Ask, Reply, Unanswered
from rbft.rationales.exchange import Exchange, needs_openai
from rbft.rationales.pace import Pace
from rbft.records import fingerprint
from rbft.stopping import POLL_SECONDS, asked, check

PATIENCE_SECONDS = 10.0
FIRST_PAUSE_SECONDS = 1.0
GRACE_SECONDS = 4.0
"""How long answers that are on their way are waited for once the settings turn out wrong."""
MAX_GARBLED = 3
"""Responses in a row without a text that can be read, paid for all the same, after which one ask is given up."""
KEY_TAKEN_OUT = "[key]"
_HOPELESS = (401, 403, 404)
"""Statuses that no item and no retry changes: the settings are wrong."""
_AGAIN = (408, 409, 429)
_CROWDED = (429, 503)


class EndpointEngine:
    """A server's model. `sleep` and `rng` are for tests; the pause of attempt n is 2^n seconds, a random half less."""

    can_repair = True

    def __init__(
        self,
        settings: EngineSettings,
        key: str,
        frames: FrameSource,
        budget: Budget | None = None,
        *,
        sleep: Callable[[float], object] | None = None,
        rng: random.Random | None = None,
    ) -> None:
        assert settings.endpoint is not None and settings.model is not None
        needs_openai()
        self.name = settings.model if settings.revision is None else f"{settings.model}@{settings.revision}"
        self.fingerprint = fingerprint(
            "endpoint", self.name, settings.max_new_tokens, settings.temperature, settings.top_p, settings.strict_json
        )
        self._settings, self._key, self._frames = settings, key, frames
        self._budget, self._pace = budget or Budget(), Pace(settings.concurrency)
        self._stopped = threading.Event()
        self._sleep = sleep or self._stopped.wait
        self._rng = rng or random.Random()
        self._identifying = threading.Lock()
        self._weights: str | None = None
        self._identified = False
        self._secret = "" if settings.key_from is None else key

    def replies(self, asks: Sequence[Ask]) -> Iterator[tuple[Ask, Reply | Unanswered]]:
        """As they come, at most `concurrency` on their way, fewer where the server is crowded.

        Raises EngineError where the server is wrong or gone, and BudgetError where the budget is spent. A process that
        is asked to end waits PATIENCE_SECONDS for what is on its way, and raises StoppedError.
        """
        waiting = iter(asks)
        in_flight: dict[Future[Reply | Unanswered], Ask] = {}
        failed, answered, latest = 0, False, math.inf
        wrong: EngineError | BudgetError | None = None
        self._stopped.clear()
        self._pace.start()
        self._identified = False
        exchange = Exchange(self._settings, self._key)
        pool = ThreadPoolExecutor(self._settings.concurrency)
        try:
            while True:
                while wrong is None and not asked() and len(in_flight) < self._settings.concurrency:
                    ask = next(waiting, None)
                    if ask is None:
                        break
                    in_flight[pool.submit(self._reply, exchange, ask)] = ask
                if latest == math.inf and asked():
                    self._stopped.set()  # nothing is asked again
                    latest = time.monotonic() + PATIENCE_SECONDS
                elif latest == math.inf and isinstance(wrong, EngineError):
                    latest = time.monotonic() + GRACE_SECONDS
                if not in_flight or time.monotonic() > latest:
                    if wrong is None:
                        check()
                    break
                for future in wait(in_flight, POLL_SECONDS, FIRST_COMPLETED).done:
                    ask = in_flight.pop(future)
                    if isinstance(error := future.exception(), EngineError | BudgetError):
                        wrong = wrong or error
                        continue
                    reply = self._without_key(future.result())
                    yield ask, reply
                    answered |= isinstance(reply, Reply)
                    lost = isinstance(reply, Unanswered) and (reply.unreachable or not answered)
                    failed = failed + 1 if lost else 0
                    if failed == MAX_FAILED_IN_A_ROW and wrong is None and isinstance(reply, Unanswered):
                        wrong = EngineError(
                            f"{self._settings.endpoint}: {failed} requests in a row were given up; the last: "
                            f"{reply.detail}. What was answered is kept; the same command continues"
                        )
        finally:
            self._stopped.set()
            self._pace.stop()
            exchange.give_up()
            pool.shutdown(wait=True, cancel_futures=True)
            exchange.close()
        if wrong is not None:
            raise wrong

    def _without_key(self, reply: Reply | Unanswered) -> Reply | Unanswered:
        """What a server says, without the key where it sends it back: replies and details are written down."""
        if isinstance(reply, Reply):
            return replace(reply, text=reply.text.replace(self._secret, KEY_TAKEN_OUT)) if self._secret else reply
        return replace(reply, detail=reply.detail.replace(self._secret, KEY_TAKEN_OUT)) if self._secret else reply

    def _reply(self, exchange: Exchange, ask: Ask) -> Reply | Unanswered:
        """One request and its retries."""
        import openai

        said, garbled, attempt = "", 0, 0
        used = [0, 0]
        request = self._request(ask)
        for attempt in range(1, self._settings.retries + 2):
            pause = FIRST_PAUSE_SECONDS * 2 ** (attempt - 1) * self._rng.uniform(0.5, 1.0)
            try:
                response = self._sent(exchange, request)
                before = sum(used)
                reply = _read(response, attempt, used, self._weights)
                self._budget.count(sum(used) - before)
                if isinstance(reply, Reply):
                    return reply
                said, garbled = reply, garbled + 1
            except openai.APIStatusError as error:
                garbled = 0
                prefix = f"Error code: {error.status_code} - "
                said = f"status {error.status_code}: {_short(error.message.removeprefix(prefix))}"
                if error.status_code in _HOPELESS:
                    raise EngineError(self._hopeless(error.status_code)) from None
                if error.status_code not in _AGAIN and error.status_code < 500:
                    return Unanswered(said)
                asked_for = retry_after(error.response.headers.get("retry-after"))
                if asked_for is not None and asked_for > self._settings.longest_wait_seconds:
                    return Unanswered(f"{said} (asks for a pause of {asked_for:g} s)", unreachable=True)
                pause = pause if asked_for is None else asked_for
            except (openai.APITimeoutError, TimeoutError):
                said, garbled = f"no answer within {self._settings.timeout_seconds:g} s", 0
            except openai.APIConnectionError as error:
                said, garbled = f"connection failed: {_short(str(error.__cause__ or error))}", 0
                self._identified = False  # what answers next may be another model
            except (openai.APIResponseValidationError, UnicodeDecodeError, json.JSONDecodeError) as error:
                text = error.doc if isinstance(error, json.JSONDecodeError) else str(error)
                said, garbled = f"the response is not JSON: {_short(text)!r}", garbled + 1
            except CancelledError:
                return Unanswered("interrupted", unreachable=True)
            if self._stopped.is_set():
                return Unanswered("interrupted", unreachable=True)
            if garbled == MAX_GARBLED:
                break
            if attempt <= self._settings.retries:
                self._sleep(min(pause, self._settings.longest_wait_seconds))
        return Unanswered(said if attempt == 1 else f"{said}, after {attempt} tries", unreachable=True)

    def _sent(self, exchange: Exchange, request: dict[str, Any]) -> Any:
        """The response to one request, once there is room and money for it."""
        import openai

        if not self._pace.enter():
            raise CancelledError
        crowded = False
        try:
            self._budget.take()
            with self._identifying:
                if not self._identified:
                    self._weights = exchange.weights_of(str(self._settings.model))
                    self._identified = True
            return exchange.complete(request)
        except openai.APIStatusError as error:
            crowded = error.status_code in _CROWDED
            raise
        finally:
            self._pace.leave(crowded=crowded)

    def _hopeless(self, status: int) -> str:
        settings = self._settings
        match status:
            case 404:
                return (
                    f"{settings.endpoint}: status 404: no model {settings.model!r}, or no chat completions there; "
                    "look at endpoint (it often ends with /v1) and model"
                )
            case _ if settings.key_from is None:
                return (
                    f"{settings.endpoint}: status {status}: the server wants a key; name the environment variable "
                    "that holds it with key_from"
                )
            case _:
                return (
                    f"{settings.endpoint}: status {status}: the key in ${settings.key_from} is not accepted; "
                    "set that environment variable, or name another one with key_from"
                )

    def _request(self, ask: Ask) -> dict[str, Any]:
        settings = self._settings
        content: Any = ask.prompt
        if ask.clip_id is not None:
            images = [{"type": "image_url", "image_url": {"url": url}} for url in self._images(ask.clip_id)]
            content = [*images, {"type": "text", "text": ask.prompt}]
        made: dict[str, Any] = {
            "model": settings.model,
            "messages": [{"role": "user", "content": content}],
            settings.limit_name: settings.max_new_tokens,
        }
        if settings.temperature is not None:
            made |= {"temperature": settings.temperature, "top_p": settings.top_p}
        if ask.schema is not None and settings.strict_json:
            schema = {"name": "representation", "strict": True, "schema": dict(ask.schema)}
            made["response_format"] = {"type": "json_schema", "json_schema": schema}
        return made

    def _images(self, clip_id: str) -> list[str]:
        """The clip's frames as data addresses of JPEG pictures."""
        urls = []
        for picture in self._frames.read(clip_id).data:
            buffer = io.BytesIO()
            Image.fromarray(picture).save(buffer, "JPEG", quality=90)
            urls.append(f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}")
        return urls


def retry_after(header: str | None, now: float | None = None) -> float | None:
    """Seconds that a Retry-After header asks for, in seconds or as a date; None where it says nothing readable.

    >>> retry_after("2.5"), retry_after("Thu, 01 Jan 1970 00:01:00 GMT", now=50.0), retry_after("soon")
    (2.5, 10.0, None)
    """
    if header is None:
        return None
    try:
        seconds = float(header)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(header).timestamp() - (time.time() if now is None else now)
        except ValueError:
            return None
    return max(0.0, seconds) if seconds == seconds else None


def _read(response: Any, attempt: int, used: list[int], weights: str | None) -> Reply | str:
    """The text of a response, or what is wrong with it. `used` sums the tokens of the attempts."""
    if isinstance(response, str):
        return f"the response is not JSON: {_short(response)!r}"
    usage = getattr(response, "usage", None)
    for place, name in enumerate(("prompt_tokens", "completion_tokens")):
        count = getattr(usage, name, None)
        used[place] += count if isinstance(count, int) else 0
    choices = getattr(response, "choices", None)
    if not isinstance(choices, list) or not choices:
        is_object = isinstance(response, BaseModel)
        shown = response.model_dump_json(exclude_unset=True, warnings=False) if is_object else repr(response)
        return f"the response has no choices: {_short(shown)}"
    message = getattr(choices[0], "message", None)
    content = getattr(message, "content", None)
    if content is None:
        refusal = getattr(message, "refusal", None)
        return f"declined: {_short(str(refusal))}" if refusal else "the response has no text"
    if not isinstance(content, str):
        return f"the response's text is none: {_short(repr(content))}"
    finished = choices[0].finish_reason != "length"
    told, written = (used[0], used[1]) if any(used) else (None, None)
    model = getattr(response, "model", None)
    served_by = _short(model) if isinstance(model, str) and model else None
    if weights is not None:
        served_by = f"{served_by} ({_short(weights)})"
    return Reply(_writable(content).strip(), finished, told, written, attempt, served_by)


def _short(text: str) -> str:
    return _writable(" ".join(text.split())[:200])


def _writable(text: str) -> str:
    """The text without halves of characters (a lone surrogate, where a server cut an emoji), which no file can hold."""
    return text.encode("utf-8", "replace").decode("utf-8")
