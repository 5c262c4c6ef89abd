"""The model explains its own training clips: batches of like length, appended as they come, continued after a kill."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from rbft.answers import AuditThresholds, audit
from rbft.experiment import Rationales
from rbft.files import JsonlAppender, read_jsonl
from rbft.models.generate import generate
from rbft.models.vlm import VLM, FrameSource
from rbft.prompts import Prompts
from rbft.records import Clip, Rationale, fingerprint


def write_rationales(
    vlm: VLM,
    clips: Sequence[Clip],
    frames: FrameSource,
    prompts: Prompts,
    settings: Rationales,
    thresholds: AuditThresholds,
    path: Path,
    *,
    advance: Callable[[int], None],
) -> list[Rationale]:
    """Write a rationale for every clip that `path` does not hold yet; return all of them in clip order.

    Batches are cut from the whole list, ordered by frame-plan size, so a restart asks the same questions under the
    same seeds. `advance` is called with the number of clips just finished.
    """
    done = {r.clip_id: r for r in read_jsonl(path, Rationale)} if path.exists() else {}
    advance(len(done))
    engine = vlm.source.name
    prompt = prompts.rationale()
    ordered = sorted(clips, key=lambda clip: (vlm.visual_tokens(frames.plan(clip.clip_id)), clip.clip_id))
    with JsonlAppender(path) as file:
        for start in range(0, len(ordered), settings.batch_size):
            batch = ordered[start : start + settings.batch_size]
            missing = [clip for clip in batch if clip.clip_id not in done]
            if not missing:
                continue
            asked = batch if settings.temperature > 0 else missing
            encoded = [vlm.encode(frames.read(c.clip_id), frames.plan(c.clip_id), prompt) for c in asked]
            texts = generate(
                vlm,
                encoded,
                max_new_tokens=settings.max_new_tokens,
                temperature=settings.temperature,
                top_p=settings.top_p,
                seed=start,
            )
            fresh = []
            for clip, text in zip(asked, texts, strict=True):
                if clip.clip_id in done:
                    continue
                verdict = audit(
                    text.text,
                    finished=text.finished,
                    labels=prompts.labels,
                    label=clip.label,
                    dimensions=prompts.templates.dimensions,
                    thresholds=thresholds,
                    drop_contradicting=settings.drop_contradicting,
                )
                fresh.append(
                    Rationale(
                        clip_id=clip.clip_id,
                        clip_sha256=clip.sha256,
                        text=text.text,
                        finished=text.finished,
                        num_tokens=text.num_tokens,
                        engine=engine,
                        prompt_fingerprint=fingerprint(prompt),
                        seed=start,
                        verdict=verdict,
                    )
                )
            file.append(fresh)
            done |= {r.clip_id: r for r in fresh}
            advance(len(fresh))
    return [done[clip.clip_id] for clip in clips]
