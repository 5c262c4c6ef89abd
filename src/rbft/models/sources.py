"""Where a model's files are: a Hugging Face name at a commit, a folder, or the embedded model."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Literal

from rbft.errors import CheckpointError
from rbft.files import sha256_of
from rbft.records import fingerprint

EMBEDDED = "embedded"
_ROOMS = {"model": "checkpoint", "encoder": "encoder_checkpoint"}
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
    try:
        document = json.loads(config.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise CheckpointError(f"{config}: not readable as JSON: {error}") from None
    if not allow_remote_code and isinstance(document, dict) and "auto_map" in document:
        raise CheckpointError(
            f"{config}: asks to run Python code that comes with the model (`auto_map`); "
            "read that code, then set `allow_remote_code: true` if you trust it"
        )
    if not any(folder.glob("*.safetensors")):
        pickles = [f.name for pattern in PICKLES for f in folder.glob(pattern)]
        found = f"; it holds {', '.join(pickles)}, which can run code when loaded and is refused" if pickles else ""
        raise CheckpointError(f"{folder}: no *.safetensors weights{found}")


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
