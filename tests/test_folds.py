"""Cross-validation on clips without a split: every clip is tested once, and the folds are pooled."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import yaml
from benchmarks import folds, page

from rbft.errors import UserError
from rbft.experiment import Experiment, load_experiment
from rbft.results import Report
from reports import arm, report

FIGHT = Path(__file__).parents[1] / "examples" / "fight.yaml"


def test_every_fold_is_a_run_of_its_own(tmp_path: Path) -> None:
    runs = folds.experiments(load_experiment(FIGHT, ["seeds=[3]"]), 5, tmp_path)
    assert [(run.name, run.split.folds, run.split.fold) for run in runs] == [
        (f"fight-{n}-of-5", 5, n) for n in range(1, 6)
    ]
    assert {(run.output, run.seeds) for run in runs} == {(tmp_path.as_posix(), (3,))}


def write_experiment(folder: Path) -> Path:
    clips = folder / "clips.csv"
    clips.write_text("path,label\n" + "".join(f"{n}.mp4,{'ab'[n % 2]}\n" for n in range(4)), encoding="utf-8")
    settings = load_experiment(FIGHT).model_dump(mode="json", include={"prompts", "domain"})
    document = settings | {"clips": str(clips), "model": "embedded", "labels": ["a", "b"], "arms": ["direct", "rb-ft"]}
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(document | {"seeds": [0, 1]}), encoding="utf-8")
    return path


def test_folds_are_pooled(tmp_path: Path) -> None:
    """Two folds of two clips: `direct` is right on 3 of 4 clips in seed 0 and on all in seed 1, `rb-ft` on one half."""
    file, root = write_experiment(tmp_path), tmp_path / "runs"
    wrong = {("direct", 0): {"c3"}, ("direct", 1): set(), ("rb-ft", 0): {"c0", "c1"}, ("rb-ft", 1): {"c2", "c3"}}
    truth = {"c0": "a", "c1": "b", "c2": "a", "c3": "b"}
    ran: list[str] = []

    def work(experiment: Experiment, reporter: Any) -> Report:
        ran.append(experiment.name)
        tested = ["c0", "c1"] if experiment.split.fold == 1 else ["c2", "c3"]
        for (name, seed), mistakes in wrong.items():
            path = root / experiment.name / "predictions" / f"{name}-seed{seed}.csv"
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("w", encoding="utf-8", newline="") as out:
                writer = csv.writer(out)
                writer.writerow(["clip_id", "label", "predicted"])
                for clip in tested:
                    other = {"a": "b", "b": "a"}[truth[clip]]
                    writer.writerow([clip, truth[clip], other if clip in mistakes else truth[clip]])
        arms = {name: arm(0.5, 10 * int(experiment.split.fold or 0)) for name in ("direct", "rb-ft")}
        made = report(arms, [], baselines={"duration": 0.5 if experiment.split.fold == 1 else 1.0},
                      experiment={"model": "embedded", "evaluation": {"resamples": 200}})  # fmt: skip
        data = made.dataset.model_copy(update={"train": 2, "test": 2, "labels": {"a": 1, "b": 1}})
        return made.model_copy(update={"dataset": data})

    found = folds.run_folds(load_experiment(file), 2, root, folds.Prefixed("folds"), work)
    assert ran == ["tiny-1-of-2", "tiny-2-of-2"]
    assert found.arms["direct"].accuracy.per_seed == (0.75, 1.0)
    assert found.arms["rb-ft"].accuracy.per_seed == (0.5, 0.5)
    assert (found.labels, found.train, found.baselines) == ({"a": 2, "b": 2}, (2, 2), {"duration": 0.75})
    assert found.arms["direct"].num_steps == 20
    assert found.seconds == 2 * 754
    difference = next(c for c in found.comparisons if c.metric == "accuracy")
    assert (difference.a, difference.b, difference.difference) == ("direct", "rb-ft", -0.375)
    text = page.render({}, {}, folded=[found])
    assert "## Real clips: tiny, 2 folds\n\n* 4 clips (2 a, 2 b), each tested once, by models" in text
    assert "| _always a_ | 50.0 | – | – | – | – |\n| _duration alone_ | 75.0 | – | – | – | – |\n" in text
    assert "cross-validation" not in text
    assert "| rb-ft − direct | −37.5 |" in text, "without direct-matched every pair is shown"


def test_one_fold_is_refused() -> None:
    with pytest.raises(UserError, match="--folds 1: cross-validation takes 2 or more"):
        folds.main(["--folds", "1"])
