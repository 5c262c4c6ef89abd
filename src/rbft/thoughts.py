"""Curated thoughts about a run's labelled training clips: written once, for all arms and seeds that learn them."""

from __future__ import annotations

from rbft.asking import label_question
from rbft.files import write_jsonl
from rbft.models.sources import Source
from rbft.models.vlm import VLM
from rbft.rationales.curate import Chain, Item, curate
from rbft.rationales.tally import tally
from rbft.records import Clip, Curated, Rationale, fingerprint
from rbft.report.curation import write_curation
from rbft.session import Session


def curated_thoughts(session: Session) -> dict[str, Rationale]:
    """The thought about every labelled training clip, by clip id, with its verdict; `curation/` of the run has all.

    A part of the clips, as a learning curve takes, finds what was written about all of them.
    """
    clips = session.manifest.of("train", labelled=True)
    if any(clip.clip_id not in session.curated for clip in clips):
        session.curated |= _curated(session, clips)
    return {clip.clip_id: session.curated[clip.clip_id] for clip in clips}


def _curated(session: Session, clips: list[Clip]) -> dict[str, Rationale]:
    assert session.crew is not None, "a run gathers the engines of arms that learn curated thoughts"
    experiment, folder = session.experiment, session.store.root / "curation"
    key = fingerprint("curation", [(clip.clip_id, clip.label, session.frame_keys[clip.clip_id]) for clip in clips])
    with session.store.timed("curation", key) as working:

        def load(source: Source) -> VLM:
            same = source.fingerprint() == session.base.fingerprint
            return session.vlm(session.base.path if same else str(source.folder), working)

        chain = session.crew.chain(session.prompts, experiment.prompts, session.frames, session.thresholds, load)
        items = [_item(session, clip) for clip in clips]
        made = curate(items, chain, folder, session.frames, session.reporter)
        if made.asked:
            working()
    write_jsonl(folder / "curated.jsonl", made.items)
    report = tally(experiment.name, made, experiment.curation_used)
    for note in report.notes:
        session.reporter.say(f"note: {note}")
    write_curation(folder, report, made.items)
    return {clip.clip_id: _rationale(session, chain, clip, item) for clip, item in zip(clips, made.items, strict=True)}


def _item(session: Session, clip: Clip) -> Item:
    question = label_question(session.prompts, clip.clip_id, str(clip.label), clip.category)
    end = clip.duration_seconds if clip.end is None else min(clip.end, clip.duration_seconds)
    return Item(question, session.frame_keys[clip.clip_id], clip.start or 0.0, end)


def _rationale(session: Session, chain: Chain, clip: Clip, made: Curated) -> Rationale:
    """A curated thought as what a cot stage learns from, or drops."""
    last = chain.revise or chain.reason
    return Rationale(
        clip_id=clip.clip_id,
        clip_key=fingerprint(session.frame_keys[clip.clip_id], clip.label),
        text=made.think or made.reasoned or "",
        finished="truncated" not in made.verdict.reasons,
        num_tokens=None,
        engine=last.name,
        prompt_fingerprint=fingerprint(chain.prompts),
        seed=0,
        verdict=made.verdict,
    )
