"""Writing rationales: 200 tokens for clips of a log-normal mix of lengths, greedily.

rbft: clips sorted by length, `--micro` at once. Against it: plain transformers, one clip at a time, as the model's card
shows. Random weights hardly ever end an answer, so both write all tokens. Numbers on a GPU have not been taken yet.
"""

from __future__ import annotations

import torch
from benchmarks.gpu.flops import Clip, generation_flops
from benchmarks.gpu.measure import DeviceRow, Setting, compared, main
from benchmarks.gpu.model import in_order, librarys_tower, questions

from rbft.models.generate import generate


def rows(setting: Setting) -> list[DeviceRow]:
    """All clips of the pass."""
    vlm, shape, options = setting.vlm, setting.shape, setting.options
    batch = in_order(questions(vlm, shape, options.clips, answer_tokens=1, mixed=True))
    encoded = [question.encoded for question in batch]

    def ours() -> list[int]:
        written = []
        for start in range(0, len(encoded), options.micro):
            micro = encoded[start : start + options.micro]
            written += [g.num_tokens for g in generate(vlm, micro, max_new_tokens=shape.new_tokens)]
        return written

    @torch.inference_mode()
    def theirs() -> list[int]:
        written = []
        with librarys_tower(vlm.model):
            for one in encoded:
                inputs = vlm.inputs([one])
                out = vlm.model.generate(
                    **inputs, max_new_tokens=shape.new_tokens, do_sample=False,
                    suppress_tokens=vlm.visual_token_ids, pad_token_id=vlm.end_of_turn,
                )  # fmt: skip
                written.append(out.shape[1] - inputs["input_ids"].shape[1])
        return written

    counts = ours(), theirs()
    prompts = [Clip(q.clip.frames, shape.height, shape.width, shape.prompt_tokens, 1) for q in batch]
    flops = sum(generation_flops(vlm.model.config, clip, shape.new_tokens) for clip in prompts)
    return [
        compared(
            setting, phase="generating", case=f"{len(batch)} clips, {shape.new_tokens} tokens",
            against="transformers, one clip at a time", clips=len(batch), flops=flops,
            equal=f"{sum(counts[0])} and {sum(counts[1])} tokens written", ours=ours, theirs=theirs,
        )
    ]  # fmt: skip


if __name__ == "__main__":
    raise SystemExit(main(__doc__, rows))
