"""44 real odd, broken and hostile files behave as their list says. They are not part of the project."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from rbft.clips.cache import FrameCache
from rbft.clips.ingest import ClipFrames, clip_frames, inspect_clips
from rbft.clips.inspection import Inspection
from rbft.clips.manifest import listing_of_files
from rbft.experiment import ClipLimits, Sampling
from rbft.records import Grid
from videos import reference_frames

pytestmark = pytest.mark.shared


@pytest.fixture(scope="module")
def facts(shared: Path) -> dict[str, dict[str, str]]:
    with (shared / "clips" / "odd" / "manifest.csv").open(newline="") as file:
        return {Path(row["file"]).name: row for row in csv.DictReader(file)}


@pytest.fixture(scope="module")
def found(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Inspection], ClipFrames]:
    paths = sorted((shared / "clips" / "odd" / "files").iterdir())
    cache = FrameCache(tmp_path_factory.mktemp("cache"))
    limits = ClipLimits(seconds=60.0)  # as by default, with patience for a slow or busy machine
    inspections = inspect_clips(
        listing_of_files(paths), sampling=Sampling(), grid=Grid(), limits=limits, workers=2, cache=cache
    )
    return {i.row.path.name: i for i in inspections}, clip_frames(cache, inspections)


def test_each_is_read_or_refused_as_listed(
    facts: dict[str, dict[str, str]], found: tuple[dict[str, Inspection], ClipFrames]
) -> None:
    inspections, _ = found
    assert len(facts) == len(inspections) == 44
    for name, fact in facts.items():
        problem = inspections[name].problem
        if "error" in fact["expected"] and not fact["expected"].startswith("decode"):
            assert problem is not None, name
            assert problem.reason in ("empty", "unreadable", "partial"), (name, problem)
        else:
            assert problem is None, (name, problem)


def test_facts_agree_with_the_list(
    facts: dict[str, dict[str, str]], found: tuple[dict[str, Inspection], ClipFrames]
) -> None:
    inspections, _ = found
    for name, inspection in inspections.items():
        fact, probe = facts[name], inspection.probe
        if inspection.problem is not None or probe is None:
            continue
        assert probe.num_frames == int(fact["frames_decoded"]), name
        assert (probe.coded_width, probe.coded_height) == (int(fact["width"]), int(fact["height"])), name
        assert probe.rotation_degrees % 180 == abs(int(fact["rotation"])) % 180, name
        if fact["duration_s"]:
            assert probe.duration_seconds == pytest.approx(float(fact["duration_s"]), rel=0.08, abs=0.05), name
        assert probe.has_audio == (int(fact["audio_streams"]) > 0), name


def test_real_times_on_a_clip_with_gaps(shared: Path, found: tuple[dict[str, Inspection], ClipFrames]) -> None:
    _, frames = found
    for name in ("sample_android_slow_motion.mp4", "awesome'movie.mov", "no_duration.webm"):
        path = shared / "clips" / "odd" / "files" / name
        seconds, _ = reference_frames(path)
        shown = frames.read(str(path)).seconds
        planned = frames.plan(str(path)).times_seconds
        for second, plan in zip(shown, planned, strict=True):
            assert min(abs(s - second) for s in seconds) < 1e-6
            assert abs(second - plan) <= min(abs(s - plan) for s in seconds) + 1e-6


def test_long_clips_give_a_frame_a_second(shared: Path, found: tuple[dict[str, Inspection], ClipFrames]) -> None:
    _, frames = found
    for name in ("long_1080p_videoonly_lowbitrate.mp4", "long_180p_av1.mp4"):
        read = frames.read(str(shared / "clips" / "odd" / "files" / name))
        assert len(read.data) == 362
        assert np.allclose(np.diff(read.seconds), 362.767 / 362, atol=0.05)


def test_limits_refuse_what_is_large_and_long(shared: Path) -> None:
    files = shared / "clips" / "odd" / "files"
    listing = listing_of_files([files / "8k24fps_300ms.mp4", files / "long_180p_av1.mp4"])
    limits = ClipLimits(pixels=1920 * 1080, frames=20_000)
    large, long = inspect_clips(listing, sampling=Sampling(), grid=Grid(), limits=limits, workers=1)
    assert large.problem == ("too_large", "frames of 7680x4320; limits.pixels allows 2073600 in all")
    assert long.problem == ("too_long", "more than 20000 frames (limits.frames)")
