"""What memory was expected and chosen: the record of it, its table, and the words when memory runs out. No torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rbft.errors import ShortMemoryError
from rbft.models.memory import GIB, MIB
from rbft.records import Record

MOST_CLIPS = 256
"""The largest batch that is looked for."""


class PhaseRow(Record):
    """One line of the table: a phase with so many clips at once. `most_clips` is the largest batch that fits."""

    phase: str
    clips: int
    weights: int
    state: int
    work: int
    most_clips: int
    chosen: bool

    @property
    def total(self) -> int:
        """Bytes at the peak."""
        return self.weights + self.state + self.work


class MemoryPlan(Record):
    """What was expected and chosen; bytes. `recipes` say how stages are trained, `why_lora` why it is not in full."""

    model: str
    device: str
    device_bytes: int
    budget_bytes: int
    parameters: int
    median_tokens: int
    median_visual_tokens: int
    largest_tokens: int
    largest_visual_tokens: int
    rows: tuple[PhaseRow, ...]
    recipes: tuple[str, ...] = ()
    why_lora: str | None = None

    def lines(self) -> list[str]:
        """The table, for a terminal of any width."""
        return [
            f"Memory: {self.model}, {_parameters(self.parameters)} parameters, on {self.device} with "
            f"{size(self.device_bytes)}, {size(self.budget_bytes)} of them for tensors",
            f"Tokens per clip: {self.median_tokens:,} (median: {self.median_visual_tokens:,} visual, "
            f"{self.median_tokens - self.median_visual_tokens:,} text), {self.largest_tokens:,} (largest: "
            f"{self.largest_visual_tokens:,} visual, {self.largest_tokens - self.largest_visual_tokens:,} text)",
            *_table(self.rows),
            *self.recipes,
            *([] if self.why_lora is None else [self.why_lora]),
        ]


def size(count: int) -> str:
    """Bytes in GiB, below one in MiB."""
    return f"{count / GIB:,.1f} GiB" if count >= GIB else f"{count / MIB:.0f} MiB"


def _parameters(count: int) -> str:
    return f"{count / 1e9:.2f} billion" if count >= 1e9 else f"{count / 1e6:.1f} million"


def _table(rows: Sequence[PhaseRow]) -> list[str]:
    """Lines in columns, in GiB, or in MiB where all is small; `*` marks what is done."""
    large = max(row.total for row in rows) >= GIB
    unit = "GiB" if large else "MiB"
    names = ("clips", "weights", "training state", "activations", "all", "most clips that fit")
    cells: list[tuple[str, ...]] = [(f"{unit} expected at the peak", *names)]
    for row in rows:
        parts = (row.weights, row.state, row.work, row.total)
        numbers = [f"{part / GIB:,.1f}" if large else f"{part / MIB:,.0f}" for part in parts]
        most = f"{row.most_clips}" if row.most_clips < MOST_CLIPS else f"{MOST_CLIPS} or more"
        mark = "*" if row.chosen else " "
        cells.append((f"{mark} {row.phase}", str(row.clips), *numbers, most if row.most_clips else "none"))
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    return [
        "  ".join(
            text.ljust(width) if n == 0 else text.rjust(width)
            for n, (text, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in cells
    ]


@contextmanager
def explained(plan: MemoryPlan) -> Iterator[None]:
    """Turn what an allocator says when it runs out into ShortMemoryError with the table and the next step."""
    smaller = 0.8 * plan.device_bytes / GIB
    step = (
        "ask for smaller batches (evaluation.batch_size, rationales.batch_size, training.micro_batch_size, or "
        f"memory_gib={smaller:.1f} where that is chosen); or take fewer frames (sampling.max_frames) or a smaller "
        "model. What is finished is kept"
    )
    with running_out(plan.device, plan.lines, step):
        yield


@contextmanager
def running_out(device: str, lines: Callable[[], list[str]], step: str) -> Iterator[None]:
    """The same with other lines than a plan's, asked for when memory has run out, and another step."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not ran_out(error):
            raise
        said = (str(error).strip() or "MemoryError").splitlines()[0][:200]
        told = [f"out of memory on {device}: {said}", *lines(), f"Next: end what else uses this memory; {step}"]
        raise ShortMemoryError(told) from error


def ran_out(error: BaseException) -> bool:
    """Whether an error is an allocator's that found no memory: CUDA's or its libraries', torch's on a CPU, Python's."""
    text = str(error).lower()
    told = (
        "out of memory", "can't allocate memory", "not enough memory", "cannot allocate memory", "status_alloc_failed"
    )  # fmt: skip
    return isinstance(error, MemoryError) or any(words in text for words in told)
