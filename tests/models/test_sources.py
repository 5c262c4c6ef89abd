"""Where a model's files are, and what in them is refused: code, adapters, addresses, and names of the hub unpinned."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rbft.errors import CheckpointError
from rbft.models.sources import Source, resolve

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def model_folder(folder: Path, **files: object) -> Path:
    """A folder that looks like a model, with these JSON files (`a_b` is a_b.json)."""
    folder.mkdir(exist_ok=True)
    (folder / "model.safetensors").write_bytes(b"")
    for name, content in ({"config": {"model_type": "qwen2_5_vl"}} | files).items():
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / f"{name}.json").write_text(text, encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("name", "content", "key"),
    [
        ("config", {"auto_map": {"AutoConfig": "mine.Config"}}, "auto_map"),
        ("config", {"model_type": "x", "text_config": {"auto_map": {"AutoModel": "mine.Model"}}}, "auto_map"),
        ("config", {"model_type": "x", "parts": [{"auto_map": {}}]}, "auto_map"),
        ("config", {"model_type": "lightglue", "trust_remote_code": True}, "trust_remote_code"),
        ("config", {"_attn_implementation_internal": "someone/kernel"}, "_attn_implementation_internal"),
        ("config", {"vision_config": {"attn_implementation": "someone/kernel@main:f"}}, "attn_implementation"),
        ("config", {"custom_pipelines": {"x": {"impl": "mine.Pipe"}}}, "custom_pipelines"),
        ("tokenizer_config", {"auto_map": {"AutoTokenizer": ["mine.T", None]}}, "auto_map"),
        ("processor_config", {"auto_map": {"AutoProcessor": "mine.P"}}, "auto_map"),
        ("preprocessor_config", {"auto_map": {"AutoImageProcessor": "mine.I"}}, "auto_map"),
        ("video_preprocessor_config", {"auto_map": {"AutoVideoProcessor": "mine.V"}}, "auto_map"),
        ("generation_config", {"auto_map": {"GenerationConfig": "mine.G"}}, "auto_map"),
    ],
)
def test_code_that_comes_with_a_model_is_refused_wherever_it_is_asked_for(
    tmp_path: Path, name: str, content: dict[str, Any], key: str
) -> None:
    folder = model_folder(tmp_path / "m", **{name: content})
    with pytest.raises(CheckpointError) as caught:
        resolve(folder)
    assert str(caught.value) == (
        f"{folder / name}.json: asks to run Python code that comes with the model (`{key}`); read that code, then set "
        "`allow_remote_code: true` if you trust it"
    )
    assert resolve(folder, allow_remote_code=True).folder == folder


def test_what_looks_like_code_and_is_none_is_no_fault(tmp_path: Path) -> None:
    config = {"model_type": "x", "trust_remote_code": False, "_attn_implementation": "sdpa", "name": "a/b"}
    assert resolve(model_folder(tmp_path / "m", config=config)).revision is None


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[1]", "a configuration is a JSON object, this is [1]"),
        ("{", "not readable as JSON: "),
        ("[" * 100_000, "not readable as JSON: "),
        (" " * 10_000_001, "longer than 10,000,000 bytes; this is no configuration"),
    ],
)
def test_a_configuration_that_is_none_names_the_file(tmp_path: Path, content: str, said: str) -> None:
    folder = model_folder(tmp_path / "m", tokenizer_config=content)
    with pytest.raises(CheckpointError) as caught:
        resolve(folder)
    assert str(caught.value).startswith(f"{folder / 'tokenizer_config.json'}: {said}")


def test_an_adapter_is_refused_since_it_names_another_model_to_fetch(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "m", adapter_config={"base_model_name_or_path": "someone/else"})
    with pytest.raises(CheckpointError) as caught:
        resolve(folder)
    assert str(caught.value) == (
        f"{folder}: holds an adapter (adapter_config.json), which names another model to fetch; merge it into that "
        "model (peft: merge_and_unload) and give the merged folder"
    )


# -- the hub -------------------------------------------------------------------------------------------------------


def test_a_name_of_the_hub_is_pinned_to_the_commit_that_it_names_today(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = model_folder(tmp_path / COMMIT)
    asked = []

    def snapshot(name: str, **how: Any) -> str:
        asked.append((name, how["revision"]))
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    source = resolve("some/model")
    assert (source.revision, source.folder, asked) == (COMMIT, folder, [("some/model", None)])
    assert source.fingerprint() != Source("some/model", folder, "f" * 40).fingerprint(), "another commit, another base"
    assert source.unpinned(None) == (
        f"some/model is taken from the hub at {COMMIT}, as its newest commit; the same command would begin anew with "
        f"another commit: `revision: {COMMIT}` keeps this one"
    )
    assert source.unpinned("main") == (
        f"some/model is taken from the hub at {COMMIT}, as what 'main' names now; the same command would begin anew "
        f"with another commit: `revision: {COMMIT}` keeps this one"
    )
    assert source.unpinned(COMMIT) is None
    assert resolve("embedded").unpinned(None) is None


@pytest.mark.parametrize(
    "name", ["https://example.com/m", "http://169.254.169.254/latest", "s3://bucket/m", "file:///m"]
)
def test_an_address_is_no_model(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.snapshot_download", None)
    with pytest.raises(CheckpointError) as caught:
        resolve(name)
    assert str(caught.value) == (
        f"{name!r} is an address; rbft takes a folder, a Hugging Face name (owner/name), or `embedded`: download the "
        "model and give its folder"
    )
