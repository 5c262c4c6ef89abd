"""A whole run on twice the clips: time, memory and decoding.

    python -m benchmarks.speed.growth

RB-FT on the embedded model and rendered clips, 60 and then 120 of them, each in a fresh process with a cold cache. A
constant start is part of both, so that time grows less than twice; what is promised is that it does not grow more.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

from benchmarks.speed.clips import folder
from benchmarks.speed.measuring import Row, main

from rbft.tiny.demo import EXPERIMENT
from rbft.tiny.night_yard import write_night_yard

FEW = 60
SETTINGS = ("arms=[rb-ft]", "seeds=[0]", "evaluation.resamples=200", "evaluation.batch_size=8", "training.batch_size=4",
            "training.micro_batch_size=4", "rationales.batch_size=8")  # fmt: skip
_CHILD = """
import json, resource, sys
import rbft
from rbft.clips import pool
asked = []
ask = pool.Reader.ask
def counting(self, request):
    reply = ask(self, request)
    asked.append(reply.decoded)
    return reply
pool.Reader.ask = counting
rbft.run(sys.argv[1], *sys.argv[2:], quiet=True)
own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
seconds = sum(used.ru_utime + used.ru_stime for used in (own, children))
print(json.dumps({"seconds": seconds, "megabytes": own.ru_maxrss / 1000, "decodes": sum(asked)}))
"""


def whole_run(root: Path, clips: int) -> dict[str, float]:
    """Processor seconds, peak memory in MB and decoded clips of one run."""
    manifest = write_night_yard(root / f"clips-{clips}", num_train=clips // 2, num_test=clips // 2)
    asked = [f"clips={manifest}", f"output={root / f'runs-{clips}'}", *SETTINGS]
    done = subprocess.run(
        [sys.executable, "-c", _CHILD, str(EXPERIMENT), *asked], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"a run failed:\n{done.stderr}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def rows(options: argparse.Namespace) -> list[Row]:
    with folder() as root:
        few, many = whole_run(root, FEW), whole_run(root, 2 * FEW)
    case = f"{2 * FEW} clips against {FEW}"
    made = {"phase": "growth", "case": case, "unit": "times", "promised": 1.0, "equal": "the same run"}
    return [
        Row(against="2.1 times the time", ours=many["seconds"] / few["seconds"], theirs=2.1, **made),
        Row(against="1.1 times the memory", ours=many["megabytes"] / few["megabytes"], theirs=1.1, **made),
        Row(against="one decode a clip", ours=many["decodes"] / (2 * FEW), theirs=1.0, **made),
    ]


if __name__ == "__main__":
    sys.exit(main(__doc__, rows))
