"""The funnel of a curation: how many questions came how far, why the others did not, and what it took."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from rbft.curation import Curation as Settings
from rbft.rationales.curate import Curation
from rbft.records import Curated, CurationStep, StepAnswer
from rbft.results import CurationReport, StepUsage

_STEPS: tuple[CurationStep, ...] = ("represent", "reason", "revise")


def tally(name: str, made: Curation, settings: Settings, notes: Sequence[str] = ()) -> CurationReport:
    """Counts of a curation; read = kept + dropped."""
    items = made.items
    passed = Counter(item.step for item in items)
    reasoned = passed["reason"] + passed["revise"]
    dropped: dict[str, dict[str, int]] = {}
    for step in _STEPS:
        reasons = Counter(r for item in items if _dropped_at(item) == step for r in item.verdict.reasons)
        if reasons:
            dropped[step] = dict(sorted(reasons.items()))
    kept = sum(item.verdict.kept for item in items)
    labels = [item for item in items if item.question.kind == "label"]
    answers = _pairs(labels, lambda item: item.question.answer)
    alone = [label for label, (_, learnt) in answers.items() if learnt]
    if len(answers) > 1 and len(alone) == 1:
        notes = [
            *notes,
            f"every thought that is kept leads to {alone[0]!r}; a model that learns them answers nothing else",
        ]
    return CurationReport(
        name=name,
        read=len(items),
        represented=passed["represent"] + reasoned,
        reasoned=reasoned,
        revised=passed["revise"] if settings.revises else reasoned,
        kept=kept,
        dropped=dropped,
        kinds=_pairs(items, lambda item: item.question.kind),
        answers=answers,
        usage={step: _usage(step, said, settings) for step, said in made.answers.items() if said},
        revises=settings.revises,
        notes=tuple(notes),
    )


def _dropped_at(item: Curated) -> CurationStep | None:
    """The step that an item did not pass."""
    if item.verdict.kept:
        return None
    return _STEPS[0 if item.step is None else _STEPS.index(item.step) + 1]


def _pairs(items: Sequence[Curated], by: Callable[[Curated], str]) -> dict[str, tuple[int, int]]:
    read = Counter(map(by, items))
    kept = Counter(by(item) for item in items if item.verdict.kept)
    return {key: (count, kept[key]) for key, count in sorted(read.items())}


def _usage(step: CurationStep, said: Sequence[StepAnswer], settings: Settings) -> StepUsage:
    engine = settings.of(step)
    told = sum(answer.prompt_tokens or 0 for answer in said)
    written = sum(answer.num_tokens or 0 for answer in said)
    cost = None
    if engine is not None and engine.input_price is not None and engine.output_price is not None:
        cost = (told * engine.input_price + written * engine.output_price) / 1_000_000
    return StepUsage(
        engine=", ".join(sorted({answer.engine for answer in said})), answers=len(said), prompt_tokens=told,
        num_tokens=written, cost=cost,
    )  # fmt: skip
