"""The model explains its own training clips: batches of like length, appended as they come, continued after a kill."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rbft.answers import AuditThresholds, audit
from rbft.experiment import Rationales, Sampling
from rbft.files import JsonlAppender, read_jsonl
from rbft.models.generate import Generated, generate
from rbft.models.vlm import VLM, FrameSource, by_size
from rbft.prompts import Prompts, Reasoning
from rbft.records import Checkpoint, Clip, DropReason, Rationale, Verdict, fingerprint
from rbft.stopping import check

RETRIED: frozenset[DropReason] = frozenset({"empty", "repeating", "refusal"})
"""What another sample may mend. A text that is only cut off would be cut off again."""
RETRY_TEMPERATURE = 0.7
"""Least temperature of a retry: greedy writing would say the same again."""
_SEEDS_APART = 1_000_003
"""Between the seeds of two samples: more than any run has clips, so that no two batches share a seed."""


@dataclass(frozen=True)
class Request:
    """How rationales are asked for: prompts and settings; with the label told (`hinted`); which of several samples."""

    prompts: Prompts
    settings: Rationales
    thresholds: AuditThresholds
    hinted: bool = False
    sample: int | None = None
    reasoning: Reasoning | None = None
    """Set where not a rationale is asked for, but thinking and an answer."""

    def key(self, engine: Checkpoint, sampling: Sampling) -> str:
        """Fingerprint of everything that decides a rationale but the clip: the file that holds them all.

        How often it is tried again decides which attempt is taken, and no attempt's text.
        """
        greedy = self.settings.temperature == 0
        wanted = self.settings.model_dump(exclude={"retries", "batch_size"} if greedy else {"retries"})
        more: list[Any] = [["hint", self.prompts.templates.hint]] if self.hinted else []
        more += [["sample", self.sample]] if self.sample is not None else []
        more += [] if self.reasoning is None else [self.reasoning, list(self.prompts.labels)]
        return fingerprint(
            "rationales", engine.fingerprint, self.prompts, wanted, self.thresholds, sampling.model_dump(), *more
        )

    def prompt(self, clip: Clip) -> str:
        """What is asked about a clip; a hinted request needs its label."""
        if self.reasoning is not None:
            return self.reasoning.asks(self.prompts)
        if not self.hinted:
            return self.prompts.rationale()
        assert clip.label is not None, f"{clip.clip_id} has no label to tell"
        return self.prompts.hinted_rationale(clip.label)

    def seed(self, start: int, attempt: int = 0) -> int:
        """The seed of the batch that begins at clip `start`; a retry has another one."""
        return start + _SEEDS_APART * ((self.sample or 0) + attempt)

    def audit(self, text: str, finished: bool, clip: Clip) -> Verdict:
        """The audit's verdict on a text about a clip."""
        return audit(
            text,
            finished=finished,
            labels=self.prompts.labels,
            label=clip.label,
            dimensions=self.prompts.templates.dimensions,
            thresholds=self.thresholds,
            drop_contradicting=self.settings.drop_contradicting,
        )


def write_rationales(
    load: Callable[[], VLM],
    clips: Sequence[Clip],
    frames: FrameSource,
    clip_keys: Mapping[str, str],
    request: Request,
    path: Path,
    *,
    advance: Callable[[int], None],
) -> list[Rationale]:
    """Write a rationale for every clip that `path` does not hold yet; return all of them in clip order.

    A blank, a loop or a refusal is sampled anew, at most `retries` times; every attempt stays in the file, and the last
    one counts. `load` is called only where something is missing. Batches are cut from the whole list of an attempt, so
    a restart asks the same questions under the same seeds. `advance` is called with the number of clips just finished.
    """
    found = read_jsonl(path, Rationale) if path.exists() else []
    keys = {clip.clip_id: fingerprint(clip_keys[clip.clip_id], clip.label) for clip in clips}
    known = {(r.clip_id, r.attempt): r for r in found if keys.get(r.clip_id) == r.clip_key}
    last: dict[str, Rationale] = {}
    lot = by_size(clips, frames)
    with JsonlAppender(path) as file:
        for attempt in range(request.settings.retries + 1):
            for batch in _attempted(load, lot, frames, keys, request, attempt, known):
                file.append([r for r in batch if (r.clip_id, attempt) not in known])
                last |= {r.clip_id: r for r in batch}
                advance(len(batch) if attempt == 0 else 0)
            lot = [clip for clip in lot if RETRIED.intersection(last[clip.clip_id].verdict.reasons)]
    return [last[clip.clip_id] for clip in clips]


def _attempted(
    load: Callable[[], VLM],
    lot: Sequence[Clip],
    frames: FrameSource,
    keys: Mapping[str, str],
    request: Request,
    attempt: int,
    known: Mapping[tuple[str, int], Rationale],
) -> Iterator[list[Rationale]]:
    """A batch of clips at a time, their texts of this attempt: those that are known, and what is written now."""
    settings = request.settings
    temperature = max(settings.temperature, RETRY_TEMPERATURE) if attempt else settings.temperature
    for start in range(0, len(lot), settings.batch_size):
        check()
        batch = lot[start : start + settings.batch_size]
        missing = [clip for clip in batch if (clip.clip_id, attempt) not in known]
        asked = batch if missing and temperature > 0 else missing
        fresh: dict[str, Rationale] = {}
        if asked:
            vlm = load()
            texts = generate(
                vlm,
                [vlm.encode_clip(frames, c.clip_id, request.prompt(c)) for c in asked],
                max_new_tokens=settings.max_new_tokens,
                temperature=temperature,
                top_p=settings.top_p,
                seed=request.seed(start, attempt),
            )
            fresh = {
                c.clip_id: _audited(request, c, keys[c.clip_id], text, vlm.source.name, start, attempt)
                for c, text in zip(asked, texts, strict=True)
            }
        yield [known.get((c.clip_id, attempt)) or fresh[c.clip_id] for c in batch]


def _audited(
    request: Request, clip: Clip, key: str, text: Generated, engine: str, start: int, attempt: int
) -> Rationale:
    return Rationale(
        clip_id=clip.clip_id,
        clip_key=key,
        text=text.text,
        finished=text.finished,
        num_tokens=text.num_tokens,
        engine=engine,
        prompt_fingerprint=fingerprint(request.prompt(clip)),
        seed=request.seed(start, attempt),
        attempt=attempt,
        verdict=request.audit(text.text, text.finished, clip),
    )
