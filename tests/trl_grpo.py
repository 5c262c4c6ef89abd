"""What TRL's `GRPOTrainer` makes of given answers about images, where it is right; kept in `data/trl_grpo.json`.

    pip install trl==1.16.0
    python tests/trl_grpo.py tests/data/trl_grpo.json

TRL drops a clip's pixels, so the prompts hold an image; to this project an image is a clip of one frame. The model is
the tiny Qwen2.5-VL of the tests with weights written by a formula, so that no generator of random numbers matters; the
reference is the same with other numbers, the policy that sampled with a third kind. TRL 1.16 multiplies the divergence
by the ratio unless told otherwise (`use_bias_correction_kl`); the published method does not, and it is told so here.
"""

from __future__ import annotations

import json
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent))

from factories import build_checkpoint
from noise import noise_clip
from rbft.models.vlm import VLM, Encoded
from rbft.rewards import group_advantages

FIXTURE = Path(__file__).parent / "data" / "trl_grpo.json"
BETA, RATIOS = 0.04, (0.8, 1.3)
ANSWERS = (
    ("a small dog runs", "a cat", "nothing at all is to be seen here"),
    ("two", "one person walks", "a dog and a cat"),
)
REWARDS = ((2.0, 1.0, 0.0), (1.0, 1.0, 2.0))
PROBED = ("lm_head", "model.language_model.layers.0.self_attn.q_proj", "model.visual.patch_embed.proj")
"""Layers whose gradients are compared, from the head down to the pixels."""


def models(folder: Path) -> dict[str, VLM]:
    """The policy, its reference and the policy that sampled."""
    path = build_checkpoint("qwen2_5_vl", folder / "model")
    return {name: _written(VLM.load(path), n) for n, name in enumerate(("policy", "reference", "old"))}


def _written(vlm: VLM, number: int) -> VLM:
    """Matrices by a formula, the kinds apart by a little; vectors stay ones and zeros."""
    with torch.no_grad():
        for n, parameter in enumerate(vlm.model.parameters()):
            if parameter.ndim < 2:
                continue
            places = torch.arange(parameter.numel(), dtype=torch.float64)
            waves = torch.sin(places * (1.7 + 0.13 * n) + n) + 0.1 * number * torch.sin(places * (0.9 + 0.07 * n))
            scale = 1.5 / parameter[0].numel() ** 0.5
            parameter.copy_((waves * scale).view_as(parameter))
    vlm.model.eval()
    return vlm


def asked(vlm: VLM) -> list[tuple[Encoded, list[torch.Tensor], list[float]]]:
    """Of each image: the prompt, the tokens of its answers, their advantages. The first prompt is the shorter one."""
    made = []
    for n, (texts, rewards) in enumerate(zip(ANSWERS, REWARDS, strict=True)):
        frames, plan = noise_clip(n, vlm.grid, frames=1, rows=2 + n)
        prompt = vlm.encode(frames, plan, "What is there?")
        advantages = [a for a in group_advantages(rewards) if a is not None]
        made.append((prompt, [vlm.answer_ids(text) for text in texts], advantages))
    return made


def by_trl(folder: Path) -> dict[str, Any]:
    """Losses, log-probabilities and gradients: of a first update, and of a later one with clipping."""
    vlms = models(folder)
    trainer = _trainer(vlms["policy"], folder)
    inputs = _inputs(vlms["policy"])
    inputs["ref_per_token_logps"] = _log_probabilities(_trainer(vlms["reference"], folder), inputs)
    old = _log_probabilities(_trainer(vlms["old"], folder), inputs)
    mask = inputs["completion_mask"].bool()
    rows = [row[keep].tolist() for row, keep in zip(_log_probabilities(trainer, inputs), mask, strict=True)]
    found: dict[str, Any] = {
        "versions": {name: metadata.version(name) for name in ("trl", "transformers", "torch")},
        "log_probabilities": rows,
    }
    for name, given in (("first", {}), ("later", {"old_per_token_logps": old})):
        trainer.model.zero_grad()
        loss = trainer.compute_loss(trainer.model, inputs | given)
        loss.backward()
        found[name] = {"loss": loss.item(), "gradients": gradients(vlms["policy"])}
    return found


def gradients(vlm: VLM) -> dict[str, list[float]]:
    """The first numbers of some layers' gradients."""
    return {name: vlm.model.get_submodule(name).weight.grad.flatten()[:8].tolist() for name in PROBED}


def _trainer(vlm: VLM, folder: Path) -> Any:
    from datasets import IterableDataset
    from trl import GRPOConfig, GRPOTrainer

    args = GRPOConfig(
        output_dir=str(folder / "trl"), per_device_train_batch_size=3, num_generations=3, loss_type="grpo", beta=BETA,
        max_steps=1, epsilon=1 - RATIOS[0], epsilon_high=RATIOS[1] - 1, temperature=1.0, use_bias_correction_kl=False,
        use_cpu=True, bf16=False, report_to=[],
    )  # fmt: skip
    trainer = GRPOTrainer(
        model=vlm.model, reward_funcs=lambda **_: [0.0], args=args, processing_class=vlm.processor,
        train_dataset=IterableDataset.from_generator(lambda: iter([{"prompt": "a"}])),
    )  # fmt: skip
    trainer.current_gradient_accumulation_steps = 1
    trainer.model.eval()
    return trainer


def _inputs(vlm: VLM) -> dict[str, Any]:
    """The batch as TRL makes it: prompts padded on the left, answers on the right, an image for each row."""
    config = vlm.model.config
    rows = [(p, answer, a) for p, answers, gained in asked(vlm) for answer, a in zip(answers, gained, strict=True)]
    before = max(len(p.input_ids) for p, _, _ in rows)
    behind = max(len(answer) for _, answer, _ in rows)
    made = {name: torch.zeros((len(rows), before), dtype=torch.long) for name in ("prompt_ids", "prompt_mask")}
    made |= {name: torch.zeros((len(rows), behind), dtype=torch.long) for name in ("completion_ids", "completion_mask")}
    pixels = []
    for n, (prompt, answer, _) in enumerate(rows):
        ids = prompt.input_ids.clone()
        ids[ids == config.video_token_id] = config.image_token_id
        made["prompt_ids"][n, before - len(ids) :] = ids
        made["prompt_mask"][n, before - len(ids) :] = 1
        made["completion_ids"][n, : len(answer)] = answer
        made["completion_mask"][n, : len(answer)] = 1
        pixels.append(vlm.inputs([prompt])["pixel_values_videos"])
    types = (made["prompt_ids"] == config.image_token_id).int()
    return made | {
        "pixel_values": torch.cat(pixels),
        "image_grid_thw": torch.stack([p.visual.grid_thw for p, _, _ in rows if p.visual.grid_thw is not None]),
        "num_images": [1] * len(rows),
        "mm_token_type_ids": torch.cat([types, torch.zeros_like(made["completion_ids"]).int()], dim=1),
        "advantages": torch.tensor([a for _, _, a in rows]),
    }


@torch.no_grad()
def _log_probabilities(trainer: Any, inputs: dict[str, Any]) -> torch.Tensor:
    made: torch.Tensor = trainer._get_per_token_logps_and_entropies(
        trainer.model,
        torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1),
        torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1),
        inputs["completion_ids"].shape[1],
        **{k: inputs[k] for k in ("pixel_values", "image_grid_thw", "num_images", "mm_token_type_ids")},
    )[0]
    return made


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as root:
        Path(sys.argv[1]).write_text(json.dumps(by_trl(Path(root)), indent=1) + "\n", encoding="utf-8")
