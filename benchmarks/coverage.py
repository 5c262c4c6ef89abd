"""Do 95 % intervals cover in 95 % of cases, and do tests err in at most 5 %? Measured over a stated grid.

Exact, by summing over every possible count: Wilson's interval of one run, and McNemar's test of two. Simulated: what
the report says about arms with one or more seeds. Clips differ in difficulty, arms in which clips they find hard, seeds
in skill; a is compared with b, which is as good, and with c, which is better by `GAIN`. Truth is the expected score on
new clips and, with several seeds, new seeds. One label has 65 % of the clips.

    python benchmarks/coverage.py            the whole grid, about two minutes of one processor
    python benchmarks/coverage.py --quick    a sixth of it

Exits with 1 where a promise is broken: mean coverage from 93 to 97 %, mean error rate at most 5 %.
"""

from __future__ import annotations

import argparse
import bisect
import itertools
import sys
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy import optimize, stats

from rbft.evaluation import bootstrap
from rbft.evaluation.metrics import Answers, mcnemar, wilson
from rbft.evaluation.significance import ALPHA
from rbft.evaluation.verdict import CANNOT_TELL, accuracy_estimate, compare_answers, score_estimate

ACCURACIES = (0.6, 0.75, 0.9)
CLIPS = (200, 500)
SEEDS_AND_SPREADS = ((1, 0.0), *itertools.product((2, 3, 5), (0.0, 0.02, 0.04)))
"""Seeds of an arm, and the standard deviation of accuracy between seeds."""
GAIN = 0.05
SCORES = {"accuracy": bootstrap.accuracy_of, "macro_f1": bootstrap.macro_f1_of}
MAJORITY = 0.65
PROMISED_COVERAGE, PROMISED_ERROR = (0.93, 0.97), 0.05
DIFFICULTY, TASTE = 2.0, 1.0
"""Standard deviations, in log-odds, of how hard clips are for all arms, and for one arm beyond that."""
INTERVALS = ("accuracy", "macro_f1", "accuracy difference", "macro_f1 difference")
ERRORS = ("accuracy p", "macro_f1 p", "accuracy verdict", "macro_f1 verdict")
_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(61)
_WEIGHTS = _WEIGHTS / _WEIGHTS.sum()


# -- exact ---------------------------------------------------------------------------------------------------------


def wilson_coverage(share: float, clips: int) -> float:
    """Probability that Wilson's interval of a run on so many clips holds the true accuracy."""
    held = [low <= share <= high for low, high in _wilson_bounds(clips)]
    return float(stats.binom.pmf(np.arange(clips + 1), clips, share)[held].sum())


@cache
def _wilson_bounds(clips: int) -> list[tuple[float, float]]:
    found = [wilson(right, clips) for right in range(clips + 1)]
    return [(interval.low, interval.high) for interval in found]


def mcnemar_error(discordant: float, clips: int) -> float:
    """Probability of p < 5 % for equal arms that differ on a share of the clips."""
    differing = np.arange(clips + 1)
    return float(stats.binom.pmf(differing, clips, discordant) @ [_mcnemar_size(int(m)) for m in differing])


@cache
def _mcnemar_size(differing: int) -> float:
    """Probability of p < 5 % given how many clips differ: both tails up to the largest count that is rejected."""
    rejected = bisect.bisect_left(range(differing // 2 + 1), True, key=lambda k: mcnemar(differing - k, k) >= ALPHA)
    return float(2 * stats.binom.cdf(rejected - 1, differing, 0.5)) if rejected else 0.0


# -- simulated -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cell:
    """One place of the grid."""

    seeds: int
    spread: float
    accuracy: float
    clips: int


@dataclass(frozen=True)
class Skill:
    """An arm's log-odds and what they come to: the expected accuracy and macro F1 over clips and seeds."""

    log_odds: float
    seed_sd: float
    accuracy: float
    macro_f1: float


@dataclass
class Tally:
    """Outcomes by name: whether an interval held the truth, whether equal arms were told apart."""

    outcomes: dict[str, list[bool]] = field(default_factory=dict)

    def add(self, name: str, outcome: bool) -> None:
        """One more trial."""
        self.outcomes.setdefault(name, []).append(bool(outcome))

    def rate(self, name: str) -> float:
        """Share of trials; nan without one."""
        return float(np.mean(self.outcomes[name])) if name in self.outcomes else float("nan")

    @staticmethod
    def joined(parts: Sequence[Tally]) -> Tally:
        """All outcomes of several tallies."""
        whole = Tally()
        for part in parts:
            for name, found in part.outcomes.items():
                whole.outcomes.setdefault(name, []).extend(found)
        return whole


@cache
def skill(accuracy: float, seed_spread: float) -> Skill:
    """The arm of that accuracy over seeds, whose seeds have that standard deviation of accuracy."""
    clip_sd = float(np.hypot(DIFFICULTY, TASTE))

    def of_seed(log_odds: np.ndarray) -> np.ndarray:
        return (1 / (1 + np.exp(-(np.asarray(log_odds)[..., None] + clip_sd * _NODES)))) @ _WEIGHTS

    def over_seeds(log_odds: float, seed_sd: float) -> np.ndarray:
        return of_seed(log_odds + seed_sd * _NODES)

    def log_odds_of(seed_sd: float) -> float:
        return float(optimize.brentq(lambda m: over_seeds(m, seed_sd) @ _WEIGHTS - accuracy, -12, 12))

    def excess(seed_sd: float) -> float:
        found = over_seeds(log_odds_of(seed_sd), seed_sd)
        return float(np.sqrt((found - accuracy) ** 2 @ _WEIGHTS)) - seed_spread

    seed_sd = float(optimize.brentq(excess, 0, 4)) if seed_spread else 0.0
    log_odds = log_odds_of(seed_sd)
    right = over_seeds(log_odds, seed_sd)
    f1 = [2 * s * right / (s + s * right + (1 - s) * (1 - right)) for s in (MAJORITY, 1 - MAJORITY)]
    return Skill(log_odds, seed_sd, accuracy, float(np.mean(f1, axis=0) @ _WEIGHTS))


def trial(rng: np.random.Generator, cell: Cell, skills: Sequence[Skill]) -> list[Answers]:
    """What arms of those skills answer on the same new clips."""
    truth = (np.arange(cell.clips) >= MAJORITY * cell.clips).astype(np.int64)
    hard = rng.normal(0, DIFFICULTY, cell.clips)
    arms = []
    for arm in skills:
        seeds = rng.normal(0, arm.seed_sd, (cell.seeds, 1)) if arm.seed_sd else np.zeros((cell.seeds, 1))
        log_odds = arm.log_odds + hard + rng.normal(0, TASTE, cell.clips) + seeds
        right = rng.random(log_odds.shape) < 1 / (1 + np.exp(-log_odds))
        arms.append(Answers(("a", "b"), truth, np.where(right, truth, 1 - truth)))
    return arms


def simulate(cell: Cell, trials: int, *, resamples: int = 500, with_macro_f1: bool = True) -> Tally:
    """Seeded trials of a cell; arms are compared in macro F1 in every fourth, because its test is slow."""
    rng = np.random.default_rng(zlib.crc32(repr(cell).encode()))
    equal, better = skill(cell.accuracy, cell.spread), skill(cell.accuracy + GAIN, cell.spread)
    tally = Tally()
    for number in range(trials):
        a, b, c = trial(rng, cell, (equal, equal, better))
        how = {"resamples": resamples, "seed": number}
        found = accuracy_estimate(b, **how)
        tally.add("accuracy", found.low <= equal.accuracy <= found.high)
        if with_macro_f1:
            found = score_estimate(bootstrap.macro_f1_of(b), **how)
            tally.add("macro_f1", found.low <= equal.macro_f1 <= found.high)
        for metric in ("accuracy", "macro_f1") if with_macro_f1 and number % 4 == 0 else ("accuracy",):
            none = compare_answers(a, b, names=("a", "b"), metric=metric, **how)
            some = bootstrap.spread(bootstrap.difference_of(*map(SCORES[metric], (a, c))), **how)
            gain = getattr(better, metric) - getattr(equal, metric)
            tally.add(f"{metric} difference", none.low <= 0.0 <= none.high)
            tally.add(f"{metric} difference", some.low <= gain <= some.high)
            tally.add(f"{metric} p", none.p < ALPHA)
            tally.add(f"{metric} verdict", not none.verdict.startswith(CANNOT_TELL))
    return tally


def cells(quick: bool) -> Iterator[Cell]:
    """The grid; the quick one has one accuracy and one number of clips."""
    for (seeds, spread), accuracy, clips in itertools.product(SEEDS_AND_SPREADS, ACCURACIES, CLIPS):
        if not quick or (accuracy, clips) == (ACCURACIES[1], CLIPS[0]):
            yield Cell(seeds, spread, accuracy, clips)


# -- printing ------------------------------------------------------------------------------------------------------


def exact_table() -> Table:
    table = Table(
        "clips", *(f"{100 * p:.0f} %" for p in (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)), "McNemar: 5 %", "20 %", "40 %"
    )
    for clips in (200, 300, 500, 1000):
        covered = [wilson_coverage(p, clips) for p in (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)]
        errors = [mcnemar_error(d, clips) for d in (0.05, 0.2, 0.4)] if clips <= 500 else []
        table.add_row(str(clips), *(f"{100 * v:.1f}" for v in covered + errors))
    return table


def row(name: str, tally: Tally) -> list[str]:
    return [name, *(f"{100 * tally.rate(n):.1f}" for n in (*INTERVALS, *ERRORS))]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one accuracy, one number of clips")
    parser.add_argument("--trials", type=int, default=40, help="simulations of each cell")
    parser.add_argument("--resamples", type=int, default=500, help="bootstrap resamples")
    asked = parser.parse_args()
    console = Console(width=160)
    console.print("Exact, in per cent: Wilson's coverage by true accuracy; McNemar's errors by discordant share")
    console.print(exact_table())
    found: dict[Cell, Tally] = {}
    for cell in cells(asked.quick):
        found[cell] = simulate(cell, asked.trials, resamples=asked.resamples)
        print(cell, f"accuracy interval {100 * found[cell].rate('accuracy'):.0f} %", file=sys.stderr, flush=True)
    table = Table("", *(f"{n} covers" for n in INTERVALS), *(f"{n} errs" for n in ERRORS))
    for axis in ("seeds", "spread", "accuracy", "clips"):
        for value in dict.fromkeys(getattr(cell, axis) for cell in found):
            table.add_row(
                *row(f"{axis} {value}", Tally.joined([t for c, t in found.items() if getattr(c, axis) == value]))
            )
        table.add_section()
    for seeds, spread in SEEDS_AND_SPREADS:
        part = [t for c, t in found.items() if (c.seeds, c.spread) == (seeds, spread)]
        table.add_row(*row(f"{seeds} seeds, {spread}", Tally.joined(part)))
    table.add_section()
    whole = Tally.joined(list(found.values()))
    table.add_row(*row("all", whole))
    console.print(f"{len(found)} cells of {asked.trials} trials (macro F1 compared in a quarter), in per cent")
    console.print(table)
    low, high = PROMISED_COVERAGE
    kept = all(low <= whole.rate(n) <= high for n in INTERVALS) and all(whole.rate(n) <= PROMISED_ERROR for n in ERRORS)
    console.print("promise kept" if kept else "PROMISE BROKEN", style="green" if kept else "red")
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
