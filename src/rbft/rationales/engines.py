"""Who writes in a curation: one interface, and two engines that need no network. `endpoint` holds the third."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pydantic import ValidationError

from rbft.clips.grouped import first_of
from rbft.curation import Engine as EngineSettings
from rbft.errors import ExperimentError, UserError
from rbft.files import why_unread
from rbft.models.generate import Generated, generate, generate_text
from rbft.models.vlm import VLM, FrameSource
from rbft.records import Record, fingerprint
from rbft.stopping import check


@dataclass(frozen=True)
class Ask:
    """One thing to write. With a `clip_id` the engine sees that clip's frames; a `schema` asks for JSON."""

    key: str
    item: str
    prompt: str
    clip_id: str | None = None
    schema: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Reply:
    """What was written, and what it took. `finished` is False where it was cut at the token limit."""

    text: str
    finished: bool
    prompt_tokens: int | None = None
    num_tokens: int | None = None
    attempts: int = 1
    served_by: str | None = None
    """The model that a server says it answered with."""


@dataclass(frozen=True)
class Unanswered:
    """Nothing was written, and why; the next run asks again."""

    detail: str
    unreachable: bool = False
    """Whether it is the server that failed, and not this one thing that was asked."""


class Engine(Protocol):
    """Writes texts. `fingerprint` is the same exactly where it would write the same, as far as one can know."""

    name: str
    fingerprint: str
    can_repair: bool
    """Whether it makes sense to show it an answer and the faults of it."""

    def replies(self, asks: Sequence[Ask]) -> Iterator[tuple[Ask, Reply | Unanswered]]:
        """A reply, or why there is none, to each; in the order in which they come."""


class LocalEngine:
    """A model on this machine, in batches; loaded when there is something to write."""

    can_repair = True

    def __init__(
        self, name: str, model: str, load: Callable[[], VLM], frames: FrameSource, settings: EngineSettings
    ) -> None:
        self.name = name
        self.fingerprint = fingerprint(
            "local", model, settings.max_new_tokens, settings.temperature, settings.top_p,
            settings.batch_size if settings.temperature else None,
        )  # fmt: skip
        self._load, self._frames, self._settings = load, frames, settings

    def replies(self, asks: Sequence[Ask]) -> Iterator[tuple[Ask, Reply | Unanswered]]:
        """A batch at a time, clips of like length together."""
        for with_clip in (False, True):
            ordered = sorted((ask for ask in asks if (ask.clip_id is not None) == with_clip), key=self._size)
            for start in range(0, len(ordered), self._settings.batch_size):
                check()
                batch = ordered[start : start + self._settings.batch_size]
                yield from (self._with_clips if with_clip else self._without)(batch, self._how(batch[0].key))

    def _size(self, ask: Ask) -> tuple[int, str]:
        if ask.clip_id is None:
            return len(ask.prompt), ask.key
        plan = self._frames.plan(ask.clip_id)
        return plan.num_frames * plan.width * plan.height, ask.key

    def _how(self, key: str) -> dict[str, Any]:
        """How a batch is written; its seed follows from what is asked first, and not from what was there already."""
        settings, seed = self._settings, int(fingerprint(key)[:8], 16)
        how = {"max_new_tokens": settings.max_new_tokens, "temperature": settings.temperature or 0.0}
        return how | {"top_p": settings.top_p, "seed": seed}

    def _with_clips(self, batch: Sequence[Ask], how: dict[str, Any]) -> Iterator[tuple[Ask, Reply | Unanswered]]:
        vlm, encoded = self._load(), {}
        for ask in batch:
            try:
                encoded[ask.key] = vlm.encode_clip(self._frames, str(ask.clip_id), ask.prompt)
            except UserError as error:  # what another engine wrote holds a control token of this one
                yield ask, Unanswered(str(error))
        asks = [ask for ask in batch if ask.key in encoded]
        made = generate(vlm, list(encoded.values()), **how) if encoded else []
        for ask, text in zip(asks, made, strict=True):
            yield ask, _reply(text, len(encoded[ask.key].input_ids))

    def _without(self, batch: Sequence[Ask], how: dict[str, Any]) -> Iterator[tuple[Ask, Reply | Unanswered]]:
        vlm, encoded = self._load(), {}
        for ask in batch:
            try:
                encoded[ask.key] = vlm.encode_text(ask.prompt)
            except UserError as error:
                yield ask, Unanswered(str(error))
        asks = [ask for ask in batch if ask.key in encoded]
        made = generate_text(vlm, list(encoded.values()), **how) if encoded else []
        for ask, text in zip(asks, made, strict=True):
            yield ask, _reply(text, len(encoded[ask.key]))


def _reply(text: Generated, prompt_tokens: int) -> Reply:
    return Reply(text.text, text.finished, prompt_tokens, text.num_tokens)


class WrittenElsewhere(Record):
    """A line of a file of answers."""

    id: str
    text: str


class FileEngine:
    """Answers of one step that were written elsewhere: JSON lines, by the question's id (represent: the clip's)."""

    can_repair = False

    def __init__(self, path: Path) -> None:
        self._texts = read_answers(path)
        self._path = path
        self.name = path.name
        self.fingerprint = fingerprint("answers", self._texts)

    def replies(self, asks: Sequence[Ask]) -> Iterator[tuple[Ask, Reply | Unanswered]]:
        """What the file holds."""
        for ask in asks:
            text = self._texts.get(ask.item)
            yield (
                ask,
                Unanswered(f"{self._path.name} has no text of {ask.item!r}") if text is None else Reply(text, True),
            )


def read_answers(path: Path) -> dict[str, str]:
    """Texts by id; raises ExperimentError with every fault of the file."""
    texts: dict[str, str] = {}
    faults: list[str] = []
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except OSError as error:
        raise ExperimentError(f"{path}: {why_unread(path, error)}") from None
    except UnicodeDecodeError as error:
        raise ExperimentError(f"{path}: not UTF-8 at byte {error.start}; save it as UTF-8") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            found = WrittenElsewhere.model_validate(json.loads(line))
        except (ValidationError, ValueError, RecursionError):
            faults.append(f'{path}:{number}: not an answer; a line is {{"id": "…", "text": "…"}} and nothing else')
            continue
        if found.id in texts:
            faults.append(f"{path}:{number}: id {found.id!r} stands there twice; keep one")
        texts[found.id] = found.text
    if not texts and not faults:
        faults.append(f'{path}: holds no answer; a line is {{"id": "…", "text": "…"}}')
    if faults:
        raise ExperimentError(first_of(faults, "faulty lines"))
    return texts
