"""What memory was expected and chosen: the record of it, its table, and the words when memory runs out. No torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rbft.errors import ShortMemoryError
from rbft.models.memory import GIB
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
            f"Memory: {self.model}, {self.parameters / 1e9:,.2f} billion parameters, on {self.device} with "
            f"{gib(self.device_bytes)} GiB, {gib(self.budget_bytes)} of them for tensors",
            f"Tokens per clip: {self.median_tokens:,} (median: {self.median_visual_tokens:,} visual, "
            f"{self.median_tokens - self.median_visual_tokens:,} text), {self.largest_tokens:,} (largest: "
            f"{self.largest_visual_tokens:,} visual, {self.largest_tokens - self.largest_visual_tokens:,} text)",
            *_table(self.rows),
            *self.recipes,
            *([] if self.why_lora is None else [self.why_lora]),
        ]


def _table(rows: Sequence[PhaseRow]) -> list[str]:
    """Lines in columns: GiB at the peak; `*` marks what is done."""
    cells: list[tuple[str, ...]] = [
        ("GiB expected at the peak", "clips", "weights", "state", "work", "all", "most clips that fit")
    ]
    for row in rows:
        most = f"{row.most_clips}" if row.most_clips < MOST_CLIPS else f"{MOST_CLIPS} or more"
        numbers = [gib(part) for part in (row.weights, row.state, row.work, row.total)]
        cells.append(
            (("* " if row.chosen else "  ") + row.phase, str(row.clips), *numbers, most if most != "0" else "none")
        )
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    return [
        "  ".join(
            text.ljust(width) if n == 0 else text.rjust(width)
            for n, (text, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in cells
    ]


def gib(count: int) -> str:
    """Bytes as GiB in a few digits."""
    return f"{count / GIB:,.1f}" if count >= GIB else f"{count / GIB:.2f}"


@contextmanager
def explained(plan: MemoryPlan) -> Iterator[None]:
    """Turn what an allocator says when it runs out into ShortMemoryError with the table and the next step."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not ran_out(error):
            raise
        smaller = plan.budget_bytes / GIB * 0.8 + 1
        said = (str(error).strip() or "MemoryError").splitlines()[0][:200]
        raise ShortMemoryError(
            [
                f"out of memory on {plan.device}: {said}",
                *plan.lines(),
                f"Next: close what else uses this memory, or set memory_gib={smaller:.1f} for smaller batches (it can "
                "turn full fine-tuning into LoRA; training.method=full forbids that), fewer frames "
                "(sampling.max_frames) or a smaller model. The same command continues",
            ]
        ) from error


def ran_out(error: BaseException) -> bool:
    """Whether an error is an allocator's that found no memory: CUDA's, torch's on a CPU, or Python's."""
    text = str(error).lower()
    told = ("out of memory", "can't allocate memory", "not enough memory", "cannot allocate memory")
    return isinstance(error, MemoryError) or any(words in text for words in told)
