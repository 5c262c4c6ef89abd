"""`python -m tests.fuzz NAME [-runs=N] [-max_total_time=SECONDS]`: a target under atheris, guided by coverage.

Atheris is no dependency of the project: install it beside it (`pip install atheris`). Inputs that were found go to the
folder of the session; one that fails is printed and kept as `crash-…` where the command was given.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).parent))
with atheris.instrument_imports(include=["rbft", "yaml"]):
    import targets
from seeds import SEEDS


def main() -> None:
    """Run one target."""
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name not in targets.TARGETS:
        sys.exit(f"{name or 'nothing'} is no target; there are {', '.join(targets.TARGETS)}")
    corpus = Path(tempfile.mkdtemp(prefix=f"rbft-corpus-{name}-"))
    for number, seed in enumerate(SEEDS[name]):
        (corpus / f"seed{number}").write_bytes(seed)
    atheris.Setup([sys.argv[0], str(corpus), "-timeout=20", "-max_len=8192", *sys.argv[2:]], targets.TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
