"""Clips that hurt: what is said of each, what reading them costs at most, and that the parent never notices."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from faults.corpus import build, corpus, index_bomb, long_clip, png_in_mov
from rbft.clips.child import Reply, Request
from rbft.clips.pool import Reader, readers
from rbft.experiment import ClipLimits, Sampling
from rbft.records import Grid
from videos import picture, write_clip

MEGABYTES, SECONDS = 300, 2
"""What reading a bomb may take, of memory at once and of processor time; the test allows ten times that time."""


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A folder with every hostile file, and their verdicts."""
    folder = tmp_path_factory.mktemp("hostile")
    return folder, build(folder)


def test_every_hostile_file_has_its_verdict(hostile: tuple[Path, dict[str, str]]) -> None:
    """The real command, once, on all of them: nothing escapes, and what is no clip does not spoil the others."""
    folder, verdicts = hostile
    done = subprocess.run(
        [sys.executable, "-m", "rbft", "check", str(folder / "clips.csv"), "--json"], capture_output=True, text=True
    )
    lines = {line["path"]: line for line in map(json.loads, done.stdout.splitlines())}
    found = {name: (line["reason"] or line["status"]).split(":")[0] for name, line in lines.items()}
    assert found == verdicts
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert len(verdicts) >= 45 and {s.row for s in corpus()} == {f"A{n}" for n in (1, 2, *range(4, 14))}
    assert lines["sound.mp4"]["reason"] == "no_video_stream: the mov file has no video stream; it has audio"
    assert "frames reach 3.00 of 6.00 s (50 %); a whole clip reaches 95 %" in lines["half.mp4"]["reason"]
    silent, loud = lines["silent.mp4"], lines["loud.mp4"]
    assert loud == silent | {"path": "loud.mp4", "clip_id": "loud.mp4"}
    sizes = {
        "header.ts": "16384x8704",
        "header.avi": "65500x65500",
        "header.ivf": "16383x16383",
        "bursts.ts": "16384x8704",
    }
    for name, size in sizes.items():
        assert lines[name]["reason"] == f"too_large: frames of {size}; limits.pixels allows 33177600 in all"


# -- bombs ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def reader() -> Iterator[Reader]:
    reader = Reader()
    yield reader
    reader.close()


def asked(path: Path, **limits: float) -> Request:
    sampling = Sampling(fps=4.0, min_pixels=28 * 28, max_pixels=56 * 84)
    return Request(path=str(path), sha256="0" * 64, sampling=sampling, grid=Grid(), limits=ClipLimits(**limits))


def cost(reader: Reader) -> tuple[float, float]:
    """The child's most memory in MB and its processor seconds, both since it was started."""
    assert reader._process is not None
    folder = Path("/proc", str(reader._process.pid))
    [peak] = [line for line in (folder / "status").read_text().splitlines() if line.startswith("VmHWM")]
    times = (folder / "stat").read_text().rsplit(")", 1)[1].split()
    return int(peak.split()[1]) / 1000, (int(times[11]) + int(times[12])) / 100


def _png(path: Path) -> None:
    png_in_mov(path, 16_000)


def _real_frames(path: Path) -> None:
    """A true one: two frames of 142 million pixels, encoded."""
    still = picture(0, 16_384, 8_704)
    write_clip(path, [still] * 2, encoder={"preset": "ultrafast", "crf": "40", "threads": "1", "rc-lookahead": "0"})


def _real_hevc_frames(path: Path) -> None:
    """As true, of 97 kB: what decoders of HEVC were seen to take gigabytes for."""
    serial = "pools=1:frame-threads=1:rc-lookahead=0:bframes=0:log-level=none"
    encoder = {"preset": "ultrafast", "crf": "40", "x265-params": serial}
    write_clip(path, [picture(0, 16_384, 8_704)] * 2, codec="libx265", encoder=encoder)


BIG_BOMBS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "png.mov": ("unsupported", _png),
    "frames.mp4": ("too_large", _real_frames),
    "hevc.mp4": ("too_large", _real_hevc_frames),
    "long.mp4": ("too_long", lambda path: long_clip(path, 600_000)),
    "long.mkv": ("too_long", lambda path: long_clip(path, 600_000)),
}


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_bombs_cost_little(reader: Reader, hostile: tuple[Path, dict[str, str]]) -> None:
    """One child reads three of them: its peak is that of the worst, its time is that of all."""
    folder, verdicts = hostile
    names = ("header.ts", "header.avi", "bursts.ts")
    _cost_little(reader, {folder / name: verdicts[name] for name in names})


@pytest.mark.nightly
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("name", BIG_BOMBS)
def test_a_big_bomb_costs_little(reader: Reader, tmp_path: Path, name: str) -> None:
    verdict, make = BIG_BOMBS[name]
    make(tmp_path / name)
    _cost_little(reader, {tmp_path / name: verdict})


def _cost_little(reader: Reader, bombs: dict[Path, str]) -> None:
    for path, verdict in bombs.items():
        assert path.stat().st_size < 10_000_000
        reply = reader.ask(asked(path))
        assert reply.problem is not None and reply.problem[0] == verdict, reply
        print(f"\n{path.name}: {reply.problem[1][:60]}: {cost(reader)}")
    megabytes, seconds = cost(reader)
    assert megabytes <= MEGABYTES
    assert seconds <= 10 * SECONDS * len(bombs)


@pytest.mark.nightly
@pytest.mark.skipif(sys.platform != "linux", reason="memory is bounded there alone")
@pytest.mark.parametrize("millions", [10, 25, 100])
def test_an_index_bomb_stays_within_the_limits(reader: Reader, tmp_path: Path, millions: int) -> None:
    """5 kB that say they hold millions of frames: the demuxer believes it, within `limits.megabytes` and no further."""
    index_bomb(tmp_path / "index.mp4", 1_000_000 * millions)
    reply = reader.ask(asked(tmp_path / "index.mp4"))
    assert reply.problem is not None
    megabytes, seconds = cost(reader)
    print(f"\n{millions} million: {reply.problem}: {megabytes:.0f} MB, {seconds:.2f} s")
    assert megabytes <= ClipLimits().megabytes + 100


# -- bytes changed by chance ---------------------------------------------------------------------------------------


CONTAINERS: dict[str, dict[str, object]] = {
    "h264.mp4": {"encoder": {"crf": "20", "bf": "2", "g": "8"}},
    "h264.mkv": {},
    "h264.ts": {},
    "vp9.webm": {"codec": "libvpx-vp9"},
    "mpeg4.avi": {"codec": "mpeg4"},
    "mpeg2.mpg": {"codec": "mpeg2video", "fps": 25},
    "mjpeg.mov": {"codec": "mjpeg", "pixel_format": "yuvj420p"},
    "hevc.mp4": {"codec": "libx265", "encoder": {"x265-params": "log-level=none"}},
    "vp8.webm": {"codec": "libvpx"},
    "flv1.flv": {"codec": "flv"},
    "still.gif": {"codec": "gif", "pixel_format": "rgb8"},
    "av1.mp4": {"codec": "libsvtav1"},
}


def mutated(folder: Path, number: int, seed: int) -> list[Path]:
    """So many clips with flipped bits, spans of zeros, or cut off: every container in turn, every way in turn."""
    chance, paths = random.Random(seed), []
    wholes = {}
    for name, how in CONTAINERS.items():
        wholes[name] = write_clip(folder / name, [picture(i) for i in range(24)], **how).read_bytes()  # type: ignore[arg-type]
    for index in range(number):
        name = list(CONTAINERS)[index % len(CONTAINERS)]
        data = bytearray(wholes[name])
        match index // len(CONTAINERS) % 3:
            case 0:
                for _ in range(chance.choice((1, 4, 20))):
                    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
            case 1:
                start, length = chance.randrange(len(data)), chance.choice((1, 16, 400))
                data[start : start + length] = bytes(len(data[start : start + length]))
            case 2:
                del data[chance.randrange(len(data)) :]
        paths.append(folder / f"{index}-{name}")
        paths[-1].write_bytes(data)
    return paths


@pytest.mark.parametrize(
    "number", [pytest.param(36, id="some"), pytest.param(1_000, id="thousand", marks=pytest.mark.nightly)]
)
def test_bytes_changed_by_chance_give_the_same_verdict_twice(tmp_path: Path, number: int) -> None:
    """No exception, no hang, no child that dies; what comes out is the same in two runs, facts and all."""
    paths = mutated(tmp_path, number, seed=number)
    with readers(2) as run:
        first, second = (list(run(lambda reader, path: reader.ask(asked(path)), paths)) for _ in range(2))
    assert first == second
    verdicts = Counter(reply.problem[0] if reply.problem else "ok" for reply in first)
    print(f"\n{dict(verdicts)}")
    assert verdicts["ok"] and verdicts["unreadable"]
    assert not [reply for reply in first if reply.problem and died(reply)]


def died(reply: Reply) -> bool:
    """Whether the reply is the parent's word about a child that ended, or a Python error in it."""
    assert reply.problem is not None
    return "the reader" in reply.problem[1] or "Error" in reply.problem[1]


# -- children that die ---------------------------------------------------------------------------------------------


def test_a_poison_file_is_tried_once_and_the_others_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that dies of the file named `poison`: it is set aside with a reason after one attempt."""
    for name in ("a.mp4", "poison.mp4", "z.mp4"):
        write_clip(tmp_path / name, [picture(i) for i in range(8)])
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(POISON)
    monkeypatch.setenv("PYTHONPATH", str(site), prepend=":")
    monkeypatch.setenv("TRIED", str(tmp_path / "tried.txt"))
    done = subprocess.run(
        [sys.executable, "-m", "rbft", "check", str(tmp_path), "--json", "--workers", "1"],
        capture_output=True,
        text=True,
    )
    lines = {line["path"]: line for line in map(json.loads, done.stdout.splitlines())}
    assert {name for name, line in lines.items() if line["status"] == "ok"} == {"a.mp4", "z.mp4"}
    assert lines["poison.mp4"]["reason"] == "unreadable: the reader stopped with exit code 9"
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert (tmp_path / "tried.txt").read_text().split() == ["poison.mp4"]


POISON = """
import os, sys
if sys.orig_argv[-1] == "rbft.clips.child":
    import rbft.clips.probe as probe
    examine = probe.examine
    def poisoned(path, limits):
        if path.name.startswith("poison"):
            with open(os.environ["TRIED"], "a") as file:
                file.write(path.name + "\\n")
            os._exit(9)
        return examine(path, limits)
    probe.examine = poisoned
"""
