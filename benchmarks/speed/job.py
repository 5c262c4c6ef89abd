"""The whole RB-FT job on clips of the night yard, against the same job composed from another tool's command lines.

    python -m benchmarks.speed.job [--peer swift|llamafactory] [--clips 200] [--repeats 2] [--json FILE]

The job, from the embedded model's checkpoint: (1) a rationale for every training clip, greedy; (2) stage I learns
them; (3) stage II learns the labels, from stage I's checkpoint; (4) the test clips are labelled. rbft does it with one
command, `rbft run` with the arm rb-ft and one seed, from a cold cache, and the peer with four: a user would write the
data files between them. Measured is the wall time of all processes of a side, imports and loading included, both sides
in turn, with OMP_NUM_THREADS=1, float32, no GPU and no model hub. Environments are made below build/peers before.

Equal on both sides: checkpoint, clips, prompts, no system message, 4 frames of 84 x 84 a clip, rationales of at most
64 tokens in batches of 64, 2 epochs a stage, 16 clips a step, AdamW, learning rate, cosine schedule, warm-up, weight
decay, clipping, no gradient checkpointing, one checkpoint a stage.

Not equal:

- rbft also audits the rationales, scores the labels beside writing them, measures four trivial baselines, computes
  intervals and writes a report with explained examples. All of that is in its time.
- Every tool has its own number of processes: rbft reads clips in one a processor, ms-swift in one beside the training
  process, LLaMA-Factory in the training process.
- rbft reads every clip once. ms-swift reads it once a command and epoch; LLaMA-Factory once more a command.
- rbft takes frames at the times of its plan; both peers take them evenly from the first to the last frame.
- LLaMA-Factory has one learning rate for all weights; the vision tower has its own in rbft and ms-swift.
- Both peers also learn the line break after the end of turn, one more token an answer.
- LLaMA-Factory imports torchaudio, whose newest release refuses torch 2.15; it runs on the torch that release is for.
- LLaMA-Factory trains with positions in time, height and width and predicts with plain ones: a fault that costs it
  no time, but rationales and accuracy.

docs/performance.md says what else was observed.

The row "each further clip" takes the start of processes out: the difference between the job on many and on few clips.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from benchmarks.speed.measuring import Row, at_least_one, in_turn, main
from benchmarks.speed.peers import NO_GPU_NO_HUB, Done, Job, Peer, children_seconds, do_job, job_of, read_lines
from benchmarks.speed.recipes import PEERS

from rbft.experiment import load_experiment
from rbft.tiny.demo import EXPERIMENT
from rbft.tiny.night_yard import write_night_yard

WORK = Path("build/job")
PROMISED = 3.0
FEW = 20
TEST_SHARE = 0.3


# -- the job -------------------------------------------------------------------------------------------------------


def overrides(clips: Path, output: Path) -> list[str]:
    """What the job changes of the demo's experiment file."""
    return [f"clips={clips}", f"output={output}", "arms=[rb-ft]", "seeds=[0]", "training.epochs=2"]


def write_job(num_clips: int) -> Job:
    """The job on so many clips, which are rendered where they are not there yet."""
    num_test = round(TEST_SHARE * num_clips)
    folder = WORK.absolute() / "night-yard"
    clips = write_night_yard(
        folder, num_train=num_clips - num_test, num_test=num_test, seed=0, manifest=f"clips-{num_clips}.csv"
    )
    return job_of(load_experiment(EXPERIMENT, overrides(clips, WORK.absolute() / "rbft")))


# -- our side ------------------------------------------------------------------------------------------------------


def do_ours(job: Job, output: Path) -> Done:
    """`rbft run` into a fresh folder, so from a cold cache."""
    command = [sys.executable, "-m", "rbft", "run", str(EXPERIMENT), *overrides(Path(job.experiment.clips), output)]
    begun, spent = time.perf_counter(), children_seconds()
    ended = subprocess.run(
        command,
        env={**os.environ, **NO_GPU_NO_HUB},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    seconds = time.perf_counter() - begun
    if ended.returncode:
        raise SystemExit(f"rbft run ended with {ended.returncode}:\n{ended.stderr[-3_000:]}")
    done = read_ours(job, output / job.experiment.name)
    return replace(done, processor_seconds=children_seconds() - spent, seconds={**done.seconds, "all": seconds})


def read_ours(job: Job, run: Path) -> Done:
    """What a run directory holds of the job. A step's time is its stage's, loading and saving included, by the step."""
    [texts], [predictions] = list(run.glob("rationales/*.jsonl")), list(run.glob("predictions/*.jsonl"))
    written = {line["clip_id"]: str(line["text"]) for line in read_lines(texts)}
    labels = {line["clip_id"]: str(line["label"]) for line in read_lines(predictions)}
    spent = {line["step"]: float(line["seconds"]) for line in read_lines(run / "timing.jsonl")}
    steps = {step: len(read_lines(run / "logs" / key / "losses.jsonl")) for step, key in _stages(run).items()}
    label = "train rb-ft: label"
    return Done(
        rationales=tuple(written[row.clip_id] for row in job.train if row.clip_id in written),
        answers=tuple(labels[row.clip_id] for row in job.test if row.clip_id in labels),
        label_step_ms=1_000 * spent[label] / steps[label],
        seconds=spent,
    )


def _stages(run: Path) -> dict[str, str]:
    lines = read_lines(run / "timing.jsonl")
    return {line["step"]: line["key"] for line in lines if str(line["step"]).startswith("train ")}


# -- comparing -----------------------------------------------------------------------------------------------------


def compared(job: Job, ours: Done, theirs: Done, title: str) -> str:
    """What is the same on both sides, in words; raises SystemExit where one side has not done all of the job."""
    for name, done in (("rbft", ours), (title, theirs)):
        found, wanted = (len(done.rationales), len(done.answers)), (len(job.train), len(job.test))
        if found != wanted:
            raise SystemExit(
                f"{name} wrote {found[0]} rationales and {found[1]} labels, not {wanted[0]} and {wanted[1]}"
            )
        if not all(text.strip() for text in done.rationales):
            raise SystemExit(f"{name} wrote an empty rationale; the jobs cannot be compared")
    same = sum(a.strip() == b.strip() for a, b in zip(ours.rationales, theirs.rationales, strict=True))
    agreed = sum(a == b.strip() for a, b in zip(ours.answers, theirs.answers, strict=True))
    return (
        f"{len(job.train)} rationales, {same} the same word for word; {len(job.test)} labels, {agreed} the same; "
        f"accuracy {accuracy(job, ours.answers):.1%} here, {accuracy(job, theirs.answers):.1%} there"
    )


def accuracy(job: Job, answers: Sequence[str]) -> float:
    """The share of test clips whose answer is their label."""
    return sum(answer.strip() == row.label for row, answer in zip(job.test, answers, strict=True)) / len(job.test)


@dataclass(frozen=True)
class Timed:
    """Both sides of one job, rbft's first: median seconds by the clock and of processors, and what they did last."""

    seconds: tuple[float, float]
    processors: tuple[float, float]
    ours: Done
    theirs: Done
    equal: str


def timed(peer: Peer, job: Job, repeats: int) -> Timed:
    """Do a job on both sides in turn, so many times, and compare what came of it."""
    ours: list[Done] = []
    theirs: list[Done] = []
    folder = WORK.absolute() / f"{peer.name}-{len(job.train) + len(job.test)}"
    shutil.rmtree(folder, ignore_errors=True)
    milliseconds = in_turn(
        lambda: ours.append(do_ours(job, folder / f"rbft-{len(ours)}")),
        lambda: theirs.append(do_job(peer, job, folder / f"{peer.name}-{len(theirs)}")),
        repeats=repeats,
        warm_up=0,
    )
    equal = compared(job, ours[-1], theirs[-1], peer.title)
    for name, sides in (("rbft", ours), (peer.title, theirs)):
        for done in sides:
            said = ", ".join(f"{step} {seconds:.1f}" for step, seconds in done.seconds.items())
            print(f"{name}, seconds: {said}; of processors {done.processor_seconds:.1f}", file=sys.stderr)
    spent = [statistics.median(done.processor_seconds for done in side) for side in (ours, theirs)]
    return Timed(
        seconds=(milliseconds[0] / 1_000, milliseconds[1] / 1_000),
        processors=(spent[0], spent[1]),
        ours=ours[-1],
        theirs=theirs[-1],
        equal=equal,
    )


def rows_of(peer: Peer, num_clips: int, repeats: int) -> list[Row]:
    """The job in wall and in processor time, a step of stage II, and what each further clip costs."""
    peer.environment.make()
    peer.environment.warm()
    against = peer.environment.title(peer.title)
    many = timed(peer, write_job(num_clips), repeats)
    rows = [
        _row(f"RB-FT, {num_clips} clips", against, many.seconds, "s", many.equal, promised=PROMISED),
        _row(
            f"RB-FT, {num_clips} clips",
            against,
            many.processors,
            "CPU s",
            "all processes together",
        ),
        _row(
            "a step of stage II, 16 clips",
            against,
            (many.ours.label_step_ms, many.theirs.label_step_ms),
            "ms",
            "by the logs; here with loading and saving the stage, there without",
        ),
    ]
    if num_clips > FEW:
        few = timed(peer, write_job(FEW), 1)
        rows += further_clips(against, few, many, num_clips - FEW)
    return rows


def further_clips(against: str, few: Timed, many: Timed, num_more: int) -> list[Row]:
    """What one more clip costs in wall and in processor time: the difference to the job on few clips."""
    wall = [1_000 * (large - small) / num_more for large, small in zip(many.seconds, few.seconds, strict=True)]
    spent = [1_000 * (large - small) / num_more for large, small in zip(many.processors, few.processors, strict=True)]
    took = f"the job on {FEW} clips took {few.seconds[0]:.0f} s here, {few.seconds[1]:.0f} s there"
    processors = f"{few.processors[0]:.0f} CPU s here, {few.processors[1]:.0f} CPU s there"
    return [
        _row("each further clip", against, (wall[0], wall[1]), "ms", took),
        _row("each further clip", against, (spent[0], spent[1]), "CPU ms", f"the job on {FEW} clips: {processors}"),
    ]


def _row(
    case: str,
    against: str,
    both: tuple[float, float],
    unit: Literal["s", "CPU s", "ms", "CPU ms"],
    equal: str,
    *,
    promised: float | None = None,
) -> Row:
    ours, theirs = both
    return Row(
        phase="whole job",
        case=case,
        against=against,
        ours=ours,
        theirs=theirs,
        unit=unit,
        promised=promised,
        equal=equal,
    )


# -- command line --------------------------------------------------------------------------------------------------


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--peer", choices=sorted(PEERS), help="one of the peers (default: both)")
    parser.add_argument(
        "--clips", type=at_least_one, default=200, help="clips of the night yard, 30 %% of them for the test"
    )
    parser.set_defaults(repeats=2)


def rows(options: argparse.Namespace) -> list[Row]:
    chosen = [options.peer] if options.peer else list(PEERS)
    return [row for name in chosen for row in rows_of(PEERS[name](), options.clips, options.repeats)]


if __name__ == "__main__":
    sys.exit(main(__doc__, rows, add_options))
