"""`make map`: where rationales pay, over severity of the shift, label rule and number of labelled clips.

    python -m benchmarks.map                                  18 settings, three seeds
    python -m benchmarks.map --only mild-three-50,mild-three-200
    python -m benchmarks.map --arms rb-ft-joint               a map of this arm too, against a control of its own

Interrupted, the same command continues; after the end it runs nothing and writes the same document and pictures. What
stands in docs/evidence is not measured again, as for `make evidence`. The first setting that is run says how long
the others will take.
"""

from __future__ import annotations

import argparse
import io
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from benchmarks.evidence import arguments, chosen, guarded, with_seeds
from benchmarks.grid import arms_of, gains, image
from benchmarks.page import current_cells, write_document
from benchmarks.running import Prefixed, experiment_of, finished, reports_of, run_all, use_one_thread
from benchmarks.tables import CELLS, MAP_CLIPS, MAP_RULES, MAP_SEVERITIES, Cell, Task
from matplotlib import cm, colors
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from rbft.experiment import Experiment
from rbft.progress import Reporter
from rbft.report.tables import points
from rbft.results import Comparison

_COLOURS = "PuOr"
"""Orange is behind, purple ahead: told apart with every common kind of colour blindness."""
_MIDDLE = MAP_CLIPS[1]

_DARK = 0.45
"""Below this luminance a cell is written in white."""


def steps_of(experiment: Experiment, clips: int) -> int:
    """About how many optimizer steps an experiment takes: direct has one share, rb-ft and its control two each."""
    recipe = experiment.training
    per_stage = math.ceil(clips / recipe.batch_size) * recipe.epochs
    trained = [arm for arm in experiment.arms if arm.stages]
    stages = sum(2 if arm.stages[0].match_steps_of else len(arm.stages) for arm in trained)
    return round(per_stage * stages * len(experiment.seeds))


def run_map(tasks: Sequence[Task], root: Path, reports: Path, *, jobs: int, reporter: Reporter) -> None:
    """Run one setting, say how long the others will take, run them. The first one has the middle number of clips."""
    pending = [task for task in tasks if finished(task, root, reports) is None]
    if len(pending) < len(tasks):
        reporter.say(f"{len(tasks) - len(pending)} of {len(tasks)} settings are measured already, in {reports}")
    if not pending:
        return
    first = next((task for task in pending if task.yard.num_train == _MIDDLE), pending[0])
    start = time.monotonic()
    run_all([first], root, reports, jobs=1, reporter=reporter)
    seconds = time.monotonic() - start
    rest = [task for task in pending if task is not first]
    if rest:
        reporter.say(estimate(first, seconds, rest, root, jobs))
        run_all(rest, root, reports, jobs=jobs, reporter=reporter)


def estimate(first: Task, seconds: float, rest: Sequence[Task], root: Path, jobs: int) -> str:
    """How long the other settings will take, by their optimizer steps."""

    def steps(task: Task) -> int:
        return steps_of(experiment_of(task, root), task.yard.num_train)

    minutes = seconds / steps(first) * sum(map(steps, rest)) / jobs / 60
    return (
        f"{first.key} took {seconds / 60:.1f} minutes for {steps(first):,} optimizer steps; the other {len(rest)} "
        f"settings will take about {minutes:.0f} minutes with {jobs} {'processes' if jobs > 1 else 'process'}"
    )


# -- the picture ---------------------------------------------------------------------------------------------------


def draw(found: Mapping[Cell, Comparison], arm: str) -> bytes:
    """A heat map of an arm's gains as PNG, a panel for each rule; a setting that was not measured is left white.

    Each cell has the gain in points of macro-F1 and its 95 % interval; it is bold where the interval leaves out zero.
    """
    limit = max((abs(c.difference) for c in found.values()), default=0.0)
    limit = max(math.ceil(100 * limit / 5) * 5, 5)
    figure = Figure(figsize=(10.5, 4.3), layout="constrained", dpi=120)
    panels = figure.subplots(1, len(MAP_RULES))
    drawn = cm.ScalarMappable(colors.Normalize(-limit, limit), _COLOURS)
    for axes, rule in zip(panels, MAP_RULES, strict=True):
        rows = [[found.get(Cell(severity, rule, clips)) for clips in MAP_CLIPS] for severity in MAP_SEVERITIES]
        values = [[math.nan if c is None else 100 * c.difference for c in row] for row in rows]
        axes.imshow(values, cmap=drawn.cmap, norm=drawn.norm, aspect="auto")
        axes.set_title(f"label rule: {rule}")
        axes.set_xticks(range(len(MAP_CLIPS)), [str(clips) for clips in MAP_CLIPS])
        axes.set_yticks(range(len(MAP_SEVERITIES)), list(MAP_SEVERITIES))
        axes.set_xlabel("labelled training clips")
        axes.set_ylabel("severity of the shift")
        for y, row in enumerate(rows):
            for x, comparison in enumerate(row):
                _write(axes, x, y, comparison, drawn)
    figure.colorbar(drawn, ax=panels, label=f"{arm} − control, points of macro-F1")
    FigureCanvasAgg(figure)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", metadata={"Software": None})
    return stream.getvalue()


def _write(axes: Axes, x: int, y: int, comparison: Comparison | None, drawn: cm.ScalarMappable) -> None:
    if comparison is None:
        text, colour, weight = "not measured", "0.45", "normal"
    else:
        text = f"{points(comparison.difference)}\n({points(comparison.low)} to {points(comparison.high)})"
        red, green, blue, _ = drawn.to_rgba(np.array([100 * comparison.difference]))[0]
        colour = "white" if 0.2126 * red + 0.7152 * green + 0.0722 * blue < _DARK else "black"
        weight = "normal" if comparison.low <= 0 <= comparison.high else "bold"
    axes.text(x, y, text, ha="center", va="center", fontsize=9, color=colour, fontweight=weight)


def write_pictures(reports: Path, images: Path) -> None:
    """Draw the map of every arm that was measured; an equal picture is left as it is."""
    cells = current_cells(reports)
    for arm in arms_of(cells) if cells else []:
        path, picture = images / image(arm), draw(gains(cells, arm), arm)
        if not path.is_file() or path.read_bytes() != picture:
            images.mkdir(parents=True, exist_ok=True)
            path.write_bytes(picture)


def parser() -> argparse.ArgumentParser:
    """The options of the map."""
    made = arguments("Where rationales pay.", "settings, separated by commas, as mild-three-50")
    made.add_argument("--arms", default="", help="presets to map beside rb-ft, separated by commas")
    return made


def main(argv: Sequence[str] | None = None) -> None:
    """Run the settings that are not finished, draw, and write the document."""
    args = parser().parse_args(argv)
    use_one_thread()
    reports = reports_of(args.out)
    names = chosen(args.only, [cell.name for cell in CELLS], "setting")
    arms = [arm.strip() for arm in args.arms.split(",") if arm.strip()]
    overrides = with_seeds(args.overrides, args.seeds)
    tasks = [cell.task(arms, overrides, args.test or 200) for cell in CELLS if cell.name in names]
    reporter = Prefixed("map")
    run_map(tasks, args.root, reports, jobs=args.jobs, reporter=reporter)
    write_pictures(reports, args.out.parent / "images")
    write_document(args.root, args.out)
    reporter.say(f"{args.out}: {len(tasks)} settings")


if __name__ == "__main__":
    guarded(main)
