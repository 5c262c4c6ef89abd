"""What a stage learns: examples made from clips, labels and rationales."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence

from rbft.errors import ExperimentError, LineageError
from rbft.experiment import Stage
from rbft.prompts import Prompts
from rbft.records import Clip, Example, Rationale


def label_examples(clips: Sequence[Clip], prompts: Prompts, *, balanced: bool = False) -> list[Example]:
    """One example for every labelled clip: the classification query, the bare label.

    `balanced` weighs a clip by n / (labels x clips of its label), so that every label weighs the same.
    """
    labelled = [(clip, clip.label) for clip in clips if clip.label is not None]
    counts = Counter(label for _, label in labelled)
    weights = {label: len(labelled) / (len(counts) * n) if balanced else 1.0 for label, n in counts.items()}
    query = prompts.label()
    return [
        Example(clip_id=clip.clip_id, prompt=query, answer=label, source="label", weight=weights[label])
        for clip, label in labelled
    ]


def rationale_examples(
    clips: Sequence[Clip], stage: Stage, prompts: Prompts, written: Mapping[str, Rationale], *, seed: int
) -> list[Example]:
    """One example for every clip with a usable rationale, in the stage's format.

    A share `1 - self_share` of the clips, drawn under `seed` from those with a human rationale, gets that one; the
    rest gets its own, where the audit kept it. Formats with the label leave unlabelled clips out. Raises
    ExperimentError where the manifest has too few human rationales for the share.
    """
    if faults := stage_faults(clips, stage):
        raise ExperimentError(faults)
    clips = _usable(clips, stage)
    human = _human_clips(clips, stage, seed)
    query = prompts.rationale()
    examples = []
    for clip in clips:
        text = clip.rationale if clip.clip_id in human else _kept_text(written.get(clip.clip_id))
        if text is None:
            continue
        answer = prompts.rationale_answer(text, clip.label, stage.format)
        source = "human" if clip.clip_id in human else "self"
        examples.append(Example(clip_id=clip.clip_id, prompt=query, answer=answer, source=source))
    return examples


def refuse_test_clips(examples: Sequence[Example], clips: Mapping[str, Clip]) -> None:
    """Raise LineageError, naming the clips, where an example comes from a test clip or its twin by content."""
    tested = {clip.sha256: clip.clip_id for clip in clips.values() if clip.split == "test"}
    for example in examples:
        clip = clips[example.clip_id]
        if clip.split != "train" or clip.sha256 in tested:
            raise LineageError(
                f"training example {clip.clip_id} ({clip.path}) is a test clip, or has the same content as test clip "
                f"{tested.get(clip.sha256, clip.clip_id)}"
            )


def stage_faults(clips: Sequence[Clip], stage: Stage) -> list[str]:
    """What the training clips lack for a stage; known before anything is written or trained."""
    if stage.kind == "label":
        labelled = any(clip.label is not None for clip in clips)
        return [] if labelled else ["no training clip has a label; fill the manifest's `label` column"]
    wanted, with_text = _human_wanted(_usable(clips, stage), stage)
    if wanted <= len(with_text):
        return []
    return [
        f"self_share {stage.self_share} asks for human rationales of {wanted} training clips; the manifest's "
        f"`rationale` column has {len(with_text)}. Fill the column or raise self_share"
    ]


def _usable(clips: Sequence[Clip], stage: Stage) -> list[Clip]:
    return [clip for clip in clips if stage.format == "P+R" or clip.label is not None]


def _human_wanted(clips: Sequence[Clip], stage: Stage) -> tuple[int, list[str]]:
    return round((1 - stage.self_share) * len(clips)), [clip.clip_id for clip in clips if clip.rationale]


def _human_clips(clips: Sequence[Clip], stage: Stage, seed: int) -> set[str]:
    wanted, with_text = _human_wanted(clips, stage)
    return set(random.Random(seed).sample(sorted(with_text), wanted))


def _kept_text(rationale: Rationale | None) -> str | None:
    return rationale.text if rationale is not None and rationale.verdict.kept else None
