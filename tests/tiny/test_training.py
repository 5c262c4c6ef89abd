"""An interrupted training continues to the same weights."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from rbft.tiny import train as training
from rbft.tiny.augment import GRIDS, augmented, regridded
from rbft.tiny.pool import Pool, open_pool
from rbft.tiny.schedule import FLOOR, rate_at, read_progress
from rbft.tiny.train import Settings, epoch_rows, train

SETTINGS = Settings(
    vision_steps=2, language_steps=3, vision_batch=4, language_batch=4, tokens_per_clip=60, save_every_seconds=0.0
)


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    return open_pool(tmp_path_factory.mktemp("pool"), 8, seed=1, workers=1)


def weights(trainee: training.Trainee) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in trainee.model.named_parameters()}


def test_an_interrupted_run_ends_with_the_same_weights(
    pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight = weights(train(tmp_path / "straight", pool, SETTINGS))
    honest = training.language_loss

    def interrupted(*args: object) -> object:
        if args[2] == 2:
            raise KeyboardInterrupt
        return honest(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(training, "language_loss", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "broken", pool, SETTINGS)
    progress = read_progress(tmp_path / "broken")
    assert progress is not None and (progress.phase, progress.step, progress.total) == ("language", 2, 3)
    monkeypatch.setattr(training, "language_loss", honest)
    continued = weights(train(tmp_path / "broken", pool, SETTINGS, resume=True))
    assert straight.keys() == continued.keys()
    for name, value in straight.items():
        assert torch.equal(value, continued[name]), name
    assert (tmp_path / "straight" / "log.jsonl").read_text().count('"phase": "language"') == 1


def test_another_seed_is_not_continued(pool: Pool, tmp_path: Path) -> None:
    train(tmp_path, pool, SETTINGS)
    with pytest.raises(ValueError, match="holds a run with seed 0, not 5; choose another --out"):
        train(tmp_path, pool, Settings(seed=5), resume=True)


def test_the_rate_warms_up_and_falls_to_the_floor() -> None:
    rates = [rate_at(step, 200) for step in range(200)]
    assert rates[0] == pytest.approx(0.1) and max(rates) == 1.0
    assert rates.index(1.0) == 9 and rates[-1] == pytest.approx(FLOOR, abs=1e-3)
    assert rates[10:] == sorted(rates[10:], reverse=True)


def test_an_epoch_takes_every_clip_once() -> None:
    rows = [row for step in range(5) for row in epoch_rows(20, 4, 0, step)]
    assert sorted(rows) == list(range(20))
    assert epoch_rows(20, 4, 0, 5).tolist() != epoch_rows(20, 4, 0, 0).tolist()


def test_changes_are_drawn_from_their_generator_and_stay_pixels(pool: Pool) -> None:
    frames = torch.from_numpy(pool.frames[:8].copy()).float()
    first, second = (augmented(frames, torch.Generator().manual_seed(2)) for _ in range(2))
    assert torch.equal(first, second) and not torch.equal(first, frames)
    assert float(first.min()) >= 0 and float(first.max()) <= 255
    sizes = {tuple(regridded(frames[:1], torch.Generator().manual_seed(n), 1.0).shape[2:4]) for n in range(40)}
    assert sizes == set(GRIDS)
