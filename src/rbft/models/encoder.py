"""How alike texts and clips are, by a dual encoder of transformers (SigLIP, SigLIP 2, CLIP) or the embedded one.

A clip is the mean of its frames' embeddings, each of length 1; the similarity is the cosine of that mean and the text's
embedding, before the model's own scale and bias. Frames go through the model's image processor as the uint8 that
they are, and texts are cut to the text tower's limit by its tokenizer.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch.nn.functional import cosine_similarity, normalize
from transformers import AutoConfig, AutoModel, AutoProcessor

from rbft.clips.frames import Frames
from rbft.errors import CheckpointError
from rbft.models.sources import Source, resolve
from rbft.models.vlm import FrameSource, default_device, no_bars
from rbft.recipe import ENCODER

FAMILIES = ("siglip", "siglip2", "clip")
"""`model_type` of the encoders that are known."""
_ATTENDED = ("clip",)
"""Families whose text tower was trained with a mask over the padding; the others read it."""
_FRAMES_AT_ONCE = 16
_TEXTS_AT_ONCE = 64
_CLIPS_KEPT = 4096
"""Embeddings of clips that are kept: of 1152 numbers 18 MiB."""


@dataclass(frozen=True)
class EncoderFiles:
    """An encoder that was found, and looked at without loading it; `fingerprint` is of its weights."""

    source: Source
    fingerprint: str
    num_parameters: int


def find_encoder(name_or_folder: str) -> EncoderFiles:
    """Find an encoder and look at its configuration, without loading it; raises CheckpointError."""
    source = resolve(name_or_folder, embedded="encoder")
    try:
        config = AutoConfig.from_pretrained(source.folder, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise _unusable(source, error) from error
    if config.model_type not in FAMILIES:
        raise CheckpointError(
            f"{source.name}: a model of type {config.model_type!r} does not compare texts with images; "
            f"reinforce.encoder is a model of type {', '.join(FAMILIES)}, for example {ENCODER}, or `embedded`"
        )
    try:
        count = sum(_num_parameters(file) for file in source.folder.glob("*.safetensors"))
    except (OSError, SafetensorError) as error:
        raise _unusable(source, error) from error
    return EncoderFiles(source, source.fingerprint(), count)


def _num_parameters(file: Path) -> int:
    with safe_open(file, "pt") as tensors:
        return sum(math.prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118


class ClipTextEncoder:
    """Compares texts with the clips of a frame source; each clip is encoded once, while it is among the last kept."""

    def __init__(self, model: Any, processor: Any, frames: FrameSource, *, clips_kept: int = _CLIPS_KEPT) -> None:
        self._model, self._processor, self._frames = model, processor, frames
        self._clips: OrderedDict[str, torch.Tensor] = OrderedDict()
        self._clips_kept = clips_kept
        limit = int(model.config.text_config.max_position_embeddings)
        self.text_limit = min(limit, processor.tokenizer.model_max_length)
        """Tokens of a text that are read, with those that the tokenizer adds."""

    @classmethod
    def load(cls, files: EncoderFiles, frames: FrameSource, *, device: torch.device | None = None) -> ClipTextEncoder:
        """Load what was found: bfloat16 on a GPU, float32 on a CPU. Raises CheckpointError where it is damaged."""
        device = device or default_device()
        dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        folder = files.source.folder
        try:
            with no_bars():
                model = AutoModel.from_pretrained(folder, dtype=dtype, use_safetensors=True, trust_remote_code=False)
            processor = AutoProcessor.from_pretrained(folder, trust_remote_code=False)
        except (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError) as error:
            raise _unusable(files.source, error) from error
        return cls(model.to(device).eval(), processor, frames)

    def similarities(self, clip_id: str, texts: Sequence[str]) -> list[float | None]:
        """The cosine of the clip with each text, -1 to 1; None where it is not a number.

        In the encoder's own precision, so that whoever asks under autocast gets the same.
        """
        if not texts:
            return []
        different = list(dict.fromkeys(texts))
        with torch.autocast(self._model.device.type, enabled=False):
            clip = self._clip(clip_id)
            cosines = cosine_similarity(self.embed_texts(different), clip[None], dim=-1, eps=0.0).tolist()
        found = {text: None if math.isnan(cosine) else cosine for text, cosine in zip(different, cosines, strict=True)}
        return [found[text] for text in texts]

    def _clip(self, clip_id: str) -> torch.Tensor:
        if clip_id not in self._clips:
            self._clips[clip_id] = self.embed_frames(self._frames.read(clip_id))
            if len(self._clips) > self._clips_kept:
                self._clips.popitem(last=False)
        self._clips.move_to_end(clip_id)
        return self._clips[clip_id]

    @torch.inference_mode()
    def embed_frames(self, frames: Frames) -> torch.Tensor:
        """The clip: the mean of its frames' embeddings, each of length 1; float32 [D], not normalised again."""
        parts = []
        for start in range(0, len(frames.data), _FRAMES_AT_ONCE):
            images = list(np.array(frames.data[start : start + _FRAMES_AT_ONCE]))
            inputs = self._processor.image_processor(
                images=images, input_data_format="channels_last", return_tensors="pt"
            )
            parts.append(self._model.get_image_features(**self._placed(inputs)).pooler_output.float())
        return normalize(torch.cat(parts), dim=-1, eps=0.0).mean(0).cpu()

    @torch.inference_mode()
    def embed_texts(self, texts: Sequence[str]) -> torch.Tensor:
        """Texts as float32 [N, D] of any length, each cut to `text_limit` tokens.

        As the towers were trained: in lower case; padded on the right, to the limit where the padding is read.
        """
        attended = self._model.config.model_type in _ATTENDED
        parts = []
        for start in range(0, len(texts), _TEXTS_AT_ONCE):
            inputs = self._processor.tokenizer(
                [text.lower() for text in texts[start : start + _TEXTS_AT_ONCE]],
                padding_side="right",
                padding=True if attended else "max_length",
                max_length=self.text_limit,
                truncation=True,
                return_attention_mask=attended,
                return_tensors="pt",
            )
            parts.append(self._model.get_text_features(**self._placed(inputs)).pooler_output.float())
        return torch.cat(parts).cpu()

    def _placed(self, inputs: Any) -> dict[str, torch.Tensor]:
        placed = {name: value.to(self._model.device) for name, value in inputs.items()}
        return {n: v.to(self._model.dtype) if v.is_floating_point() else v for n, v in placed.items()}


def _unusable(source: Source, error: BaseException) -> CheckpointError:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
    return CheckpointError(
        f"{source.name}: cannot be loaded as an encoder of texts and images: {reason}. Give a SigLIP, SigLIP 2 or CLIP "
        f"of transformers, for example {ENCODER}, or `embedded`"
    )
