"""What is fuzzed: everything that a stranger writes and rbft reads, each as a function of bytes that must not fail.

A target takes any bytes and returns; it raises where bytes are met with another exception than the ones that rbft
raises on purpose, with a message that is empty, with a process, a socket or a pickle, or where what is written is not
read back the same. `test_fuzz.py` runs all of them with hypothesis; `python -m tests.fuzz NAME -runs=N` with atheris.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rbft.answers import (
    audit,
    load_thresholds,
    missing_dimensions,
    names_label,
    num_words,
    read_label,
    read_labelled_rationale,
)
from rbft.choices import lettered, read_choice
from rbft.clips.annotations import BENCHMARKS, read_annotation, read_ids
from rbft.clips.manifest import read_manifest
from rbft.clips.question_benchmarks import QUESTION_BENCHMARKS, read_benchmark
from rbft.clips.questions import find_videos, read_questions, write_questions
from rbft.clips.videorft import read_videorft, write_videorft
from rbft.curation import load_chain
from rbft.describing import load_openings, sentences
from rbft.errors import RbftError, UserError
from rbft.evaluation.compare import read_answers, read_pair
from rbft.experiment import load_experiment
from rbft.files import JsonlAppender, read_jsonl, read_record, write_jsonl
from rbft.models.sources import resolve
from rbft.progress import printable
from rbft.prompts import load_prompts
from rbft.quantities import read_quantity
from rbft.rationales.job import load_curation
from rbft.rationales.represent import Representation, plain, read_representation
from rbft.records import (
    Answered,
    Curated,
    Manifest,
    Prediction,
    Question,
    Rationale,
    Record,
    RolloutRecord,
)
from rbft.results import Report
from rbft.rewards import accuracy, format_reward
from rbft.store import Card, FileManifest
from rbft.thinking import Thought, parse_thought, read_answer, render_thought

FOLDER = Path(tempfile.mkdtemp(prefix="rbft-fuzz-"))
_FORBIDDEN = frozenset(
    ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "socket.connect", "socket.getaddrinfo",
     "socket.bind", "urllib.Request", "pickle.find_class", "ftplib.connect", "shutil.rmtree")
)  # fmt: skip
_watching = False


class ExecutedError(BaseException):
    """What was read made the reader do something: never to be caught on the way."""


def _watch(event: str, arguments: Any) -> None:
    if _watching and event in _FORBIDDEN:
        raise ExecutedError(f"{event}{arguments!r:.200}")


sys.addaudithook(_watch)


@contextmanager
def watched() -> Iterator[None]:
    """Nothing that is read in this block may start a process, open a connection or unpickle."""
    global _watching
    _watching = True
    try:
        yield
    finally:
        _watching = False


def said(text: str) -> None:
    """A message for a user has words in it, and a terminal can show it."""
    assert printable(text).strip(), f"an empty message: {text!r}"
    printable(text).encode("utf-8")


def read(action: Callable[[], Any]) -> Any:
    """What the action returns, or None where it refuses in words."""
    with watched():
        try:
            return action()
        except RbftError as error:
            for fault in error.faults if isinstance(error, UserError) else [str(error)]:
                said(fault)
            return None


def placed(name: str, data: bytes) -> Path:
    """The bytes as a file."""
    path = FOLDER / name
    path.write_bytes(data)
    return path


def text_of(data: bytes) -> str:
    """Bytes as text; half of a character stands for itself, as a model's text may hold it."""
    return data.decode("utf-8", "surrogateescape")


# -- the list of clips ---------------------------------------------------------------------------------------------


def _manifest(suffix: str) -> Callable[[bytes], None]:
    def target(data: bytes) -> None:
        path = placed(f"clips{suffix}", data)
        for labels in ({}, {"fall": "", "no": ""}):
            listing = read(lambda labels=labels: read_manifest(path, labels=labels))
            assert listing is not None, "a manifest's faults are in its listing"
            for line in (*listing.faults, *listing.notes):
                said(line)
            assert listing.rows or listing.faults, "a manifest without a clip says why"
            root = FOLDER.resolve()
            assert all(row.path.is_relative_to(root) for row in listing.rows), "a clip outside"
            if labels:
                assert all(row.label in (None, *labels) for row in listing.rows)

    return target


def annotation(data: bytes) -> None:
    """`rbft import` of labelled benchmarks."""
    for suffix in (".csv", ".tsv", ".json", ".txt"):
        path = placed(f"annotation{suffix}", data)
        for benchmark in BENCHMARKS.values():
            read(lambda path=path, benchmark=benchmark: read_annotation(path, benchmark))
        read(lambda path=path: read_ids(path, "train"))


def question_benchmark(data: bytes) -> None:
    """`rbft import` of question benchmarks."""
    for suffix in (".json", ".jsonl"):
        path = placed(f"test{suffix}", data)
        for benchmark in QUESTION_BENCHMARKS.values():
            made = read(lambda path=path, benchmark=benchmark: read_benchmark(benchmark, [path]))
            for left_out in made[1] if made is not None else ():
                said(left_out.detail)


def questions(data: bytes) -> None:
    """Rows of questions: what is read is written and read back the same."""
    path = placed("questions.jsonl", data)
    found = read(lambda: read_questions(path))
    if found is None:
        return
    for bad in found.bad:
        said(str(bad))
    read(lambda: find_videos(path, found.rows, FOLDER))
    again = FOLDER / "again.jsonl"
    if read(lambda: write_questions(again, found.rows) or True) and found.rows:
        assert read_questions(again).rows == found.rows
    published = read(lambda: read_videorft(path))
    if published and published.rows and read(lambda: write_videorft(again, published.rows) or True):
        assert read_videorft(again).rows == published.rows


# -- settings ------------------------------------------------------------------------------------------------------


def experiment(data: bytes) -> None:
    """An experiment file."""
    read(lambda: load_experiment(placed("experiment.yaml", data)))


def override(data: bytes) -> None:
    """Overrides on the command line, one a line."""
    base = placed("base.yaml", b"clips: c.csv\nmodel: embedded\nlabels: [a, b]\n")
    read(lambda: load_experiment(base, text_of(data).split("\n")))


def curation(data: bytes) -> None:
    """The settings of a curation."""
    read(lambda: load_curation(placed("curation.yaml", data)))


def templates(data: bytes) -> None:
    """Prompts, the chain's prompts, and audit rules."""
    path = placed("prompts.yaml", data)
    read(lambda: load_prompts(str(path), persona="expert", labels={"fall": "a fall", "no": "none"}))
    read(lambda: load_chain(str(path)))
    read(lambda: load_thresholds(path))


def model_config(data: bytes) -> None:
    """The configuration of a model's folder."""
    placed("config.json", data)
    read(lambda: resolve(FOLDER))


# -- what rbft wrote itself, and somebody changed ------------------------------------------------------------------

KINDS: tuple[type[Record], ...] = (Prediction, Rationale, Curated, Answered, RolloutRecord)
WHOLE: tuple[type[Record], ...] = (Manifest, Card, FileManifest, Report)


def records(data: bytes) -> None:
    """Records in JSON lines, and whole: what is read is written and read back the same; a torn tail is cut."""
    path, again = placed("records.jsonl", data), FOLDER / "again.jsonl"
    for kind in KINDS:
        found = read(lambda kind=kind: read_jsonl(path, kind))
        if found is None:
            continue
        if read(lambda found=found: write_jsonl(again, found) or True):
            assert read_jsonl(again, kind) == found or _holds_nan(found)
        with JsonlAppender(path) as file:
            file.append(found[:1])
        assert len(read_jsonl(path, kind)) == len(found) + len(found[:1])
        path.write_bytes(data)
    for kind in WHOLE:
        read(lambda kind=kind: read_record(path, kind))


def _holds_nan(found: Sequence[Record]) -> bool:
    return any("NaN" in repr(one) or "nan" in repr(one) for one in found)


def predictions(data: bytes) -> None:
    """Prediction files of `rbft compare`."""
    for name in ("a.csv", "a.tsv"):
        read(lambda name=name: read_answers(placed(name, data)))
    pair = read(lambda: read_pair(FOLDER / "a.csv", FOLDER / "a.csv"))
    assert pair is None or pair.notes is not None


# -- what models write ---------------------------------------------------------------------------------------------

_LABELS = ("normal", "abnormal", "no", "1", "Fall down")
_THRESHOLDS = load_thresholds()
_OPENINGS = load_openings()
_DIMENSIONS = {"subjects": ("subject", "subjects"), "scene": ("scene",)}


def answers(data: bytes) -> None:
    """An answer of a model: a label, a choice, a number, a thought; read or None, and written and read back."""
    text = text_of(data)
    with watched():
        label = read_label(text, _LABELS)
        assert label in (None, *_LABELS)
        assert read_label(f"Label: {text}", _LABELS) in (None, *_LABELS)
        options = ("A. a cat", "B. a dog", "C. none")
        assert read_choice(text, options) in (None, *lettered(options))
        quantity = read_quantity(text)
        assert quantity is None or abs(quantity.value) >= 0
        answer = read_answer(text)
        assert answer is None or answer.strip() == answer != ""
        thought = parse_thought(text)
        if thought is not None:
            assert parse_thought(render_thought(thought)) == thought
        head, _, tail = text.partition("|")
        try:
            rendered = render_thought(Thought(head, tail))
        except ValueError as error:
            said(str(error))
        else:
            assert parse_thought(rendered) == (head, tail)
        assert format_reward(text) in (0.0, 1.0)
        for kind in ("numerical", "regression", "OCR", "free-form", "multiple choice"):
            options = ("a", "b") if kind == "multiple choice" else ()
            asked = Question(question_id="q", clip_id="c", kind=kind, text="?", options=options, answer=head)
            score = accuracy(asked, tail)
            assert score is None or 0 <= score <= 1
        for order in ("P+R", "P+C+R", "P+R+C"):
            read_labelled_rationale(text, _LABELS, order)  # type: ignore[arg-type]


def rationale(data: bytes) -> None:
    """A rationale: the audit ends with a verdict, and says why."""
    text = text_of(data)
    with watched():
        labels = {"normal": "routine activity", "abnormal": "a threat"}
        verdict = audit(
            text, finished=True, labels=labels, label="normal", dimensions=_DIMENSIONS, thresholds=_THRESHOLDS
        )
        assert verdict.kept or verdict.reasons
        names_label(text, _LABELS, _THRESHOLDS)
        missing_dimensions(text, _DIMENSIONS)
        assert num_words(text) >= 0
        assert " ".join(sentences(text)).split() == text.split()
        _OPENINGS.describing_part(text)


def representation(data: bytes) -> None:
    """A clip in words, as JSON."""
    found = read_representation(text_of(data), num_frames=1, start_seconds=0, end_seconds=4)
    if isinstance(found, Representation):
        again = read_representation(plain(found), num_frames=1, start_seconds=0, end_seconds=4)
        assert again == found
    else:
        said(found.detail)


TARGETS: dict[str, Callable[[bytes], None]] = {
    "manifest-csv": _manifest(".csv"),
    "manifest-tsv": _manifest(".tsv"),
    "manifest-jsonl": _manifest(".jsonl"),
    "manifest-json": _manifest(".json"),
    "annotation": annotation,
    "question-benchmark": question_benchmark,
    "questions": questions,
    "experiment": experiment,
    "override": override,
    "curation": curation,
    "templates": templates,
    "model-config": model_config,
    "records": records,
    "predictions": predictions,
    "answers": answers,
    "rationale": rationale,
    "representation": representation,
}
