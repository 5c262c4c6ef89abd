"""The model explains its own training clips: batches of like length, appended as they come, continued after a kill."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rbft.answers import AuditThresholds, audit
from rbft.experiment import Rationales, Sampling
from rbft.files import JsonlAppender, read_jsonl
from rbft.models.generate import Generated, generate
from rbft.models.vlm import VLM, FrameSource, by_size
from rbft.prompts import Prompts, Reasoning
from rbft.records import Checkpoint, Clip, Rationale, Verdict, fingerprint
from rbft.stopping import check

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
        """Fingerprint of everything that decides a rationale but the clip: the file that holds them all."""
        wanted = self.settings.model_dump(exclude={"batch_size"} if self.settings.temperature == 0 else set())
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

    def seed(self, start: int) -> int:
        """The seed of the batch that begins at clip `start`."""
        return start + _SEEDS_APART * (self.sample or 0)

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

    `load` is called only where something is missing. Batches are cut from the whole list, so a restart asks the same
    questions under the same seeds. `advance` is called with the number of clips just finished.
    """
    settings = request.settings
    found = read_jsonl(path, Rationale) if path.exists() else []
    keys = {clip.clip_id: fingerprint(clip_keys[clip.clip_id], clip.label) for clip in clips}
    done = {r.clip_id: r for r in found if keys.get(r.clip_id) == r.clip_key}
    advance(len(done))
    ordered = by_size(clips, frames)
    with JsonlAppender(path) as file:
        for start in range(0, len(ordered), settings.batch_size):
            check()
            batch = ordered[start : start + settings.batch_size]
            missing = [clip for clip in batch if clip.clip_id not in done]
            if not missing:
                continue
            vlm = load()
            asked = batch if settings.temperature > 0 else missing
            texts = generate(
                vlm,
                [vlm.encode_clip(frames, c.clip_id, request.prompt(c)) for c in asked],
                max_new_tokens=settings.max_new_tokens,
                temperature=settings.temperature,
                top_p=settings.top_p,
                seed=request.seed(start),
            )
            fresh = [
                _audited(request, clip, keys[clip.clip_id], text, vlm.source.name, request.seed(start))
                for clip, text in zip(asked, texts, strict=True)
                if clip.clip_id not in done
            ]
            file.append(fresh)
            done |= {r.clip_id: r for r in fresh}
            advance(len(fresh))
    return [done[clip.clip_id] for clip in clips]


def _audited(request: Request, clip: Clip, key: str, text: Generated, engine: str, seed: int) -> Rationale:
    return Rationale(
        clip_id=clip.clip_id,
        clip_key=key,
        text=text.text,
        finished=text.finished,
        num_tokens=text.num_tokens,
        engine=engine,
        prompt_fingerprint=fingerprint(request.prompt(clip)),
        seed=seed,
        verdict=request.audit(text.text, text.finished, clip),
    )
