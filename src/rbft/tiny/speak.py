"""Asks the embedded model about batches of frames: greedy answers and label log-probabilities."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast, Qwen2_5_VLForConditionalGeneration

from rbft.tiny.model import MERGE, normalised, patchify

_BATCH = 50


def _conversation(tokenizer: PreTrainedTokenizerFast, prompt: str, num_visual: int, answer: str = "") -> list[int]:
    clip = "<|vision_start|>" + "<|video_pad|>" * num_visual + "<|vision_end|>"
    text = f"<|im_start|>user\n{clip}{prompt}<|im_end|>\n<|im_start|>assistant\n"
    encode = tokenizer.backend_tokenizer.encode
    return [*encode(text, add_special_tokens=False).ids, *encode(answer, add_special_tokens=False).ids]


def _inputs(tokenizer: PreTrainedTokenizerFast, frames: np.ndarray, rows: list[list[int]]) -> dict[str, Tensor]:
    """What the model's forward takes, padded at the left; frames uint8 `[B, T, H, W, 3]`, one row of ids a clip."""
    longest = max(map(len, rows))
    pad = int(tokenizer.convert_tokens_to_ids("<|endoftext|>"))
    ids = torch.tensor([[pad] * (longest - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
    patches, grid = patchify(normalised(torch.from_numpy(np.ascontiguousarray(frames))))
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "mm_token_type_ids": (ids == int(tokenizer.convert_tokens_to_ids("<|video_pad|>"))).int() * 2,
        "pixel_values_videos": patches,
        "video_grid_thw": grid,
        "second_per_grid_ts": torch.ones(len(rows)),
    }


def _num_visual(frames: np.ndarray) -> int:
    _, num_frames, height, width, _ = frames.shape
    return num_frames // 2 * (height // (14 * MERGE)) * (width // (14 * MERGE))


@torch.no_grad()
def answers(
    model: Qwen2_5_VLForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    frames: np.ndarray,
    prompts: Sequence[str],
    max_new_tokens: int = 60,
) -> list[str]:
    """One greedy answer a clip. Frames uint8 `[N, T, H, W, 3]` at the model's own size."""
    texts: list[str] = []
    for start in range(0, len(prompts), _BATCH):
        part = frames[start : start + _BATCH]
        rows = [_conversation(tokenizer, p, _num_visual(frames)) for p in prompts[start : start + _BATCH]]
        inputs = _inputs(tokenizer, part, rows)
        out = model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)
        texts += tokenizer.batch_decode(out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return texts


@torch.no_grad()
def label_scores(
    model: Qwen2_5_VLForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    frames: np.ndarray,
    prompts: Sequence[str],
    labels: Sequence[str],
) -> np.ndarray:
    """Log-probability of each label, with the end of the turn, as the answer: float64 `[N, labels]`."""
    scores = np.zeros((len(prompts), len(labels)))
    for start in range(0, len(prompts), _BATCH):
        part = frames[start : start + _BATCH]
        for column, label in enumerate(labels):
            texts = prompts[start : start + _BATCH]
            rows = [_conversation(tokenizer, p, _num_visual(frames), label + "<|im_end|>") for p in texts]
            count = len(tokenizer.backend_tokenizer.encode(label + "<|im_end|>", add_special_tokens=False).ids)
            inputs = _inputs(tokenizer, part, rows)
            logits = model(**inputs, logits_to_keep=count + 1).logits[:, :-1].double().log_softmax(-1)
            said = logits.gather(-1, inputs["input_ids"][:, -count:, None]).squeeze(-1)
            scores[start : start + len(rows), column] = said.sum(-1).numpy()
    return scores
