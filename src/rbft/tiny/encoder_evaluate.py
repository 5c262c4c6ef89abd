"""What the embedded encoder tells apart, measured on clips it has never seen through `rbft.models.encoder`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from sklearn.metrics import roc_auc_score

from rbft.clips.frames import Frames
from rbft.models.encoder import ClipTextEncoder, find_encoder
from rbft.records import FramePlan
from rbft.tiny import night_yard
from rbft.tiny.encoder import with_one_wrong
from rbft.tiny.evaluate import HELD_OUT_SEED, Sample, general_sample, yard_sample
from rbft.tiny.language import describe_words, words_of
from rbft.tiny.world import DIMENSIONS

_HEAD = """\
---
license: apache-2.0
library_name: transformers
pipeline_tag: zero-shot-image-classification
language: en
---

# RB-FT tiny encoder

A `SiglipModel` of 1.3 million parameters, trained from scratch on rendered clips and their descriptions. It says how
well a description fits a frame of 84 x 84 pixels, and exists so that the semantic reward runs on a processor and in
tests. It knows nothing beyond its rendered world: do not use it on real clips.

```python
from transformers import AutoModel, AutoProcessor

model, processor = AutoModel.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
```

License: Apache-2.0. No data but the renderer's went into it.
"""


@dataclass(frozen=True)
class Told:
    """Right descriptions beside ones with a wrong word: how well the cosine ranks them, and its means."""

    auc: float
    ordered: float
    right: float
    wrong: float
    num_clips: int


class _Shown:
    """A sample as a frame source; clip ids are its row numbers."""

    def __init__(self, sample: Sample) -> None:
        self._frames = sample.frames

    def read(self, clip_id: str) -> Frames:
        data = self._frames[int(clip_id)]
        return Frames(data, np.arange(len(data), dtype=np.float64))

    def plan(self, clip_id: str) -> FramePlan:
        raise AssertionError("an encoder of frames asks for no plan")


def told_apart(folder: Path | str, sample: Sample, seed: int = HELD_OUT_SEED) -> dict[str, Told]:
    """By dimension, a true description beside the same with another word there; and beside that of another clip."""
    encoder = ClipTextEncoder.load(find_encoder(str(folder)), _Shown(sample), device=torch.device("cpu"))
    rng = np.random.default_rng([seed, 83])
    true = [words_of(spec) for spec in sample.specs]
    scores = np.empty((len(true), 2 + len(DIMENSIONS)))
    for row, words in enumerate(true):
        other = true[(row + 1) % len(true)]
        texts = [words, *(with_one_wrong(words, name, rng) for name in DIMENSIONS), other]
        cosines = encoder.similarities(str(row), [describe_words(text) for text in texts])
        scores[row] = [np.nan if cosine is None else cosine for cosine in cosines]
    names = [*DIMENSIONS, "another clip's"]
    return {name: _told(scores[:, 0], scores[:, 1 + column]) for column, name in enumerate(names)}


def _told(right: np.ndarray, wrong: np.ndarray) -> Told:
    truth = np.concatenate([np.ones(len(right)), np.zeros(len(wrong))])
    auc = float(roc_auc_score(truth, np.concatenate([right, wrong])))
    return Told(auc, float((right > wrong).mean()), float(right.mean()), float(wrong.mean()), len(right))


def evaluate_encoder(
    folder: Path | str, num: int, severity: float = night_yard.DEFAULT_SEVERITY
) -> dict[str, dict[str, Told]]:
    """Both tables, on `num` clips each."""
    return {
        "general world": told_apart(folder, general_sample(num)),
        f"night yard, severity {severity:g}": told_apart(folder, yard_sample(num, severity)),
    }


def encoder_tables(results: dict[str, dict[str, Told]]) -> str:
    """The tables in Markdown."""
    parts = []
    for title, rows in results.items():
        lines = [
            f"| {title}: wrong is the | AUC | right above wrong | cosine, right | cosine, wrong | clips |",
            "|---|---|---|---|---|---|",
        ]
        for name, told in rows.items():
            lines.append(
                f"| {name} | {told.auc:.3f} | {told.ordered:.3f} | {told.right:.3f} | {told.wrong:.3f} "
                f"| {told.num_clips} |"
            )
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def encoder_card(results: dict[str, dict[str, Told]]) -> str:
    """The model card, with the measured tables when there are any."""
    return _HEAD + (f"\n## Measured\n\n{encoder_tables(results)}\n" if results else "")
