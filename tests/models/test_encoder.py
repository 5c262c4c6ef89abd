"""Similarities of texts and clips, held to transformers' own `logits_per_image`."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.encoders import ENCODERS, LIMIT, build_encoder
from tests.factories import build_checkpoint
from transformers import AutoModel, AutoProcessor

from rbft.clips.frames import Frames
from rbft.errors import CheckpointError
from rbft.models.encoder import ClipTextEncoder, find_encoder
from rbft.models.sources import EMBEDDED
from rbft.records import FramePlan

TEXTS = ["a b c", "c b a d e", "x"]


class Shown:
    """Frames by clip id, and how often each was read."""

    def __init__(self, clips: dict[str, np.ndarray]) -> None:
        self.clips = clips
        self.reads: list[str] = []

    def read(self, clip_id: str) -> Frames:
        self.reads.append(clip_id)
        data = self.clips[clip_id]
        return Frames(data, np.arange(len(data), dtype=np.float64))

    def plan(self, clip_id: str) -> FramePlan:
        raise AssertionError("not needed")


def frames(seed: int = 0, num: int = 3, height: int = 40, width: int = 48) -> np.ndarray:
    rng = np.random.default_rng(seed)
    tiles = rng.integers(0, 256, (num, height // 8, width // 8, 3), dtype=np.uint8)
    return tiles.repeat(8, axis=1).repeat(8, axis=2)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("encoders")
    return {family: build_encoder(family, root / family) for family in ENCODERS}


def loaded(folder: Path, clips: dict[str, np.ndarray], **extra: Any) -> tuple[ClipTextEncoder, Shown]:
    shown = Shown(clips)
    encoder = ClipTextEncoder.load(find_encoder(str(folder)), shown, device=torch.device("cpu"))
    if extra:
        encoder = ClipTextEncoder(encoder._model, encoder._processor, shown, **extra)
    return encoder, shown


def cosines_of_the_model(folder: Path, images: list[Image.Image], texts: list[str]) -> torch.Tensor:
    """[images, texts] by the model's own forward, its scale and bias taken away."""
    model, processor = AutoModel.from_pretrained(folder).eval(), AutoProcessor.from_pretrained(folder)
    attended = model.config.model_type == "clip"
    tokens = processor.tokenizer(
        texts, padding=True if attended else "max_length", max_length=LIMIT, truncation=True, return_tensors="pt"
    )
    inputs = processor.image_processor(images=images, return_tensors="pt") | {"input_ids": tokens["input_ids"]}
    if attended:
        inputs["attention_mask"] = tokens["attention_mask"]
    with torch.inference_mode():
        logits = model(**inputs).logits_per_image
        bias = getattr(model, "logit_bias", torch.zeros(1))
        return (logits - bias) / model.logit_scale.exp()


@pytest.mark.parametrize("family", ENCODERS)
def test_autocast_around_it_changes_nothing(folders: dict[str, Path], family: str) -> None:
    """A held-out curve is asked under autocast, rollouts are not."""
    plain, _ = loaded(folders[family], {"a": frames()})
    within, _ = loaded(folders[family], {"a": frames()})
    right = plain.similarities("a", TEXTS)
    with torch.autocast("cpu", torch.bfloat16):
        assert within.similarities("a", TEXTS) == right


@pytest.mark.parametrize("family", ENCODERS)
def test_one_frame_is_the_models_own_cosine(folders: dict[str, Path], family: str) -> None:
    data = frames(num=1)
    encoder, _ = loaded(folders[family], {"a": data})
    expected = cosines_of_the_model(folders[family], [Image.fromarray(data[0])], TEXTS)[0]
    found = encoder.similarities("a", TEXTS)
    assert found == pytest.approx(expected.tolist(), abs=1e-5)
    assert max(found) - min(found) > 1e-3, "the texts differ to this model"  # type: ignore[type-var, operator]


@pytest.mark.parametrize("family", ENCODERS)
def test_a_clip_is_the_mean_of_its_frames_each_of_length_one(folders: dict[str, Path], family: str) -> None:
    """cos(t, mean u) = mean of the frames' cosines / length of the mean."""
    data = frames(num=20)
    encoder, _ = loaded(folders[family], {"a": data})
    each = cosines_of_the_model(folders[family], [Image.fromarray(frame) for frame in data], TEXTS).mean(0)
    length = encoder.embed_frames(Frames(data, np.arange(20.0))).norm()
    assert length < 0.9999
    assert encoder.similarities("a", TEXTS) == pytest.approx((each / length).tolist(), abs=1e-5)


@pytest.mark.parametrize("family", ENCODERS)
def test_values_of_0_to_255_are_read_as_such(folders: dict[str, Path], family: str) -> None:
    """The trap: frames as floats of 0 to 255, or colours turned over, give other numbers, so the oracle would tell."""
    data = frames(num=1)
    right = cosines_of_the_model(folders[family], [Image.fromarray(data[0])], TEXTS)[0]
    model, processor = AutoModel.from_pretrained(folders[family]).eval(), AutoProcessor.from_pretrained(folders[family])
    ours = processor.image_processor(images=[data[0]], input_data_format="channels_last", return_tensors="pt")
    assert ours["pixel_values"].min() < -0.5
    assert ours["pixel_values"].max() < 3
    for wrong in (255 - data, data // 255, data[..., ::-1].copy()):
        encoder, _ = loaded(folders[family], {"a": wrong})
        assert encoder.similarities("a", TEXTS) != pytest.approx(right.tolist(), abs=1e-4)
    assert model.config.model_type == family


@pytest.mark.parametrize("family", ENCODERS)
def test_a_long_text_is_cut_to_the_towers_limit(folders: dict[str, Path], family: str) -> None:
    encoder, _ = loaded(folders[family], {"a": frames()})
    assert encoder.text_limit == LIMIT
    between = "" if family == "siglip2" else " "
    letters = list("abcdefghijklmno")
    assert len(letters) == LIMIT - 1, "and the end of the text"
    whole, longer, other = (between.join(text) for text in (letters, letters * 4, [*letters[:-1], "z"]))
    same, cut, differs = encoder.similarities("a", [whole, longer, other])
    assert cut == pytest.approx(same, abs=1e-6)
    assert differs != pytest.approx(same, abs=1e-6), "the last word before the limit counts"


@pytest.mark.parametrize("family", ENCODERS)
def test_a_text_is_itself_whatever_stands_beside_it(folders: dict[str, Path], family: str) -> None:
    encoder, _ = loaded(folders[family], {"a": frames()})
    alone = [encoder.similarities("a", [text])[0] for text in TEXTS]
    many = encoder.similarities("a", [*TEXTS, *TEXTS, "a b c d e f g"] * 20)
    assert many[:3] == pytest.approx(alone, abs=1e-6)
    assert many[3:6] == many[:3]
    assert encoder.similarities("a", ["A b C"]) == pytest.approx(alone[:1], abs=1e-6), "in lower case"


def test_a_clip_is_encoded_once_while_it_is_kept(folders: dict[str, Path]) -> None:
    encoder, shown = loaded(folders["siglip"], {name: frames(n) for n, name in enumerate("abc")}, clips_kept=2)
    for name in "aabab":
        encoder.similarities(name, TEXTS)
    assert shown.reads == ["a", "b"]
    encoder.similarities("c", TEXTS)
    encoder.similarities("b", TEXTS)
    assert shown.reads == ["a", "b", "c"]
    encoder.similarities("a", TEXTS)
    assert shown.reads == ["a", "b", "c", "a"], "the least lately used one was let go"
    assert encoder.similarities("a", []) == []


def test_what_is_no_number_is_none(folders: dict[str, Path]) -> None:
    encoder, _ = loaded(folders["siglip"], {"a": frames()})
    with torch.no_grad():
        encoder._model.text_model.head.weight.fill_(math.nan)
    assert encoder.similarities("a", TEXTS) == [None, None, None]


# -- what is found, and what is refused ----------------------------------------------------------------------------


def test_the_embedded_encoder_is_not_the_embedded_model() -> None:
    found = find_encoder(EMBEDDED)
    assert found.source.folder.name == "encoder_checkpoint"
    assert 1_000_000 < found.num_parameters < 1_500_000
    assert json.loads((found.source.folder / "config.json").read_text())["model_type"] == "siglip"


def test_a_model_that_compares_nothing_is_refused(tmp_path: Path) -> None:
    folder = build_checkpoint("qwen2_5_vl", tmp_path / "vlm")
    with pytest.raises(CheckpointError) as error:
        find_encoder(str(folder))
    assert str(error.value) == (
        f"{folder}: a model of type 'qwen2_5_vl' does not compare texts with images; reinforce.encoder is a model of "
        "type siglip, siglip2, clip, for example google/siglip2-so400m-patch14-384, or `embedded`"
    )


def test_damaged_weights_are_named(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = build_encoder("siglip", tmp_path / "damaged")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(
        CheckpointError, match=r"damaged: cannot be loaded as an encoder of texts and images: .*embedded"
    ):
        ClipTextEncoder.load(find_encoder(str(folder)), Shown({}))
    (folder / "config.json").write_text('{"model_type": "nothing"}')
    with pytest.raises(CheckpointError, match="cannot be loaded as an encoder of texts and images"):
        find_encoder(str(folder))


def test_the_fingerprint_is_of_the_weights(folders: dict[str, Path], tmp_path: Path) -> None:
    same, other = build_encoder("siglip", tmp_path / "same"), build_encoder("siglip", tmp_path / "other", seed=1)
    first = find_encoder(str(folders["siglip"])).fingerprint
    assert find_encoder(str(same)).fingerprint == first
    assert find_encoder(str(other)).fingerprint != first
