"""Every exception that rbft raises on purpose.

RbftError                 something stopped the work; the message says what, what is allowed and what to do next
├── UserError             the input is at fault: exit code 2, no traceback; carries every fault found, not the first
│   ├── ExperimentError   the experiment file or an override
│   ├── ManifestError     the list of clips: rows, labels, splits, paths
│   ├── ClipError         one clip that cannot be used; `reason` is one word of `records.ClipProblem`
│   ├── LineageError      artifacts that do not belong together (wrong parent, other frames, a test clip in training)
│   ├── EngineError       an engine that writes elsewhere cannot be reached, or does not accept what it is asked
│   ├── CheckpointError   a checkpoint that is missing, incomplete, damaged or of an unknown family
│   └── ShortMemoryError  the work does not fit the memory of the device
├── BudgetError           what may be spent on endpoints is spent
├── StoreError            the run directory cannot be written or holds something unexpected
└── StoppedError          somebody asked the process to end: exit code 75; the same command continues
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


class RbftError(Exception):
    """Base of all errors raised on purpose; `exit_code` is what the command line returns."""

    exit_code = 1


class UserError(RbftError):
    """The input is at fault. `faults` holds one line for each fault; `str()` joins them."""

    exit_code = 2

    def __init__(self, faults: str | Iterable[str]) -> None:
        self.faults: list[str] = [faults] if isinstance(faults, str) else list(faults)
        super().__init__("\n".join(self.faults))

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self), (self.faults,))


class ExperimentError(UserError):
    """The experiment file, or an override of it, asks for something that does not exist."""


class ManifestError(UserError):
    """The list of clips cannot be used as it stands."""


class ClipError(UserError):
    """One clip cannot be used. `reason` names the problem, `detail` explains it to a person."""

    def __init__(self, path: str, reason: str, detail: str) -> None:
        self.path, self.reason, self.detail = path, reason, detail
        super().__init__(f"{path}: {reason}: {detail}")

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self), (self.path, self.reason, self.detail))


class LineageError(UserError):
    """Two artifacts were put together that do not belong together; the message names both sides."""


class EngineError(UserError):
    """An engine cannot be used: its server does not answer, does not know the model, or does not accept the key."""


class CheckpointError(UserError):
    """A checkpoint is missing, incomplete, damaged, or of a family that rbft does not know."""


class ShortMemoryError(UserError):
    """The work does not fit the memory of the device, as expected beforehand or as it turned out."""


class BudgetError(RbftError):
    """Requests or tokens of endpoints are used up; what was answered is kept."""


class StoreError(RbftError):
    """The run directory cannot be written, or holds something that rbft did not put there."""


class StoppedError(RbftError):
    """The process was asked to end, by SIGTERM or Ctrl-C; what was finished is on disk."""

    exit_code = 75

    def __init__(self, told: str = "interrupted; the same command continues from here") -> None:
        super().__init__(told)
