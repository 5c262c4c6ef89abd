"""What a run begins before torch is there: its clips are read by other processes while this one imports it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rbft.clips.cache import FrameCache
from rbft.clips.ingest import Reading
from rbft.clips.manifest import Listing, read_manifest
from rbft.errors import UserError
from rbft.experiment import Experiment
from rbft.models.family import stated_grid
from rbft.models.sources import is_on_hub, resolve
from rbft.records import Grid


@contextmanager
def reading(experiment: Experiment) -> Iterator[Reading | None]:
    """The clips of an experiment, being read into its cache; what the block leaves unfinished is ended.

    None where the run must look for itself: it is about questions; the list of clips or the model has a fault, which
    the run tells with all others; the model is of the hub; or its configuration leaves to transformers how frames are
    cut.
    """
    begun = _begun(experiment)
    try:
        yield begun
    finally:
        if begun is not None:
            begun.close()


def _begun(experiment: Experiment) -> Reading | None:
    if experiment.questions is not None or is_on_hub(experiment.model):
        return None
    try:
        listing = listing_of(experiment)
        source = resolve(experiment.model, allow_remote_code=experiment.allow_remote_code)
    except UserError:
        return None
    grid = stated_grid(source.folder)
    if listing.faults or grid is None:
        return None
    return begin(experiment, listing, grid)


def listing_of(experiment: Experiment) -> Listing:
    """The labelled clips that an experiment names."""
    clips = Path(experiment.clips).expanduser()
    return read_manifest(clips, labels=experiment.labels, allow_outside=experiment.allow_outside)


def begin(experiment: Experiment, listing: Listing, grid: Grid) -> Reading:
    """Begin to read listed clips as an experiment wants them, into its cache."""
    return Reading(
        listing,
        sampling=experiment.sampling,
        grid=grid,
        limits=experiment.limits,
        workers=experiment.workers,
        cache=frame_cache(experiment),
    )


def frame_cache(experiment: Experiment) -> FrameCache:
    """The cache that the runs below one output folder share."""
    return FrameCache(Path(experiment.output) / "cache" / "frames")
