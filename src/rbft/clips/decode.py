"""Decoding: one pass over a clip's packets, keeping the frames that a plan asks for.

Each planned instant gets the frame nearest to it in real presentation time. Only kept frames are converted and scaled,
in one swscale call. Packets that no kept frame needs are not decoded: whole groups of pictures between samples, what
follows the last sample in a group, and single pictures that no other refers to. Where a stream is not as tidy as that
takes, or interlaced (a frame may be two packets), everything is decoded.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter
from av.video.stream import VideoStream

from rbft.clips.container import PacketIndex, fail, opened, packets, reasons, too_many_pixels
from rbft.clips.frames import Frames
from rbft.clips.probe import WHOLE_SHARE, examine
from rbft.errors import ClipError
from rbft.experiment import ClipLimits
from rbft.records import FramePlan, Probe

_SINGLE_PICTURE_CODECS = {"h264", "hevc", "mpeg1video", "mpeg2video", "mpeg4"}
"""Codecs with pictures that no other picture refers to, and a decoder that can be told to leave them out."""
_SCALING = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT


def decode(
    path: Path,
    plan: FramePlan,
    probe: Probe,
    limits: ClipLimits,
    *,
    index: PacketIndex | None = None,
    skip: bool = True,
) -> Frames:
    """The planned frames of one clip, upright, [T, plan.height, plan.width, 3], with their real times.

    `index` is the one that `probe.examine` gave (made anew where absent); `skip=False` decodes every packet: the same
    frames at more cost. Raises ClipError: unreadable, partial, too_large, too_long, encrypted and those of opening.
    """
    if index is None:
        index = examine(path, limits)[1]
    if skip and index.complete:
        needs = Needs(index, plan)
        try:
            return _read(path, plan, probe, limits, index, needs)
        except _NotTidyError:
            pass
        except ClipError as error:
            if error.reason not in ("unreadable", "partial"):
                raise
    return _read(path, plan, probe, limits, index, None)


class _NotTidyError(Exception):
    """Skipping did not give the frames that the packets promised."""


class Needs:
    """Which packets a plan needs, bool [N] in decoding order: `feed` go to the decoder, `keep` are shown themselves."""

    def __init__(self, index: PacketIndex, plan: FramePlan) -> None:
        order = np.flatnonzero(index.shown)
        order = order[np.argsort(index.ticks[order], kind="stable")]
        chosen = order[nearest(index.seconds(index.ticks[order]), np.array(plan.times_seconds))]
        self.ticks = {int(tick) for tick in index.ticks[chosen]}
        self.keep = np.zeros(len(index.ticks), np.bool_)
        self.keep[chosen] = True
        self.feed = np.zeros(len(index.ticks), np.bool_)
        keys = np.flatnonzero(index.key)
        bounds = np.concatenate([[0], keys[keys > 0], [len(index.ticks)]])
        for packet in np.unique(chosen):
            group = int(np.searchsorted(bounds, packet, side="right")) - 1
            if group > 0 and index.ticks[packet] < index.ticks[bounds[group]]:
                group -= 1  # shown before the key frame that it follows: it may refer to the group before
            self.feed[bounds[group] : packet + 1] = True  # a picture refers to none that is decoded after it
        last = int(chosen.max())  # its group is looked at whole: the end of a file is what is damaged most often
        self.feed[last : bounds[np.searchsorted(bounds, last, side="right")]] = True

    def feeds(self, position: int) -> bool:
        """Whether packet `position` goes to the decoder; raises where the file has more packets than it had."""
        if position >= len(self.feed):
            raise _NotTidyError
        return bool(self.feed[position])


def nearest(times: npt.NDArray[np.float64], targets: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """For each target the index of the nearest of the rising `times`; the earlier of two that are equally near."""
    if len(times) == 1:
        return np.zeros(len(targets), np.int64)
    after = np.clip(np.searchsorted(times, targets), 1, len(times) - 1)
    return np.where(targets - times[after - 1] <= times[after] - targets, after - 1, after).astype(np.int64)


def _read(
    path: Path, plan: FramePlan, probe: Probe, limits: ClipLimits, index: PacketIndex, needs: Needs | None
) -> Frames:
    picker = _Picker(plan, probe)
    seen: set[int] = set()
    first_seconds = last_seconds = None
    with opened(path, limits) as (container, stream):
        for frame in _decoded(path, container, stream, needs):
            if frame.width * frame.height > limits.pixels:
                raise too_many_pixels(path, frame.width, frame.height, limits)
            if needs is not None and frame.interlaced_frame:
                raise _NotTidyError
            if frame.pts is None:
                continue
            seen.add(frame.pts)
            seconds = (frame.pts - index.first_tick) * index.seconds_per_tick
            first_seconds = seconds if first_seconds is None else first_seconds
            if last_seconds is None or seconds > last_seconds:
                last_seconds = seconds
                with reasons(path, "scaling a frame"):
                    picker.offer(seconds, frame)
        if first_seconds is None or last_seconds is None:
            raise fail(path, "unreadable", "not one frame can be decoded")
        if needs is not None and not needs.ticks <= seen:
            raise _NotTidyError
        _check_reach(path, plan, probe, first_seconds, last_seconds)
        with reasons(path, "scaling a frame"):
            return picker.finish()


def _check_reach(path: Path, plan: FramePlan, probe: Probe, first_seconds: float, last_seconds: float) -> None:
    """Raise ClipError `partial` where decoded frames do not span the planned instants within 5 % of the clip."""
    missing = max(0.0, first_seconds - plan.times_seconds[0]) + max(0.0, plan.times_seconds[-1] - last_seconds)
    allowed = (1 - WHOLE_SHARE) * probe.duration_seconds
    mean_gap = probe.duration_seconds / probe.num_frames
    if missing > allowed + mean_gap:
        share = 100 * (1 - missing / probe.duration_seconds)
        raise fail(
            path,
            "partial",
            f"decoded frames reach from {first_seconds:.2f} to {last_seconds:.2f} of {probe.duration_seconds:.2f} s "
            f"({share:.0f} %); a whole clip reaches {100 * WHOLE_SHARE:.0f} %",
        )


def _decoded(path: Path, container: InputContainer, stream: VideoStream, needs: Needs | None) -> Iterator[VideoFrame]:
    """Frames in the order of presentation, from the packets that are needed.

    An error before the first frame is a recording that starts midway; later ones end the reading with ClipError.
    """
    decoder = stream.codec_context
    skips_single = needs is not None and decoder.name in _SINGLE_PICTURE_CODECS
    started, fed, landing = False, False, None
    for position, packet in enumerate(packets(path, container, stream)):
        if needs is not None:
            if not needs.feeds(position):
                if fed:
                    with reasons(path, _doing(packet)):
                        yield from _landed(decoder.decode(None), landing)
                    decoder.flush_buffers()
                    fed, landing = False, None
                continue
            if not fed and position:
                landing = packet.pts
            if skips_single:
                decoder.skip_frame = "DEFAULT" if needs.keep[position] else "NONREF"
        fed = True
        with reasons(path, _doing(packet)):
            try:
                frames = decoder.decode(packet)
            except av.error.InvalidDataError:
                if started:
                    raise
                continue
        for frame in _landed(frames, landing):
            started, landing = True, None
            yield frame
    if fed:
        with reasons(path, "decoding the last frames"):
            yield from _landed(decoder.decode(None), landing)


def _landed(frames: list[VideoFrame], landing: int | None) -> list[VideoFrame]:
    """After a jump to the key frame shown at `landing`: the frames from there on. Earlier ones lack what they refer to.

    Raises _NotTidyError where the packet jumped to was no key frame, whatever the container said.
    """
    if landing is None:
        return frames
    frames = [frame for frame in frames if frame.pts is not None and frame.pts >= landing]
    if frames and not frames[0].key_frame:
        raise _NotTidyError
    return frames


def _doing(packet: av.Packet[VideoStream]) -> str:
    if packet.pts is None or packet.time_base is None:
        return "decoding"
    return f"decoding the frame at {float(packet.pts * packet.time_base):.2f} s"


class _Picker:
    """Picks for each planned instant the nearest of the frames offered, which must come in rising time."""

    def __init__(self, plan: FramePlan, probe: Probe) -> None:
        self._targets = plan.times_seconds
        self._turns, self._mirrored = -(probe.rotation_degrees // 90), probe.mirrored
        self._scaled = (plan.height, plan.width) if self._turns % 2 else (plan.width, plan.height)
        self._data = np.empty((plan.num_frames, plan.height, plan.width, 3), np.uint8)
        self._seconds = np.empty(plan.num_frames, np.float64)
        self._filled = 0
        self._before: tuple[float, VideoFrame] | None = None
        self._reformatter = VideoReformatter()

    def offer(self, seconds: float, frame: VideoFrame) -> None:
        """Settle every instant that no later frame can be nearer to."""
        before = self._before
        while self._filled < len(self._targets):
            target = self._targets[self._filled]
            if before is not None and target - before[0] <= seconds - target:
                self._put(*before)
            elif target <= seconds:
                self._put(seconds, frame)
            else:
                break
        self._before = (seconds, frame)

    def finish(self) -> Frames:
        """The frames; instants after the last frame get the last one."""
        while self._filled < len(self._targets):
            assert self._before is not None
            self._put(*self._before)
        return Frames(self._data, self._seconds)

    def _put(self, seconds: float, frame: VideoFrame) -> None:
        here = self._filled
        self._seconds[here] = seconds
        if here and self._seconds[here - 1] == seconds:
            self._data[here] = self._data[here - 1]
        else:
            width, height = self._scaled
            scaled = self._reformatter.reformat(frame, width, height, "rgb24", interpolation=_SCALING, threads=1)
            image = scaled.to_ndarray()
            if self._mirrored:
                image = image[:, ::-1]
            self._data[here] = np.rot90(image, self._turns)
        self._filled += 1
