"""Copies that were changed are found; clips of the same fixed camera with other events are not."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from copies import CHANGES, changed, save, walkers
from rbft.clips.cache import FrameCache
from rbft.clips.child import Request, answer
from rbft.clips.decode import decode
from rbft.clips.frames import Frames, plan_frames
from rbft.clips.near_duplicates import near_duplicates
from rbft.clips.probe import examine
from rbft.clips.thumbnails import COUNT, NUM_BYTES, SIDE, planned, thumbnails, with_instants
from rbft.experiment import ClipLimits, Sampling
from rbft.records import Grid

SMALL = Sampling(min_pixels=28 * 28, max_pixels=140 * 140)


def small(path: Path, sampling: Sampling = SMALL) -> bytes:
    """The thumbnails of a clip, as `rbft check` gets them."""
    reply = answer(Request(path=str(path), sha256="0" * 64, sampling=sampling, grid=Grid(), limits=ClipLimits()))
    assert reply.problem is None and reply.thumbnails is not None
    return base64.b64decode(reply.thumbnails)


@pytest.fixture(scope="module")
def camera(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[list[np.ndarray]], list[bytes]]:
    """Twelve clips of one camera, and their thumbnails."""
    folder, clips = tmp_path_factory.mktemp("camera"), walkers(12, seed=3)
    return clips, [small(save(folder / f"{n}.mp4", clip, crf="23")) for n, clip in enumerate(clips)]


def test_one_camera_with_other_events_is_no_duplicate(camera: tuple[list[list[np.ndarray]], list[bytes]]) -> None:
    assert near_duplicates(camera[1]) == []
    assert near_duplicates(camera[1][:6], camera[1][6:]) == []


@pytest.mark.parametrize("how", CHANGES)
def test_a_changed_copy_is_found(camera: tuple[list[list[np.ndarray]], list[bytes]], tmp_path: Path, how: str) -> None:
    copies = [small(changed(how, tmp_path, camera[0][n], np.random.default_rng(n))) for n in range(3)]
    pairs = near_duplicates(camera[1], copies)
    assert [(pair.first, pair.second) for pair in pairs] == [(0, 0), (1, 1), (2, 2)]
    assert all(0.9 <= pair.alike <= 1 for pair in pairs)
    assert [(p.first, p.second) for p in near_duplicates([*camera[1], *copies])] == [(0, 12), (1, 13), (2, 14)]


def test_a_clip_in_which_nothing_moves_is_like_no_other() -> None:
    """A patch of 4 x 4 pixels 5 levels brighter in one picture is 0.2 levels over all; 60 levels are more than 1."""
    for levels, found in ((5, 0), (60, 1)):
        room = np.full((COUNT, SIDE, SIDE), 90, np.uint8)
        room[3, 10:14, 10:14] += levels
        assert len(near_duplicates([room.tobytes(), room.tobytes()])) == found
    scene = np.random.default_rng(0).uniform(60, 120, (SIDE, SIDE))
    brighter = (scene + np.linspace(0, 80, COUNT)[:, None, None]).astype(np.uint8).tobytes()
    assert near_duplicates([brighter, brighter]) == []


def test_light_that_changes_everywhere_at_once_is_no_event() -> None:
    clips = []
    for seed in (1, 2):
        scene = np.random.default_rng(seed).uniform(60, 120, (SIDE, SIDE))
        walk = np.zeros((COUNT, SIDE, SIDE))
        for t in range(COUNT):
            walk[t, 4 * seed : 4 * seed + 3, 3 * t : 3 * t + 3] = 40
        clips.append((scene + np.linspace(0, 80, COUNT)[:, None, None] + walk).astype(np.uint8).tobytes())
    assert near_duplicates(clips) == []
    assert [pair.alike for pair in near_duplicates([clips[0], clips[0]])] == [pytest.approx(1, abs=1e-3)]


def test_another_background_is_another_clip() -> None:
    """The same movement before other scenes, such as an animation that many clips open with."""
    clips = []
    for seed in (1, 2):
        pictures = np.repeat(np.random.default_rng(seed).uniform(60, 160, (1, SIDE, SIDE)), COUNT, 0)
        for t in range(COUNT):
            pictures[t, 10:14, 3 * t : 3 * t + 4] += 80
        clips.append(pictures.astype(np.uint8).tobytes())
    assert near_duplicates(clips) == []


def test_thumbnails_by_hand() -> None:
    """Blocks of 2 x 2 pixels, three frames at 0, 1 and 4 s: the pictures stand at multiples of 4/7 s."""
    data = np.zeros((3, 2 * SIDE, 2 * SIDE, 3), np.uint8)
    data[1], data[2] = 70, 210
    data[2, 0, 0] = 250
    pictures = np.frombuffer(thumbnails(Frames(data, np.array([0.0, 1.0, 4.0]))), np.uint8).reshape(COUNT, SIDE, SIDE)
    expected = [0, 40, 77, 103, 130, 157, 183, 210]
    assert pictures[:, 5, 5].tolist() == expected
    assert pictures[7, 0, 0] == 220
    one = thumbnails(Frames(np.full((2, 20, 40, 3), 7, np.uint8), np.array([3.0, 3.0])))
    assert one == bytes([7]) * NUM_BYTES


def test_frames_are_the_same_with_and_without_thumbnails(clip: Path) -> None:
    for window in ((None, None), (0.4, 2.0), (1.0, 1.05)):
        probe, index = examine(clip, ClipLimits())
        plan = plan_frames(probe, SMALL, Grid(), start=window[0], end=window[1])
        wide = with_instants(plan)
        assert wide.num_frames == plan.num_frames + COUNT - 2
        alone = decode(clip, plan, probe, ClipLimits(), index=index)
        among = planned(decode(clip, wide, probe, ClipLimits(), index=index), wide, plan)
        assert (alone.data == among.data).all() and (alone.seconds == among.seconds).all()


def test_thumbnails_lie_beside_the_frames_and_are_made_of_them_where_they_lack(
    camera: tuple[list[list[np.ndarray]], list[bytes]], tmp_path: Path
) -> None:
    path = save(tmp_path / "clip.mp4", camera[0][0], crf="23")
    request = Request(path=str(path), sha256="0" * 64, sampling=SMALL, grid=Grid(), limits=ClipLimits())
    cache = FrameCache(tmp_path / "cache")
    reply = answer(request.model_copy(update={"cache": str(cache.root)}))
    assert reply.key is not None and reply.plan is not None and reply.thumbnails is None
    assert cache.thumbnails(reply.key) == small(path)
    frames = cache.read(reply.key)
    older = FrameCache(tmp_path / "older")
    key = older.write("0" * 64, reply.plan, frames)
    assert older.thumbnails(key) == thumbnails(frames)
    assert older.path(key).stat().st_size < cache.path(key).stat().st_size - NUM_BYTES


def test_many_clips_are_compared_in_blocks(monkeypatch: pytest.MonkeyPatch, camera: tuple[object, list[bytes]]) -> None:
    from rbft.clips import near_duplicates as module

    twice = [*camera[1], *camera[1]]
    found = near_duplicates(twice)
    assert [(p.first, p.second) for p in found] == [(n, n + 12) for n in range(12)]
    monkeypatch.setattr(module, "_BLOCK", 5)
    assert near_duplicates(twice) == found


@pytest.mark.nightly
def test_five_hundred_copies_and_five_hundred_others(tmp_path: Path) -> None:
    """Clips of the noisy cameras of the night yard; the others: the same camera, another action or subject."""
    from rbft.tiny.night_yard import DEFAULT_SEVERITY, frame_seconds, plan_yard, yard_frames
    from rbft.tiny.world import ACTIONS, SUBJECTS
    from rbft.tiny.yard_clips import YardClip

    def shown(clip: YardClip) -> list[np.ndarray]:
        return list(yard_frames(clip, DEFAULT_SEVERITY, frame_seconds())[0])

    def seen(frames: Sequence[np.ndarray]) -> bytes:
        return small(save(tmp_path / "clip.mp4", frames, crf="23", preset="superfast"), Sampling())

    still = "standing"
    plan = [clip for clip in plan_yard(200, 0, 0, seed=29) if clip.spec.action != still][:100]
    originals, copies, others = [], {how: [] for how in CHANGES}, []
    for number, clip in enumerate(plan):
        rng = np.random.default_rng([7, number])
        frames = shown(clip)
        originals.append(seen(frames))
        for how in CHANGES:
            copies[how].append(small(changed(how, tmp_path, frames, rng), Sampling()))
        actions = rng.permutation([a for a in ACTIONS if a not in (clip.spec.action, still)])[:4]
        specs = [replace(clip.spec, action=str(action)) for action in actions]
        subject = rng.choice([s for s in SUBJECTS if s != clip.spec.subject])
        specs.append(replace(clip.spec, subject=str(subject)))
        seeds = rng.integers(2**31, size=5).tolist()
        others += [seen(shown(replace(clip, spec=s, noise_seed=n))) for s, n in zip(specs, seeds, strict=True)]
    found = {how: sum(bool(near_duplicates([a], [b])) for a, b in zip(originals, copies[how], strict=True))
             for how in CHANGES}  # fmt: skip
    false = sum(bool(near_duplicates([originals[n // 5]], [other])) for n, other in enumerate(others))
    everything = [*originals, *others]
    far = len(near_duplicates(everything))
    print(f"found {sum(found.values())} of 500 ({found}); false {false} of 500, {far} of all "
          f"{len(everything) * (len(everything) - 1) // 2:,} pairs")  # fmt: skip
    assert sum(found.values()) >= 475
    assert false <= 2


@pytest.mark.nightly
@pytest.mark.shared
@pytest.mark.parametrize(("folder", "known"), [("fight", 0), ("bed-fall", 1), ("objects", 0)])
def test_real_cameras(shared: Path, folder: str, known: int) -> None:
    """One pair of these clips is known to be the same recording, framed anew."""
    clips = [small(path, Sampling()) for path in sorted((shared / "clips" / folder).rglob("*.mp4"))]
    pairs = near_duplicates(clips)
    print(f"{folder}: {pairs} of {len(list(combinations(clips, 2))):,} pairs")
    assert len(pairs) == known
