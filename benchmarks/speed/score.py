"""Scoring every label of a clip: one forward pass for all of them, against one for each, and against generating.

    python -m benchmarks.speed.score

The embedded body with a head of 152,064 rows, 4 clips of 18 frames of 168x168 (324 visual tokens; the 7B has 1,620),
two labels and then seven. The alternatives run the prompt with each label appended, as one batch a label: with the
logits of every row, and with those of the label's rows alone (`logits_to_keep`). `generate` writes as many tokens as
the longest label has.
"""

from __future__ import annotations

import argparse
import sys

import torch
from benchmarks.speed.clips import folder
from benchmarks.speed.measuring import Row, check_close, in_turn, main
from benchmarks.speed.model import LABELS, PERSONA, big_head, largest_difference, random_clips, stock

from rbft.models.generate import generate
from rbft.models.score import score_answers
from rbft.models.vlm import VLM, Encoded
from rbft.prompts import load_prompts

CLIPS, FRAMES, SIDE = 4, 18, 168
SEVEN = dict.fromkeys(("normal", "abnormal", "cat sits", "person falls", "wildlife", "box lies", "bird flies"), "")
"""Labels of two to five tokens with their end, as those of real tokenizers are; none is long."""


@torch.inference_mode()
def one_by_one(vlm: VLM, batch: list[Encoded], answers: list[torch.Tensor], *, lean: bool) -> torch.Tensor:
    """Log-probabilities [B, C] from one forward pass a label over the whole batch."""
    scores = []
    for answer in answers:
        inputs = vlm.inputs(batch, [answer] * len(batch))
        kept = len(answer) + 1 if lean else 0
        logits = vlm.model(**inputs, logits_to_keep=kept, use_cache=False).logits[:, -len(answer) - 1 : -1]
        chosen = torch.log_softmax(logits.float(), dim=-1).gather(-1, answer[None, :, None].expand(len(batch), -1, 1))
        scores.append(chosen.squeeze(-1).sum(-1))
    return torch.stack(scores, dim=1)


def label_rows(vlm: VLM, labels: dict[str, str], repeats: int) -> list[Row]:
    """The three comparisons for one set of labels."""
    clips = random_clips([FRAMES] * CLIPS, height=SIDE, width=SIDE)
    prompt = load_prompts("default", persona=PERSONA, labels=labels).label()
    batch = [vlm.encode(frames, plan, prompt) for frames, plan in clips.clips.values()]
    answers = [vlm.answer_ids(label) for label in labels]
    library = stock(vlm)
    count, longest = len(labels), max(len(answer) for answer in answers)

    def ours() -> torch.Tensor:
        return score_answers(vlm, batch, answers)

    found = []
    for name, lean, share in (("C forwards, full logits", False, 1.5), ("C forwards, label rows", True, 0.8)):

        def theirs(lean: bool = lean) -> torch.Tensor:
            return one_by_one(library, batch, answers, lean=lean)

        equal = check_close("log-probabilities", largest_difference(ours(), theirs()), 1e-4)
        mine, other = in_turn(ours, theirs, repeats=repeats, cpu=True)
        found.append(Row(phase="scoring", case=f"{CLIPS} clips, {count} labels", against=name, ours=mine, theirs=other,
                         unit="CPU ms", promised=share * count, equal=equal))  # fmt: skip
    mine, other = in_turn(ours, lambda: generate(library, batch, max_new_tokens=longest), repeats=repeats, cpu=True)
    found.append(Row(phase="scoring", case=f"{CLIPS} clips, {count} labels", against=f"generate, {longest} tokens",
                     ours=mine, theirs=other, unit="CPU ms", promised=1 / 1.3, equal="scores as above"))  # fmt: skip
    return found


def rows(options: argparse.Namespace) -> list[Row]:
    torch.set_num_threads(1)
    with folder() as root:
        vlm = VLM.load(big_head(root / "model"))
        return [row for labels in (LABELS, SEVEN) for row in label_rows(vlm, labels, options.repeats)]


if __name__ == "__main__":
    sys.exit(main(__doc__, rows))
