"""The model explains its own training clips: batches of like length, appended as they come, continued after a kill."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from rbft.answers import AuditThresholds, audit
from rbft.experiment import Rationales, Sampling
from rbft.files import JsonlAppender, read_jsonl
from rbft.models.generate import Generated, generate
from rbft.models.vlm import VLM, FrameSource, by_size
from rbft.prompts import Prompts
from rbft.records import Checkpoint, Clip, Rationale, fingerprint


def rationale_key(
    engine: Checkpoint, prompts: Prompts, settings: Rationales, thresholds: AuditThresholds, sampling: Sampling
) -> str:
    """Fingerprint of everything that decides a rationale but the clip: the file that holds them all."""
    wanted = settings.model_dump(exclude={"batch_size"} if settings.temperature == 0 else set())
    return fingerprint("rationales", engine.fingerprint, prompts, wanted, thresholds, sampling.model_dump())


def write_rationales(
    load: Callable[[], VLM],
    clips: Sequence[Clip],
    frames: FrameSource,
    clip_keys: Mapping[str, str],
    prompts: Prompts,
    settings: Rationales,
    thresholds: AuditThresholds,
    path: Path,
    *,
    advance: Callable[[int], None],
) -> list[Rationale]:
    """Write a rationale for every clip that `path` does not hold yet; return all of them in clip order.

    `load` is called only where something is missing. Batches are cut from the whole list, so a restart asks the same
    questions under the same seeds. `advance` is called with the number of clips just finished.
    """
    found = read_jsonl(path, Rationale) if path.exists() else []
    keys = {clip.clip_id: fingerprint(clip_keys[clip.clip_id], clip.label) for clip in clips}
    done = {r.clip_id: r for r in found if keys.get(r.clip_id) == r.clip_key}
    advance(len(done))
    ordered = by_size(clips, frames)
    prompt = prompts.rationale()
    with JsonlAppender(path) as file:
        for start in range(0, len(ordered), settings.batch_size):
            batch = ordered[start : start + settings.batch_size]
            missing = [clip for clip in batch if clip.clip_id not in done]
            if not missing:
                continue
            vlm = load()
            asked = batch if settings.temperature > 0 else missing
            texts = generate(
                vlm,
                [vlm.encode(frames.read(c.clip_id), frames.plan(c.clip_id), prompt) for c in asked],
                max_new_tokens=settings.max_new_tokens,
                temperature=settings.temperature,
                top_p=settings.top_p,
                seed=start,
            )
            fresh = [
                _audited(clip, keys[clip.clip_id], text, vlm.source.name, start, prompts, settings, thresholds)
                for clip, text in zip(asked, texts, strict=True)
                if clip.clip_id not in done
            ]
            file.append(fresh)
            done |= {r.clip_id: r for r in fresh}
            advance(len(fresh))
    return [done[clip.clip_id] for clip in clips]


def _audited(
    clip: Clip,
    key: str,
    text: Generated,
    engine: str,
    seed: int,
    prompts: Prompts,
    settings: Rationales,
    thresholds: AuditThresholds,
) -> Rationale:
    verdict = audit(
        text.text,
        finished=text.finished,
        labels=prompts.labels,
        label=clip.label,
        dimensions=prompts.templates.dimensions,
        thresholds=thresholds,
        drop_contradicting=settings.drop_contradicting,
    )
    return Rationale(
        clip_id=clip.clip_id,
        clip_key=key,
        text=text.text,
        finished=text.finished,
        num_tokens=text.num_tokens,
        engine=engine,
        prompt_fingerprint=fingerprint(prompts.rationale()),
        seed=seed,
        verdict=verdict,
    )
