"""What this machine, or a container on it, lets a process use."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def available_processors() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def machine_memory() -> int:
    """Bytes of memory of the whole machine."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def container_limits(root: Path = Path("/sys/fs/cgroup")) -> list[int]:
    """Bytes of memory that a container may use; empty where nothing limits it."""
    files = (root / "memory.max", root / "memory" / "memory.limit_in_bytes")
    return [int(text) for file in files if file.is_file() and (text := file.read_text().strip()).isdecimal()]
