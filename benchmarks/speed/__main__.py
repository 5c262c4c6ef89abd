"""`make bench`: every phase beside what users have today, in one table; written to docs/performance.md.

python -m benchmarks.speed                              all phases, each in a process of its own
python -m benchmarks.speed --only read,score            some of them; the page keeps what the others measured
python -m benchmarks.speed --page                       the page again from what is measured
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from benchmarks.speed.measuring import Measured, at_least_one, show
from benchmarks.speed.page import REPORTS, write_page

from rbft.files import read_record

PHASES = (
    "read", "passes", "collate", "vision", "label_step", "rationale_step", "score", "generate", "rollout",
    "reinforce_step", "growth", "job",
)  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help=f"phases, with commas between them; all are {', '.join(PHASES)}")
    parser.add_argument("--repeats", type=at_least_one, default=5)
    parser.add_argument("--page", action="store_true", help="run nothing")
    options = parser.parse_args()
    wanted = PHASES if options.only is None else tuple(options.only.split(","))
    unknown = [phase for phase in wanted if phase not in PHASES]
    if unknown:
        parser.error(f"no phase {', '.join(unknown)}; phases are {', '.join(PHASES)}")
    failed = [] if options.page else [phase for phase in wanted if not measure(phase, options.repeats)]
    found = [read_record(path, Measured) for phase in PHASES if (path := REPORTS / f"{phase}.json").is_file()]
    write_page(found)
    show([row for measured in found for row in measured.rows])
    if failed:
        print(f"not measured: {', '.join(failed)}; see above", file=sys.stderr)
    kept = all(row.kept for measured in found for row in measured.rows)
    return 0 if kept and not failed else 1


def measure(phase: str, repeats: int) -> bool:
    """Run one benchmark; whether it wrote its rows."""
    path = REPORTS / f"{phase}.json"
    before = path.stat().st_mtime_ns if path.is_file() else None
    command = [sys.executable, "-m", f"benchmarks.speed.{phase}", "--repeats", str(repeats), "--json", str(path)]
    subprocess.run(command, cwd=Path(__file__).parents[2], check=False)
    return path.is_file() and path.stat().st_mtime_ns != before


if __name__ == "__main__":
    sys.exit(main())
