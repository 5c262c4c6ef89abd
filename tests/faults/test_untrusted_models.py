"""Models from strangers: no pickle is loaded and no code is run, wherever it lies; torn weights are told in words."""

from __future__ import annotations

import json
import os
import pickle
import random
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors import SafetensorError

from commands import command
from rbft.errors import CheckpointError
from rbft.models.sources import resolve

EMBEDDED = {name: resolve("embedded", embedded=name).folder for name in ("model", "encoder")}
PICKLES = ("pytorch_model.bin", "model.pt", "model.pth", "model.ckpt", "training_args.bin", "weights.pkl",
           "adapter_model.bin", "optimizer.pt")  # fmt: skip


class Canary:
    """Unpickled, it writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.path),)


def poisoned(folder: Path, canary: Path, *, weights: bool, room: str = "model") -> Path:
    """The embedded model with a pickle under every name that one goes by, and, where wanted, without its weights."""
    shutil.copytree(EMBEDDED[room], folder)
    for name in PICKLES:
        (folder / name).write_bytes(pickle.dumps(Canary(canary)))
    if not weights:
        for file in folder.glob("*.safetensors"):
            file.unlink()
    return folder


def test_the_canary_sings(tmp_path: Path) -> None:
    """What the tests below look for does happen where a pickle is loaded."""
    pickle.loads(pickle.dumps(Canary(tmp_path / "canary")))
    assert (tmp_path / "canary").exists()


def test_a_folder_of_pickles_is_refused_as_model_encoder_and_detector(tmp_path: Path) -> None:
    from rbft.models.detect import Detector
    from rbft.models.encoder import find_encoder
    from rbft.models.vlm import VLM, load_grid

    folder = poisoned(tmp_path / "m", tmp_path / "canary", weights=False)
    encoder = poisoned(tmp_path / "e", tmp_path / "canary", weights=False, room="encoder")
    for load in (
        lambda: VLM.load(folder), lambda: load_grid(folder), lambda: find_encoder(str(encoder)),
        lambda: Detector.load(folder, {}, count=1),
    ):  # fmt: skip
        with pytest.raises(CheckpointError, match=r"no \*\.safetensors weights; it holds .*pytorch_model\.bin.*, which "
                           "can run code when loaded and is refused"):  # fmt: skip
            load()
    assert not (tmp_path / "canary").exists()


def test_pickles_beside_safe_weights_are_not_looked_at(tmp_path: Path) -> None:
    from rbft.models.vlm import VLM

    VLM.load(poisoned(tmp_path / "m", tmp_path / "canary", weights=True))
    assert not (tmp_path / "canary").exists()


def test_commands_refuse_a_checkpoint_of_pickles(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = poisoned(tmp_path / "m", tmp_path / "canary", weights=False)
    (tmp_path / "a.mp4").write_bytes(b"x")
    (tmp_path / "q.jsonl").write_text(
        '{"question_id": "1", "path": "a.mp4", "kind": "OCR", "text": "?", "answer": "a"}\n', encoding="utf-8"
    )
    assert command("predict", str(folder), str(tmp_path / "a.mp4")) == 2
    assert "no card.json: not a checkpoint that rbft trained" in capsys.readouterr().err
    (tmp_path / "x.yaml").write_text("clips: c\nmodel: m\nlabels: [a, b]\n", encoding="utf-8")
    explain = ["explain", str(folder), str(tmp_path / "a.mp4"), "--experiment", str(tmp_path / "x.yaml")]
    for arguments in (["ask", str(folder), str(tmp_path / "q.jsonl")], explain):
        assert command(*arguments, "--out", str(tmp_path / "out")) == 2, arguments
        assert "which can run code when loaded and is refused" in capsys.readouterr().err
    assert not (tmp_path / "canary").exists()


def test_code_beside_safe_weights_is_not_imported(tmp_path: Path) -> None:
    """Modules that a configuration names, under every name that transformers looks for, and a chat template that
    tries to leave its sandbox."""
    from rbft.models.vlm import VLM, TokenCounter, load_grid

    folder = tmp_path / "m"
    shutil.copytree(EMBEDDED["model"], folder)
    spring = f"import os\nos.mkdir({str(tmp_path / 'canary')!r})\n"
    for name in ("mine", "modeling_qwen2_5_vl", "configuration_qwen2_5_vl", "processing_qwen2_5_vl", "tokenization"):
        (folder / f"{name}.py").write_text(spring, encoding="utf-8")
    for name, auto in (
        ("tokenizer_config.json", "AutoTokenizer"), ("config.json", "AutoConfig"),
        ("generation_config.json", "GenerationConfig"), ("processor_config.json", "AutoProcessor"),
    ):  # fmt: skip
        file = folder / name
        before = file.read_bytes() if file.exists() else b"{}"
        file.write_text(json.dumps(json.loads(before) | {"auto_map": {auto: "mine.Mine"}}), encoding="utf-8")
        for load in (VLM.load, load_grid):
            with pytest.raises(CheckpointError, match=rf"{name}: asks to run Python code .*`auto_map`"):
                load(folder)
        file.write_bytes(before)
    template = folder / "chat_template.jinja"
    template.write_text(
        "{{ cycler.__init__.__globals__.os.mkdir('" + str(tmp_path / "canary") + "') }}", encoding="utf-8"
    )
    with pytest.raises(
        CheckpointError, match=r"the model's chat template cannot be rendered: access to attribute .* is unsafe"
    ):
        TokenCounter(resolve(folder))
    assert not (tmp_path / "canary").exists()


# -- weights -------------------------------------------------------------------------------------------------------


def fuzzed(rng: random.Random, weights: bytes) -> bytes:
    """Weights with a header that lies: about its length, places, types, shapes, or that is no header."""
    (length,) = struct.unpack("<Q", weights[:8])
    header = json.loads(weights[8 : 8 + length])
    names = [name for name in header if name != "__metadata__"]
    one = header[rng.choice(names)]
    match rng.randrange(9):
        case 0:
            return struct.pack("<Q", rng.choice([2**63, 2**64 - 1, 2**40, len(weights), 100_000_001])) + weights[8:]
        case 1:
            one["data_offsets"] = header[rng.choice(names)]["data_offsets"]
        case 2:
            one["dtype"] = rng.choice(["F64", "I8", "U8", "BOOL", "F128", "", "O"])
        case 3:
            one["shape"] = rng.choice([[2**62, 2**62], [-1], [0], [1] * 1000, "x", None, [2**63]])
        case 4:
            one["data_offsets"] = [rng.choice([0, 2**63, -1]), rng.choice([2**64 - 1, 2**40, -1, 0])]
        case 5:
            return weights + rng.randbytes(rng.randrange(1, 99))
        case 6:
            return weights[: rng.randrange(len(weights) - 1)]
        case 7:
            raw = rng.choice([b"[" * 50_000, b"{" * 9, b"null", b'{"x": 1}', rng.randbytes(64)])
            return struct.pack("<Q", len(raw)) + raw + weights[8 + length :]
        case _:
            header["__metadata__"] = rng.choice([[1], {"format": 1}, {"format": "pt" * 9}, 7])
            del header[names[0]]
    raw = json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + weights[8 + length :]


def refusals(folder: Path, seed: int, count: int) -> int:
    """Load the small encoder under so many headers that lie; how many were refused. Raises where it is not in words."""
    from rbft.models.encoder import ClipTextEncoder, find_encoder

    file = folder / "model.safetensors"
    rng, weights = random.Random(seed), file.read_bytes()
    refused = 0
    for _ in range(count):
        file.write_bytes(fuzzed(rng, weights))
        try:
            ClipTextEncoder.load(find_encoder(str(folder)), None)  # type: ignore[arg-type]
        except CheckpointError as error:
            assert str(folder) in str(error) and len(str(error)) < 1_000
            refused += 1
    file.write_bytes(weights)
    return refused


def test_headers_that_lie_are_refused_in_words(tmp_path: Path) -> None:
    folder = tmp_path / "e"
    shutil.copytree(EMBEDDED["encoder"], folder)
    assert refusals(folder, seed=1, count=12) == 12


MEASURE = """
import resource, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_untrusted_models import refusals
folder = Path(sys.argv[2])
from rbft.models.encoder import ClipTextEncoder, find_encoder
ClipTextEncoder.load(find_encoder(str(folder)), None)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(refusals(folder, seed=2, count=200), (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


@pytest.mark.nightly
def test_200_headers_that_lie_cost_less_than_200_mb(tmp_path: Path) -> None:
    folder = tmp_path / "e"
    shutil.copytree(EMBEDDED["encoder"], folder)
    here = Path(__file__).parent
    environment = os.environ | {"PYTHONPATH": f"{here.parent}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    ran = subprocess.run(
        [sys.executable, "-c", MEASURE, str(here), str(folder)],
        capture_output=True, text=True, check=True, env=environment,
    )  # fmt: skip
    refused, megabytes = ran.stdout.split()[-2:]
    assert int(refused) == 200
    assert float(megabytes) < 200


def test_a_header_of_100_mb_is_refused_by_its_length(tmp_path: Path) -> None:
    """The bound is the library's; were it gone, a file of 8 bytes could ask for any amount of memory."""
    from safetensors import safe_open

    (tmp_path / "x.safetensors").write_bytes(struct.pack("<Q", 2**63) + b"{}")
    with pytest.raises(SafetensorError, match=r"(?i)header"), safe_open(tmp_path / "x.safetensors", "pt"):
        pass
