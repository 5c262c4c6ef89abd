"""What a stage learns: examples made from clips, labels and rationales."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence

from rbft.asking import question_prompt
from rbft.clips.question_set import Thoughtful
from rbft.errors import ExperimentError, LineageError
from rbft.experiment import Stage
from rbft.prompts import Prompts
from rbft.records import Clip, Example, Question, Rationale
from rbft.thinking import Thought, render_thought


def label_examples(
    clips: Sequence[Clip], prompts: Prompts, *, balanced: bool = False, queries: Mapping[str, str] | None = None
) -> list[Example]:
    """One example for every labelled clip: the classification query, the bare label.

    `balanced` weighs a clip by n / (labels x clips of its label), so that every label weighs the same. `queries` are
    by clip id where each clip has its own (None: the same for all).
    """
    labelled = [(clip, clip.label) for clip in clips if clip.label is not None]
    counts = Counter(label for _, label in labelled)
    weights = {label: len(labelled) / (len(counts) * n) if balanced else 1.0 for label, n in counts.items()}
    asked = dict.fromkeys((clip.clip_id for clip, _ in labelled), prompts.label()) if queries is None else queries
    return [
        Example(clip_id=clip.clip_id, prompt=asked[clip.clip_id], answer=label, source="label", weight=weights[label])
        for clip, label in labelled
    ]


def rationale_examples(
    clips: Sequence[Clip], stage: Stage, prompts: Prompts, written: Mapping[str, Rationale], *, seed: int
) -> list[Example]:
    """One example for every clip with a usable rationale, in the stage's format.

    A share `1 - self_share` of the clips, drawn under `seed` from those with a human rationale, gets that one; the
    rest gets its own, where the audit kept it. Formats and hints with the label leave unlabelled clips out. Raises
    ExperimentError where the manifest has too few human rationales for the share.
    """
    if faults := stage_faults(clips, stage, prompts):
        raise ExperimentError(faults)
    clips = usable_clips(clips, stage)
    human = _human_clips(clips, stage, seed)
    query = prompts.rationale() if stage.query == "persona" else prompts.plain_rationale()
    examples = []
    for clip in clips:
        text = clip.rationale if clip.clip_id in human else _kept_text(written.get(clip.clip_id))
        if text is None:
            continue
        answer = prompts.rationale_answer(text, clip.label, stage.format)
        source = "human" if clip.clip_id in human else "self"
        examples.append(Example(clip_id=clip.clip_id, prompt=query, answer=answer, source=source))
    return examples


def cot_examples(
    clips: Sequence[Clip], stage: Stage, prompts: Prompts, written: Mapping[str, Rationale], *, seed: int
) -> list[Example]:
    """One example for every labelled clip with a usable rationale: think it, then answer with the label."""
    plain = rationale_examples(clips, stage, prompts, written, seed=seed)
    labels = {clip.clip_id: clip.label for clip in clips}
    return [
        e.model_copy(update={"prompt": prompts.reasoned(), "answer": _thought(e, str(labels[e.clip_id]))})
        for e in plain
    ]


def _thought(example: Example, label: str) -> str:
    try:
        return render_thought(Thought(example.answer, label))
    except ValueError as error:
        raise ExperimentError(
            f"clip {example.clip_id}: its rationale or label cannot be thought and answered: {error}"
        ) from None


def reinforce_examples(clips: Sequence[Clip], prompts: Prompts) -> list[Example]:
    """One question for every labelled clip: the query to think and answer, and the label to be rewarded."""
    return [e.model_copy(update={"prompt": prompts.reasoned()}) for e in label_examples(clips, prompts)]


def thought_examples(thoughts: Sequence[Thoughtful], prompts: Prompts) -> list[Example]:
    """One example for every question with a thought: the question as it is asked, its process and its solution."""
    return [
        Example(
            clip_id=t.question.clip_id,
            prompt=question_prompt(prompts, t.question),
            answer=t.answer,
            source="curated",
        )
        for t in thoughts
    ]


def refuse_test_clips(examples: Sequence[Example | Question], clips: Mapping[str, Clip]) -> None:
    """Raise LineageError, naming the clips, where something to learn comes from a test clip or its twin by content."""
    tested = {clip.sha256: clip.clip_id for clip in clips.values() if clip.split == "test"}
    for example in examples:
        clip = clips[example.clip_id]
        if clip.split != "train" or clip.sha256 in tested:
            raise LineageError(
                f"training example {clip.clip_id} ({clip.path}) is a test clip, or has the same content as test clip "
                f"{tested.get(clip.sha256, clip.clip_id)}"
            )


def stage_faults(clips: Sequence[Clip], stage: Stage, prompts: Prompts) -> list[str]:
    """What training clips or prompts lack for a stage; known before anything is written or trained."""
    judged = stage.vote is not None and stage.vote.right_only
    templates = {
        "plain": stage.query == "plain",
        "hint": stage.hint is not None,
        "described": stage.describe_first or judged,
        "reasoned": stage.reasons,
    }
    faults = [
        f"the prompts {prompts.templates.name!r} have no template `{name}`, which this stage asks with; add it"
        for name, needed in templates.items()
        if needed and getattr(prompts.templates, name) is None
    ]
    if (stage.learns_labels or stage.reasons) and not any(clip.label is not None for clip in clips):
        faults.append("no training clip has a label; fill the manifest's `label` column")
    return faults + (_rationale_faults(clips, stage) if stage.learns_rationales else [])


def _rationale_faults(clips: Sequence[Clip], stage: Stage) -> list[str]:
    usable = usable_clips(clips, stage)
    if not usable:
        what = "labelled" if stage.clips != "unlabelled" else "unlabelled"
        return [f"it learns rationales of {what} clips, and none of the {len(clips)} training clips is {what}"]
    wanted, with_text = _human_wanted(usable, stage)
    faults = []
    if wanted > len(with_text):
        faults.append(
            f"self_share {stage.self_share} asks for human rationales of {wanted} training clips; the manifest's "
            f"`rationale` column has {len(with_text)}. Fill the column or raise self_share"
        )
    own = len(usable) - wanted
    if stage.vote is not None and round(stage.vote.keep_share * own) == 0:
        faults.append(
            f"vote.keep_share {stage.vote.keep_share} of {own} clips with own rationales keeps none; raise it"
        )
    return faults


def usable_clips(clips: Sequence[Clip], stage: Stage) -> list[Clip]:
    """The clips whose rationales a stage learns: those it names, and with a label where that is written or told."""
    needs_label = stage.format != "P+R" or stage.hint is not None or stage.clips == "labelled" or stage.kind == "cot"
    return [
        clip
        for clip in clips
        if (clip.label is not None or not needs_label) and (clip.label is None or stage.clips != "unlabelled")
    ]


def _human_wanted(clips: Sequence[Clip], stage: Stage) -> tuple[int, list[str]]:
    return round((1 - stage.self_share) * len(clips)), [clip.clip_id for clip in clips if clip.rationale]


def _human_clips(clips: Sequence[Clip], stage: Stage, seed: int) -> set[str]:
    wanted, with_text = _human_wanted(clips, stage)
    return set(random.Random(seed).sample(sorted(with_text), wanted))


def _kept_text(rationale: Rationale | None) -> str | None:
    return rationale.text if rationale is not None and rationale.verdict.kept else None
