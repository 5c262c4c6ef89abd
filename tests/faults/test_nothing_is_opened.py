"""Paths and files that point elsewhere: nothing there is opened, and nobody is called.

A watch counts how often the files of a folder outside are opened, by any process; a listener counts who calls.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import socket
import struct
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import av
import pytest

from commands import command
from videos import picture, write_clip

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="watches files by inotify")


class Watch:
    """Counts how often files of a folder are opened."""

    def __init__(self, folder: Path) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._events = libc.inotify_init1(os.O_NONBLOCK)
        assert self._events >= 0 and libc.inotify_add_watch(self._events, os.fsencode(folder), 0x20) >= 0  # IN_OPEN

    def opened(self) -> list[str]:
        """Names of files that were opened since this was last asked."""
        names, data = [], b""
        with contextlib.suppress(BlockingIOError):
            while more := os.read(self._events, 65_536):
                data += more
        while data:
            length = struct.unpack_from("iIII", data)[3]
            names.append(data[16 : 16 + length].rstrip(b"\0").decode())
            data = data[16 + length :]
        return [name for name in names if name]

    def close(self) -> None:
        os.close(self._events)


class Listener:
    """Counts who connects, and hangs up."""

    def __init__(self) -> None:
        self.calls = 0
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._socket.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                caller, _ = self._socket.accept()
                self.calls += 1
                caller.close()

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def watch(tmp_path: Path) -> Iterator[Watch]:
    """Of the folder `outside`, which has a clip, `canary.mp4`."""
    (tmp_path / "outside").mkdir()
    write_clip(tmp_path / "outside" / "canary.mp4", [picture(i) for i in range(20)])
    watch = Watch(tmp_path / "outside")
    yield watch
    watch.close()


@pytest.fixture
def listener() -> Iterator[Listener]:
    listener = Listener()
    yield listener
    listener.close()


def path_attacks(inside: Path, canary: Path, address: str) -> dict[str, str]:
    """Paths as a manifest could list them, and what is said of them. Links are made in `inside`."""
    (inside / "link.mp4").symlink_to(canary)
    (inside / "folder").symlink_to(canary.parent, target_is_directory=True)
    return {
        "../outside/canary.mp4": "outside: path '../outside/canary.mp4' leads outside",
        str(canary): "leads outside",
        "link.mp4": "leads outside",
        "folder/canary.mp4": "leads outside",
        f"http://{address}/a.mp4": "starts with 'http:' like an address; rbft reads local files only",
        f"https://{address}/a.mp4": "starts with 'https:'",
        f"rtsp://{address}/a": "starts with 'rtsp:'",
        f"tcp://{address}": "starts with 'tcp:'",
        f"concat:{canary}|{canary}": "starts with 'concat:'",
        f"file:{canary}": "starts with 'file:'",
        f"subfile,,start,0,end,0,,:{canary}": "missing: there is no such file",
        f"crypto:{canary}": "starts with 'crypto:'",
        "data:video/mp4;base64,AAAA": "starts with 'data:'",
        "pipe:0": "starts with 'pipe:'",
        "%2e%2e/outside/canary.mp4": "missing: there is no such file",
        "\\\\127.0.0.1\\share\\a.mp4": "missing: there is no such file",
        "a\0.mp4": "holds a null character",
    }


def container_attacks(inside: Path, canary: Path, address: str) -> list[str]:
    """Files that ask whoever opens them to open others: named honestly, named .mp4, and without a suffix."""
    segments = f"#EXTINF:10,\n{canary}\n#EXTINF:10,\nhttp://{address}/a.ts\n"
    texts = {
        "m3u8": f"#EXTM3U\n#EXT-X-TARGETDURATION:10\n{segments}#EXT-X-ENDLIST\n",
        "mpd": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"><Period>'
        f"<BaseURL>http://{address}/</BaseURL><AdaptationSet><Representation id='a'><BaseURL>{canary}</BaseURL>"
        "</Representation></AdaptationSet></Period></MPD>",
        "ffconcat": f"ffconcat version 1.0\nfile '{canary}'\nfile 'http://{address}/a.ts'\n",
        "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n",
    }
    names = []
    for kind, text in texts.items():
        for name in (f"list.{kind}", f"{kind}.mp4", kind):
            (inside / name).write_text(text)
            names.append(name)
    (inside / "words.idx").write_text("# VobSub index file, v7\ntimestamp: 00:00:00:000, filepos: 000000000\n")
    (inside / "words.sub").symlink_to(canary)
    external_track(inside / "external.mov", canary)
    return [*names, "words.idx", "external.mov"]


def external_track(path: Path, canary: Path) -> None:
    """QuickTime whose frames lie in another file, named by its path (an alias, in the data reference of the track)."""
    data = bytearray(write_clip(path, [picture(i) for i in range(20)], form="mov").read_bytes())
    place = data.rfind(b"dref", data.find(b"minf"))
    name = str(canary).encode() + bytes(len(str(canary)) % 2)
    alias = (
        bytes(10 + 28 + 12 + 64 + 16 + 4 + 16) + struct.pack(">HH", 2, len(name)) + name + struct.pack(">HH", 0xFFFF, 0)
    )
    alias += bytes(max(0, 160 - len(alias)))
    entry = struct.pack(">I4sI", 12 + len(alias), b"alis", 0) + alias
    old = struct.unpack_from(">I", data, place + 12)[0]
    data[place + 12 : place + 12 + old] = entry
    for box in (b"moov", b"trak", b"mdia", b"minf", b"dinf"):
        _grow(data, data.rfind(box, 0, place), len(entry) - old)
    _grow(data, place, len(entry) - old)
    path.write_bytes(data)


def _grow(data: bytearray, kind: int, by: int) -> None:
    struct.pack_into(">I", data, kind - 4, struct.unpack_from(">I", data, kind - 4)[0] + by)


def test_nothing_outside_is_opened_and_nobody_is_called(
    tmp_path: Path, watch: Watch, listener: Listener, capsys: pytest.CaptureFixture[str]
) -> None:
    inside, canary = tmp_path / "inside", tmp_path / "outside" / "canary.mp4"
    inside.mkdir()
    paths = path_attacks(inside, canary, listener.address)
    files = container_attacks(inside, canary, listener.address)
    rows = [json.dumps({"path": path, "clip_id": f"{n}"}) for n, path in enumerate([*paths, *files])]
    (inside / "clips.jsonl").write_text("\n".join(rows))
    assert command("check", str(inside / "clips.jsonl"), "--json", "--workers", "1") == 2
    lines = {line["path"]: line for line in map(json.loads, capsys.readouterr().out.splitlines())}
    assert len(lines) == len(paths) + len(files) == 31
    for path, said in paths.items():
        assert said in lines[path]["reason"]
    reasons = {lines[name]["reason"].split(":")[0] for name in files}
    assert reasons <= {"unsupported", "unreadable", "zero_length"}
    assert watch.opened() == [] and listener.calls == 0


ADDRESS = "it is an address, and rbft reads files of this machine alone: download it and name the file"


def test_a_prediction_opens_nothing_elsewhere(
    tmp_path: Path, watch: Watch, listener: Listener, capsys: pytest.CaptureFixture[str]
) -> None:
    """Files of the command line may lie anywhere, but they are files; nothing else is a way to name one."""
    canary = tmp_path / "outside" / "canary.mp4"
    attacks = [p for p in path_attacks(tmp_path, canary, listener.address) if ":" in p or "%" in p or "\\" in p]
    for half in (attacks[:6], attacks[6:]):  # ten of a kind are named
        assert command("predict", str(tmp_path), *half) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(attacks) == 12 == len([line for line in said if ": missing: there is no such file" in line])
    assert len([line for line in said if line.endswith(ADDRESS)]) == 7
    assert watch.opened() == [] and listener.calls == 0


@pytest.mark.nightly
def test_verbs_with_a_model_open_nothing_elsewhere(
    tmp_path: Path, watch: Watch, listener: Listener, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run and a curation that leave bad clips out, questions, an explanation: refused before any model answers."""
    inside, canary = tmp_path / "inside", tmp_path / "outside" / "canary.mp4"
    inside.mkdir()
    paths = [path for path in path_attacks(inside, canary, listener.address) if "\0" not in path]
    paths += container_attacks(inside, canary, listener.address)
    rows = [{"path": path, "clip_id": f"{n}", "label": "ab"[n % 2], "split": "train"} for n, path in enumerate(paths)]
    (inside / "clips.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    common = (
        f"clips: {inside / 'clips.jsonl'}\nlabels: {{a: x, b: y}}\non_bad_clip: leave-out\noutput: {tmp_path / 'o'}\n"
    )
    (tmp_path / "run.yaml").write_text(f"{common}model: embedded\narms: [direct]\n")
    (tmp_path / "curation.yaml").write_text(f"{common}prompts: brief\nengine: {{model: embedded}}\n")
    asking = {"kind": "multiple choice", "text": "What?", "options": ["a", "b"], "answer": "A"}
    questions = [json.dumps({"question_id": f"{n}", "path": path, **asking}) for n, path in enumerate(paths)]
    (inside / "questions.jsonl").write_text("\n".join(questions))
    named = [path for path in paths if path.partition(":")[0] in ("http", "concat", "file", "pipe", "data", "rtsp")]
    for arguments, said in {
        ("run", "run.yaml"): "path '../outside/canary.mp4' leads outside",
        ("curate", "curation.yaml"): "path '../outside/canary.mp4' leads outside",
        ("ask", "embedded", "inside/questions.jsonl"): "'0': path '../outside/canary.mp4' leads outside",
        ("explain", "embedded", "--out", "out", *named): "missing: there is no such file",
    }.items():
        places = [str(tmp_path / a) if a.endswith(("yaml", "jsonl")) or a == "out" else a for a in arguments]
        assert command(*places) == 2, arguments
        assert said in capsys.readouterr().err, arguments
        assert watch.opened() == [] and listener.calls == 0, arguments


def test_the_attacks_are_real(tmp_path: Path, watch: Watch, listener: Listener) -> None:
    """What does not look opens the canary and makes calls: without this the tests above could not fail."""
    inside, canary = tmp_path / "inside", tmp_path / "outside" / "canary.mp4"
    inside.mkdir()
    container_attacks(inside, canary, listener.address)
    for name, options in {
        "list.m3u8": {"protocol_whitelist": "file,http,tcp"},
        "ffconcat.mp4": {"protocol_whitelist": "file,http,tcp", "safe": "0"},
        "external.mov": {"enable_drefs": "1", "use_absolute_path": "1"},
        "words.idx": {},
    }.items():
        with contextlib.suppress(av.error.FFmpegError), av.open(str(inside / name), options=options) as container:
            list(container.demux())
        assert "canary.mp4" in watch.opened(), name
    assert listener.calls >= 2


def test_outside_is_read_where_that_is_allowed(tmp_path: Path, watch: Watch) -> None:
    (tmp_path / "clips.csv").write_text(f"path\n{tmp_path / 'outside' / 'canary.mp4'}\n")
    (tmp_path / "inside").mkdir()
    listed = (tmp_path / "clips.csv").rename(tmp_path / "inside" / "clips.csv")
    assert command("check", str(listed), "--workers", "1") == 2
    assert watch.opened() == []
    assert command("check", str(listed), "--workers", "1", "--allow-outside") == 0
    assert "canary.mp4" in watch.opened()
