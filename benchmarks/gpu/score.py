"""Scoring labels: the log-probability of every label under clips of one length.

rbft: one forward pass for all labels of a clip, logits of their rows only, patches as a matrix's rows,
one attention call a vision layer.
Against it: plain transformers, one whole forward for every clip and label, with all logits. Numbers on a GPU have not
been taken yet.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from benchmarks.gpu.flops import forward_flops
from benchmarks.gpu.measure import DeviceRow, Setting, compared, main
from benchmarks.gpu.model import Question, librarys_tower, questions
from benchmarks.speed.measuring import check_close

from rbft.models.score import score_answers

NUM_LABELS = 4
LABEL_TOKENS = 3


def rows(setting: Setting) -> list[DeviceRow]:
    """All clips of the pass, `--micro` of them at once on both sides."""
    vlm, options = setting.vlm, setting.options
    batch = questions(vlm, setting.shape, options.clips, answer_tokens=LABEL_TOKENS, mixed=False)
    labels = [question.answer for question in questions(vlm, setting.shape, NUM_LABELS, answer_tokens=3, mixed=False)]
    micros = [batch[start : start + options.micro] for start in range(0, len(batch), options.micro)]

    def ours() -> torch.Tensor:
        return torch.cat([score_answers(vlm, [q.encoded for q in micro], labels) for micro in micros])

    def theirs() -> torch.Tensor:
        with librarys_tower(vlm.model):
            return torch.cat([whole_forwards(setting, micro, labels) for micro in micros])

    equal = check_close("log-probabilities", float((ours() - theirs()).abs().max()), setting.limit)
    case = f"{len(batch)} clips of {setting.shape.median_frames} frames, {NUM_LABELS} labels"
    flops = sum(forward_flops(vlm.model.config, question.clip) for question in batch)
    return [
        compared(
            setting, phase="scoring", case=case, against="transformers, a forward a label", clips=len(batch),
            flops=flops, equal=equal, ours=ours, theirs=theirs,
        )
    ]  # fmt: skip


@torch.inference_mode()
def whole_forwards(setting: Setting, batch: Sequence[Question], labels: Sequence[torch.Tensor]) -> torch.Tensor:
    """Log-probabilities [B, C] from one forward for every label, all logits kept."""
    vlm = setting.vlm
    columns = []
    for label in labels:
        logits = vlm.model(**vlm.inputs([q.encoded for q in batch], [label] * len(batch)), use_cache=False).logits
        rows = logits[:, -len(label) - 1 : -1].double().log_softmax(-1)
        answer = label.to(vlm.device).expand(len(batch), -1)
        columns.append(rows.gather(-1, answer[..., None])[..., 0].sum(-1))
    return torch.stack(columns, dim=1).cpu()


if __name__ == "__main__":
    raise SystemExit(main(__doc__, rows))
