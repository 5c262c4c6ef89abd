"""Curated chains of thought (VideoRFT, arXiv 2505.12434): represent, reason, revise, filter; each answer asked once.

Every step is a JSONL of `StepAnswer`, continued by key. Judging is pure, so that other thresholds ask nothing anew.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from rbft.answers import AuditThresholds, audit
from rbft.asking import question_prompt
from rbft.curation import CurationPrompts
from rbft.errors import EngineError
from rbft.files import JsonlAppender, read_jsonl
from rbft.models.vlm import FrameSource
from rbft.progress import Reporter
from rbft.prompts import Prompts
from rbft.rationales.budget import Budget
from rbft.rationales.endpoint import EndpointEngine
from rbft.rationales.engines import Ask, Engine, Reply, Unanswered
from rbft.rationales.represent import Representation, Unusable, plain, read_representation, representation_schema
from rbft.records import Curated, CurationStep, DropReason, Question, StepAnswer, Verdict, fingerprint
from rbft.rewards import accuracy
from rbft.thinking import parse_thought, read_answer

Said = StepAnswer | Unanswered
_FILES = ("represent", "repair", "reason", "revise")
_CLOSED = ("label", "multiple choice", "numerical")
_THINK = re.compile(r"\s*<think>(?P<think>.*?)</think>\s*", re.DOTALL)
_TAG = re.compile(r"</?(?:think|answer)>", re.IGNORECASE)


@dataclass(frozen=True)
class Item:
    """A question and where its clip begins and ends, in seconds of its file; `clip_key` is that of its frames."""

    question: Question
    clip_key: str
    start_seconds: float
    end_seconds: float


@dataclass(frozen=True)
class Chain:
    """How questions are curated. `revise` is None where the step is left out."""

    prompts: CurationPrompts
    asking: Prompts
    represent: Engine
    reason: Engine
    revise: Engine | None
    thresholds: AuditThresholds
    open_accuracy: float
    budget: Budget = field(default_factory=Budget)
    """What may be asked of the endpoints among the engines."""


@dataclass
class _Lot:
    """One item on its way."""

    item: Item
    step: CurationStep | None = None
    representation: str | None = None
    reasoned: str | None = None
    think: str | None = None
    answer: str | None = None
    accuracy: float | None = None
    reasons: list[DropReason] = field(default_factory=list)
    details: list[str] = field(default_factory=list)

    def drop(self, reason: DropReason, detail: str = "") -> None:
        """Note a reason not to keep it."""
        self.reasons.append(reason)
        self.details += [f"{reason}: {detail}"] if detail else []

    def told(self) -> Curated:
        """What became of it."""
        verdict = Verdict(kept=not self.reasons, reasons=tuple(self.reasons), detail="; ".join(self.details))
        return Curated(
            question=self.item.question, step=self.step, representation=self.representation, reasoned=self.reasoned,
            think=self.think if verdict.kept else None, answer=self.answer, accuracy=self.accuracy, verdict=verdict,
        )  # fmt: skip


@dataclass(frozen=True)
class Curation:
    """What a chain made of its items, and every answer that it used, by step; a repair counts as represent."""

    items: list[Curated]
    answers: dict[CurationStep, list[StepAnswer]]
    asked: int
    """How many answers were written now."""


def curate(items: Sequence[Item], chain: Chain, folder: Path, frames: FrameSource, reporter: Reporter) -> Curation:
    """Take every item through the chain, in order; what `folder` holds already is not asked again.

    An item that is dropped goes no further, so that nothing more is paid for it: its answer is judged before the
    revision, which leaves it as it is.
    """
    run = _Run(chain, folder, frames, reporter)
    lots = [_Lot(item) for item in items]
    run.represent(lots)
    run.reason([lot for lot in lots if not lot.reasons])
    run.revise([lot for lot in lots if not lot.reasons])
    return Curation([lot.told() for lot in lots], run.used, run.asked)


class _Run:
    def __init__(self, chain: Chain, folder: Path, frames: FrameSource, reporter: Reporter) -> None:
        self._chain, self._folder, self._frames, self._reporter = chain, folder, frames, reporter
        self.used: dict[CurationStep, list[StepAnswer]] = {"represent": [], "reason": [], "revise": []}
        self.asked = 0
        self._served: dict[str, str] = {}
        self._begin_budget()

    def _begin_budget(self) -> None:
        """What endpoints answered in this folder before is part of the budget."""
        engines = (self._chain.represent, self._chain.reason, self._chain.revise)
        names = {engine.name for engine in engines if isinstance(engine, EndpointEngine)}
        before = [answer for name in _FILES for answer in self._on_disk(name) if answer.engine in names]
        tokens = sum((answer.prompt_tokens or 0) + (answer.num_tokens or 0) for answer in before)
        self._chain.budget.begin(sum(answer.attempts for answer in before), tokens)

    def _on_disk(self, name: str) -> list[StepAnswer]:
        path = self._folder / f"{name}.jsonl"
        return read_jsonl(path, StepAnswer) if path.exists() else []

    # -- represent -------------------------------------------------------------------------------------------------

    def represent(self, lots: Sequence[_Lot]) -> None:
        """A clip is represented once, however many questions there are about it."""
        clips: dict[str, list[_Lot]] = {}
        for lot in lots:
            clips.setdefault(lot.item.question.clip_id, []).append(lot)
        asks = {clip: self._represent_ask(same[0].item) for clip, same in clips.items()}
        said = self._answers("represent", "represent", self._chain.represent, list(asks.values()))
        read = {clip: self._represented(clips[clip][0].item, said[ask.key]) for clip, ask in asks.items()}
        if self._chain.represent.can_repair:
            read |= self._repaired(asks, said, read, {clip: same[0].item for clip, same in clips.items()})
        for clip, result in read.items():
            for lot in clips[clip]:
                if isinstance(result, Unusable):
                    lot.drop(*result)
                else:
                    lot.step, lot.representation = "represent", result

    def _represent_ask(self, item: Item) -> Ask:
        clip = item.question.clip_id
        plan = self._frames.plan(clip)
        times = ", ".join(f"{t:g}" for t in (round(t, 1) for t in plan.times_seconds))
        prompt = self._chain.prompts.represent.format(
            num_frames=plan.num_frames, times=times, duration=f"{item.end_seconds - item.start_seconds:.1f}"
        )
        schema = representation_schema() if self._chain.prompts.form == "json" else None
        return self._ask("represent", self._chain.represent, clip, prompt, item, schema=schema)

    def _represented(self, item: Item, said: Said) -> str | Unusable:
        if isinstance(said, Unanswered):
            return Unusable("no_reply", said.detail)
        if self._chain.prompts.form == "text":
            if not said.finished:
                return Unusable("truncated", "cut at the token limit")
            return said.text if any(c.isalnum() for c in said.text) else Unusable("empty", "no words")
        found = read_representation(
            said.text,
            num_frames=self._frames.plan(item.question.clip_id).num_frames,
            start_seconds=item.start_seconds,
            end_seconds=item.end_seconds,
        )
        if isinstance(found, Representation):
            return plain(found)
        return found if said.finished else Unusable("truncated", f"cut at the token limit; {found.detail}")

    def _repaired(
        self,
        asks: Mapping[str, Ask],
        said: Mapping[str, Said],
        read: Mapping[str, str | Unusable],
        items: Mapping[str, Item],
    ) -> dict[str, str | Unusable]:
        """JSON that cannot be used is asked for once more, with its faults; what a second one lacks stays lacking."""
        if self._chain.prompts.form == "text":
            return {}
        again = {}
        for clip, result in read.items():
            before = said[asks[clip].key]
            if isinstance(result, Unusable) and isinstance(before, StepAnswer):
                prompt = self._chain.prompts.repair.format(
                    prompt=asks[clip].prompt, answer=before.text, faults=result.detail
                )
                again[clip] = self._ask(
                    "repair", self._chain.represent, clip, prompt, items[clip], schema=asks[clip].schema
                )
        mended = self._answers("represent", "repair", self._chain.represent, list(again.values()))
        return {clip: self._represented(items[clip], mended[ask.key]) for clip, ask in again.items()}

    # -- reason ----------------------------------------------------------------------------------------------------

    def reason(self, lots: Sequence[_Lot]) -> None:
        """Think and answer from the representation alone; then the filter on the answer."""
        prompts = self._chain.prompts
        asks = [
            self._ask(
                "reason", self._chain.reason, lot.item.question.question_id,
                prompts.reason.format(
                    representation=lot.representation, question=question_prompt(self._chain.asking, lot.item.question)
                ),
            )
            for lot in lots
        ]  # fmt: skip
        said = self._answers("reason", "reason", self._chain.reason, asks)
        for lot, ask in zip(lots, asks, strict=True):
            self._reasoned(lot, said[ask.key])
            if not lot.reasons:
                lot.step = "reason"

    def _reasoned(self, lot: _Lot, said: Said) -> None:
        if isinstance(said, Unanswered):
            return lot.drop("no_reply", said.detail)
        thought = parse_thought(said.text.strip())
        answer = None if thought is None else read_answer(said.text)
        if thought is None or answer is None:
            return _not_a_thought(lot, said, "not one <think>…</think><answer>…</answer>")
        lot.reasoned = lot.think = thought.think.strip()
        lot.answer = answer
        lot.accuracy = accuracy(lot.item.question, answer)
        self._audit(lot, lot.think)
        if not self._is_right(lot.item.question, lot.accuracy):
            true = lot.item.question.answer
            lot.drop("wrong_answer", f"{answer!r:.60}, not {true!r:.60} (accuracy {lot.accuracy or 0:.2f})")
        return None

    def _is_right(self, question: Question, earned: float | None) -> bool:
        least = 1.0 if question.kind in _CLOSED else self._chain.open_accuracy
        return earned is not None and earned >= least

    def _audit(self, lot: _Lot, think: str) -> None:
        """The rules for rationales that hold for any thought, and that it speaks of the video."""
        verdict = audit(think, finished=True, labels={}, label=None, dimensions={}, thresholds=self._chain.thresholds)
        lot.reasons += verdict.reasons
        lot.details += [verdict.detail] if verdict.detail else []
        found = (re.search(pattern, think, re.IGNORECASE) for pattern in self._chain.prompts.names_notes)
        if phrase := next((match.group() for match in found if match), None):
            lot.drop("names_notes", repr(phrase))

    # -- revise ----------------------------------------------------------------------------------------------------

    def revise(self, lots: Sequence[_Lot]) -> None:
        """Correct the thought with the clip at hand; the answer stays."""
        engine = self._chain.revise
        if engine is None:
            return
        asks = [
            self._ask(
                "revise", engine, lot.item.question.question_id,
                self._chain.prompts.revise.format(
                    think=lot.think, answer=lot.answer, question=question_prompt(self._chain.asking, lot.item.question)
                ),
                lot.item,
            )
            for lot in lots
        ]  # fmt: skip
        said = self._answers("revise", "revise", engine, asks)
        for lot, ask in zip(lots, asks, strict=True):
            self._revised(lot, said[ask.key])
            if not lot.reasons:
                lot.step = "revise"

    def _revised(self, lot: _Lot, said: Said) -> None:
        if isinstance(said, Unanswered):
            return lot.drop("no_reply", said.detail)
        alone = _THINK.fullmatch(said.text)
        whole = parse_thought(said.text.strip())
        if alone is not None and len(_TAG.findall(said.text)) == 2:
            lot.think = alone["think"].strip()
        elif whole is not None:
            lot.think = whole.think.strip()
            question = lot.item.question
            if not self._is_right(question, accuracy(question, whole.answer.strip() or None)):
                lot.drop("changed_answer", f"{whole.answer!r:.60}, and {lot.answer!r:.60} was the conclusion")
        else:
            return _not_a_thought(lot, said, "not one <think>…</think>")
        self._audit(lot, lot.think)
        return None

    # -- asking ----------------------------------------------------------------------------------------------------

    def _ask(
        self, step: CurationStep | Literal["repair"], engine: Engine, item_id: str, prompt: str,
        seen: Item | None = None, *, schema: Mapping[str, object] | None = None,
    ) -> Ask:  # fmt: skip
        """What is asked about an item; with `seen` the engine is shown its clip."""
        shown = None if seen is None else seen.clip_key
        key = fingerprint(step, item_id, engine.fingerprint, prompt, shown, schema)
        return Ask(key, item_id, prompt, None if seen is None else seen.question.clip_id, schema)

    def _answers(self, step: CurationStep, name: str, engine: Engine, asks: Sequence[Ask]) -> dict[str, Said]:
        """By key what was said to each: read where it is on disk, else asked and appended as it comes."""
        path = self._folder / f"{name}.jsonl"
        wanted = {ask.key: ask for ask in asks}
        said: dict[str, Said] = {answer.key: answer for answer in self._on_disk(name) if answer.key in wanted}
        for answer in said.values():
            self._same_model(engine, answer)
        missing = [ask for key, ask in wanted.items() if key not in said]
        unit = "clips" if step == "represent" else "questions"
        if missing:
            with JsonlAppender(path) as file, self._reporter.counted(f"Curating: {name}", len(wanted), unit) as advance:
                advance(len(said))
                for ask, reply in engine.replies(missing):
                    if isinstance(reply, Unanswered):
                        said[ask.key] = reply
                    else:
                        self._same_model(engine, reply)
                        answer = StepAnswer(
                            key=ask.key, item=ask.item, engine=engine.name, text=reply.text, finished=reply.finished,
                            prompt_tokens=reply.prompt_tokens, num_tokens=reply.num_tokens, attempts=reply.attempts,
                            served_by=reply.served_by,
                        )  # fmt: skip
                        file.append([answer])
                        self.asked += 1
                        said[ask.key] = answer
                    advance(1)
        silent = [answer for answer in said.values() if isinstance(answer, Unanswered)]
        if name != "repair" and 1 < len(silent) == len(said):  # one alone may be what the server cannot take
            raise EngineError(
                f"{name}: {engine.name} answered none of {len(silent):,} {unit}; the last: {silent[-1].detail}. "
                "Mend that; what other steps wrote is kept, and the same command continues"
            )
        self.used[step] += [answer for answer in said.values() if isinstance(answer, StepAnswer)]
        return said

    def _same_model(self, engine: Engine, answer: Said | Reply) -> None:
        """Raise EngineError where a server answers with another model than before: two would be mixed."""
        if isinstance(answer, Unanswered) or answer.served_by is None:
            return
        before = self._served.setdefault(engine.fingerprint, answer.served_by)
        if answer.served_by != before:
            raise EngineError(
                f"{engine.name}: the server answered as {before!r}, and now as {answer.served_by!r}; texts of two "
                "models would be mixed. What was answered is kept: put the first model back and the same command "
                "continues, or name the new one in `revision`, and everything is asked anew"
            )


def _not_a_thought(lot: _Lot, said: StepAnswer, what: str) -> None:
    if not said.finished:
        lot.drop("truncated", "cut at the token limit")
    elif not any(c.isalnum() for c in said.text):
        lot.drop("empty", "no words")
    else:
        lot.drop("no_thought", f"{what}: {' '.join(said.text.split())[:80]!r}")
