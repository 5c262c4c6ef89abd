"""The question files of video benchmarks, as their authors publish them, and the question that each row is.

Layouts are those of the benchmarks' own files: VSI-Bench `test.jsonl` (nyu-visionx/VSI-Bench), VideoMMMU
(lmms-lab/VideoMMMU, a folder a track), MMVU `validation.json` (yale-nlp/MMVU), MVBench `json/TASK.json`
(OpenGVLab/MVBench), TempCompass `questions/FORM.json` (llyx97/TempCompass, and the flat rows of lmms-lab/TempCompass)
and Video-MME (lmms-lab/Video-MME); read beside lmms-eval's tasks and VLMEvalKit's data sets of the same names.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from rbft.clips.manifest import show
from rbft.clips.questions import LeftOutQuestion, QuestionRow
from rbft.clips.videorft import json_lines
from rbft.errors import ManifestError
from rbft.quantities import read_quantity
from rbft.rewards import ungradable

SUFFIXES = (".json", ".jsonl", ".ndjson", ".parquet")


class _UnmappedError(Exception):
    """Why a row is no question here: one word, and an explanation."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail


@dataclass(frozen=True)
class Item:
    """One row of a file. `file` is where it stands, `number` its place from 0, `values` its fields."""

    file: Path
    number: int
    values: dict[str, Any]

    def text(self, *names: str) -> str:
        """The text of the first of these fields that is there; whole numbers are text."""
        name = next((n for n in names if n in self.values), names[0])
        value = self.values.get(name)
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        if not isinstance(value, str) or not value.strip():
            raise _UnmappedError("fields", f"{name} is {value!r:.60}, and must be text")
        return value.strip()

    def part(self, names: Sequence[str]) -> str:
        """Which part of the benchmark the file is: the one that it, or a folder around it, is named by."""
        around = (self.file.stem, *reversed(self.file.parent.parts))
        found = next((name.casefold() for name in around if name.casefold() in names), None)
        if found is None:
            raise _UnmappedError("no_part", f"the file or its folder must be named by one of {', '.join(names)}")
        return found

    def texts(self, name: str) -> tuple[str, ...]:
        """A list of texts; none where the field is absent or empty."""
        value = self.values.get(name)
        if value is None:
            return ()
        if not isinstance(value, list) or not all(isinstance(part, str) for part in value):
            raise _UnmappedError("fields", f"{name} is {value!r:.60}, and must be a list of texts")
        return tuple(part.strip() for part in value)

    def seconds(self, name: str) -> float | None:
        """A number of seconds, or None where the field is absent."""
        value = self.values.get(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise _UnmappedError("fields", f"{name} is {value!r:.60}, and must be a number of seconds")
        return float(value)


@dataclass(frozen=True)
class QuestionBenchmark:
    """How a benchmark's rows become questions. A row's `path` is where its clip lies in the benchmark's folders."""

    title: str
    row: Callable[[Item], QuestionRow]
    nested: bool = False
    """Whether a file may also be a mapping of video to kind of question to rows, as TempCompass has it."""


def read_benchmark(
    benchmark: QuestionBenchmark, files: Sequence[Path]
) -> tuple[list[QuestionRow], list[LeftOutQuestion]]:
    """The questions of a benchmark's files, in their order, and the rows that are none.

    Every answer was graded once against itself: what earns less than full marks is no question. Raises ManifestError
    where a file cannot be read.
    """
    rows: dict[str, QuestionRow] = {}
    left: list[LeftOutQuestion] = []
    for file in files:
        for item in _items(file, benchmark):
            try:
                row = benchmark.row(item)
            except _UnmappedError as error:
                left.append(LeftOutQuestion(question_id=_name(item), reason=error.reason, detail=error.detail))
                continue
            except ValidationError as error:
                detail = error.errors()[0]["msg"].removeprefix("Value error, ")
                left.append(LeftOutQuestion(question_id=_name(item), reason="fields", detail=detail))
                continue
            name = row.question_id
            faults = ungradable([row.question])
            if faults:
                detail = faults[0].removeprefix(f"question {name!r}: ")
                left.append(LeftOutQuestion(question_id=name, reason="not_gradable", detail=detail))
            elif name in rows:
                detail = f"{file.name}: row {item.number + 1}: an earlier row has this id, and is kept"
                left.append(LeftOutQuestion(question_id=name, reason="twice", detail=detail))
            else:
                rows[name] = row
    return list(rows.values()), left


def _name(item: Item) -> str:
    found = item.values.get("question_id", item.values.get("id"))
    return str(found) if isinstance(found, str | int) else f"{item.file.name}: row {item.number + 1}"


# -- files ---------------------------------------------------------------------------------------------------------


def _items(file: Path, benchmark: QuestionBenchmark) -> Iterator[Item]:
    document = _document(file)
    if benchmark.nested and isinstance(document, dict):
        document = list(_unnested(document))
    if not isinstance(document, list) or not document or not all(isinstance(row, dict) for row in document):
        raise ManifestError(f"{show(file)}: not a file of {benchmark.title}: a list of objects is needed")
    for number, values in enumerate(document):
        yield Item(file, number, values)


def _document(file: Path) -> Any:
    match file.suffix.lower():
        case ".jsonl" | ".ndjson":
            return [_json(place, line) for place, line in json_lines(file)]
        case ".json":
            return _json(show(file), "".join(line for _, line in json_lines(file)))
        case ".parquet":
            return _parquet(file)
    raise ManifestError(f"{show(file)}: questions are read from {', '.join(SUFFIXES)} files")


def _json(place: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ManifestError(f"{place}: not readable as JSON: {show(error)}") from None


def _parquet(file: Path) -> Any:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        raise ManifestError(
            f"{show(file)}: Parquet files need pyarrow: pip install 'rbft[parquet]'; or give the file as JSON lines"
        ) from None
    try:
        return parquet.read_table(file).to_pylist()
    except OSError as error:
        raise ManifestError(f"{show(file)}: cannot be read: {error.strerror or error}") from None
    except ArrowException as error:
        raise ManifestError(f"{show(file)}: not readable as Parquet: {show(error)}") from None


def _unnested(document: dict[str, Any]) -> Iterator[Any]:
    """Rows of TempCompass's own files, which stand below their video and their kind of question."""
    for video, kinds in document.items():
        for kind, rows in kinds.items() if isinstance(kinds, dict) else [("", None)]:
            for row in rows if isinstance(rows, list) else [None]:
                yield row | {"video_id": video, "dim": kind} if isinstance(row, dict) else row


# -- benchmarks ----------------------------------------------------------------------------------------------------

_NUMBERS = ("object_abs_distance", "object_counting", "object_size_estimation", "room_size_estimation")
_DIRECTION = "object_rel_direction"
_CHOICES = (f"{_DIRECTION}_easy", f"{_DIRECTION}_medium", f"{_DIRECTION}_hard", "object_rel_distance", "route_planning",
            "obj_appearance_order")  # fmt: skip


def _vsi_bench(item: Item) -> QuestionRow:
    """VSI-Bench (arXiv 2412.14171): id, dataset, scene_name, question_type, question, ground_truth, options (or null).

    Questions for a number are scored by MRA, so they are regression. The three levels of direction are one task.
    """
    asked = item.text("question_type")
    if asked not in (*_NUMBERS, *_CHOICES):
        raise _UnmappedError("unknown_type", f"question_type {asked!r:.60} is none of VSI-Bench's")
    task = _DIRECTION if asked.startswith(_DIRECTION) else asked
    return QuestionRow(
        question_id=item.text("id"),
        path=f"{item.text('dataset')}/{item.text('scene_name')}.mp4",
        kind="regression" if asked in _NUMBERS else "multiple choice",
        text=item.text("question"),
        options=() if asked in _NUMBERS else item.texts("options"),
        answer=item.text("ground_truth"),
        category=tuple(dict.fromkeys((task, asked))),
    )


_TRACKS = ("perception", "comprehension", "adaptation")


def _videommmu(item: Item) -> QuestionRow:
    """VideoMMMU (arXiv 2501.13826): id, question, options, answer, question_type; a file a track, named by it.

    A video has one question of each track, so the track is part of the id. The picture of an adaptation question is
    the end of its video. Without options an answer is a number or free text.
    """
    track = item.part(_TRACKS)
    clip = item.text("id")
    subject = "_".join(clip.split("_")[1:-1])
    options, answer = item.texts("options"), item.text("answer")
    return QuestionRow(
        question_id=f"{track}/{clip}",
        path=f"{clip}.mp4",
        kind=_kind(options, answer),
        text=item.text("question"),
        options=options,
        answer=answer,
        category=tuple(name for name in (track, subject) if name),
    )


def _mmvu(item: Item) -> QuestionRow:
    """MMVU (arXiv 2501.12380): id, video (an address) or video_path, question_type, question, choices, answer.

    `choices` maps A to E to texts, which are empty where the question is open-ended.
    """
    place = item.text("video_path", "video").split("/")
    if len(place) < 2:
        raise _UnmappedError("fields", f"video {place[0]!r:.60} has no folder, which is its subject")
    choices = item.values.get("choices") or {}
    if not isinstance(choices, dict) or not all(isinstance(text, str) for text in choices.values()):
        raise _UnmappedError("fields", f"choices is {choices!r:.60}, and must map letters to texts")
    options = tuple(f"{letter}. {text.strip()}" for letter, text in choices.items() if text.strip())
    if (item.text("question_type") == "multiple-choice") != bool(options):
        raise _UnmappedError("fields", f"question_type is {item.text('question_type')!r} with {len(options)} choices")
    answer = item.text("answer")
    return QuestionRow(
        question_id=item.text("id"),
        path="/".join(place[-2:]),
        kind=_kind(options, answer),
        text=item.text("question"),
        options=options,
        answer=answer,
        category=(place[-2],),
    )


def _kind(options: Sequence[str], answer: str) -> Any:
    """Multiple choice where there are options; else numerical where the answer is one plain number, else free text."""
    if answer.startswith("[") and not options:
        raise _UnmappedError("several_answers", f"the answer is a list, {answer!r:.60}; one is needed")
    return "multiple choice" if options else "free-form" if read_quantity(answer) is None else "numerical"


_MVBENCH = {
    "object_interaction": "star/Charades_v1_480", "action_sequence": "star/Charades_v1_480",
    "action_prediction": "star/Charades_v1_480", "action_localization": "sta/sta_video",
    "moving_count": "clevrer/video_validation", "moving_direction": "clevrer/video_validation",
    "moving_attribute": "clevrer/video_validation", "counterfactual_inference": "clevrer/video_validation",
    "object_existence": "clevrer/video_validation", "fine_grained_pose": "nturgbd",
    "character_order": "perception/videos", "object_shuffle": "perception/videos", "state_change": "perception/videos",
    "action_count": "perception/videos", "egocentric_navigation": "vlnqa",
    "fine_grained_action": "Moments_in_Time_Raw/videos", "scene_transition": "scene_qa/video",
    "action_antonym": "ssv2_video", "unexpected_action": "FunQA_test/test",
}  # fmt: skip
"""Where each task's videos lie below MVBench's `video` folder."""
_PICTURES = "episodic_reasoning"


def _mvbench(item: Item) -> QuestionRow:
    """MVBench (arXiv 2311.17005): video, question, candidates, answer (a text), start and end in some tasks.

    A file is a task, named by it; rows have no ids, so their place in the file is one. The frames of
    episodic_reasoning are folders of pictures, which are no clips.
    """
    task = item.part((*_MVBENCH, _PICTURES))
    if task == _PICTURES:
        raise _UnmappedError("no_video", "its clips are folders of pictures")
    options, answer = item.texts("candidates"), item.text("answer")
    if options.count(answer) != 1:
        raise _UnmappedError("not_gradable", f"the answer {answer!r:.60} is not exactly one of the candidates")
    return QuestionRow(
        question_id=f"{task}/{item.number}",
        path=f"{_MVBENCH[task]}/{item.text('video')}",
        start=item.seconds("start"),
        end=item.seconds("end"),
        kind="multiple choice",
        text=item.text("question"),
        options=options,
        answer=chr(ord("A") + options.index(answer)),
        category=(task,),
    )


_CHOICE_LINE = re.compile(r"[A-Z]\. ?\S.*")
_CAPTION_LINE = re.compile(r"(?:Option|Sentence|Caption) (?:[A-Z]|[0-9]): (\S.*)")
_FORMS: dict[str, re.Pattern[str]] = {"multi-choice": _CHOICE_LINE, "caption matching": _CAPTION_LINE}


def _tempcompass(item: Item) -> QuestionRow:
    """TempCompass (arXiv 2403.00476): video_id, dim, question, answer; options stand in the question, a line each.

    Yes/no, multiple choice and caption matching are choices. Captioning is graded by a language model elsewhere.
    """
    first, *lines = item.text("question").split("\n")
    answer = item.text("answer")
    if "mc_question" in item.values or (lines and lines[-1].startswith("Generated Caption")):
        raise _UnmappedError("captioning", "a caption is graded by a language model, which rbft does not ask")
    form, options = _form(lines, answer)
    if lines:
        letter = _letter_of_line(lines, answer)
        answer = answer[0] if form == "multi-choice" else letter
    video, kind = item.text("video_id"), item.text("dim")
    return QuestionRow(
        question_id=f"{video}/{kind}/{form}/{item.number}",
        path=f"{video}.mp4",
        kind="multiple choice",
        text=first,
        options=options,
        answer=answer,
        category=(kind, form),
    )


def _form(lines: Sequence[str], answer: str) -> tuple[str, tuple[str, ...]]:
    """The form of a question by its lines, and its options without the words before captions."""
    if not lines and answer in ("yes", "no"):
        return "yes/no", ("yes", "no")
    for form, line in _FORMS.items():
        found = [line.fullmatch(text.strip()) for text in lines]
        if len(found) > 1 and all(found):
            return form, tuple(match[match.re.groups] for match in found if match)
    raise _UnmappedError("unknown_form", "neither a yes/no question nor one with an option a line")


def _letter_of_line(lines: Sequence[str], answer: str) -> str:
    """The letter, by place, of the line that the answer is."""
    same = [place for place, line in enumerate(lines) if line.strip() == answer]
    if len(same) != 1:
        raise _UnmappedError("not_gradable", f"the answer {answer!r:.60} is not exactly one of the options")
    return chr(ord("A") + same[0])


def _videomme(item: Item) -> QuestionRow:
    """Video-MME (arXiv 2405.21075): videoID, question_id, duration, domain, sub_category, task_type, question, options,
    answer (a letter). Subtitles are not used.
    """
    names = (item.text(name) for name in ("duration", "domain", "sub_category", "task_type"))
    return QuestionRow(
        question_id=item.text("question_id"),
        path=f"{item.text('videoID')}.mp4",
        kind="multiple choice",
        text=item.text("question"),
        options=item.texts("options"),
        answer=item.text("answer"),
        category=tuple(dict.fromkeys(names)),
    )


QUESTION_BENCHMARKS = {
    "vsi-bench": QuestionBenchmark("VSI-Bench", _vsi_bench),
    "videommmu": QuestionBenchmark("VideoMMMU", _videommmu),
    "mmvu": QuestionBenchmark("MMVU", _mmvu),
    "mvbench": QuestionBenchmark("MVBench", _mvbench),
    "tempcompass": QuestionBenchmark("TempCompass", _tempcompass, nested=True),
    "videomme": QuestionBenchmark("Video-MME", _videomme),
}
