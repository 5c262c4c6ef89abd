"""One update of reinforcement: a group of answers as one tree behind its clip, against a padded row for each answer.

    python -m benchmarks.speed.reinforce_step

Log-probabilities by the policy and by the reference, the loss, and gradients. The other side repeats clip and prompt
for every answer and makes the logits of all rows, as is usual. Time: the embedded body with a head of 152,064 rows.
Memory, in fresh processes: the embedded model with its own small head, clips of 168x168, answers of 48 tokens. Answers
are random tokens, so that nothing is shared between them but the clip and the prompt.
"""

from __future__ import annotations

import argparse
import copy
import sys
from collections.abc import Callable

import torch
from benchmarks.speed.clips import folder
from benchmarks.speed.measuring import Row, check_close, in_turn, main, peak_megabytes
from benchmarks.speed.model import LABELS, PERSONA, big_head, largest_difference, random_clips, stock

from rbft.models.score import score_group
from rbft.models.vlm import VLM, Encoded
from rbft.prompts import load_prompts
from rbft.training.reinforce import grpo_loss

CLIPS, SAMPLES, FRAMES, BETA = 2, 8, 16, 0.04
LENGTHS = (32, 64)
GROUPS, CLIP_LENGTHS, SIDE, TOKENS = (2, 8, 16), (8, 32), 168, 48
Groups = list[tuple[Encoded, list[torch.Tensor]]]
LogProbabilities = Callable[[VLM, Encoded, list[torch.Tensor]], tuple[torch.Tensor, torch.Tensor]]
_MEMORY = """
import sys
import torch
from benchmarks.speed.reinforce_step import memory_case, naive_log_probabilities, tree_log_probabilities, update
torch.set_num_threads(1)
vlm, reference, groups = memory_case(int(sys.argv[2]), int(sys.argv[3]), plain=sys.argv[1] == "plain")
begin()
update(vlm, reference, groups, naive_log_probabilities if sys.argv[1] == "plain" else tree_log_probabilities)
"""


def made_groups(vlm: VLM, clips: int, samples: int, frames: int, side: int, lengths: tuple[int, int]) -> Groups:
    """Clips of noise under the query to think and answer, each with so many answers of random tokens."""
    prompt = load_prompts("default", persona=PERSONA, labels=LABELS).reasoned()
    source = random_clips([frames] * clips, height=side, width=side)
    generator = torch.Generator().manual_seed(0)
    plain = [i for i in range(len(vlm.tokenizer)) if i not in {*vlm.visual_token_ids, vlm.end_of_turn}]

    def answer() -> torch.Tensor:
        length = int(torch.randint(lengths[0], lengths[1] + 1, (1,), generator=generator))
        return torch.tensor(plain)[torch.randint(len(plain), (length,), generator=generator)]

    return [(vlm.encode(*clip, prompt), [answer() for _ in range(samples)]) for clip in source.clips.values()]


def tree_log_probabilities(vlm: VLM, clip: Encoded, answers: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Ours: log-probabilities and mask [G, A]."""
    made = score_group(vlm, clip, answers, temperature=1.0, with_entropy=False)
    return made.log_probabilities, made.mask


def naive_log_probabilities(vlm: VLM, clip: Encoded, answers: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Clip, prompt and answer as a row for each answer, padded on the left; logits of all rows."""
    inputs = vlm.inputs([clip] * len(answers), answers)
    normalised = vlm.model(**inputs, use_cache=False).logits.float().log_softmax(-1)
    longest = max(len(answer) for answer in answers)
    rows, masks = [], []
    for row, answer in zip(normalised, answers, strict=True):
        chosen = row[-len(answer) - 1 : -1].gather(-1, answer[:, None])[:, 0]
        rows.append(torch.nn.functional.pad(chosen, (0, longest - len(answer))))
        masks.append((torch.arange(longest) < len(answer)).float())
    return torch.stack(rows), torch.stack(masks)


def update(
    vlm: VLM, reference: VLM, groups: Groups, log_probabilities: LogProbabilities = tree_log_probabilities
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients of one batch, group by group; the log-probabilities of the last group and all gradients in a row."""
    vlm.model.zero_grad()
    for clip, answers in groups:
        with torch.no_grad():
            ref_logps, _ = log_probabilities(reference, clip, answers)
        logps, mask = log_probabilities(vlm, clip, answers)
        advantages = torch.linspace(-1, 1, len(answers))
        (grpo_loss(logps, ref_logps, advantages, mask, BETA) / len(groups)).backward()
    gradients = torch.cat([p.grad.flatten() for p in vlm.model.parameters() if p.grad is not None])
    return logps.detach(), gradients


def parent_of(vlm: VLM) -> VLM:
    """A frozen copy, a little apart, so that there is a divergence."""
    model = copy.deepcopy(vlm.model).requires_grad_(False)
    with torch.no_grad():
        model.lm_head.weight.mul_(1.01)
    return VLM(model, vlm.processor, vlm.source)


def memory_case(samples: int, frames: int, *, plain: bool) -> tuple[VLM, VLM, Groups]:
    """The embedded model, its frozen copy, and one group."""
    vlm = VLM.load("embedded", for_training=True)
    vlm = stock(vlm) if plain else vlm
    return vlm, parent_of(vlm), made_groups(vlm, 1, samples, frames, SIDE, (TOKENS, TOKENS))


def time_row(vlm: VLM, repeats: int) -> Row:
    """Processor time of the update, after log-probabilities and gradients were found equal."""
    library = stock(vlm)
    groups = made_groups(vlm, CLIPS, SAMPLES, FRAMES, 84, LENGTHS)
    ours, theirs = parent_of(vlm), parent_of(library)
    mine, other = update(vlm, ours, groups), update(library, theirs, groups, naive_log_probabilities)
    equal = [
        check_close("log-probabilities", largest_difference(mine[0], other[0]), 1e-4),
        check_close("gradients", largest_difference(mine[1], other[1]), 1e-5),
    ]
    del mine, other
    our_ms, their_ms = in_turn(
        lambda: update(vlm, ours, groups), lambda: update(library, theirs, groups, naive_log_probabilities),
        repeats=repeats, warm_up=0, cpu=True,
    )  # fmt: skip
    return Row(phase="reinforce step", case=f"{CLIPS} clips, {SAMPLES} answers each, head of 152,064 rows",
               against="a padded row for each answer, full logits", ours=our_ms, theirs=their_ms, unit="CPU ms",
               promised=None, equal=", ".join(equal))  # fmt: skip


def memory_row(samples: int, frames: int) -> Row:
    """Peak memory of the update above that of weights and inputs."""
    _, _, [(clip, answers)] = memory_case(samples, frames, plain=False)
    length, written = len(clip.input_ids), sum(len(answer) for answer in answers)
    mine, other = (peak_megabytes(_MEMORY, side, str(samples), str(frames)) for side in ("ours", "plain"))
    return Row(phase="reinforce step", case=f"memory, {frames} frames, G = {samples}: {length:,} + {written:,} tokens",
               against=f"{samples} x ({length:,} + {TOKENS}) tokens", ours=mine, theirs=other, unit="MB", promised=None,
               equal="a fresh process each")  # fmt: skip


def rows(options: argparse.Namespace) -> list[Row]:
    torch.set_num_threads(1)
    with folder() as root:
        timed = time_row(VLM.load(big_head(root / "model"), for_training=True), options.repeats)
    return [timed, *(memory_row(samples, frames) for frames in CLIP_LENGTHS for samples in GROUPS)]


if __name__ == "__main__":
    sys.exit(main(__doc__, rows))
