"""Peak memory of a whole zero-shot run at 100 and at 1,000 clips, each in a process of its own.

    python benchmarks/memory.py [--json]

The named alternative is the run itself at a tenth of the clips: the ratio is near 1 where memory does not grow.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from rbft.tiny.demo import EXPERIMENT
from rbft.tiny.night_yard import write_night_yard

CHILD = """
import json, resource, sys
import rbft
rbft.run(sys.argv[1], *sys.argv[2:], quiet=True)
print(json.dumps(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))
"""


def peak_megabytes(folder: Path, num_clips: int) -> float:
    """Peak resident memory, in MiB, of the process that runs zero-shot over `num_clips` test clips."""
    clips = write_night_yard(folder / f"clips-{num_clips}", num_train=20, num_test=num_clips - 20)
    settings = [
        f"clips={clips}",
        f"output={folder / f'runs-{num_clips}'}",
        "arms=[zero-shot]",
        "evaluation.resamples=200",
    ]
    child = [sys.executable, "-c", CHILD, str(EXPERIMENT), *settings]
    return float(json.loads(subprocess.run(child, check=True, capture_output=True, text=True).stdout.splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        few, many = (peak_megabytes(Path(folder), number) for number in (100, 1000))
    if arguments.json:
        print(json.dumps({"megabytes_100_clips": few, "megabytes_1000_clips": many, "ratio": many / few}))
    else:
        print(f"peak memory: {few:.0f} MiB at 100 clips, {many:.0f} MiB at 1,000 clips, ratio {many / few:.2f}")


if __name__ == "__main__":
    main()
