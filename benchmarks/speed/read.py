"""Reading a clip for the first time, 18 s of 720p at one frame a second, against what users have today.

    python -m benchmarks.speed.read

Ours is the probing of the file, the plan, the decoding with scaling and the small pictures that near duplicates are
found by, on one thread. The others read the same
instants and scale them to the same size: every frame decoded to RGB and then indexed, as the readers of torchvision
did; qwen-vl-utils with its default reader (decord); transformers' `load_video`; torchcodec where a system FFmpeg lets
it load. Scalers differ by a few grey levels, so outputs are compared by their mean difference. Processor time is
measured, so that threads gain nothing. Memory is that of a fresh process, at 60 s and at 240 s.

Decoding alone, with no frame converted, bounds what any reader can do that has to decode every frame; a clip with a key
frame every second is what cameras for security record.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import torch
from benchmarks.speed.clips import folder, make_clip
from benchmarks.speed.measuring import Row, check_close, in_turn, main, peak_megabytes
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2.functional import resize

from rbft.clips.child import frames_and_thumbnails
from rbft.clips.frames import Frames, plan_frames
from rbft.clips.probe import examine
from rbft.experiment import ClipLimits, Sampling
from rbft.records import FramePlan, Grid

LIMITS = ClipLimits(seconds=3_600)
MEAN_LEVELS = 3.2
"""Two scalers of noisy frames differ by less than this on average; another frame differs by more."""
_OURS = """
from pathlib import Path
from rbft.clips.child import frames_and_thumbnails
from rbft.clips.frames import plan_frames
from rbft.clips.probe import examine
from rbft.experiment import ClipLimits, Sampling
from rbft.records import Grid
begin()
limits = ClipLimits(seconds=3600)
probe, index = examine(Path(sys.argv[1]), limits)
frames_and_thumbnails(Path(sys.argv[1]), plan_frames(probe, Sampling(), Grid()), probe, limits, index)
"""
_ALL = """
import av
import numpy as np
begin()
with av.open(sys.argv[1]) as container:
    everything = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
"""


def ours(clip: Path) -> Frames:
    """What rbft does the first time that it sees a file."""
    probe, index = examine(clip, LIMITS)
    return frames_and_thumbnails(clip, plan_frames(probe, Sampling(), Grid()), probe, LIMITS, index)[0]


def all_then_index(clip: Path, plan: FramePlan) -> np.ndarray:
    """Every frame to RGB and into one array, as torchvision's `read_video` did, then the planned ones scaled."""
    with av.open(str(clip)) as container:
        everything = torch.as_tensor(np.stack([frame.to_rgb().to_ndarray() for frame in container.decode(video=0)]))
    return _scaled(everything[_indices(plan)].numpy(), plan)


def load_video(clip: Path, plan: FramePlan) -> np.ndarray:
    """transformers' reader with PyAV, then the scaling that its video processors do."""
    from transformers.video_utils import load_video as load

    frames, _ = load(str(clip), sample_indices_fn=lambda metadata, **_: np.array(_indices(plan)), backend="pyav")
    return _scaled(np.asarray(frames), plan)


def qwen_vl_utils(clip: Path, plan: FramePlan) -> np.ndarray:
    """qwen-vl-utils' `fetch_video`."""
    from qwen_vl_utils.vision_process import fetch_video

    asked = {
        "video": str(clip), "nframes": plan.num_frames, "resized_height": plan.height, "resized_width": plan.width,
    }  # fmt: skip
    return np.asarray(fetch_video(asked).permute(0, 2, 3, 1).round().clamp(0, 255).to(torch.uint8))


def decoding_alone(clip: Path) -> None:
    """Every frame decoded on one thread, none converted."""
    with av.open(str(clip)) as container:
        stream = container.streams.video[0]
        stream.thread_type, stream.codec_context.thread_count = "NONE", 1
        for _ in container.decode(stream):
            pass


def torchcodec(clip: Path, plan: FramePlan) -> np.ndarray:
    """torchcodec's approximate mode, then the same scaling."""
    from torchcodec.decoders import VideoDecoder

    decoder = VideoDecoder(str(clip), dimension_order="NHWC", num_ffmpeg_threads=1, seek_mode="approximate")
    return _scaled(decoder.get_frames_at(_indices(plan)).data.numpy(), plan)


def _indices(plan: FramePlan, fps: float = 25.0) -> list[int]:
    return [round(seconds * fps) for seconds in plan.times_seconds]


def _scaled(frames: np.ndarray, plan: FramePlan) -> np.ndarray:
    video = torch.from_numpy(frames).permute(0, 3, 1, 2)
    made = resize(video, [plan.height, plan.width], InterpolationMode.BICUBIC, antialias=True)
    return np.asarray(made.permute(0, 2, 3, 1))


OTHERS: dict[str, Callable[[Path, FramePlan], np.ndarray]] = {
    "decode all, then index": all_then_index,
    "qwen-vl-utils": qwen_vl_utils,
    "transformers load_video": load_video,
    "torchcodec": torchcodec,
}
PROMISES = {
    ("decode all, then index", True): 2.7,
    ("decode all, then index", False): 2.7,
    ("qwen-vl-utils", True): 1.2,
    ("qwen-vl-utils", False): 1.0,
    ("torchcodec", True): 1.0,
    ("torchcodec", False): 1 / 1.4,
}


def loadable(name: str) -> bool:
    """Whether an alternative is there; torchcodec needs a system FFmpeg beside its wheel."""
    if name != "torchcodec":
        return True
    try:
        import torchcodec.decoders  # noqa: F401
    except (ImportError, RuntimeError):
        return False
    return True


def time_rows(root: Path, repeats: int) -> list[Row]:
    """Processor time of a first read, with and without B-frames."""
    found = []
    for b_frames, group in ((True, None), (False, None), (False, 25)):
        case = f"18 s, 720p, {'with' if b_frames else 'without'} B-frames" + (", a key frame a second" if group else "")
        clip = make_clip(
            root / f"{b_frames}-{group}.mp4", seconds=18, width=1280, height=720, b_frames=b_frames, group=group
        )
        plan = plan_frames(examine(clip, LIMITS)[0], Sampling(), Grid())
        for name, read in OTHERS.items():
            if not loadable(name):
                print(f"{name} cannot be loaded here and is left out", file=sys.stderr)
                continue
            levels = np.abs(ours(clip).data.astype(np.int16) - read(clip, plan)).mean()
            equal = check_close("mean grey levels", float(levels), MEAN_LEVELS)
            mine, other = in_turn(lambda: ours(clip), lambda: read(clip, plan), repeats=repeats, cpu=True)  # noqa: B023
            promised = PROMISES.get((name, b_frames))
            found.append(Row(phase="first read", case=case, against=name, ours=mine, theirs=other, unit="CPU ms",
                             promised=promised, equal=equal))  # fmt: skip
        mine, other = in_turn(lambda: ours(clip), lambda: decoding_alone(clip), repeats=repeats, cpu=True)  # noqa: B023
        found.append(Row(phase="first read", case=case, against="decoding alone (a bound)", ours=mine, theirs=other,
                         unit="CPU ms", promised=None, equal="nothing to compare"))  # fmt: skip
    return found


def memory_rows(root: Path) -> list[Row]:
    """Peak memory of one read, against 100 MB, against four times the length, and against decoding everything."""
    clip, longer = (
        make_clip(root / f"{seconds}s.mp4", seconds=seconds, width=1280, height=720, fps=5) for seconds in (60, 240)
    )
    peak, longer_peak = peak_megabytes(_OURS, str(clip)), peak_megabytes(_OURS, str(longer))
    everything = peak_megabytes(_ALL, str(clip))
    extra = (240 - 60) * 280 * 504 * 3 / 1e6  # the kept frames themselves
    same = "a fresh process each"
    return [
        Row(phase="first read", case="memory, 60 s, 720p", against="100 MB", ours=peak, theirs=100.0, unit="MB",
            promised=1.0, equal=same),
        Row(phase="first read", case="memory, 240 s, without the 180 frames more that are kept", against="at 60 s",
            ours=longer_peak - extra, theirs=peak, unit="MB", promised=0.9, equal=same),
        Row(phase="first read", case="memory, 60 s, 720p", against="decode all, then index", ours=peak,
            theirs=everything, unit="MB", promised=None, equal=same),
    ]  # fmt: skip


def rows(options: argparse.Namespace) -> list[Row]:
    os.environ["FORCE_QWENVL_VIDEO_READER"] = "decord"
    torch.set_num_threads(1)
    with folder() as root:
        return time_rows(root, options.repeats) + memory_rows(root)


if __name__ == "__main__":
    sys.exit(main(__doc__, rows))
