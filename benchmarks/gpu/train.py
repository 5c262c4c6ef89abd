"""One optimizer step: labels on clips of one length, rationales on a log-normal mix of lengths.

rbft: clips sorted by length and, on a GPU, packed in one row a micro-batch; logits of answer rows only; patches as a
matrix's rows and one attention call a layer in the vision tower. Against it: the same model, optimizer and
micro-batches as plain transformers runs them, padded in the order given, with all logits. Batches are made before the
clock starts; AdamW steps within.

Both sides train as `rbft run` and HF `Trainer` with `bf16` do: float32 weights under bfloat16 autocast, 123.6 GiB for
the 7B in full with AdamW, so a GPU of 80 GB takes LoRA (`--lora`).
The table says what was trained. Numbers on a GPU have not been taken yet.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from benchmarks.gpu.flops import TRAINING, forward_flops
from benchmarks.gpu.measure import DeviceRow, Setting, compared, main
from benchmarks.gpu.model import Question, in_order, librarys_tower, questions
from benchmarks.speed.measuring import check_close

from rbft.experiment import Lora
from rbft.models.packing import pack, packed_language
from rbft.training.batches import IGNORED, packed_answers, padded_labels
from rbft.training.supervised import answer_loss, with_adapters

LABEL_TOKENS = 3
AGAINST = "transformers, padded"
LossOf = Callable[[dict[str, Any], int], torch.Tensor]


def rows(setting: Setting) -> list[DeviceRow]:
    """The label step and the rationale step."""
    steps = Steps(setting)
    return [
        _row(setting, steps, "label step", LABEL_TOKENS, mixed=False),
        _row(setting, steps, "rationale step", setting.shape.rationale_tokens, mixed=True),
    ]


def _row(setting: Setting, steps: Steps, phase: str, answer_tokens: int, *, mixed: bool) -> DeviceRow:
    batch = questions(setting.vlm, setting.shape, setting.options.clips, answer_tokens=answer_tokens, mixed=mixed)
    ours = [steps.our_batch(micro) for micro in _cut(in_order(batch), setting.options.micro)]
    theirs = [steps.their_batch(micro) for micro in _cut(batch, setting.options.micro)]
    tokens = sum(len(question.answer) for question in batch)
    losses = [steps.ours(ours, tokens, update=False), steps.theirs(theirs, tokens, update=False)]
    frames = f"{min(q.clip.frames for q in batch)} to {max(q.clip.frames for q in batch)} frames"
    return compared(
        setting,
        phase=phase,
        case=f"{len(batch)} clips of {frames}, {answer_tokens} tokens",
        against=AGAINST,
        clips=len(batch),
        flops=TRAINING * sum(forward_flops(setting.vlm.model.config, question.clip) for question in batch),
        equal=check_close("loss", abs(losses[0] - losses[1]), setting.limit),
        ours=lambda: steps.ours(ours, tokens),
        theirs=lambda: steps.theirs(theirs, tokens),
        training="adapters" if setting.options.lora else "everything",
    )


class Steps:
    """Both ways through an optimizer step, on the same weights and the same AdamW."""

    def __init__(self, setting: Setting) -> None:
        self._vlm = setting.vlm
        self._base = setting.vlm.model
        self._packed = setting.on_gpu or setting.options.packed
        if setting.options.checkpointing:
            self._base.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
        if setting.options.lora:
            self._vlm.model = with_adapters(self._vlm, Lora(dropout=0.0), 0)
        self._vlm.model.train()
        trained = [p for p in self._vlm.model.parameters() if p.requires_grad]
        self._optimizer = torch.optim.AdamW(trained, lr=1e-6, fused=True)
        self._autocast = torch.autocast("cuda", torch.bfloat16, enabled=setting.on_gpu)

    def our_batch(self, batch: Sequence[Question]) -> dict[str, torch.Tensor]:
        """As `Collator` makes it."""
        encoded, answers = [q.encoded for q in batch], [q.answer for q in batch]
        weights = torch.ones(len(batch))
        if self._packed:
            made = pack(self._vlm, encoded, answers)
            return made | packed_answers(made["cu_seq_lens_q"].tolist(), answers, weights)
        return self._vlm.collate(encoded, answers) | {"labels": padded_labels(answers), "weights": weights}

    def their_batch(self, batch: Sequence[Question]) -> dict[str, torch.Tensor]:
        """Padded, with a label for every position."""
        made = self._vlm.collate([q.encoded for q in batch], [q.answer for q in batch])
        labels = torch.full_like(made["input_ids"], IGNORED)
        for i, question in enumerate(batch):
            labels[i, -len(question.answer) :] = question.answer
        return made | {"labels": labels}

    def ours(self, batches: Sequence[dict[str, torch.Tensor]], tokens: int, *, update: bool = True) -> float:
        """Loss of a step as rbft takes it; without `update` nothing is learnt."""
        with packed_language(self._base) if self._packed else nullcontext():
            return self._step(self._our_loss, batches, tokens, update)

    def theirs(self, batches: Sequence[dict[str, torch.Tensor]], tokens: int, *, update: bool = True) -> float:
        """Loss of a step as plain transformers takes it; without `update` nothing is learnt."""
        with librarys_tower(self._base):
            return self._step(self._their_loss, batches, tokens, update)

    def _our_loss(self, batch: dict[str, Any], tokens: int) -> torch.Tensor:
        labels, weights = (batch.pop(name).to(self._vlm.device) for name in ("labels", "weights"))
        kept = batch.pop("answer_rows").to(self._vlm.device) if self._packed else labels.shape[1]
        logits = self._vlm.model(**self._vlm.to_model(batch), logits_to_keep=kept, use_cache=False).logits
        return answer_loss(logits, labels, weights, tokens)

    def _their_loss(self, batch: dict[str, Any], tokens: int) -> torch.Tensor:
        labels = batch.pop("labels").to(self._vlm.device)
        inputs = self._vlm.to_model(batch)
        made = self._vlm.model(**inputs, labels=labels, num_items_in_batch=tokens, use_cache=False)
        loss: torch.Tensor = made.loss
        return loss

    def _step(self, loss_of: LossOf, batches: Sequence[dict[str, torch.Tensor]], tokens: int, update: bool) -> float:
        losses = []
        for batch in batches:
            with torch.set_grad_enabled(update), self._autocast:
                loss = loss_of(dict(batch), tokens)
            if update:
                loss.backward()
            losses.append(loss.detach())
        if update:
            self._optimizer.step()
            self._optimizer.zero_grad(set_to_none=True)
        return float(torch.stack(losses).sum())


def _cut(batch: Sequence[Question], micro: int) -> list[Sequence[Question]]:
    return [batch[start : start + micro] for start in range(0, len(batch), micro)]


if __name__ == "__main__":
    raise SystemExit(main(__doc__, rows, trains=True))
