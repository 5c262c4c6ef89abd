"""A reinforce stage: group relative policy optimisation (GRPO) of answers to questions about clips.

As VideoRFT does it (arXiv 2505.12434): a group of sampled answers to each question, advantages within the group, the k3
estimate of the divergence from the parent, one update for each batch (so clipping has nothing to clip). With
`updates` above 1 a batch is learnt from several times, with PPO's clipping (arXiv 1707.06347). A clip is read once to
sample a group, once by the reference and once by the policy for each update; all get the same tensors.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset, Sampler
from torch.utils.tensorboard import SummaryWriter
from transformers.integrations import TensorBoardCallback

from rbft.asking import question_prompt
from rbft.errors import RbftError
from rbft.files import WITHOUT_LOG, JsonlAppender, read_jsonl, write_jsonl
from rbft.models.rollout import Sampled, draws_of, sample_groups
from rbft.models.score import GroupLogProbs, score_group
from rbft.models.vlm import VLM, Encoded, FrameSource
from rbft.progress import Reporter, Say
from rbft.recipe import Recipe
from rbft.records import Question, ReinforcePoint, RolloutRecord
from rbft.rewards import ungradable
from rbft.training.ending import EndsWhenAsked, RoomForSaves, check_finished
from rbft.training.held_out import HELD_OUT, HeldOut
from rbft.training.rollouts import Grader, Written, step_measures
from rbft.training.saves import SealSaves, newest_whole
from rbft.training.skips import Skips
from rbft.training.supervised import StageTrainer, loss_of, quiet, trainer_arguments, with_adapters

ROLLOUTS, POINTS = "rollouts.jsonl", "reinforce.jsonl"
NOBODY = -1
"""Stands for no question where a batch is short."""


# -- the loss ------------------------------------------------------------------------------------------------------


def k3(logps: torch.Tensor, ref_logps: torch.Tensor) -> torch.Tensor:
    """Schulman's k3 of each token, q/p - 1 - log(q/p) with policy p and reference q: at least 0, KL in expectation."""
    difference = ref_logps - logps
    return difference.exp() - difference - 1


def grpo_loss(
    logps: torch.Tensor,
    ref_logps: torch.Tensor | None,
    advantages: torch.Tensor,
    mask: torch.Tensor,
    beta: float,
    old_logps: torch.Tensor | None = None,
    ratios: tuple[float, float] = (0.0, math.inf),
) -> torch.Tensor:
    """Mean over answers of the mean over their tokens of -(min(r · advantage, clip(r) · advantage) - beta · k3).

    logps, ref_logps (None: no reference), mask [N, A] with 1 at an answer's tokens; advantages [N]. r = p / p_old, and
    clip(r) holds it within `ratios`. Without `old_logps` the old policy is the one that is updated: r is 1, has the
    gradient of log p, and is never clipped. An answer without tokens counts as 0.
    """
    gained = advantages[:, None]
    ratio = (logps - (logps.detach() if old_logps is None else old_logps)).exp()
    per_token = -ratio * gained
    if old_logps is not None:
        per_token = torch.where(is_clipped(ratio, advantages, ratios), -ratio.clamp(*ratios) * gained, per_token)
    if ref_logps is not None:
        per_token = per_token + beta * k3(logps, ref_logps)
    return ((per_token * mask).sum(-1) / mask.sum(-1).clamp(min=1)).mean()


def is_clipped(ratio: torch.Tensor, advantages: torch.Tensor, ratios: tuple[float, float]) -> torch.Tensor:
    """Where nothing is learnt any more, bool [N, A]: a token already likelier, or less likely, than it is to become."""
    lowest, highest = ratios
    gained = advantages[:, None]
    return ((ratio > highest) & (gained > 0)) | ((ratio < lowest) & (gained < 0))


# -- training ------------------------------------------------------------------------------------------------------


def reinforce(
    vlm: VLM,
    questions: Sequence[Question],
    frames: FrameSource,
    recipe: Recipe,
    grader: Grader,
    *,
    steps: int,
    seed: int,
    work: Path,
    logs: Path,
    held_out: Sequence[Question] = (),
    say: Say | None = None,
) -> list[ReinforcePoint]:
    """Train `vlm` in place for `steps` optimizer steps; continue from the newest whole checkpoint in `work`.

    Writes TensorBoard files, `rollouts.jsonl` (every sampled answer), `held_out.jsonl` (the answers to `held_out`,
    which is never learnt from) and `reinforce.jsonl` (every step) to `logs`; says which saves are passed over and which
    steps are skipped (None: on standard error). Raises RbftError where a question's own answer earns nothing, where too
    few rewards can be computed, or where too many steps have no number for a loss, or a weight is none.
    """
    say = say or Reporter().say
    if faults := ungradable([*questions, *held_out]):
        raise RbftError("\n".join(faults))
    settings = grader.settings
    reference = None
    if settings.beta > 0 and recipe.lora is None:
        reference = _frozen(vlm)
    if recipe.lora is not None:
        vlm.model = with_adapters(vlm, recipe.lora.model_copy(update={"dropout": 0.0}), seed)
    resumed = newest_whole(work, say)
    done = 0 if resumed is None else int(resumed.name.rpartition("-")[2])
    _forget_after(logs / ROLLOUTS, done)
    curve = HeldOut(vlm, held_out, frames, grader, logs / HELD_OUT, steps=steps, say=say)
    curve.forget_from(done)
    every = math.ceil(recipe.save_every_steps / settings.updates) * settings.updates
    whole_steps = recipe.model_copy(update={"micro_batch_size": recipe.batch_size, "save_every_steps": every})
    writer = SummaryWriter(str(logs))
    trainer = ReinforceTrainer(
        vlm=vlm,
        recipe=recipe,
        questions=questions,
        frames=frames,
        grader=grader,
        reference=reference,
        rollouts=logs / ROLLOUTS,
        curve=curve,
        model=vlm.model,
        args=trainer_arguments(vlm, whole_steps, steps=steps, seed=seed, work=work),
        train_dataset=_Numbers(len(questions)),
        data_collator=lambda numbers: {"numbers": torch.tensor([n for n in numbers if n != NOBODY])},
        skips=Skips(say, steps=steps, updates=settings.updates, setting="reinforce.learning_rate"),
        callbacks=[
            RoomForSaves(), SealSaves(resumed), EndsWhenAsked(settings.updates), TensorBoardCallback(writer)
        ],
    )  # fmt: skip
    quiet(trainer)
    trainer.train(resume_from_checkpoint=None if resumed is None else str(resumed))
    check_finished(trainer.state)
    trainer.check_weights()
    trainer.measure_held_out()
    writer.close()
    points = _points(trainer.state.log_history, settings.rewards.terms)
    write_jsonl(logs / POINTS, points)
    if recipe.lora is not None:
        vlm.model = vlm.model.merge_and_unload()
    vlm.model.eval()
    return points


@dataclass(frozen=True)
class Group:
    """One question about a clip with the answers that a step sampled, and what they earned."""

    clip: Encoded
    answers: Sequence[Sampled]
    records: Sequence[RolloutRecord]

    def __repr__(self) -> str:
        return f"Group({self.clip!r}, {len(self.answers)} answers)"

    @property
    def learnt(self) -> list[tuple[torch.Tensor, float]]:
        """Tokens and advantage of the answers that are learnt from."""
        pairs = zip(self.answers, self.records, strict=True)
        return [(a.tokens, r.advantage) for a, r in pairs if r.advantage is not None]


class ReinforceTrainer(StageTrainer):
    """The Trainer whose step samples answers, rewards them, and learns from how they compare.

    With several updates only the first step of a batch samples. Saves are made between batches, so that whoever goes
    on from one never needs answers that are gone.
    """

    def __init__(
        self,
        *,
        questions: Sequence[Question],
        frames: FrameSource,
        grader: Grader,
        reference: VLM | None,
        rollouts: Path,
        curve: HeldOut,
        **arguments: Any,
    ) -> None:
        self._questions = questions
        self._frames = frames
        self._grader = grader
        self._reference = reference
        self._rollouts = rollouts
        self._curve = curve
        self._measured: dict[str, float] = {}
        self._groups: list[Group] = []
        self._kept: dict[int, _Kept] = {}
        super().__init__(**arguments)

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        """The Trainer's order; with several updates every batch so many times."""
        updates = self._grader.settings.updates
        if updates == 1:
            return super()._get_train_sampler(train_dataset)
        return Repeated(len(self._questions), self._recipe.batch_size, updates, seed=self.args.data_seed)

    def training_step(
        self, model: torch.nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """Sample, reward, record; then the gradients, group by group. Returns the loss of the step."""
        settings, step = self._grader.settings, self.state.global_step + 1
        self.measure_held_out()
        if self.state.global_step % settings.updates == 0:
            self._kept.clear()
            self._groups = self._sampled(inputs["numbers"].tolist(), step)
            self._check_scored(self._groups, step)
            with JsonlAppender(self._rollouts) as file:
                file.append(record for group in self._groups for record in group.records)
        measured = step_measures([group.records for group in self._groups], settings.rewards.terms)
        model.train()
        tally = _Tally()
        losses = [
            self._skips.seen(self._learn(place, tally), [group.records[0].clip_id])
            for place, group in enumerate(self._groups)
        ]
        self._measured = measured | tally.means(clips=settings.updates > 1)
        return torch.stack(losses).sum()

    def measure_held_out(self) -> None:
        """A point of the held-out curve, if one is due after the steps so far."""
        if self._curve.is_due(self.state.global_step):
            with self.accelerator.autocast():
                self._curve.measure(self.state.global_step)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As the Trainer's, with what the step's answers earned."""
        super().log(logs | self._measured if "loss" in logs else logs, start_time)

    def _sampled(self, numbers: Sequence[int], step: int) -> list[Group]:
        """Groups of answers, whole groups at once; each drawn by numbers of its own, so that cuts change nothing."""
        settings = self._grader.settings
        at_once = max(1, settings.rollout_batch_size // settings.samples)
        groups: list[Group] = []
        self._vlm.model.eval()
        for start in range(0, len(numbers), at_once):
            part = numbers[start : start + at_once]
            asked = [self._questions[number] for number in part]
            prompts = [question_prompt(self._grader.prompts, q) for q in asked]
            clips = [self._vlm.encode_clip(self._frames, q.clip_id, p) for q, p in zip(asked, prompts, strict=True)]
            draws = [draws_of((self.args.seed, step, n), settings.samples, settings.max_new_tokens) for n in part]
            with self.accelerator.autocast():
                made = sample_groups(
                    self._vlm, clips, draws, temperature=settings.temperature, top_p=settings.top_p
                )  # fmt: skip
            groups += [self._graded(*one, step) for one in zip(asked, clips, made, strict=True)]
        return groups

    def _graded(self, question: Question, clip: Encoded, answers: Sequence[Sampled], step: int) -> Group:
        written = [Written(self._vlm.text_of(a.tokens.tolist()), a.finished, len(a.tokens)) for a in answers]
        return Group(clip, answers, self._grader.group(question, written, step))

    def _check_scored(self, groups: Sequence[Group], step: int) -> None:
        records = [record for group in groups for record in group.records]
        unscored = [record for record in records if record.reward is None]
        most = self._grader.settings.most_unscored
        if len(unscored) > most * len(records):
            missing = sorted({term for r in unscored for term, value in r.rewards.items() if value is None})
            raise RbftError(
                f"step {step}: {len(unscored)} of {len(records)} answers have no reward, because {', '.join(missing)} "
                f"cannot be computed, for example of clip {unscored[0].clip_id}; reinforce.most_unscored allows "
                f"{most:g}. Mend these clips, or leave the term out"
            )

    def _learn(self, place: int, tally: _Tally) -> torch.Tensor:
        """Add the gradients of one group to those of the step; its share of the step's loss."""
        settings, group = self._grader.settings, self._groups[place]
        learnt = group.learnt
        if not learnt or (settings.beta == 0 and not any(advantage for _, advantage in learnt)):
            return torch.zeros((), device=self.args.device)
        answers, kept = [tokens for tokens, _ in learnt], self._kept.get(place)
        with self.accelerator.autocast():
            reference = self._reference_of(group.clip, answers) if kept is None else kept.reference
            policy = score_group(self._vlm, group.clip, answers, temperature=settings.temperature)
        advantages = torch.tensor([a for _, a in learnt], device=policy.mask.device)
        ref_logps = None if reference is None else reference.log_probabilities
        old_logps = None if kept is None else kept.old
        logps = policy.log_probabilities
        loss = grpo_loss(logps, ref_logps, advantages, policy.mask, settings.beta, old_logps, settings.ratios)
        loss = loss * len(learnt) / len(group.answers) / len(self._groups)
        if not torch.isfinite(loss):
            return loss.detach()
        tally.add(policy, ref_logps)
        if old_logps is not None:
            ratio = (logps.detach() - old_logps).exp()
            tally.clipped += float((is_clipped(ratio, advantages, settings.ratios) * policy.mask).sum())
        elif settings.updates > 1:
            self._kept[place] = _Kept(logps.detach(), reference)
        self.accelerator.backward(loss)
        return loss.detach()

    @torch.no_grad()
    def _reference_of(self, clip: Encoded, answers: Sequence[torch.Tensor]) -> GroupLogProbs | None:
        """The same of the stage's parent: the frozen copy, or the model with its adapters switched off."""
        settings = self._grader.settings
        if settings.beta == 0:
            return None
        off: AbstractContextManager[Any] = nullcontext()
        if self._reference is None:
            off = self._vlm.model.disable_adapter()
        with off:
            return score_group(
                self._reference or self._vlm, clip, answers, temperature=settings.temperature, with_entropy=False
            )


class _Numbers(Dataset[int]):
    """The numbers of the questions: the Trainer's batches hold nothing else."""

    def __init__(self, length: int) -> None:
        self._length = length

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> int:
        return index


class Repeated(Sampler[int]):
    """An epoch in the Trainer's own seeded order, every batch `times` times; a short one is filled with NOBODY.

    Given the epoch, the order is always the same, so a stage continues.
    """

    def __init__(self, length: int, batch_size: int, times: int, *, seed: int) -> None:
        self._length, self._batch_size, self._times, self._seed = length, batch_size, times, seed
        self._epoch = 0

    def __len__(self) -> int:
        return math.ceil(self._length / self._batch_size) * self._batch_size * self._times

    def set_epoch(self, epoch: int) -> None:
        """Which epoch the next iteration is; called by the Trainer."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self._seed + self._epoch)
        order = torch.randperm(self._length, generator=generator).tolist()
        for start in range(0, len(order), self._batch_size):
            batch = order[start : start + self._batch_size]
            for _ in range(self._times):
                yield from batch
                yield from [NOBODY] * (self._batch_size - len(batch))


@dataclass(frozen=True)
class _Kept:
    """Of a group, for its later updates: log-probabilities [G, A] of the policy that sampled it, and the reference's.

    The policy's are those of the first update's own pass, in which nothing has been learnt from the group yet.
    """

    old: torch.Tensor
    reference: GroupLogProbs | None

    def __repr__(self) -> str:
        return f"_Kept(old={list(self.old.shape)})"


class _Tally:
    """Sums over the tokens that a step learns from."""

    def __init__(self) -> None:
        self._tokens = self._entropy = self.clipped = 0.0
        self._kl: float | None = None

    def add(self, policy: GroupLogProbs, ref_logps: torch.Tensor | None) -> None:
        """One group's tokens."""
        self._tokens += float(policy.mask.sum())
        assert policy.entropy is not None, "it is asked for of the policy"
        self._entropy += float(policy.entropy.sum())
        if ref_logps is not None:
            divergence = k3(policy.log_probabilities.detach(), ref_logps) * policy.mask
            self._kl = (self._kl or 0.0) + float(divergence.sum())

    def means(self, *, clips: bool) -> dict[str, float]:
        """Means over tokens, `clips`: with the clipped share; empty where nothing was learnt from."""
        if not self._tokens:
            return {}
        kl = {} if self._kl is None else {"kl": self._kl / self._tokens}
        clipped = {"clipped": self.clipped / self._tokens} if clips else {}
        return {"entropy": self._entropy / self._tokens, **kl, **clipped}


def _frozen(vlm: VLM) -> VLM:
    """A copy of the model as it is now, without gradients."""
    model = copy.deepcopy(vlm.model).eval().requires_grad_(False)
    return VLM(model, vlm.processor, vlm.source)


def _forget_after(path: Path, step: int) -> None:
    """Leave out of a file of rollouts what came after the step that is continued from: it is sampled again."""
    if path.exists():
        before = read_jsonl(path, RolloutRecord, WITHOUT_LOG)
        write_jsonl(path, [record for record in before if record.step <= step])


def _points(history: Sequence[dict[str, Any]], terms: Sequence[str]) -> list[ReinforcePoint]:
    return [
        ReinforcePoint(
            learning_rate=entry["learning_rate"],
            **loss_of(entry),
            rewards={term: entry.get(f"rewards/{term}") for term in terms},
            **{name: entry.get(name) for name in _MEASURED},
        )
        for entry in history
        if "loss" in entry
    ]


_MEASURED = ("reward", "spread", "without_signal", "cut_off", "unscored", "num_tokens", "kl", "entropy", "clipped")
