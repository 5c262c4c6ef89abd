"""The questions of an experiment: files of rows become questions to learn, thoughts to learn, and questions to ask.

Everything that can be known of them before a clip is opened is checked here, all faults at once.
"""

from __future__ import annotations

import os
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from rbft.asking import prompt_faults
from rbft.clips.grouped import Bad, by_reason, counted, first_of
from rbft.clips.manifest import ClipFolder, Listing, Row, show
from rbft.clips.questions import QuestionRow, read_questions
from rbft.clips.videorft import read_videorft
from rbft.errors import ManifestError
from rbft.experiment import Experiment, QuestionFiles
from rbft.prompts import Prompts
from rbft.records import Manifest, Question, Split
from rbft.rewards import ungradable
from rbft.thinking import parse_thought


class Thoughtful(NamedTuple):
    """A question with the thought that leads to its answer, `<think>…</think>`, as the file has it."""

    question: Question
    process: str

    @property
    def answer(self) -> str:
        """The whole answer that is learnt."""
        return f"{self.process}<answer>{self.question.answer}</answer>"


@dataclass(frozen=True)
class QuestionSet:
    """What reinforcement learns (`train`), what a cot stage learns (`cot`), what is asked (`test`), and their clips."""

    train: tuple[Question, ...]
    cot: tuple[Thoughtful, ...]
    test: tuple[Question, ...]
    listing: Listing
    left_out: int = 0
    """Questions whose clip is left out."""

    def about(self, clip_ids: Container[str]) -> QuestionSet:
        """Those about the given clips."""
        return replace(
            self,
            train=tuple(q for q in self.train if q.clip_id in clip_ids),
            cot=tuple(t for t in self.cot if t.question.clip_id in clip_ids),
            test=tuple(q for q in self.test if q.clip_id in clip_ids),
        )

    @property
    def asked(self) -> list[Question]:
        """Every question that the model may be asked."""
        return [*self.train, *(thoughtful.question for thoughtful in self.cot), *self.test]


def read_question_set(experiment: Experiment, prompts: Prompts) -> QuestionSet:
    """Read the files of an experiment's `questions`; raises ManifestError with every fault of rows, arms and prompts.

    Rows that cannot be used are left out, with a note, where the experiment leaves out bad clips.
    """
    files = experiment.questions
    assert files is not None, "the experiment is about questions"
    reading = _Reading(files, experiment.allow_outside, leave_out=experiment.on_bad_clip == "leave-out")
    train, test = reading.rows(files.train, "train"), reading.rows(files.test, "test")
    cot = reading.thoughts(files.cot or files.train, new=files.cot is not None)
    reading.compare()
    faults = reading.faults + _stage_faults(experiment, bool(train), bool(cot)) + prompt_faults(prompts)
    if faults:
        raise ManifestError(faults)
    listing = Listing(Path(files.train), tuple(reading.clips.values()), {}, notes=tuple(reading.notes))
    return QuestionSet(tuple(train), tuple(cot), tuple(test), listing)


def used_questions(questions: QuestionSet, manifest: Manifest) -> QuestionSet:
    """Those about clips that are used; raises ManifestError where none is left to learn or to ask."""
    used = questions.about({clip.clip_id for clip in manifest.clips})
    parts = {
        "to reinforce": (used.train, questions.train),
        "with a thought": (used.cot, questions.cot),
        "of the test": (used.test, questions.test),
    }
    faults = [
        f"every question {what} is about a clip that is left out; mend the clips"
        for what, (now, before) in parts.items()
        if before and not now
    ]
    if faults:
        raise ManifestError(faults)
    return replace(used, left_out=len(questions.asked) - len(used.asked))


def _stage_faults(experiment: Experiment, has_train: bool, has_cot: bool) -> list[str]:
    """What the stages of an experiment's arms lack of questions."""
    files = experiment.questions
    assert files is not None, "the experiment is about questions"
    lacking = {
        "cot": None
        if has_cot
        else f"no row of {show(files.cot or files.train)} has a `process` to learn; name a file "
        "with thoughts as questions.cot, or leave the arm out",
        "reinforce": None if has_train else f"no row of {show(files.train)} can be used",
    }
    return [
        f"arm {arm.name!r}, stage {number} ({stage.kind}): {lacking[stage.kind]}"
        for arm in experiment.arms
        for number, stage in enumerate(arm.stages, 1)
        if lacking[stage.kind]
    ]


@dataclass
class _Reading:
    """Files are read one by one; clips are gathered, each once."""

    files: QuestionFiles
    allow_outside: bool
    leave_out: bool
    clips: dict[str, Row] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    _leaks: list[str] = field(default_factory=list)
    _outside: list[str] = field(default_factory=list)
    _two_files: list[str] = field(default_factory=list)

    def rows(self, name: str, split: Split) -> list[Question]:
        """The questions of a file, gradable, with their clips noted."""
        path = Path(name).expanduser()
        try:
            rows, bad = read_questions(path)
        except ManifestError as error:
            self.faults += error.faults
            return []
        self._tell(bad, path)
        if not rows and not bad:
            self.faults.append(f"{show(path)}: holds no question")
        self.faults += first_of(
            [f"{show(path.name)}: {show(fault)}" for fault in ungradable(row.question for row in rows)],
            f"questions of {show(path.name)} that cannot be graded",
        )
        self._note_clips(rows, path, split)
        return [row.question for row in rows]

    def thoughts(self, name: str, *, new: bool) -> list[Thoughtful]:
        """The rows of a file of VideoRFT's that have a process. `new`: it is not the file of training questions."""
        path = Path(name).expanduser()
        questions = {question.question_id: question for question in self.rows(name, "train")} if new else None
        try:
            rows = read_videorft(path).rows
        except ManifestError:  # told by `rows` already
            return []
        found, bad = [], []
        for row in rows:
            question = row.question if questions is None else questions.get(row.question.question_id)
            if row.process is None or question is None:
                continue
            thoughtful = Thoughtful(question, row.process)
            if parse_thought(thoughtful.answer) is None:
                said = f"process {show(row.process)[:80]!r} is not one <think>…</think> and nothing else"
                bad.append(Bad(f"{path.name}: problem {row.problem_id!r}", "process", said))
            else:
                found.append(thoughtful)
        self._tell(bad, path)
        return found

    def compare(self) -> None:
        """Put the faults of clips together."""
        self.faults += first_of(self._outside, "clips outside the folder of the questions")
        self.faults += first_of(self._leaks, "test clips that are learnt from")
        self.faults += first_of(self._two_files, "paths that mean two files")

    def _tell(self, bad: Sequence[Bad], path: Path) -> None:
        """Rows that cannot be used: faults, or a note."""
        if not bad:
            return
        if self.leave_out:
            self.notes.append(f"left out: {len(bad):,} faults in rows of {show(path.name)} ({counted(bad)})")
            return
        self.faults += by_reason(bad, f"mend {show(path.name)}, and the next run lists the rest")
        self.faults.append(
            f"{show(path.name)}: {len(bad):,} faults in rows that cannot be used ({counted(bad)}): mend or remove the "
            "rows, or go on without them with on_bad_clip: leave-out"
        )

    def _note_clips(self, rows: Iterable[QuestionRow], path: Path, split: Split) -> None:
        folder = path.parent if self.files.videos is None else Path(self.files.videos).expanduser()
        inside = ClipFolder(folder, "name its folder as questions.videos, or allow it with allow_outside: true")
        for row in rows:
            place = os.path.realpath(folder / row.path)
            where = f"{show(path.name)}: question {show(row.question_id)}"
            clip = Row(row.clip_id, Path(place), row.path, where, split=split, start=row.start, end=row.end)
            first = self.clips.setdefault(row.clip_id, clip)
            if first is clip and not self.allow_outside and (fault := inside.fault(row.path, place)):
                self._outside.append(f"{where}: {fault}")
            elif first.path != clip.path:
                self._two_files.append(
                    f"{show(repr(row.path))} means {show(first.path)} ({first.where}) and {show(place)} ({where}); put "
                    "the files of questions side by side, or name the clips' folder as questions.videos"
                )
            elif first.split != split:
                self._leaks.append(
                    f"leak: {show(row.path)} is asked about in the test ({where}) and learnt from ({first.where}); "
                    "a clip is in one of them"
                )
