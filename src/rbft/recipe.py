"""How a stage is trained: what a user asks for, and the same with everything chosen that was left open."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from rbft.arms import Section
from rbft.rewards import RewardFormula

SAME_RESULT = frozenset(
    {
        "save_every_steps", "micro_batch_size", "gradient_checkpointing", "method", "compile", "rollout_batch_size",
        "held_out", "held_out_every",
    }
)  # fmt: skip
"""Settings that change memory, time or what is measured, and nothing but the rounding of what is learnt."""


ENCODER = "google/siglip2-so400m-patch14-384"
"""Compares texts with clips, where the model is not the embedded one and none is named."""


class Lora(Section):
    """Low-rank adapters on the language model instead of full fine-tuning."""

    rank: int = Field(16, ge=1)
    alpha: int = Field(32, ge=1)
    dropout: float = Field(0.05, ge=0, lt=1)


class Training(Section):
    """The recipe of a stage. A stage may override any of these."""

    epochs: float = Field(1.0, gt=0)
    learning_rate: float = Field(1e-5, gt=0, description="language model and merger")
    vision_learning_rate: float = Field(2e-6, ge=0, description="vision tower; 0 freezes it")
    batch_size: int = Field(16, ge=1, description="clips per optimizer step")
    micro_batch_size: int | None = Field(
        None, ge=1, description="clips per forward pass; must divide batch_size; empty: as many as fit"
    )
    scheduler: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_ratio: float = Field(0.03, ge=0, lt=1)
    weight_decay: float = Field(0.1, ge=0)
    max_grad_norm: float = Field(1.0, gt=0)
    class_weights: Literal["none", "balanced"] = Field("none", description="weight label examples by 1 / frequency")
    gradient_checkpointing: bool | None = Field(
        None, description="recompute instead of keep: less memory, a quarter slower; empty: only where it is needed"
    )
    compile: bool = Field(False, description="on a GPU, compile the language layers: slow first steps, fast later ones")
    save_every_steps: int = Field(200, ge=1, description="how much work an interruption may cost")
    method: Literal["auto", "full", "lora"] = Field(
        "auto", description="auto: LoRA where `lora` is given or full fine-tuning does not fit the memory, else full"
    )
    lora: Lora | None = None

    @model_validator(mode="after")
    def _divides(self) -> Self:
        if self.micro_batch_size is not None and self.batch_size % self.micro_batch_size:
            raise ValueError(f"micro_batch_size {self.micro_batch_size} does not divide batch_size {self.batch_size}")
        return self

    @model_validator(mode="after")
    def _one_method(self) -> Self:
        if self.method == "full" and self.lora is not None:
            raise ValueError("method full and lora exclude each other; leave one of them out")
        return self


class Reinforce(Section):
    """Reinforced fine-tuning by GRPO. The defaults are VideoRFT's (arXiv 2505.12434).

    What stands here of a recipe takes the place of the `training` section's in reinforce stages.
    """

    samples: int = Field(8, description="answers a question (G); at least 2")
    beta: float = Field(0.04, ge=0, description="weight of the divergence from the stage's parent; 0: no reference")
    temperature: float = Field(1.0, gt=0, description="of the sampled answers")
    top_p: float = Field(0.95, gt=0, le=1)
    max_new_tokens: int = Field(1024, ge=1, description="an answer is cut off here; in evaluation, too")
    cut_off: Literal["masked", "scored"] = Field(
        "masked", description="answers cut at max_new_tokens: masked: no part of group or loss; scored: as they are"
    )
    rewards: RewardFormula = Field(RewardFormula(), description="what an answer earns")
    encoder: str | None = Field(
        None,
        description="compares texts with clips where `rewards` has `semantic`: a SigLIP, SigLIP 2 or CLIP by name or "
        f"folder, or `embedded`; empty: `embedded` where the model is, else {ENCODER}",
    )
    most_unscored: float = Field(
        0.2, ge=0, le=1, description="share of a step's answers whose reward cannot be computed, above which it stops"
    )
    rollout_batch_size: int = Field(64, ge=1, description="answers written at once; whole groups, at least one")
    updates: int = Field(1, ge=1, description="optimizer steps on the same answers; above 1, what they move is clipped")
    clip: float = Field(0.2, gt=0, lt=1, description="the ratio of new to old policy counts from 1 - clip to 1 + clip")
    clip_high: float | None = Field(None, gt=0, le=1_000_000, description="the upper end is 1 + this; empty: as `clip`")
    held_out: int = Field(64, ge=0, description="questions about test clips that are asked now and then; 0: none")
    held_out_every: int | None = Field(
        None, ge=1, description="steps between two points of the held-out curve; empty: ten points a stage"
    )
    epochs: float = Field(1.0, gt=0)
    batch_size: int = Field(8, ge=1, description="questions per optimizer step, each with `samples` answers")
    learning_rate: float = Field(1e-6, gt=0)
    vision_learning_rate: float = Field(1e-6, ge=0, description="vision tower; 0 freezes it")
    weight_decay: float = Field(0.01, ge=0)
    max_grad_norm: float = Field(5.0, gt=0)
    save_every_steps: int = Field(20, ge=1, description="how much work an interruption may cost")

    @field_validator("samples")
    @classmethod
    def _a_group(cls, samples: int) -> int:
        if samples < 2:
            raise ValueError(
                f"{samples} is no group; answers are compared with others to the same question, take 2 or more"
            )
        return samples

    def changed(self, changes: Mapping[str, Any]) -> Reinforce:
        """The same with other settings; of `rewards`, those that are named."""
        merged = self.model_dump() | dict(changes)
        if isinstance(changes.get("rewards"), Mapping):
            merged["rewards"] = self.rewards.model_dump() | dict(changes["rewards"])
        return Reinforce.model_validate(merged)

    @property
    def encoder_used(self) -> str | None:
        """The encoder that the rewards need, None where they need none."""
        return self.encoder if self.rewards.semantic else None

    @property
    def ratios(self) -> tuple[float, float]:
        """How far the ratio of new to old policy may go, down and up."""
        return 1 - self.clip, 1 + (self.clip if self.clip_high is None else self.clip_high)

    @property
    def of_recipe(self) -> dict[str, float | int]:
        """The settings that stand in place of the `training` section's."""
        return {name: getattr(self, name) for name in _OF_RECIPE}


_OF_RECIPE = (
    "epochs", "batch_size", "learning_rate", "vision_learning_rate", "weight_decay", "max_grad_norm",
    "save_every_steps",
)  # fmt: skip


class Recipe(Training):
    """A recipe with nothing left open; without `lora` every weight is trained."""

    micro_batch_size: int = Field(ge=1)
    gradient_checkpointing: bool

    @property
    def accumulated(self) -> int:
        """Forward passes of one optimizer step."""
        return self.batch_size // self.micro_batch_size
