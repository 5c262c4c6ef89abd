"""A trained checkpoint that answers: with its own labels, prompts, frames, and nothing else to set."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import overload

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rbft.clips.cache import FrameCache
from rbft.clips.ingest import ClipFrames, read_files
from rbft.clips.manifest import Listing, Row, show
from rbft.evaluation.predict import LabelQuery
from rbft.experiment import ClipLimits, Evaluation
from rbft.files import temporary_folder
from rbft.models.generate import generate
from rbft.models.shape import shape_of
from rbft.models.sources import resolve
from rbft.models.vlm import VLM, TokenCounter, device_name, grid_of, model_shape, this_device
from rbft.progress import printable
from rbft.records import FramePlan, Probability, Record
from rbft.stopping import check
from rbft.store import Card, read_classifier
from rbft.training.fit import predicting
from rbft.training.plan import MemoryPlan, running_out, size
from rbft.training.work import Work

MAX_RATIONALE_TOKENS = 256


OTHER_DEVICE = "classify on a device with more of it"


class Answer(Record):
    """What a classifier says about one file. `rationale` is None where it was not asked for."""

    path: str
    label: str
    probabilities: dict[str, Probability]
    log_probabilities: dict[str, float]
    rationale: str | None = None


class Classifier:
    """A fine-tuned checkpoint with the labels, prompts and sampling that it was trained with."""

    def __init__(self, vlm: VLM, card: Card) -> None:
        self._vlm = vlm
        self._card = card
        settings = Evaluation(length_normalisation=card.length_normalisation, generate=False)
        self._query = LabelQuery(vlm, card.prompts, settings, card.describing)

    @classmethod
    def load(cls, folder: str | Path, *, allow_remote_code: bool = False) -> Classifier:
        """Load a checkpoint of a run; its files are checked against their checksums first. Raises CheckpointError."""
        return _loaded(folder, read_classifier(Path(folder)), allow_remote_code)

    @property
    def labels(self) -> list[str]:
        """The labels, in the order of the experiment."""
        return list(self._card.prompts.labels)

    @overload
    def predict(self, clips: str | Path, *, rationale: bool = False) -> Answer: ...
    @overload
    def predict(self, clips: list[str] | list[Path], *, rationale: bool = False) -> list[Answer]: ...

    def predict(self, clips: str | Path | list[str] | list[Path], *, rationale: bool = False) -> Answer | list[Answer]:
        """Classify one file or a list of files; raises UserError naming every file that cannot be read."""
        if isinstance(clips, list):
            return self.answer(clips, rationale=rationale)
        return self.answer([clips], rationale=rationale)[0]

    def answer(
        self, files: Sequence[str | Path], *, rationale: bool = False, limits: ClipLimits | None = None
    ) -> list[Answer]:
        """Classify files, in their order."""
        with temporary_folder() as folder:
            read = read_files(
                files, FrameCache(folder), sampling=self._card.sampling, grid=self._vlm.grid, limits=limits
            )
            return list(self.answers(*read, rationale=rationale))

    def answers(self, listing: Listing, frames: ClipFrames, *, rationale: bool) -> Iterator[Answer]:
        """Classify clips whose frames were read, one after another."""
        plans = [frames.plan(row.clip_id) for row in listing.rows]
        with running_out(device_name(), lambda: self._plan(plans).lines(), f"shorten the clips, or {OTHER_DEVICE}"):
            for row in listing.rows:
                check()
                yield self._one(row, frames, rationale)

    def _plan(self, plans: Sequence[FramePlan]) -> MemoryPlan:
        """What memory was to be expected, of these clips one after another."""
        prompts, describing = self._card.prompts, self._card.describing
        shape, counter = shape_of(self._vlm.model.config, self._vlm.family), TokenCounter(self._vlm.source)
        written = MAX_RATIONALE_TOKENS if describing is None else describing.max_new_tokens
        visual = [(shape.patches(plan), shape.visual_tokens(plan), shape.time_tokens(plan)) for plan in plans]
        work = Work(
            train=[],
            every=[(patches, tokens, tokens + around) for patches, tokens, around in visual],
            prompt=max(counter.prompt(text) for text in (prompts.label(), prompts.rationale())),
            answer=0,
            labels=[counter.answer(label) for label in self.labels],
            written=written,
            begun=0 if describing is None else written,
        )
        return predicting(self._vlm.source.name, shape, work, this_device(None))

    def _one(self, row: Row, frames: ClipFrames, rationale: bool) -> Answer:
        shown, plan = frames.read(row.clip_id), frames.plan(row.clip_id)
        text = None if self._card.describing is None else self._query.describe(shown, plan)
        encoded = self._query.encode(shown, plan, text)
        made = self._query.answer(self._card.checkpoint.fingerprint, [(row.clip_id, None)], [encoded])
        if rationale and text is None:
            asked = self._vlm.encode(shown, plan, self._card.prompts.rationale())
            text = generate(self._vlm, [asked], max_new_tokens=MAX_RATIONALE_TOKENS)[0].text
        prediction = made[0]
        assert prediction.label is not None, "a scored label is always one of the set"
        return Answer(
            path=row.listed,
            label=prediction.label,
            probabilities=prediction.probabilities,
            log_probabilities=prediction.log_probabilities,
            rationale=text if rationale else None,
        )


def classify(folder: Path, files: Sequence[Path], *, rationale: bool = False) -> Iterator[Answer]:
    """`rbft predict CHECKPOINT CLIP…`: an answer a clip, as it comes.

    All clips are read before the model is loaded: raises UserError naming every one that cannot be.
    """
    card = read_classifier(folder)
    with temporary_folder() as place:
        read = read_files(files, FrameCache(place), sampling=card.sampling, grid=grid_of(resolve(str(folder))))
        yield from _loaded(folder, card).answers(*read, rationale=rationale)


def _loaded(folder: str | Path, card: Card, allow_remote_code: bool = False) -> Classifier:
    with running_out(device_name(), lambda: [_weights(str(folder), allow_remote_code)], OTHER_DEVICE):
        return Classifier(VLM.load(folder, allow_remote_code=allow_remote_code), card)


def _weights(folder: str, allow_remote_code: bool) -> str:
    """What the weights alone take, where not even they found room."""
    device = this_device(None)
    parameters = model_shape(resolve(folder), allow_remote_code=allow_remote_code).parameters
    width = 2 if device.kind == "cuda" else 4
    return (
        f"Memory: {folder}, {parameters / 1e6:,.1f} million parameters, {size(width * parameters)} of weights, on "
        f"{device.name} with {size(device.total)}"
    )


def render_answers(answers: Sequence[Answer], console: Console) -> None:
    """A table of labels and probabilities, then the rationales; nothing that a file or a model says is markup."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("clip", "label", *[f"p({show(label)})" for label in answers[0].probabilities]):
        table.add_column(Text(heading), overflow="fold")
    for answer in answers:
        probabilities = [f"{p:.3f}" for p in answer.probabilities.values()]
        table.add_row(*map(Text, (show(answer.path), show(answer.label), *probabilities)))
    console.print(table)
    for answer in answers:
        if answer.rationale is not None:
            console.print(Text(f"{show(answer.path)}: {printable(answer.rationale)}"))
