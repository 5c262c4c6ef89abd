"""Coverage and error rates: exact for one run, and a small seeded part of the grid of `benchmarks/coverage.py`."""

from __future__ import annotations

import importlib.util
import itertools
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest


@pytest.fixture(scope="module")
def coverage() -> ModuleType:
    """The benchmark as a module."""
    path = Path(__file__).parents[2] / "benchmarks" / "coverage.py"
    spec = importlib.util.spec_from_file_location("benchmark_coverage", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_wilsons_interval_covers_on_every_place_of_the_grid(coverage: ModuleType) -> None:
    grid = itertools.product(np.arange(0.5, 0.96, 0.01), (200, 300, 500))
    found = [coverage.wilson_coverage(float(share), clips) for share, clips in grid]
    assert min(found) > 0.93
    assert max(found) < 0.975
    assert np.mean(found) == pytest.approx(0.95, abs=0.003)


def test_mcnemars_test_never_errs_in_more_than_five_of_a_hundred(coverage: ModuleType) -> None:
    found = [coverage.mcnemar_error(share, 200) for share in (0.01, 0.05, 0.1, 0.2, 0.3, 0.5)]
    assert max(found) <= 0.05
    assert found == sorted(found)
    assert found[-1] > 0.035


def test_simulated_arms_have_the_accuracy_and_the_spread_that_they_are_said_to_have(coverage: ModuleType) -> None:
    cell = coverage.Cell(seeds=400, spread=0.04, accuracy=0.75, clips=2000)
    skill = coverage.skill(cell.accuracy, cell.spread)
    [answers] = coverage.trial(np.random.default_rng(0), cell, [skill])
    per_seed = answers.correct.mean(axis=1)
    assert per_seed.mean() == pytest.approx(0.75, abs=0.02)
    assert per_seed.std() == pytest.approx(0.04, abs=0.006)
    f1 = coverage.bootstrap.macro_f1_of(answers)
    assert f1.score(f1.per_clip.sum(axis=0)[None]).mean() == pytest.approx(skill.macro_f1, abs=0.02)


def test_intervals_cover_and_tests_err_as_promised_where_seeds_differ_much(coverage: ModuleType) -> None:
    """Few seeds that vary by four points are the hardest place: too narrow an interval shows here first."""
    parts = [
        coverage.simulate(coverage.Cell(seeds, 0.04, 0.75, 200), 80, resamples=200, with_macro_f1=False)
        for seeds in (2, 3, 5)
    ]
    whole = coverage.Tally.joined(parts)
    # Nominal 95 %; the standard error of 240 trials is 1.4 points, of 480 one point.
    assert 0.92 <= whole.rate("accuracy") <= 0.98
    assert 0.92 <= whole.rate("accuracy difference") <= 0.98
    assert whole.rate("accuracy p") <= 0.07
    assert whole.rate("accuracy verdict") <= 0.07
