"""Around the saves of a stage: room for them, one more where the process is asked to end, a disk that refuses."""

from __future__ import annotations

import errno
import os
import re
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers import TrainerCallback, TrainingArguments

from rbft.errors import StoppedError, StoreError
from rbft.files import refused, require_room
from rbft.progress import plural
from rbft.stopping import asked
from rbft.store import MANIFEST

MOST_SAVES = 3
"""Two are kept, and the oldest goes only after the next one is whole."""
_OF_TORCH = ("inline_container", "PytorchStreamWriter")
"""What torch's errors name where a file could not be written; they do not say why."""
_OF_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EIO, errno.ESTALE)
_FULL_BYTES = 1 << 20


class EndsWhenAsked(TrainerCallback):
    """Ends training after the step in hand, with a save, where the process is asked to end.

    `every`: only after so many steps, as between the batches of a reinforce stage. After the last step the stage is
    as good as done, and goes on to its child.
    """

    def __init__(self, every: int = 1) -> None:
        self._every = every

    def on_step_end(self, args: TrainingArguments, state: Any, control: Any, **_: Any) -> None:
        """Save and end, if asked."""
        if asked() and state.global_step % self._every == 0 and state.global_step < state.max_steps:
            control.should_save = control.should_training_stop = True


class RoomForSaves(TrainerCallback):
    """Refuses to begin where the disk has no room for what the stage will save."""

    def on_train_begin(self, args: TrainingArguments, state: Any, control: Any, *, model: Any, **_: Any) -> None:
        """Raises StoreError. A save holds what is trained and two moments of it; the child is a whole model."""
        every = [(p.numel() * p.element_size(), p.requires_grad) for p in model.parameters()]
        save = 3 * sum(size for size, is_trained in every if is_trained)
        child = sum(size for size, _ in every)
        count = min(MOST_SAVES, max(1, (state.max_steps - 1) // args.save_steps))
        work = Path(str(args.output_dir))
        there = sum(file.stat().st_size for file in work.rglob("*") if file.is_file())
        what = f"{plural(count, 'save', 'saves')} of this stage and its checkpoint"
        require_room(work, max(0, count * save - there) + child, what)


def check_finished(state: Any) -> None:
    """Raises StoppedError where training ended before its last step, as `EndsWhenAsked` ends it."""
    if state.global_step < state.max_steps:
        raise StoppedError


@contextmanager
def disk_faults(work: Path, finished: Path) -> Iterator[None]:
    """Errors of the disk while a stage is trained and saved, whichever library meets them, as StoreError.

    What is half written then is removed: saves without checksums in `work`, and the child that is made in `finished`.
    TensorBoard writes in a thread, and raises its fault here too: the thread's own traceback is not printed.
    """
    before = threading.excepthook
    threading.excepthook = lambda args: None if isinstance(args.exc_value, OSError) else before(args)
    try:
        yield
    except (OSError, SafetensorError, RuntimeError, StoreError) as error:
        fault = _fault_of_disk(error, work)
        told = None if fault is None else refused(Path(fault.filename or work), fault)
        for half in (finished, *(save for save in work.glob("checkpoint-*") if not (save / MANIFEST).is_file())):
            shutil.rmtree(half, ignore_errors=True)
        if told is None:
            raise
        raise told from error
    finally:
        threading.excepthook = before


def _fault_of_disk(error: Exception, work: Path) -> OSError | None:
    """What the disk said, out of the words of the library that met it; None where it was no fault of the disk."""
    if isinstance(error, OSError):
        return error if error.errno in _OF_DISK else None
    if isinstance(error, SafetensorError):
        number = re.search(r"os error (\d+)", str(error))
        return None if number is None else OSError(int(number[1]), os.strerror(int(number[1])))
    if not any(sign in str(error) for sign in _OF_TORCH):
        return None
    if shutil.disk_usage(work).free < _FULL_BYTES:
        return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return OSError(errno.EIO, f"torch could not write a file: {str(error).splitlines()[0]}")
