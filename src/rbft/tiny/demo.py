"""What `rbft demo` runs: the night yard's clips, rendered once, and the experiment on them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rbft.experiment import Experiment, load_experiment
from rbft.progress import Reporter
from rbft.tiny.night_yard import write_night_yard

EXPERIMENT = Path(__file__).parent / "night-yard.yaml"
NUM_TRAIN, NUM_TEST = 200, 200


def experiment(output: Path, overrides: Sequence[str], reporter: Reporter) -> Experiment:
    """Render the clips below `output`, where they are not there yet, and return the demo's experiment on them."""
    reporter.say(f"Rendering {NUM_TRAIN + NUM_TEST} night-camera clips (a second run finds them)")
    clips = write_night_yard(output / "night-yard", num_train=NUM_TRAIN, num_test=NUM_TEST, seed=0)
    return load_experiment(EXPERIMENT, [f"clips={clips}", f"output={output}", *overrides])
