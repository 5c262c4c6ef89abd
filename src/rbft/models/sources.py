"""Where a model's files are: a Hugging Face name at a commit, a folder, or the embedded model."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from rbft.errors import CheckpointError
from rbft.files import sha256_of
from rbft.records import fingerprint

EMBEDDED = "embedded"
_ROOMS = {"model": "checkpoint", "encoder": "encoder_checkpoint"}
_COMMIT = re.compile(r"[0-9a-f]{40}")
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_MAX_CONFIG_BYTES = 10_000_000
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


@dataclass(frozen=True)
class Source:
    """`name` as the user wrote it; `folder` where the files are on this machine; `revision` the hub's commit."""

    name: str
    folder: Path
    revision: str | None

    def fingerprint(self) -> str:
        """Identity of the weights: the hub's commit, or the hashes of the files in the folder."""
        if self.revision is not None:
            return fingerprint("hub", self.name, self.revision)
        files = [*self.folder.glob("*.safetensors"), *self.folder.glob("*.json"), *self.folder.glob("*.jinja")]
        return fingerprint("files", sorted((f.name, sha256_of(f)) for f in files if f.name not in _OURS))

    def unpinned(self, asked: str | None) -> str | None:
        """What to know where `asked`, the revision of the settings, may be another commit of the hub tomorrow."""
        if self.revision is None or (asked is not None and _COMMIT.fullmatch(asked)):
            return None
        now = "as its newest commit" if asked is None else f"as what {asked!r} names now"
        return (
            f"{self.name} is taken from the hub at {self.revision}, {now}; the same command would begin anew with "
            f"another commit: `revision: {self.revision}` keeps this one"
        )


_OURS = ("rbft.json", "manifest.json")


def resolve(
    name_or_folder: str | Path,
    *,
    revision: str | None = None,
    allow_remote_code: bool = False,
    embedded: Literal["model", "encoder"] = "model",
) -> Source:
    """Find a model. A folder is checked for a configuration, safetensors and remote code before anything is loaded.

    A hub name is pinned to the commit it names today; `embedded` says which of the two that name stands for.
    Raises CheckpointError.
    """
    name = str(name_or_folder)
    if _ADDRESS.match(name):
        raise CheckpointError(
            f"{name!r} is an address; rbft takes a folder, a Hugging Face name (owner/name), or `{EMBEDDED}`: download "
            "the model and give its folder"
        )
    if not name:
        raise CheckpointError(f"the model's name is empty; give a folder, a Hugging Face name, or `{EMBEDDED}`")
    if name == EMBEDDED:
        folder = Path(str(resources.files("rbft"))) / "tiny" / _ROOMS[embedded]
        return Source(name=name, folder=folder, revision=None)
    if is_on_hub(name):
        return _from_hub(name, revision, allow_remote_code)
    folder = Path(name_or_folder).expanduser()
    _check_folder(folder, allow_remote_code)
    return Source(name=name, folder=folder, revision=None)


def is_on_hub(name: str) -> bool:
    """Whether a name stands for a model of the Hugging Face hub, and not for a folder or the embedded model."""
    return name != EMBEDDED and not Path(name).expanduser().exists() and not name.startswith((".", "/", "~"))


def _check_folder(folder: Path, allow_remote_code: bool) -> None:
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: no such model folder; give a folder, a Hugging Face name, or `{EMBEDDED}`")
    config = folder / "config.json"
    if not config.is_file():
        raise CheckpointError(f"{folder}: no config.json; this is not a model folder in the Hugging Face layout")
    if (folder / "adapter_config.json").exists():
        raise CheckpointError(
            f"{folder}: holds an adapter (adapter_config.json), which names another model to fetch; merge it into that "
            "model (peft: merge_and_unload) and give the merged folder"
        )
    for file in sorted(folder.glob("*config.json")):
        _check_configuration(file, allow_remote_code)
    if not any(folder.glob("*.safetensors")):
        pickles = [f.name for pattern in PICKLES for f in folder.glob(pattern)]
        found = f"; it holds {', '.join(pickles)}, which can run code when loaded and is refused" if pickles else ""
        raise CheckpointError(f"{folder}: no *.safetensors weights{found}")


def _check_configuration(file: Path, allow_remote_code: bool) -> None:
    """Refuse a configuration that is none, or that asks for code: `auto_map`, its own trust in it, fetched kernels."""
    try:
        if file.stat().st_size > _MAX_CONFIG_BYTES:
            raise CheckpointError(f"{file}: longer than {_MAX_CONFIG_BYTES:,} bytes; this is no configuration")
        document = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise CheckpointError(f"{file}: not readable as JSON: {error}") from None
    if not isinstance(document, dict):
        raise CheckpointError(f"{file}: a configuration is a JSON object, this is {document!r:.60}")
    if not allow_remote_code and (found := next(_code_in(document), None)):
        raise CheckpointError(
            f"{file}: asks to run Python code that comes with the model (`{found}`); "
            "read that code, then set `allow_remote_code: true` if you trust it"
        )


def _code_in(document: dict[str, Any]) -> Iterator[str]:
    """The keys of a configuration, at any depth, that have code loaded which is no part of transformers.

    Attention by name is transformers' own; by a name with a slash it is fetched from the hub (CVE-2026-4372).
    """
    places: list[Any] = [document]
    while places:
        place = places.pop()
        if isinstance(place, list):
            places += place
        if not isinstance(place, dict):
            continue
        for name, value in place.items():
            fetched = "_implementation" in name and isinstance(value, str) and "/" in value
            if name in ("auto_map", "custom_pipelines") or (name == "trust_remote_code" and value) or fetched:
                yield name
            places.append(value)


def _from_hub(name: str, revision: str | None, allow_remote_code: bool) -> Source:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(name, revision=revision, ignore_patterns=list(PICKLES)))
    except HFValidationError:
        raise CheckpointError(
            f"{name!r} is neither a folder here nor a Hugging Face name (owner/name), nor `{EMBEDDED}`"
        ) from None
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise CheckpointError(
            f"{name}: not in the local cache, and the hub cannot give it: {str(error).strip().splitlines()[0][:200]}. "
            "Check the name, the network and your access (gated models need HF_TOKEN), or give a folder"
        ) from error
    _check_folder(folder, allow_remote_code)
    return Source(name=name, folder=folder, revision=folder.name)
