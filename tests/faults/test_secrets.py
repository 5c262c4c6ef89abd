"""Six secrets are planted; none is written to a run's folder, nor said on a terminal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from commands import command
from servers import Status, completion, scripted
from videos import picture, write_clip

KEY, TOKEN, PASSWORD, PASTED, QUERY = (
    f"sk-{name}-0123456789abcdef" for name in ("key", "token", "password", "pasted", "query")
)
SECRETS = (KEY, TOKEN, PASSWORD, PASTED, QUERY)
FRAME = {
    "timestamp": 0.0, "caption": "a yard", "key_elements": {
        "objects": [], "actions": [], "scene": "", "notable_features": [], "spatial_relations": [],
        "human_attributes": None, "potential_interactions": [],
    },
}  # fmt: skip


def leaked(folder: Path, *texts: str) -> list[str]:
    """Secrets that stand in a file below a folder, in its name, or in a text."""
    places = {str(file): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    places |= {f"text {number}": text.encode() for number, text in enumerate(texts)}
    return [f"{name}: {s}" for name, data in places.items() for s in SECRETS if s.encode() in data or s in name]


@pytest.fixture
def clips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("EXAMPLE_KEY", KEY)
    monkeypatch.setattr("rbft.rationales.endpoint.FIRST_PAUSE_SECONDS", 0.0)
    folder = tmp_path / "clips"
    folder.mkdir()
    for number in range(3):
        write_clip(folder / f"{number}.mp4", [picture(number + i) for i in range(8)])
    rows = "".join(f"{number}.mp4,{'ab'[number % 2]},train\n" for number in range(3))
    (folder / "clips.csv").write_text(f"path,label,split\n{rows}", encoding="utf-8")
    return folder


def settings(folder: Path, clips: Path, **engine: Any) -> Path:
    document = {
        "name": "made", "output": str(folder / "out"), "clips": str(clips / "clips.csv"), "labels": ["a", "b"],
        "workers": 1, "engine": {"model": "m", "key_from": "EXAMPLE_KEY", "retries": 1} | engine,
    }  # fmt: skip
    path = folder / "curation.yaml"
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    return path


def test_a_server_that_sends_the_key_back_does_not_get_it_written_down(
    clips: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """In the message of an error that is final, of one that is tried again, of a refusal, and in an answer."""

    def handle(_: dict[str, Any], number: int) -> Any:
        echo = f"Authorization: Bearer {KEY}"
        match number % 4:
            case 0:
                return Status(400, f'{{"error": {{"message": "{echo}"}}}}')
            case 1:
                return Status(500, echo)
            case 2:
                said = completion(None)
                said["choices"][0]["message"]["refusal"] = echo
                return said
            case _:
                return completion(f"<think>{echo} A dog runs.</think><answer>a</answer>")

    with scripted(handle) as server:
        path = settings(tmp_path, clips, endpoint=server.url)
        assert command("curate", str(path)) in (0, 1, 2)
        assert len(server.requests) >= 3 and set(server.keys) == {f"Bearer {KEY}"}
    told = capfd.readouterr()
    assert leaked(tmp_path, told.out, told.err) == []
    written = b"".join(file.read_bytes() for file in (tmp_path / "out").rglob("*.jsonl"))
    assert b"[key]" in written


@pytest.mark.parametrize(
    ("engine", "said"),
    [
        ({"endpoint": f"https://someone:{PASSWORD}@example.com/v1"},
         "endpoint holds a user, a password or a query, which would be written down; put the key into the environment "
         "variable that `key_from` names"),
        ({"endpoint": f"https://example.com/v1?key={QUERY}"},
         "endpoint holds a user, a password or a query, which would be written down; put the key into the environment "
         "variable that `key_from` names"),
        ({"endpoint": "https://example.com/v1", "key_from": PASTED},
         "key_from names the environment variable that holds the key, such as EXAMPLE_KEY, and is not the key; export "
         "EXAMPLE_KEY=… and write key_from: EXAMPLE_KEY"),
        ({"endpoint": "https://example.com/v1", "key": PASTED},
         "engine.key: no such setting; there are model, revision, endpoint, key_from, answers"),
    ],
)  # fmt: skip
def test_a_secret_in_the_settings_is_refused_and_not_repeated(
    engine: dict[str, str], said: str, clips: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = settings(tmp_path, clips, **engine)
    assert command("curate", str(path)) == 2
    told = capfd.readouterr()
    assert said in told.err
    path.unlink()
    assert leaked(tmp_path, told.out, told.err) == []


def test_a_secret_among_the_arguments_is_refused_and_not_repeated(
    clips: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = settings(tmp_path, clips, endpoint="https://example.com/v1")
    for override in (f"engine.key={PASTED}", f"engine.api_key={PASTED}", f"engine.key_from={PASTED}"):
        assert command("curate", str(path), override) == 2
        told = capfd.readouterr()
        assert leaked(tmp_path, told.out, told.err) == []
