"""Objects by an open-vocabulary detector of transformers (OWL-ViT, OWLv2, Grounding DINO), prompted with words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from transformers import AutoModelForZeroShotObjectDetection, AutoProcessor

from rbft.clips.frames import Frames
from rbft.errors import CheckpointError
from rbft.models.sources import Source, resolve
from rbft.models.vlm import default_device
from rbft.records import Clip

FloatArray = npt.NDArray[np.float64]

SAME_OBJECT = 0.5
"""Two boxes whose intersection over union is above this are one object."""
_BATCH = 8


class Detector:
    """The strongest objects of every frame, of those that a clip's phrases name. An `evaluation.masks.ObjectSource`.

    `phrases` maps a clip id to what to look for; a clip without phrases has no objects.
    """

    def __init__(
        self, model: Any, processor: Any, source: Source, phrases: Mapping[str, Sequence[str]], *, count: int
    ) -> None:
        self._model, self._processor, self._source = model, processor, source
        self._phrases, self._count = phrases, count

    @classmethod
    def load(
        cls,
        name_or_folder: str | Path,
        phrases: Mapping[str, Sequence[str]],
        *,
        count: int,
        device: torch.device | None = None,
    ) -> Detector:
        """Load a Hugging Face name or a folder; raises CheckpointError where it is no such detector."""
        source = resolve(name_or_folder)
        try:
            model = AutoModelForZeroShotObjectDetection.from_pretrained(source.folder, use_safetensors=True)
            processor = AutoProcessor.from_pretrained(source.folder)
        except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
            raise CheckpointError(
                f"{source.name}: cannot be loaded as a detector: {reason}. Give an open-vocabulary detector of "
                "transformers, for example google/owlv2-base-patch16-ensemble, or `boxes`, or `motion`"
            ) from error
        return cls(model.to(device or default_device()).eval(), processor, source, phrases, count=count)

    @property
    def name(self) -> str:
        """The detector's name with the fingerprint of its weights."""
        return f"detector {self._source.name} {self._source.fingerprint()}"

    @torch.inference_mode()
    def find(self, clip: Clip, frames: Frames) -> FloatArray:
        """Boxes [T, count, 4] from 0 to 1, the strongest first in every frame; nan: no more."""
        found = np.full((len(frames.data), self._count, 4), np.nan)
        phrases = list(self._phrases.get(clip.clip_id, ()))
        if not phrases:
            return found
        height, width = frames.data.shape[1:3]
        for start in range(0, len(found), _BATCH):
            images = [
                torch.from_numpy(np.array(frame)).permute(2, 0, 1) for frame in frames.data[start : start + _BATCH]
            ]
            inputs = self._processor(
                images=images, text=[phrases] * len(images), return_tensors="pt", padding=True, truncation=True
            )
            outputs = self._model(**inputs.to(self._model.device))
            answers = self._processor.post_process_grounded_object_detection(
                outputs, target_sizes=[(height, width)] * len(images), text_labels=[phrases] * len(images)
            )
            for places, answer in zip(found[start:], answers, strict=False):
                relative = answer["boxes"].double().cpu().numpy() / [width, height, width, height]
                kept = distinct(relative.clip(0, 1), answer["scores"].double().cpu().numpy(), self._count)
                places[: len(kept)] = kept
        return found


def distinct(boxes: FloatArray, scores: FloatArray, count: int) -> FloatArray:
    """The `count` strongest of boxes [N, 4] that are not the same object as a stronger one, [≤ count, 4]."""
    kept: list[FloatArray] = []
    for index in np.argsort(-scores, kind="stable"):
        if len(kept) == count:
            break
        if all(intersection_over_union(boxes[index], other) <= SAME_OBJECT for other in kept):
            kept.append(boxes[index])
    return np.array(kept, dtype=np.float64).reshape(len(kept), 4)


def intersection_over_union(a: FloatArray, b: FloatArray) -> float:
    """Of two boxes [4]; 0 where they hold nothing in common."""
    sides = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    shared = float(np.clip(sides, 0, None).prod())
    either = float((a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod()) - shared
    return shared / either if either > 0 else 0.0
