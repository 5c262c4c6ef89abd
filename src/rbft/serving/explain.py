"""`rbft explain` on clips: where a checkpoint's answer looks, as numbers, a film strip and an animation."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rbft.clips.cache import FrameCache
from rbft.clips.frames import Frames
from rbft.clips.ingest import read_files
from rbft.clips.manifest import show
from rbft.errors import UserError
from rbft.evaluation.predict import LabelQuery
from rbft.experiment import Evaluation, Experiment, Sampling, load_experiment
from rbft.files import temporary_folder, write_record
from rbft.models.attention import FloatArray, VisualAttention, scaled, visual_attention
from rbft.models.sources import EMBEDDED
from rbft.models.vlm import VLM
from rbft.prompts import Describing, Prompts, Reasoning, load_prompts
from rbft.records import Prediction, Probability, Record
from rbft.serving.overlay import write_animation, write_strip
from rbft.store import CARD, read_classifier

_DECIMALS = 6
Place = list[list[list[float]]]
"""Values by temporal step, row and column of the grid."""


class AttentionGrid(Record):
    """How a clip was cut: temporal steps, rows, columns; seconds of the frames that each step holds."""

    steps: int
    rows: int
    columns: int
    frame_width: int
    frame_height: int
    seconds: list[list[float]]


class AttentionMap(Record):
    """Values by place, each map scaled 0 to 1 over its clip; `average` is over the layers before scaling."""

    average: Place
    layers: list[Place]


class Explanation(Record):
    """`attention.json`: where the answer to one clip looks. `label` is what was explained, `predicted` the answer."""

    path: str
    label: str
    predicted: str
    probabilities: dict[str, Probability]
    grid: AttentionGrid
    visual_share: list[Probability]
    """Share of all attention of the answer's positions that goes to the clip, by layer."""
    attention: AttentionMap
    gradient: AttentionMap


@dataclass(frozen=True)
class Question:
    """What a checkpoint is asked about a clip, and how it sees it."""

    prompts: Prompts
    sampling: Sampling
    length_normalisation: str
    describing: Describing | Reasoning | None = None


@dataclass(frozen=True)
class Explained:
    """An explanation and the files it was written to."""

    explanation: Explanation
    folder: Path


def explain(
    checkpoint: str, files: Sequence[Path], out: Path, *, label: str | None = None, experiment: Path | None = None
) -> list[Explained]:
    """`rbft explain CHECKPOINT CLIP…`: `explain_clips` with the question that belongs to the checkpoint."""
    if not files:
        raise UserError(f"{checkpoint}: name the clips to explain: rbft explain {checkpoint} CLIP…")
    asked = None if experiment is None else load_experiment(experiment)
    if asked is None and checkpoint == EMBEDDED:
        asked = load_experiment(Path(str(resources.files("rbft"))) / "tiny" / "night-yard.yaml")
    question = question_of(checkpoint, asked)
    remote = asked is not None and asked.allow_remote_code
    return explain_clips(VLM.load(checkpoint, allow_remote_code=remote), question, files, out, label=label)


def question_of(checkpoint: str, experiment: Experiment | None) -> Question:
    """The question of a trained checkpoint's card, or of an experiment for a base model.

    Raises UserError where a base model comes without an experiment, and CheckpointError for a damaged checkpoint.
    """
    if experiment is not None:
        if not experiment.labels:
            raise UserError("the experiment names no labels; write `labels:` into it, they are what the model is asked")
        prompts = load_prompts(experiment.prompts, persona=experiment.domain, labels=experiment.labels)
        return Question(prompts, experiment.sampling, experiment.evaluation.length_normalisation)
    folder = Path(checkpoint).expanduser()
    if not folder.exists() or ((folder / "config.json").is_file() and not (folder / CARD).is_file()):
        raise UserError(
            f"{checkpoint}: a base model has no labels of its own; add --experiment EXPERIMENT.yaml, whose labels, "
            "prompts and sampling it is then asked with"
        )
    card = read_classifier(folder)
    return Question(card.prompts, card.sampling, card.length_normalisation, card.describing)


def explain_clips(
    vlm: VLM, question: Question, files: Sequence[Path], out: Path, *, label: str | None = None
) -> list[Explained]:
    """Explain files, in their order, into a folder each below `out`: attention.json, strip.png, animation.gif.

    `label` is the answer to explain (None: the predicted one). Raises UserError for another label than the question's
    and for every file that cannot be read.
    """
    labels = list(question.prompts.labels)
    if label is not None and label not in labels:
        raise UserError(f"--label {label!r} is not a label of this checkpoint; its labels are {', '.join(labels)}")
    with temporary_folder() as folder:
        listing, frames = read_files(files, FrameCache(folder), sampling=question.sampling, grid=vlm.grid)
        names = _folder_names([row.listed for row in listing.rows])
        query = LabelQuery(
            vlm, question.prompts, Evaluation.model_validate(
                {"length_normalisation": question.length_normalisation, "generate": False}
            ), question.describing,
        )  # fmt: skip
        made = []
        for row, name in zip(listing.rows, names, strict=True):
            shown = frames.read(row.clip_id)
            encoded = query.encode(shown, frames.plan(row.clip_id))
            [prediction] = query.answer("", [(row.clip_id, None)], [encoded])
            answer = label or str(prediction.label)
            seen = visual_attention(vlm, encoded, answer)
            explanation = _explanation(row.listed, answer, prediction, shown, seen)
            made.append(Explained(explanation, _write(out / name, explanation, shown)))
    return made


def _explanation(path: str, label: str, prediction: Prediction, frames: Frames, seen: VisualAttention) -> Explanation:
    _, steps, rows, columns = seen.attention.shape
    return Explanation(
        path=path,
        label=label,
        predicted=str(prediction.label),
        probabilities=prediction.probabilities,
        grid=AttentionGrid(
            steps=steps,
            rows=rows,
            columns=columns,
            frame_width=frames.data.shape[2],
            frame_height=frames.data.shape[1],
            seconds=[_rounded(part) for part in frame_steps(frames.seconds, steps)],
        ),
        visual_share=_rounded(seen.attention.sum(axis=(1, 2, 3)).clip(0, 1)),
        attention=_map(seen.attention),
        gradient=_map(seen.gradient),
    )


def frame_steps(values: FloatArray, steps: int) -> list[FloatArray]:
    """Per-frame values [T, …] by temporal step; the last step may hold fewer frames.

    >>> [part.tolist() for part in frame_steps(np.arange(3.0), 2)]
    [[0.0, 1.0], [2.0]]
    """
    size = -(-len(values) // steps)
    return [values[start : start + size] for start in range(0, len(values), size)]


def _map(values: FloatArray) -> AttentionMap:
    return AttentionMap(average=_rounded(scaled(values.mean(axis=0))), layers=[_rounded(scaled(v)) for v in values])


def _rounded(values: FloatArray) -> list:  # type: ignore[type-arg]
    return np.round(values, _DECIMALS).tolist()  # type: ignore[no-any-return]


def _write(folder: Path, explanation: Explanation, frames: Frames) -> Path:
    write_record(folder / "attention.json", explanation)
    rows = {
        "attention": np.array(explanation.attention.average),
        "weighted by gradient": np.array(explanation.gradient.average),
    }
    share = explanation.probabilities[explanation.label]
    title = f"{explanation.label} ({100 * share:.0f} %)"
    if explanation.label != explanation.predicted:
        title += f", predicted {explanation.predicted}"
    write_strip(folder / "strip.png", frames, rows, title=title)
    write_animation(folder / "animation.gif", frames, rows)
    return folder


def _folder_names(listed: Sequence[str]) -> list[str]:
    """A plain folder name for each file: its stem; with a number where two are alike."""
    names: list[str] = []
    for path in listed:
        stem = re.sub(r"[^\w.+-]+", "-", Path(path).stem).strip(".-") or "clip"
        name, number = stem, 1
        while name in names:
            number += 1
            name = f"{stem}-{number}"
        names.append(name)
    return names


def render_explanations(made: Sequence[Explained], console: Console) -> None:
    """A table: what was explained, how sure, how much of the attention goes to the clip, where the files are."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("clip", "explained", "probability", "attention on the clip", "files"):
        table.add_column(Text(heading), overflow="fold")
    for one in made:
        e = one.explanation
        share = sum(e.visual_share) / len(e.visual_share)
        table.add_row(*map(Text, (show(e.path), show(e.label), f"{e.probabilities[e.label]:.3f}",
                                  f"{100 * share:.1f} %", str(one.folder))))  # fmt: skip
    console.print(table)
