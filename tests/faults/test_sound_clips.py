"""Two hundred sound clips of many makes: not one is refused, and none is misread."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from rbft.clips.ingest import inspect_clips
from rbft.clips.manifest import listing_of_files
from rbft.experiment import ClipLimits, Sampling
from rbft.records import Grid
from videos import picture, write_clip

QUIET = {"x265-params": "log-level=none"}
CODECS: dict[str, tuple[str, dict[str, object]]] = {
    "libx264": ("mp4 mov mkv avi ts flv", {}),
    "libx265": ("mp4 mkv ts", {"encoder": QUIET}),
    "libvpx": ("webm mkv ivf", {}),
    "libvpx-vp9": ("webm mp4 mkv ivf", {}),
    "libsvtav1": ("mp4 webm mkv", {}),
    "mpeg4": ("avi mp4 mov mkv", {}),
    "mpeg2video": ("mpg ts mkv", {}),
    "mpeg1video": ("mpg", {}),
    "mjpeg": ("avi mov mkv", {"pixel_format": "yuvj420p"}),
    "gif": ("gif", {"pixel_format": "rgb8"}),
    "flv": ("flv", {}),
    "msmpeg4": ("avi asf", {}),
    "wmv2": ("asf wmv", {}),
    "prores_ks": ("mov mkv", {"pixel_format": "yuv422p10le"}),
}
RATES, SIZES, COUNTS = (5, 10, 25, 30, 60), ((64, 48), (96, 64), (48, 80)), (5, 12, 30)
FIXED_RATES = {"mpeg2video": (25, 30, 60), "mpeg1video": (25, 30, 60)}
"""MPEG-1 and MPEG-2 know few rates."""


def sound_clips(folder: Path, number: int) -> Iterator[tuple[Path, int, int]]:
    """So many clips: path, frames, frames a second. Each codec in each container; rates, sizes and sound in turn."""
    makes = [(codec, suffix) for codec, (suffixes, _) in CODECS.items() for suffix in suffixes.split()]
    for index, (codec, suffix) in enumerate(itertools.islice(itertools.cycle(makes), number)):
        turn = index // len(makes)
        rates = FIXED_RATES.get(codec, RATES)
        sizes = [size for size in SIZES if codec != "libx265" or size[0] >= 64]  # narrower ones break that encoder
        rate, (width, height) = rates[(index + turn) % len(rates)], sizes[(index + turn) % len(sizes)]
        count = COUNTS[(index + 2 * turn) % len(COUNTS)]
        how = dict(CODECS[codec][1])
        if suffix in ("mp4", "mov", "mkv") and turn % 2:
            how["audio"] = True
        if suffix == "mp4" and turn > 2:
            how["options"] = {"movflags": "frag_keyframe+empty_moov" if turn % 2 else "faststart"}
        path = folder / f"{index}-{codec}.{suffix}"
        images = [picture(i, width, height) for i in range(count)]
        yield write_clip(path, images, codec=codec, fps=rate, **how), count, rate  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "number", [pytest.param(38, id="one-of-each"), pytest.param(200, id="all", marks=pytest.mark.nightly)]
)
def test_no_sound_clip_is_refused(tmp_path: Path, number: int) -> None:
    clips = list(sound_clips(tmp_path, number))
    found = inspect_clips(
        listing_of_files([path for path, _, _ in clips]),
        sampling=Sampling(min_pixels=28 * 28, max_pixels=56 * 84), grid=Grid(), limits=ClipLimits(), workers=2,
    )  # fmt: skip
    assert [(i.row.path.name, i.problem) for i in found if i.problem] == []
    for inspection, (path, count, rate) in zip(found, clips, strict=True):
        assert inspection.probe is not None
        assert inspection.probe.num_frames == count, path.name
        assert inspection.probe.duration_seconds == pytest.approx(count / rate, rel=0.25), path.name
    print(f"\n{len(found)} clips: {dict(Counter(i.probe.codec for i in found if i.probe))}")
