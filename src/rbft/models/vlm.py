"""A loaded video-language model: one class for every family, from `AutoModelForImageTextToText` and `AutoProcessor`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HFValidationError
from jinja2 import TemplateError
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor
from transformers.utils import logging as hf_logging
from transformers.video_utils import VideoMetadata

from rbft.clips.frames import Frames
from rbft.errors import CheckpointError, UserError
from rbft.machine import container_limits, machine_memory
from rbft.models.family import Family, family_of
from rbft.models.memory import GIB, Device
from rbft.models.patches import patches_as_rows
from rbft.models.pixels import VisualInput, affine_to, normalised, patchify
from rbft.models.shape import ModelShape, shape_of
from rbft.models.sources import Source, is_on_hub, resolve
from rbft.models.varlen import one_call_a_layer
from rbft.records import Clip, FramePlan, Grid

VIDEO_TYPE = 2
"""The value of `mm_token_type_ids` at video tokens."""


class FrameSource(Protocol):
    """Where frames come from: the cache of `clips.ingest`."""

    def read(self, clip_id: str) -> Frames:
        """The clip's frames, as planned."""

    def plan(self, clip_id: str) -> FramePlan:
        """The clip's plan."""


def by_size(clips: Sequence[Clip], frames: FrameSource) -> list[Clip]:
    """Clips ordered by their pixels, so that a batch holds clips of like length; ties by id."""

    def size(clip: Clip) -> tuple[int, str]:
        plan = frames.plan(clip.clip_id)
        return plan.num_frames * plan.width * plan.height, clip.clip_id

    return sorted(clips, key=size)


@dataclass(frozen=True)
class Encoded:
    """One clip under one prompt, up to the place where the answer begins.

    `input_ids` is int64 [S]; `visual` holds the clip's pixels, still on the CPU; `text` is the rendered prompt.
    """

    input_ids: torch.Tensor
    visual: VisualInput
    text: str

    def __post_init__(self) -> None:
        assert self.input_ids.ndim == 1, self.input_ids.shape

    def begun(self, tokens: torch.Tensor) -> Encoded:
        """The same with the beginning of an answer, int64 [A]; what is asked for next follows it."""
        return replace(self, input_ids=torch.cat([self.input_ids, tokens]))

    def __repr__(self) -> str:
        return f"Encoded(input_ids={list(self.input_ids.shape)}, {self.visual!r})"


class VLM:
    """A model with its processor. `load` it; `encode` clips; `inputs` makes a padded batch on the device."""

    def __init__(self, model: Any, processor: Any, source: Source) -> None:
        self.model = model
        self.processor = processor
        self.source = source
        self.family: Family = family_of(model.config, source.name)
        self.grid: Grid = self.family.grid(model.config)
        self.rope_index: Callable[..., Any] | None = model.model.get_rope_index if self.family.mrope else None
        """M-RoPE positions of token rows, the model's own; kept here, so that it is found with adapters around it."""

    # -- loading and saving ----------------------------------------------------------------------------------------

    @classmethod
    def load(
        cls,
        name_or_folder: str | Path,
        *,
        revision: str | None = None,
        allow_remote_code: bool = False,
        for_training: bool = False,
        device: torch.device | None = None,
        attention: Literal["sdpa", "eager"] = "sdpa",
    ) -> VLM:
        """Load weights and processor of a Hugging Face name, a folder, or `embedded`.

        On a GPU the weights are bfloat16, and float32 `for_training` of them (under autocast); beside adapters they are
        frozen and stay bfloat16. On a CPU they are float32.
        With `sdpa`, a vision tower that reads patches attends in one call a layer, as `varlen` says.
        Raises CheckpointError where the folder is incomplete, damaged, or of an unknown family.
        """
        source = resolve(name_or_folder, revision=revision, allow_remote_code=allow_remote_code)
        device = device or default_device()
        dtype = torch.bfloat16 if device.type == "cuda" and not for_training else torch.float32
        family_of(_config(source, allow_remote_code), source.name)
        try:
            with no_bars():
                model = AutoModelForImageTextToText.from_pretrained(
                    source.folder,
                    dtype=dtype,
                    attn_implementation=attention,
                    use_safetensors=True,
                    trust_remote_code=allow_remote_code,
                )
            processor = AutoProcessor.from_pretrained(source.folder, trust_remote_code=allow_remote_code)
        except ArithmeticError as error:
            raise _no_size(source) from error
        except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
            raise CheckpointError(f"{source.name}: cannot be loaded: {_first_line(error)}") from error
        if "sliding_attention" in getattr(model.config.text_config, "layer_types", ()):
            raise CheckpointError(
                f"{source.name}: its language layers attend in sliding windows, which rbft does not know"
            )
        vlm = cls(model.to(device).eval(), processor, source)
        if vlm.family.pixels == "patches":
            patches_as_rows(model)
            if attention == "sdpa":
                one_call_a_layer(model)
        return vlm

    def save(self, folder: Path) -> None:
        """Write weights (safetensors) and processor in the Hugging Face layout, loadable without rbft.

        Weights that were trained in float32 on a GPU are rounded to bfloat16, in place.
        """
        if self.device.type == "cuda":
            self.model.to(torch.bfloat16)
        with no_bars():
            self.model.save_pretrained(folder)
            self.processor.save_pretrained(folder)

    # -- facts -----------------------------------------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device

    @property
    def tokenizer(self) -> Any:
        """The processor's tokenizer."""
        return self.processor.tokenizer

    @cached_property
    def end_of_turn(self) -> int:
        """The token that closes an answer, read off the chat template: it is learnt, scored and stops generation."""
        mark = "ANSWER"
        turns = [
            {"role": "user", "content": [{"type": "text", "text": "Q"}]},
            {"role": "assistant", "content": [{"type": "text", "text": mark}]},
        ]
        rendered = self.processor.apply_chat_template(turns, tokenize=False)
        tail = self.tokenizer(rendered.rpartition(mark)[2], add_special_tokens=False)["input_ids"]
        return int(tail[0]) if tail else int(self.tokenizer.eos_token_id)

    @cached_property
    def visual_token_ids(self) -> list[int]:
        """Tokens that stand for pixels; never to be sampled."""
        names = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
        found = {getattr(self.model.config, name, None) for name in names}
        return sorted(int(token) for token in found if token is not None)

    def visual_tokens(self, plan: FramePlan) -> int:
        """Language-model tokens that a clip of this plan becomes (frame separators not counted)."""
        if self.family.pixels == "processor":
            return plan.num_frames * int(self.processor.image_seq_length)
        return plan.visual_tokens(self.grid)

    # -- encoding --------------------------------------------------------------------------------------------------

    def encode(self, frames: Frames, plan: FramePlan, prompt: str) -> Encoded:
        """One clip under one prompt. `frames` are read as they are: already sampled and sized by `plan`."""
        visual = self._visual(frames)
        expansion = self._expansion(frames, plan, visual)
        text = self._rendered(prompt)
        if text.count(self._placeholder) != 1:
            raise CheckpointError(
                f"{self.source.name}: its chat template renders {text.count(self._placeholder)} places for one clip"
            )
        text = text.replace(self._placeholder, expansion)
        ids = torch.tensor(self.tokenizer(text, add_special_tokens=False)["input_ids"], dtype=torch.long)
        return Encoded(input_ids=ids, visual=visual.with_seconds_per_grid(self._seconds_per_grid(plan)), text=text)

    def encode_clip(self, frames: FrameSource, clip_id: str, prompt: str) -> Encoded:
        """`encode` of a clip by its id."""
        return self.encode(frames.read(clip_id), frames.plan(clip_id), prompt)

    def encode_text(self, prompt: str) -> torch.Tensor:
        """One prompt without a clip, up to the place where the answer begins, int64 [S]."""
        self._refuse_special(prompt)
        text = _with_template(self.processor, prompt, clip=False)
        return torch.tensor(self.tokenizer(text, add_special_tokens=False)["input_ids"], dtype=torch.long)

    def text_inputs(self, rows: Sequence[torch.Tensor]) -> dict[str, Any]:
        """Inputs of the model, on its device, of prompts without clips, padded on the left."""
        input_ids, attention_mask = self._padded(rows)
        made = {"input_ids": input_ids, "attention_mask": attention_mask}
        if self.family.mrope:
            made["mm_token_type_ids"] = torch.zeros_like(input_ids, dtype=torch.int32)
        return {name: tensor.to(self.device) for name, tensor in made.items()}

    def answer_ids(self, answer: str) -> torch.Tensor:
        """Tokens of an answer with its end of turn, int64 [A]."""
        self._refuse_special(answer)
        ids = self.tokenizer(answer, add_special_tokens=False)["input_ids"]
        return torch.tensor([*ids, self.end_of_turn], dtype=torch.long)

    def text_of(self, tokens: Sequence[int]) -> str:
        """What an answer's tokens say, without its end of turn and outer spaces."""
        text = self.tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return str(text).strip()

    def collate(
        self, batch: Sequence[Encoded], answers: Sequence[torch.Tensor] | None = None
    ) -> dict[str, torch.Tensor]:
        """A batch on the CPU, padded on the left; `answers` [A_i] are appended to the prompts.

        input_ids, attention_mask int64 [B, S]; for M-RoPE families mm_token_type_ids int32 [B, S]; and the clips'
        pixels as `VisualInput.batch` keeps them.
        """
        rows = [e.input_ids for e in batch]
        if answers is not None:
            rows = [torch.cat([row, answer]) for row, answer in zip(rows, answers, strict=True)]
        input_ids, attention_mask = self._padded(rows)
        made = {"input_ids": input_ids, "attention_mask": attention_mask}
        if self.family.mrope:
            is_video = (input_ids == self.model.config.video_token_id) & (attention_mask == 1)
            made["mm_token_type_ids"] = is_video.int() * VIDEO_TYPE
        return made | VisualInput.batch([e.visual for e in batch])

    def _padded(self, rows: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Token ids and mask, int64 [B, S] each, padded on the left."""
        length = max(len(row) for row in rows)
        input_ids = torch.full((len(rows), length), self._pad, dtype=torch.long)
        attention_mask = torch.zeros((len(rows), length), dtype=torch.long)
        for i, row in enumerate(rows):
            input_ids[i, length - len(row) :] = row
            attention_mask[i, length - len(row) :] = 1
        return input_ids, attention_mask

    def positions(self, collated: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Positions of a padded batch's tokens, int64 [3, B, S] where the family has M-RoPE, else [B, S]."""
        mask = collated["attention_mask"]
        if self.rope_index is None:
            return (mask.cumsum(-1) - 1).clamp(min=0)
        names = ("mm_token_type_ids", "video_grid_thw", "second_per_grid_ts")
        given = {name: collated[name] for name in names if name in collated}
        positions: torch.Tensor = self.rope_index(collated["input_ids"], attention_mask=mask, **given)[0]
        return positions

    def to_model(self, collated: Mapping[str, torch.Tensor]) -> dict[str, Any]:
        """Keyword inputs of the model on its device: bytes travel, floats are made there."""
        inputs: dict[str, Any] = {name: tensor.to(self.device) for name, tensor in collated.items()}
        if "cu_seq_lens_q" in inputs:
            inputs["max_length_q"] = int(inputs["cu_seq_lens_q"].diff().max())
        pixels = inputs.pop("pixels")
        if self._affine is None:
            return inputs | {"pixel_values": pixels.to(self.model.dtype)}
        scale, shift = (part.to(self.device) for part in self._affine)
        return inputs | {"pixel_values_videos": normalised(pixels, scale, shift).to(self.model.dtype)}

    def inputs(self, batch: Sequence[Encoded], answers: Sequence[torch.Tensor] | None = None) -> dict[str, Any]:
        """`collate`, then `to_model`."""
        return self.to_model(self.collate(batch, answers))

    # -- parts -----------------------------------------------------------------------------------------------------

    @property
    def _pad(self) -> int:
        pad = self.tokenizer.pad_token_id
        return self.end_of_turn if pad is None else int(pad)

    @cached_property
    def _affine(self) -> tuple[torch.Tensor, torch.Tensor] | None:
        if self.family.pixels == "processor":
            return None
        video = self.processor.video_processor
        return affine_to(video.image_mean, video.image_std, self.grid)

    @property
    def _placeholder(self) -> str:
        """What the chat template writes for a clip."""
        return str(self.processor.video_token)

    @cached_property
    def _special(self) -> re.Pattern[str]:
        tokens = sorted(map(str, self.tokenizer.all_special_tokens), key=len, reverse=True)
        tokens += [self._placeholder]
        return re.compile("|".join(re.escape(token) for token in tokens if token))

    def control_token_in(self, text: str) -> str | None:
        """The first of this model's control tokens in a text, which must then not be put to it; None: plain text."""
        found = self._special.search(text)
        return found.group() if found else None

    def _refuse_special(self, text: str) -> None:
        token = self.control_token_in(text)
        if token:
            raise UserError(
                f"{text[:80]!r} holds {token!r}, a control token of {self.source.name}; "
                "labels, definitions, domain and prompts must be plain text"
            )

    def _rendered(self, prompt: str) -> str:
        self._refuse_special(prompt)
        return _with_template(self.processor, prompt)

    def _visual(self, frames: Frames) -> VisualInput:
        if self.family.pixels == "patches":
            return patchify(frames.data, self.grid)
        video = torch.from_numpy(np.array(frames.data)).permute(0, 3, 1, 2)
        made = self.processor.video_processor([video], do_sample_frames=False, return_tensors="pt")
        return VisualInput(pixels=made["pixel_values_videos"][0])

    def _expansion(self, frames: Frames, plan: FramePlan, visual: VisualInput) -> str:
        """The text that a clip's placeholder becomes, written by the checkpoint's own processor."""
        if visual.grid_thw is None:
            return str(self.processor.replace_video_token({"pixel_values_videos": [visual.pixels]}, 0))
        milliseconds = [round(1000 * float(t)) for t in frames.seconds]
        metadata = VideoMetadata(total_num_frames=plan.num_frames, fps=1000.0, frames_indices=milliseconds)
        inputs = {"video_grid_thw": visual.grid_thw.unsqueeze(0), "video_metadata": [metadata]}
        return str(self.processor.replace_video_token(inputs, 0))

    def _seconds_per_grid(self, plan: FramePlan) -> float | None:
        if self.family.time != "seconds_per_grid":
            return None
        return self.grid.temporal_patch_size / plan.frames_per_second


def load_grid(name_or_folder: str | Path, *, revision: str | None = None, allow_remote_code: bool = False) -> Grid:
    """The frame grid of a checkpoint from its configuration alone; no weights are read."""
    source = resolve(name_or_folder, revision=revision, allow_remote_code=allow_remote_code)
    return grid_of(source, allow_remote_code=allow_remote_code)


def grid_of(source: Source, *, allow_remote_code: bool = False) -> Grid:
    """The frame grid of a checkpoint that was found already; raises CheckpointError where its family is unknown."""
    config = _config(source, allow_remote_code)
    return family_of(config, source.name).grid(config)


def local_source(name_or_folder: str, *, revision: str | None = None, allow_remote_code: bool = False) -> Source | None:
    """Where a model is, without network: None for one of the hub whose configuration is not on this machine yet."""
    if not is_on_hub(name_or_folder):
        return resolve(name_or_folder, allow_remote_code=allow_remote_code)
    try:
        found = try_to_load_from_cache(name_or_folder, "config.json", revision=revision)
    except HFValidationError:  # no name at all: `resolve` says what is allowed before it asks the network
        return resolve(name_or_folder, revision=revision, allow_remote_code=allow_remote_code)
    return Source(name_or_folder, Path(found).parent, revision) if isinstance(found, str) else None


def model_shape(source: Source, *, allow_remote_code: bool = False) -> ModelShape:
    """How large a model is, from its configuration alone."""
    config = _config(source, allow_remote_code)
    family = family_of(config, source.name)
    try:
        return shape_of(config, family)
    except ArithmeticError as error:
        raise _no_size(source) from error


class TokenCounter:
    """Counts the tokens of prompts and answers by a checkpoint's own processor; no weights are read.

    Raises CheckpointError where the processor's files are not there.
    """

    def __init__(self, source: Source, *, allow_remote_code: bool = False) -> None:
        try:
            self._processor = AutoProcessor.from_pretrained(
                source.folder, trust_remote_code=allow_remote_code, local_files_only=True
            )
            self.prompt("")
        except (OSError, ValueError, KeyError, AttributeError, CheckpointError) as error:
            raise CheckpointError(f"{source.name}: its processor cannot be loaded: {_first_line(error)}") from error

    def prompt(self, prompt: str) -> int:
        """Tokens of a rendered prompt; all of the clip is one of them."""
        text = _with_template(self._processor, prompt)
        return len(self._processor.tokenizer(text, add_special_tokens=False)["input_ids"])

    def answer(self, answer: str) -> int:
        """Tokens of an answer with its end of turn."""
        return len(self._processor.tokenizer(answer, add_special_tokens=False)["input_ids"]) + 1


def _with_template(processor: Any, prompt: str, *, clip: bool = True) -> str:
    shown = [{"type": "video"}] if clip else []
    turn = {"role": "user", "content": [*shown, {"type": "text", "text": prompt}]}
    try:
        return str(processor.apply_chat_template([turn], tokenize=False, add_generation_prompt=True))
    except (TemplateError, TypeError, ArithmeticError) as error:
        raise CheckpointError(
            f"the model's chat template cannot be rendered: {_first_line(error)}; "
            "take the model's files anew from where they come from"
        ) from error


def default_device() -> torch.device:
    """The GPU when there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def device_name() -> str:
    """The default device in words."""
    device = default_device()
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"


def this_device(memory_gib: float | None) -> Device:
    """The default device with all of its memory, of which `memory_gib` may be used (None: all)."""
    given = None if memory_gib is None else int(memory_gib * GIB)
    device = default_device()
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
        return Device(device_name(), "cuda", total, given)
    return Device(device_name(), "cpu", min([machine_memory(), *container_limits()]), given)


def _config(source: Source, allow_remote_code: bool) -> Any:
    try:
        return AutoConfig.from_pretrained(source.folder, trust_remote_code=allow_remote_code)
    except ArithmeticError as error:
        raise _no_size(source) from error
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{source.name}: its configuration cannot be loaded: {_first_line(error)}") from error


def _no_size(source: Source) -> CheckpointError:
    return CheckpointError(
        f"{source.folder / 'config.json'}: a size or a number of heads in it is 0; every one is at least 1. "
        "Take the file from where the model comes from"
    )


@contextmanager
def no_bars() -> Iterator[None]:
    """No progress bars of transformers' own for what takes a moment; downloads keep theirs."""
    shown = hf_logging.is_progress_bar_enabled()
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            hf_logging.enable_progress_bar()


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:300] if text else type(error).__name__
