"""rbft serves nothing and fetches no address: where a file is wanted, addresses and archives are refused in words."""

from __future__ import annotations

import io
import os
import socket
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from commands import command
from rbft.clips.manifest import read_manifest
from rbft.errors import CheckpointError
from rbft.models.sources import resolve

HINT = "it is an address, and rbft reads files of this machine alone: download it and name the file"


@pytest.fixture
def connections(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[object]]:
    """Every address that this process connects to or looks up, and every connection to a server on this machine."""
    seen: list[object] = []
    listener = socket.create_server(("127.0.0.1", 0))

    def accept() -> None:
        while True:
            try:
                connection, address = listener.accept()
            except OSError:
                return
            seen.append(address)
            connection.close()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    port = listener.getsockname()[1]
    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(f"socket.socket.{name}", lambda _, address: seen.append(address))
    monkeypatch.setattr("socket.getaddrinfo", lambda host, *_, **__: seen.append(host))
    monkeypatch.setenv("RBFT_TEST_PORT", str(port))
    yield seen
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join(5)


@pytest.fixture
def addresses(connections: list[object]) -> list[str]:
    """Fifteen addresses, most of the server of this machine."""
    port = os.environ["RBFT_TEST_PORT"]
    return [
        f"http://127.0.0.1:{port}/a.mp4", f"http://[::1]:{port}/a.mp4", "http://169.254.169.254/latest/meta-data",
        f"http://2130706433:{port}/a.mp4", f"http://0x7f000001:{port}/a.mp4", f"http://0177.0.0.1:{port}/a.mp4",
        f"http://localhost:{port}/a.mp4", f"http://127.1:{port}/a.mp4", f"https://127.0.0.1:{port}/a.mp4",
        f"http://user:word@127.0.0.1:{port}/a.mp4", f"ftp://127.0.0.1:{port}/a.mp4", "file:///etc/passwd",
        f"rtsp://127.0.0.1:{port}/a", "s3://bucket/a.mp4", f"http://[::ffff:127.0.0.1]:{port}/a.mp4",
    ]  # fmt: skip


def test_the_count_counts(connections: list[object]) -> None:
    with socket.socket() as client:
        client.connect(("127.0.0.1", 1))
    assert connections == [("127.0.0.1", 1)]


def test_fifteen_addresses_are_refused_wherever_a_file_or_a_model_is_named(
    addresses: list[str], connections: list[object], tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    Path("q.jsonl").write_text('{"question_id": "1", "path": "a.mp4", "kind": "OCR", "text": "?", "answer": "a"}\n')
    Path("vsi.jsonl").write_text(
        '{"id": 1, "dataset": "d", "scene_name": "s", "question_type": "object_counting", "question": "How many?", '
        '"ground_truth": "4"}\n'
    )
    Path("a.mp4").write_bytes(b"x")
    Path("x.yaml").write_text("clips: c.csv\nmodel: embedded\nlabels: [a, b]\n")
    Path("c.csv").write_text("path,label\na.mp4,a\n")
    assert len(set(addresses)) == 15
    for place, address in enumerate(addresses):
        every = [
            ["check", address], ["predict", "a.mp4", address], ["run", address], ["predict", address, "a.mp4"],
            ["import", "vsi-bench", "vsi.jsonl", "--videos", address],
            ["explain", "embedded", address, "--experiment", "x.yaml"], ["ask", "embedded", address],
            ["compare", address, address], ["import", "vsi-bench", f"{address}.jsonl"], ["curate", address],
        ]  # fmt: skip
        for arguments in every if place == 0 else every[:2]:
            assert command(*arguments) == 2, arguments
            told = capsys.readouterr()
            assert HINT in " ".join((told.out + told.err).split()), (arguments, told)
        with pytest.raises(CheckpointError, match="is an address; rbft takes a folder, a Hugging Face name"):
            resolve(address)
        for arguments in (["ask", address, "q.jsonl"], ["run", "x.yaml", f"model={address}"]) if place == 0 else ():
            assert command(*arguments) == 2, arguments
            assert "is an address; rbft takes a folder, a Hugging Face name" in capsys.readouterr().err, arguments
    assert connections == []


def test_addresses_in_a_list_of_clips_are_refused_line_by_line(
    addresses: list[str], connections: list[object], tmp_path: Path
) -> None:
    manifest = tmp_path / "clips.csv"
    manifest.write_text("path,label\n" + "".join(f'"{address}",a\n' for address in addresses), encoding="utf-8")
    for outside in (False, True):
        listing = read_manifest(manifest, labels={}, allow_outside=outside)
        assert listing.rows == () and len(listing.refused) == 15
        assert all("like an address; rbft reads local files only" in one.detail for one in listing.refused)
    assert connections == []


@contextmanager
def archive(path: Path) -> Iterator[None]:
    """An archive whose members lead out of it, in the form that its name says."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("../../escaped.csv", "path,label\na.mp4,a\n")
    else:
        with tarfile.open(path, "w:gz" if path.suffix in (".tgz", ".gz") else "w") as file:
            member = tarfile.TarInfo("../../escaped.csv")
            member.size = 5
            file.addfile(member, io.BytesIO(b"path\n"))
    yield


@pytest.mark.parametrize("name", ["clips.zip", "clips.tar", "clips.tgz", "clips.tar.gz", "CLIPS.ZIP"])
def test_archives_are_not_read(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "data" / name
    path.parent.mkdir()
    with archive(path):
        assert command("check", str(path)) == 2
    said = " ".join(capsys.readouterr().out.split())
    assert (
        f"fault: {name}: archives are not read; unpack it, and name the manifest or the folder that was in it" in said
    )
    assert [file.name for file in tmp_path.rglob("*")] == ["data", name]


def test_an_archive_in_the_place_of_a_clip_is_no_video(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "clips.csv").write_text("path,label\na.mp4,a\n", encoding="utf-8")
    with zipfile.ZipFile(tmp_path / "a.mp4", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("bomb", bytes(5_000_000))
    assert command("check", str(tmp_path / "clips.csv"), "--json") == 2
    said = capsys.readouterr()
    assert '"status":"unsupported"' in said.out.replace(" ", "") or "unreadable" in said.out
