"""Groups of answers: what is drawn, that pixels' pads never are, and that training sees what sampling saw."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from factories import FAMILY_NAMES
from noise import noise_clip
from rbft.errors import RbftError
from rbft.models.rollout import Sampled, draws_of, next_tokens, sample_groups
from rbft.models.score import score_group
from rbft.models.vlm import VLM, Encoded

LENGTH = 12


def encoded(vlm: VLM, clip: int, prompt: str, frames: int = 4) -> Encoded:
    return vlm.encode(*noise_clip(clip, vlm.grid, frames=frames), prompt)


def two_clips(vlm: VLM) -> list[Encoded]:
    """Two lengths of clip and of prompt, so that one of them is padded."""
    return [encoded(vlm, 0, "cat or dog?"), encoded(vlm, 1, "what is it, in one word?", frames=8)]


def sampled(vlm: VLM, batch: list[Encoded], samples: int = 3, temperature: float = 1.0) -> list[list[Sampled]]:
    draws = [draws_of((7, place), samples, LENGTH) for place in range(len(batch))]
    return sample_groups(vlm, batch, draws, temperature=temperature, top_p=0.95)


def test_the_token_at_a_draws_place_by_hand() -> None:
    """Probabilities 0.1, 0.6, 0.3; the two largest reach 0.9 of 0.85 wanted, and share what is drawn two to one."""
    logits = torch.tensor([0.1, 0.6, 0.3]).log()
    draws = torch.tensor([0.0, 0.66, 0.67, 0.999999])
    assert next_tokens(logits.repeat(4, 1), draws, 0.85).tolist() == [1, 1, 2, 2]
    assert next_tokens(logits.repeat(2, 1), torch.tensor([0.89, 0.91]), 1.0).tolist() == [2, 0]
    assert next_tokens(logits[None], torch.tensor([0.99]), 0.5).tolist() == [1], "one token always counts"


def test_a_row_of_no_numbers_gives_a_token_that_is_there() -> None:
    """An index outside is a device-side assert on a GPU, which no message can follow."""
    assert 0 <= int(next_tokens(torch.full((1, 3), torch.nan), torch.tensor([0.5]), 0.9)) < 3


def test_weights_that_are_no_numbers_are_told_and_not_sampled(checkpoints: dict[str, Path]) -> None:
    vlm = VLM.load(checkpoints[FAMILY_NAMES[0]])
    with pytest.raises(
        RbftError, match=r"no numbers at temperature 1e-300.*Raise reinforce\.temperature, or lower the"
    ):
        sampled(vlm, two_clips(vlm), temperature=1e-300)
    with torch.no_grad():
        next(vlm.model.lm_head.parameters()).fill_(torch.nan)
    with pytest.raises(RbftError, match="or training has broken the weights"):
        sampled(vlm, two_clips(vlm))


def test_what_is_drawn_is_distributed_as_the_model_says() -> None:
    logits = torch.tensor([0.1, 0.6, 0.3]).log().repeat(20_000, 1)
    found = torch.bincount(next_tokens(logits, draws_of((3,), 1, 20_000)[0], 1.0), minlength=3) / 20_000
    torch.testing.assert_close(found, torch.tensor([0.1, 0.6, 0.3]), atol=0.012, rtol=0)


@pytest.mark.parametrize("family", FAMILY_NAMES)
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_training_sees_what_sampling_saw(family: str, temperature: float, checkpoints: dict[str, Path]) -> None:
    """The log-probabilities of the answers, one pass over clip and all answers, are those at which they were drawn."""
    vlm = VLM.load(checkpoints[family])
    batch = two_clips(vlm)
    for clip, group in zip(batch, sampled(vlm, batch, temperature=temperature), strict=True):
        scored = score_group(vlm, clip, [one.tokens for one in group], temperature=temperature)
        for row, mask, one in zip(scored.log_probabilities, scored.mask, group, strict=True):
            assert int(mask.sum()) == len(one.tokens)
            torch.testing.assert_close(row[mask.bool()], one.log_probabilities, atol=1e-4, rtol=0)


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_one_pass_over_a_group_equals_an_answer_at_a_time(family: str, checkpoints: dict[str, Path]) -> None:
    """Against the model's own forward with its own positions, and with entropies worked out from its logits."""
    vlm = VLM.load(checkpoints[family])
    clip = two_clips(vlm)[1]
    answers = [vlm.answer_ids(text) for text in ("cat", "car", "cats and dogs", "cat")]
    scored = score_group(vlm, clip, answers, temperature=1.0)
    for n, answer in enumerate(answers):
        with torch.inference_mode():
            logits = vlm.model(**vlm.inputs([clip], [answer])).logits[0, -len(answer) - 1 : -1].log_softmax(-1)
        expected = logits.gather(-1, answer[:, None])[:, 0]
        torch.testing.assert_close(scored.log_probabilities[n, : len(answer)], expected, atol=1e-4, rtol=0)
        entropy = -(logits.exp() * logits).sum(-1)
        torch.testing.assert_close(scored.entropy[n, : len(answer)], entropy, atol=1e-4, rtol=0)
        assert scored.mask[n].sum() == len(answer)
        assert not scored.log_probabilities[n, len(answer) :].any()


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_another_clip_has_other_log_probabilities(family: str, checkpoints: dict[str, Path]) -> None:
    """The trap of trainers that drop the video: pixels, and for Qwen2.5-VL the rate of the frames, must count."""
    vlm = VLM.load(checkpoints[family])
    answers = [vlm.answer_ids("cat"), vlm.answer_ids("dog")]

    def scores(clip: Encoded) -> torch.Tensor:
        with torch.no_grad():
            return score_group(vlm, clip, answers, temperature=1.0).log_probabilities

    one, other = scores(encoded(vlm, 0, "what?")), scores(encoded(vlm, 1, "what?"))
    assert (one - other).abs().max() > 1e-4


def test_the_rate_of_the_frames_counts(checkpoints: dict[str, Path]) -> None:
    vlm = VLM.load(checkpoints["qwen2_5_vl"])
    frames, plan = noise_clip(0, vlm.grid)
    slower = plan.model_copy(update={"frames_per_second": 0.25})
    answers = [vlm.answer_ids("cat")]
    made = [score_group(vlm, vlm.encode(frames, p, "what?"), answers, temperature=1.0) for p in (plan, slower)]
    assert (made[0].log_probabilities - made[1].log_probabilities).abs().max() > 1e-6


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_pads_for_pixels_are_never_drawn(family: str, checkpoints: dict[str, Path]) -> None:
    """Even where the model wants nothing else."""
    vlm = VLM.load(checkpoints[family])
    barred = torch.tensor(vlm.visual_token_ids)
    assert len(barred)
    head = vlm.model.lm_head

    def wanting(_module: torch.nn.Module, _inputs: object, logits: torch.Tensor) -> torch.Tensor:
        return logits.index_add(-1, barred, torch.full((*logits.shape[:-1], len(barred)), 30.0))

    handle = head.register_forward_hook(wanting)
    groups = sampled(vlm, two_clips(vlm), samples=6)
    handle.remove()
    assert not any(torch.isin(one.tokens, barred).any() for group in groups for one in group)


def test_a_group_is_the_same_whatever_is_in_its_batch(checkpoints: dict[str, Path]) -> None:
    vlm = VLM.load(checkpoints["qwen2_5_vl"])
    batch = two_clips(vlm)
    together = sampled(vlm, batch)
    draws = draws_of((7, 1), 3, LENGTH)
    [alone] = sample_groups(vlm, batch[1:], [draws], temperature=1.0, top_p=0.95)
    for one, other in zip(together[1], alone, strict=True):
        assert one.tokens.tolist() == other.tokens.tolist()
    assert len({tuple(one.tokens.tolist()) for one in alone}) > 1


def test_the_clip_is_read_once_for_a_group(checkpoints: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    vlm = VLM.load(checkpoints["qwen2_5_vl"])
    seen: list[int] = []
    visual = vlm.model.model.visual
    visual.register_forward_pre_hook(lambda _module, inputs: seen.append(len(inputs[0])))
    batch = two_clips(vlm)
    patches = [len(clip.visual.pixels) for clip in batch]
    groups = sampled(vlm, batch)
    assert seen == [sum(patches)], "once for all answers to all clips of the batch"
    score_group(vlm, batch[0], [one.tokens for one in groups[0]], temperature=1.0)
    assert seen[1:] == [patches[0]]


def test_an_answer_ends_at_its_end_of_turn_or_is_cut(checkpoints: dict[str, Path]) -> None:
    vlm = VLM.load(checkpoints["qwen2_5_vl"])
    groups = sampled(vlm, two_clips(vlm), samples=24)
    answers = [one for group in groups for one in group]
    assert {one.finished for one in answers} == {True, False}
    for one in answers:
        assert one.finished == (int(one.tokens[-1]) in {vlm.end_of_turn, 2})
        assert one.finished or len(one.tokens) == LENGTH
        assert vlm.end_of_turn not in one.tokens[:-1].tolist()
