"""From a listing to a manifest: read once, duplicates and leaks found, the second time nothing is decoded."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rbft.clips.cache import FrameCache
from rbft.clips.ingest import build_manifest, clip_frames, inspect_clips
from rbft.clips.inspection import Inspection
from rbft.clips.manifest import read_manifest
from rbft.errors import ManifestError, StoreError
from rbft.experiment import ClipLimits, Sampling, SplitRule
from rbft.records import Grid, Manifest
from videos import picture, write_clip

Make = Callable[..., Path]
SMALL = Sampling(fps=4.0, min_pixels=28 * 28, max_pixels=56 * 84)


@pytest.fixture(scope="session")
def eight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four clips of each of two labels, all different, with a manifest."""
    folder = tmp_path_factory.mktemp("eight")
    lines = ["path,label"]
    for number in range(8):
        write_clip(folder / f"{number}.mp4", [picture(20 * number + i) for i in range(10)])
        lines.append(f"{number}.mp4,{'ab'[number % 2]}")
    (folder / "clips.csv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture
def folder(eight: Path, tmp_path: Path) -> Path:
    """A copy of the eight clips, to be spoiled."""
    for path in eight.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def listed(folder: Path, rows: list[str] | None = None, header: str = "path,label") -> Path:
    if rows is not None:
        (folder / "clips.csv").write_text("\n".join([header, *rows]) + "\n")
    return folder / "clips.csv"


def inspect(manifest: Path, cache: FrameCache | None = None, **how: object) -> list[Inspection]:
    listing = read_manifest(manifest, labels={})
    settings = {"sampling": SMALL, "grid": Grid(), "limits": ClipLimits(), "workers": 1, "cache": cache, **how}
    return inspect_clips(listing, **settings)  # type: ignore[arg-type]


def build(manifest: Path, on_bad_clip: str = "stop", rule: SplitRule | None = None, **labels: str) -> Manifest:
    listing = read_manifest(manifest, labels=labels)
    inspections = inspect_clips(listing, sampling=SMALL, grid=Grid(), limits=ClipLimits(), workers=1)
    return build_manifest(listing, inspections, split_rule=rule or SplitRule(), on_bad_clip=on_bad_clip)  # type: ignore[arg-type]


def faults(manifest: Path, **labels: str) -> str:
    with pytest.raises(ManifestError) as caught:
        build(manifest, **labels)
    return str(caught.value)


def test_the_whole_way(eight: Path, tmp_path: Path) -> None:
    cache = FrameCache(tmp_path)
    listing = read_manifest(eight / "clips.csv", labels={})
    done: list[int] = []
    inspections = inspect_clips(
        listing, sampling=SMALL, grid=Grid(), limits=ClipLimits(), workers=2, cache=cache, progress=done.append
    )
    assert done == [1] * 8
    manifest = build_manifest(listing, inspections, split_rule=SplitRule())
    assert [clip.clip_id for clip in manifest.clips] == [str(i) for i in range(8)]
    assert manifest.left_out == () and len(manifest.of("test")) == 2
    assert {clip.label for clip in manifest.of("test")} == {"a", "b"}
    frames = clip_frames(cache, inspections)
    for number in range(8):
        read, plan = frames.read(str(number)), frames.plan(str(number))
        assert read.data.shape == (plan.num_frames, plan.height, plan.width, 3) == (4, 56, 56, 3)
        assert np.allclose(read.seconds, plan.times_seconds, atol=0.051)
    with pytest.raises(StoreError, match="'9': no frames were read for this clip; is it in the manifest"):
        frames.read("9")


def test_the_second_time_nothing_is_decoded_nor_opened(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    cache = FrameCache(tmp_path_factory.mktemp("cache"))
    first = inspect(folder / "clips.csv", cache)
    assert sum(i.decoded for i in first) == 8
    second = inspect(folder / "clips.csv", cache)
    assert sum(i.decoded for i in second) == 0
    assert [i.key for i in second] == [i.key for i in first] and [i.probe for i in second] == [i.probe for i in first]
    hopeless = inspect(folder / "clips.csv", cache, limits=ClipLimits(pixels=1))
    assert not any(i.problem for i in hopeless), "known clips are not opened again"
    changed = inspect(folder / "clips.csv", cache, sampling=SMALL.model_copy(update={"fps": 8.0}))
    assert sum(i.decoded for i in changed) == 8
    write_clip(folder / "3.mp4", [picture(207 + i) for i in range(10)])
    assert [i.decoded for i in inspect(folder / "clips.csv", cache)] == [n == 3 for n in range(8)]


def test_a_cached_clip_is_opened_once(eight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = FrameCache(tmp_path)
    first = inspect(eight / "clips.csv", cache)
    opened: list[Path] = []
    original = Path.open

    def noted(path: Path, *how: Any, **more: Any) -> Any:
        opened.append(path)
        return original(path, *how, **more)

    monkeypatch.setattr(Path, "open", noted)
    assert [i.thumbnails for i in inspect(eight / "clips.csv", cache)] == [i.thumbnails for i in first]
    frames = [path for path in opened if path.suffix == ".safetensors"]
    assert sorted(frames) == sorted(cache.path(str(i.key)) for i in first)
    opened.clear()
    cache.read(str(first[0].key))
    assert opened == [cache.path(str(first[0].key))]


def test_a_damaged_cache_file_is_made_again(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    cache = FrameCache(tmp_path_factory.mktemp("cache"))
    first = inspect(folder / "clips.csv", cache)
    key = first[2].key
    assert key is not None
    whole = cache.path(key).read_bytes()
    cache.path(key).write_bytes(whole[:-100])
    for note in list((cache.root / "probes").rglob("*.json"))[:1]:
        note.write_text("{")
    again = inspect(folder / "clips.csv", cache)
    assert again[2].decoded and cache.path(key).read_bytes() == whole
    assert all(i.problem is None for i in again)


def test_damaged_frames_of_a_version_without_thumbnails_are_made_again(eight: Path, tmp_path: Path) -> None:
    cache = FrameCache(tmp_path)
    first = inspect(eight / "clips.csv", cache)[2]
    assert first.sha256 is not None and first.plan is not None and first.key is not None
    whole = cache.path(first.key).read_bytes()
    cache.write(first.sha256, first.plan, cache.read(first.key))
    older = bytearray(cache.path(first.key).read_bytes())
    assert len(older) < len(whole)
    assert not inspect(eight / "clips.csv", cache)[2].decoded, "they are made of its frames"
    older[-1] ^= 1
    cache.path(first.key).write_bytes(older)
    again = inspect(eight / "clips.csv", FrameCache(tmp_path))[2]
    assert again.decoded and again.problem is None and cache.path(first.key).read_bytes() == whole


def test_without_a_cache_frames_are_decoded_and_dropped(eight: Path) -> None:
    for _ in range(2):
        found = inspect(eight / "clips.csv")
        assert all(i.decoded and i.key is None and i.plan is not None for i in found)


def test_bad_clips_stop_a_run_or_are_left_out(folder: Path) -> None:
    (folder / "0.mp4").write_bytes(b"")
    (folder / "1.mp4").write_bytes(b"\0" * 400)
    (folder / "2.mp4").unlink()
    text = faults(folder / "clips.csv")
    assert "0.mp4 (row 2): empty: the file has no bytes\n" in text
    assert "1.mp4 (row 3): unreadable: while reading the header: Invalid data" in text
    assert "2.mp4 (row 4): missing: there is no such file\n" in text
    assert text.endswith(
        "3 clips cannot be used (1 empty, 1 unreadable, 1 missing): mend or remove the files, or go on without them "
        "with on_bad_clip: leave-out"
    )
    manifest = build(folder / "clips.csv", "leave-out")
    assert len(manifest.clips) == 5
    assert [(left.clip_id, left.reason) for left in manifest.left_out] == [
        ("0", "empty"), ("1", "unreadable"), ("2", "missing"),
    ]  # fmt: skip
    for number in range(8):
        (folder / f"{number}.mp4").write_bytes(b"")
    with pytest.raises(ManifestError, match="not one listed clip can be read"):
        build(folder / "clips.csv", "leave-out")


def test_many_bad_clips_are_grouped_by_reason_with_ten_of_each(folder: Path) -> None:
    gone, empty = [f"gone{n}.mp4" for n in range(1_011)], [f"empty{n}.mp4" for n in range(11)]
    for name in empty:
        (folder / name).touch()
    rows = [f"{n}.mp4,{'ab'[n % 2]}" for n in range(8)] + [f"{name},a" for name in [*empty, *gone]]
    path = listed(folder, rows)
    lines = faults(path).splitlines()
    assert lines[:10] == [f"gone{n}.mp4 (row {n + 21}): missing: there is no such file" for n in range(10)]
    assert lines[10] == f"and 1,001 more (missing); `rbft check {path} --json` lists every clip"
    assert lines[11:21] == [f"empty{n}.mp4 (row {n + 10}): empty: the file has no bytes" for n in range(10)]
    assert lines[21:] == [
        f"and 1 more (empty); `rbft check {path} --json` lists every clip",
        "1,022 clips cannot be used (1,011 missing, 11 empty): mend or remove the files, or go on without them with "
        "on_bad_clip: leave-out",
    ]


def test_faults_of_the_list_the_clips_and_the_split_come_together(folder: Path) -> None:
    (folder / "1.mp4").unlink()
    rows = ["0.mp4,a", "1.mp4,b", "../x.mp4,a", "2.mp4,a", "3.mp4,c"]
    text = faults(listed(folder, rows), a="", b="")
    for part in ("leads outside", "1.mp4 (row 3): missing", "label 'c' is not in the list", "label 'b' has no clip"):
        assert part in text


def test_equal_contents_across_splits_are_leaks(folder: Path) -> None:
    rows = []
    for number in range(8):
        (folder / f"copy{number}.mp4").write_bytes((folder / f"{number}.mp4").read_bytes())
        rows += [f"{number}.mp4,{'ab'[number % 2]},train", f"copy{number}.mp4,{'ab'[number % 2]},test"]
    text = faults(listed(folder, rows, "path,label,split"))
    assert text.count("leak: ") == 8
    assert "more leaks" not in text
    assert "leak: 0.mp4 (row 2) and copy0.mp4 (row 3) hold the same bytes, in train and in test" in text


def test_many_leaks_are_ten_and_a_count(folder: Path) -> None:
    rows = [f"{number}.mp4,{'ab'[number % 2]},train" for number in range(8)]
    for number in range(14):
        (folder / f"copy{number}.mp4").write_bytes((folder / "0.mp4").read_bytes())
        rows.append(f"copy{number}.mp4,a,test")
    lines = faults(listed(folder, rows, "path,label,split")).splitlines()
    assert sum(line.startswith("leak: ") for line in lines) == 10
    assert "and 4 more leaks of this kind" in lines


def test_equal_contents_in_a_split_we_make_stay_together_and_are_noted(folder: Path) -> None:
    rows = [f"{n}.mp4,{'ab'[n % 2]}" for n in range(8)]
    for number in range(4):
        (folder / f"copy{number}.mp4").write_bytes((folder / f"{number}.mp4").read_bytes())
        rows.append(f"copy{number}.mp4,{'ab'[number % 2]}")
    manifest = build(listed(folder, rows))
    assert sum("hold the same bytes; both are used" in note for note in manifest.notes) == 4
    splits = {clip.clip_id: clip.split for clip in manifest.clips}
    assert all(splits[str(n)] == splits[f"copy{n}"] for n in range(4))


def test_equal_contents_under_different_labels(folder: Path) -> None:
    (folder / "twin.mp4").write_bytes((folder / "0.mp4").read_bytes())
    rows = [*(f"{n}.mp4,{'ab'[n % 2]}" for n in range(8)), "twin.mp4,b"]
    assert (
        "0.mp4 (row 2) and twin.mp4 (row 10) hold the same bytes under different labels, 'a' and 'b'; keep one"
        in faults(listed(folder, rows))
    )


def test_windows_share_a_file_but_not_across_splits(folder: Path) -> None:
    rows = [f"{n}.mp4,{'ab'[(n + w) % 2]},{w * 0.5},{w * 0.5 + 0.4}" for n in range(8) for w in range(2)]
    path = listed(folder, rows, "path,label,start,end")
    with pytest.raises(ManifestError) as caught:
        build(path)
    assert str(caught.value).endswith(
        "pairs of clips show nearly the same and stay in one split; is that why? split.near_duplicates: off parts them"
    ), "these clips only flicker, and all in the same way"
    manifest = build(path, rule=SplitRule(near_duplicates="off"))
    assert len(manifest.clips) == 16 and manifest.notes == ()
    splits = {(clip.path, clip.split) for clip in manifest.clips}
    assert len(splits) == 8
    rows = ["0.mp4,a,0,0.4,train", "0.mp4,b,0.5,0.9,test", "1.mp4,a,,,test", "2.mp4,b,,,train"]
    assert "leak: 0.mp4 (row 2) and 0.mp4 (row 3)" in faults(listed(folder, rows, "path,label,start,end,split"))


def test_a_window_outside_its_clip_is_a_problem_of_the_clip(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    cache = FrameCache(tmp_path_factory.mktemp("cache"))
    manifest = listed(folder, ["0.mp4,a,0,0.5", "0.mp4,a,5,9"], "path,label,start,end")
    for _ in range(2):
        good, bad = inspect(manifest, cache)
        assert good.problem is None and bad.problem is not None
        assert bad.problem == ("zero_length", "the window starts at 5 s; the clip ends at 1 s")


def test_a_blocked_cache_is_an_error_of_the_disk(eight: Path, tmp_path: Path) -> None:
    """A file in the place of `cache`, of `cache/frames` and of a folder below it."""
    for name in ("cache", "cache/frames", "cache/frames/probes"):
        place = tmp_path / name
        place.parent.mkdir(exist_ok=True)
        place.write_text("in the way")
        with pytest.raises(StoreError) as caught:
            inspect(eight / "clips.csv", FrameCache(tmp_path / "cache" / "frames"))
        assert str(caught.value).startswith(f"{place}/") and str(caught.value).endswith(
            f"cannot be written: Not a directory. {place} is a file where a folder is needed: move it away, or name "
            "another place with `output` or --out"
        )
        place.unlink()
    assert all(i.problem is None for i in inspect(eight / "clips.csv", FrameCache(tmp_path / "cache" / "frames")))


def test_notes_that_may_not_be_read_are_as_good_as_none(
    eight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = FrameCache(tmp_path)
    inspect(eight / "clips.csv", cache)

    def refusing(one: Callable[..., Any]) -> Callable[..., Any]:
        def refused(path: Path, *given: Any, **more: Any) -> Any:
            if "probes" in path.parts and path.suffix == ".json":
                raise PermissionError(13, "Permission denied", str(path))
            return one(path, *given, **more)

        return refused

    for name in ("stat", "read_bytes"):
        monkeypatch.setattr(f"pathlib.Path.{name}", refusing(getattr(Path, name)))
    assert all(i.problem is None and i.key is not None for i in inspect(eight / "clips.csv", cache))


def test_memory_does_not_grow_with_the_number_of_clips(clip: Path, tmp_path: Path) -> None:
    """Peak memory of a fresh process that reads and then looks at 20 and at 200 clips, frames of 100 kB each."""
    code = (
        "import resource, sys\nfrom pathlib import Path\nfrom rbft.clips.cache import FrameCache\n"
        "from rbft.clips.ingest import clip_frames, inspect_clips\nfrom rbft.clips.manifest import read_manifest\n"
        "from rbft.experiment import ClipLimits, Sampling\nfrom rbft.records import Grid\n"
        "listing, cache = read_manifest(Path(sys.argv[1]), labels={}), FrameCache(Path(sys.argv[2]))\n"
        "sampling = Sampling(min_pixels=224 * 280, max_pixels=224 * 280)\n"
        "found = inspect_clips(listing, sampling=sampling, grid=Grid(), limits=ClipLimits(), workers=1, cache=cache)\n"
        "frames = clip_frames(cache, found)\n"
        "assert sum(int(frames.read(row.clip_id).data.sum() > 0) for row in listing.rows) == len(listing.rows)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)\n"
    )
    peaks = []
    (tmp_path / "clip.mp4").write_bytes(clip.read_bytes())
    for number in (20, 200):
        lines = "".join(json.dumps({"path": "clip.mp4", "start": i / 200, "end": 2.0}) + "\n" for i in range(number))
        (tmp_path / "clips.jsonl").write_text(lines)
        command = [sys.executable, "-c", code, str(tmp_path / "clips.jsonl"), str(tmp_path / f"cache{number}")]
        peaks.append(int(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
    assert peaks[1] < peaks[0] + 15, peaks
