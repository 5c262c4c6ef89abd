"""What became of a list of clips since an earlier run of the same directory."""

from __future__ import annotations

from rbft.clips.manifest import show
from rbft.records import Manifest


def changed_clips(before: Manifest, now: Manifest, *, use: bool) -> str | None:
    """About clips whose bytes are others than they were: why a run stops, or with `use` a note; None without such."""
    known = {clip.clip_id: clip.sha256 for clip in before.clips}
    changed = [clip for clip in now.clips if known.get(clip.clip_id, clip.sha256) != clip.sha256]
    if not changed:
        return None
    what = "1 clip" if len(changed) == 1 else f"{len(changed):,} clips"
    told = f"{what} changed since the last run of this directory (first: {show(changed[0].path)})"
    if use:
        return (
            f"{told}; frames, texts, checkpoints and predictions of the earlier bytes are not used, and what needs "
            "them is made again"
        )
    return (
        f"{told}; put the earlier bytes back, give this run another `name`, or let what needs them be made again from "
        "the new ones with on_changed_clip: use"
    )
