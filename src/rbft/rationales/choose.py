"""Which rationales a stage learns: voted over samples, kept by confidence or by the label, unchanged by a hint.

Nothing here asks a model. What is not to be learnt keeps its text and gets a reason, like every audited rationale.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from rbft.rationales.dimensions import WHOLE, likeness, parts_of, with_parts
from rbft.records import DropReason, Prediction, Rationale, Verdict
from rbft.thinking import tag_in

Dimensions = Mapping[str, Sequence[str]]


def voted(samples: Sequence[Rationale], dimensions: Dimensions, audit: Callable[[str], Verdict]) -> Rationale:
    """One rationale of two or more samples of a clip: in each dimension the text that the others agree with most.

    Only samples that the audit kept vote. A dimension's text is the one with the highest mean likeness to the other
    samples' (the medoid; for short texts the most frequent one), the earliest of equals. Its `agreement` is that mean
    over all other samples, so that a dropped sample, or one without the heading, agrees with nothing. The texts stand
    in the form of the sample that is most complete, then most agreed with; the result is audited again. Where no
    sample was kept, it is the first one, with its reasons.
    """
    assert len(samples) >= 2, "a vote needs two samples"
    voters = [sample for sample in samples if sample.verdict.kept]
    if not voters:
        return samples[0].model_copy(update={"agreement": dict.fromkeys(dimensions, 0.0)})
    parts = [parts_of(voter.text, dimensions) for voter in voters]
    with_headings = [i for i, part in enumerate(parts) if WHOLE not in part]
    if with_headings:
        voters, parts = [voters[i] for i in with_headings], [parts[i] for i in with_headings]
    scores = {n: _scores(parts, n, len(samples)) for n in (dimensions if with_headings else (WHOLE,))}
    best = {name: max(score, key=score.__getitem__) for name, score in scores.items() if score}  # first of equals
    chosen = {name: parts[i][name] for name, i in best.items()}
    agreement = {name: score[best[name]] if score else 0.0 for name, score in scores.items()}
    form = max(range(len(voters)), key=lambda i: (len(parts[i]), sum(s.get(i, 0.0) for s in scores.values())))
    text = with_parts(voters[form].text, dimensions, chosen)
    return voters[form].model_copy(update={"text": text, "verdict": audit(text), "agreement": agreement})


def _scores(parts: Sequence[Mapping[str, str]], name: str, num_samples: int) -> dict[int, float]:
    """By voter that has the dimension: mean likeness of its text to those of all other samples; absent ones give 0."""
    texts = {i: part[name] for i, part in enumerate(parts) if name in part}
    return {
        i: sum(likeness(text, other) for j, other in texts.items() if j != i) / (num_samples - 1)
        for i, text in texts.items()
    }


def confidence(rationale: Rationale) -> float:
    """Mean agreement over the dimensions of a voted rationale, 0 to 1."""
    assert rationale.agreement, "only a voted rationale has an agreement"
    return sum(rationale.agreement.values()) / len(rationale.agreement)


def kept_by_confidence(rationales: Mapping[str, Rationale], share: float) -> dict[str, Rationale]:
    """Of the voted rationales that were kept, only the share most agreed on (rounded; of equals the lower clip id)."""
    kept = [clip_id for clip_id, r in rationales.items() if r.verdict.kept]
    ranked = sorted(kept, key=lambda clip_id: (-confidence(rationales[clip_id]), clip_id))
    unsure = set(ranked[round(share * len(ranked)) :])
    return {
        clip_id: dropped(r, "low_agreement", f"agreement {confidence(r):.2f}") if clip_id in unsure else r
        for clip_id, r in rationales.items()
    }


def without_contradicting(rationale: Rationale) -> Rationale:
    """The rationale, dropped where the audit flagged that it contradicts the clip's label."""
    if "contradicts_label" not in rationale.verdict.flags:
        return rationale
    flags = tuple(flag for flag in rationale.verdict.flags if flag != "contradicts_label")
    verdict = rationale.verdict.model_copy(update={"flags": flags})
    return dropped(rationale.model_copy(update={"verdict": verdict}), "contradicts_label")


def leading_to_label(sample: Rationale, said: Prediction) -> Rationale:
    """The sample, dropped where the engine, asked for the label after it, gave another one than the clip's.

    Rejection sampling by the label, as in STaR (arXiv 2203.14465): the text itself never sees it.
    """
    assert said.clip_id == sample.clip_id and said.truth is not None
    return sample if said.label == said.truth else dropped(sample, "other_label", str(said.label))


def unchanged_by_hint(free: Rationale, hinted: Rationale, dimensions: Dimensions, agreement: float) -> Rationale:
    """The hinted rationale, dropped unless the label-free one was kept and says the same in every dimension."""
    if not free.verdict.kept:
        return dropped(hinted, "changed_by_hint", "the label-free rationale was dropped")
    ours, theirs = parts_of(free.text, dimensions), parts_of(hinted.text, dimensions)
    names = dict.fromkeys([*ours, *theirs])
    changed = [n for n in names if n not in ours or n not in theirs or likeness(ours[n], theirs[n]) < agreement]
    return dropped(hinted, "changed_by_hint", ", ".join(changed)) if changed else hinted


def without_tags(rationale: Rationale) -> Rationale:
    """Dropped where the text holds a tag of a reasoned answer, which it is to stand in."""
    tag = tag_in(rationale.text) if rationale.verdict.kept else None
    return rationale if tag is None else dropped(rationale, "holds_tags", tag)


def dropped(rationale: Rationale, reason: DropReason, detail: str = "") -> Rationale:
    """The rationale with one more reason not to learn it."""
    verdict = rationale.verdict
    details = [verdict.detail, f"{reason}: {detail}" if detail else ""]
    changes = {
        "kept": False,
        "reasons": (*verdict.reasons, reason),
        "detail": "; ".join(part for part in details if part),
    }
    return rationale.model_copy(update={"verdict": verdict.model_copy(update=changes)})
