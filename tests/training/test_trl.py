"""Our GRPO beside TRL's on the same answers about images: log-probabilities, loss and gradients to 1e-5."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from rbft.models.score import score_group
from rbft.models.vlm import VLM
from rbft.training.reinforce import grpo_loss, is_clipped
from trl_grpo import BETA, FIXTURE, RATIOS, asked, gradients, models

TRL = json.loads(FIXTURE.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def vlms(tmp_path_factory: pytest.TempPathFactory) -> dict[str, VLM]:
    return models(tmp_path_factory.mktemp("trl"))


def test_log_probabilities_are_trls(vlms: dict[str, VLM]) -> None:
    """An image to TRL, a clip of one frame to us; answers as a tree here, as padded rows there."""
    rows = []
    for prompt, answers, _ in asked(vlms["policy"]):
        made = score_group(vlms["policy"], prompt, answers, temperature=1.0)
        rows += [row[: len(a)].tolist() for row, a in zip(made.log_probabilities.detach(), answers, strict=True)]
    assert [len(row) for row in rows] == [len(row) for row in TRL["log_probabilities"]]
    for row, theirs in zip(rows, TRL["log_probabilities"], strict=True):
        assert row == pytest.approx(theirs, abs=1e-5)


@pytest.mark.parametrize("update", ["first", "later"])
def test_loss_and_gradients_are_trls(update: str, vlms: dict[str, VLM]) -> None:
    """Two images, three answers each, from the head to the pixels; of a later update with ratios beyond both ends."""
    vlms["policy"].model.zero_grad()
    total, beyond = 0.0, 0
    for prompt, answers, gained in asked(vlms["policy"]):
        scored: dict[str, Any] = {
            name: score_group(vlm, prompt, answers, temperature=1.0) for name, vlm in vlms.items()
        }
        policy, reference, old = (scored[name].log_probabilities for name in ("policy", "reference", "old"))
        advantages, mask = torch.tensor(gained), scored["policy"].mask
        before = old.detach() if update == "later" else None
        loss = grpo_loss(policy, reference.detach(), advantages, mask, BETA, before, RATIOS) / 2
        loss.backward()
        total += loss.item()
        beyond += int((is_clipped((policy - old).exp(), advantages, RATIOS) * mask).sum())
    assert beyond > 10, "else nothing would be shown about clipping"
    assert total == pytest.approx(TRL[update]["loss"], abs=1e-5)
    for name, values in gradients(vlms["policy"]).items():
        assert values == pytest.approx(TRL[update]["gradients"][name], abs=1e-5), name
        assert any(abs(value) > 1e-4 for value in values), name


@pytest.mark.skipif(importlib.util.find_spec("trl") is None, reason="trl is not installed: its numbers are kept")
def test_the_kept_numbers_are_what_trl_says_now(tmp_path: Path) -> None:
    script = Path(sys.modules["trl_grpo"].__file__ or "")
    subprocess.run([sys.executable, str(script), str(tmp_path / "now.json")], check=True, capture_output=True)
    now = json.loads((tmp_path / "now.json").read_text(encoding="utf-8"))
    assert now["first"]["loss"] == pytest.approx(TRL["first"]["loss"], abs=1e-5)
    assert now["later"]["loss"] == pytest.approx(TRL["later"]["loss"], abs=1e-5)
