"""The detector: a small random OWL-ViT on disk, through the classes that real ones load with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import CLIPTokenizerFast, OwlViTConfig, OwlViTForObjectDetection, OwlViTProcessor
from transformers.models.owlvit.image_processing_owlvit import OwlViTImageProcessor

from rbft.clips.frames import Frames
from rbft.errors import CheckpointError
from rbft.models.detect import Detector, distinct, intersection_over_union
from rbft.records import Clip


@pytest.fixture(scope="module")
def owl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random OWL-ViT of about 60,000 parameters with a tokenizer of letters."""
    folder = tmp_path_factory.mktemp("owl")
    letters = "abcdefghijklmnopqrstuvwxyz"
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizerFast(
        vocab=str(folder / "vocab.json"), merges=str(folder / "merges.txt"), model_max_length=16
    )
    small = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    ids = {"bos_token_id": len(tokens) - 2, "eos_token_id": len(tokens) - 1, "pad_token_id": len(tokens) - 1}
    config = OwlViTConfig(
        text_config=small | ids | {"vocab_size": len(tokens), "max_position_embeddings": 16},
        vision_config=small | {"image_size": 64, "patch_size": 16},
        projection_dim=32,
    )
    torch.manual_seed(0)
    OwlViTForObjectDetection(config).save_pretrained(folder)
    processor: Any = OwlViTImageProcessor(size={"height": 64, "width": 64})
    OwlViTProcessor(processor, tokenizer).save_pretrained(folder)
    return folder


def clip(clip_id: str) -> Clip:
    return Clip(clip_id=clip_id, path="a.mp4", sha256="0", duration_seconds=1.0, split="test")


def noise(frames: int) -> Frames:
    data = np.random.default_rng(0).integers(0, 256, (frames, 48, 96, 3), dtype=np.uint8)
    return Frames(data, np.arange(frames) * 1.0)


def test_boxes_of_every_frame_are_inside_it_and_distinct(owl: Path) -> None:
    detector = Detector.load(owl, {"a": ["black bear", "trash can"]}, count=3)
    found = detector.find(clip("a"), noise(10))
    assert found.shape == (10, 3, 4)
    assert not np.isnan(found[:, 0]).any()
    there = found[~np.isnan(found).any(axis=2)]
    assert (there >= 0).all()
    assert (there <= 1).all()
    assert (there[:, :2] <= there[:, 2:]).all()
    for frame in found:
        boxes = frame[~np.isnan(frame).any(axis=1)]
        pairs = [(a, b) for i, a in enumerate(boxes) for b in boxes[:i]]
        assert all(intersection_over_union(a, b) <= 0.5 for a, b in pairs)


def test_frames_in_batches_are_those_one_by_one(owl: Path) -> None:
    detector = Detector.load(owl, {"a": ["bear"]}, count=3)
    frames = noise(10)
    whole = detector.find(clip("a"), frames)
    ninth = detector.find(clip("a"), Frames(frames.data[8:9], frames.seconds[8:9]))
    np.testing.assert_allclose(whole[8:9], ninth, atol=1e-4)


def test_the_strongest_box_is_where_the_model_itself_says(owl: Path) -> None:
    """Against transformers unaided, in the coordinates of the frame."""
    frames = noise(1)
    detector = Detector.load(owl, {"a": ["bear"]}, count=1)
    processor = OwlViTProcessor.from_pretrained(owl)
    model = OwlViTForObjectDetection.from_pretrained(owl)
    with torch.inference_mode():
        inputs = processor(
            images=torch.from_numpy(frames.data[0]).permute(2, 0, 1), text=[["bear"]], return_tensors="pt"
        )
        output = model(**inputs)
    x, y, width, height = output.pred_boxes[0, int(output.logits[0, :, 0].argmax())].tolist()
    expected = np.clip([x - width / 2, y - height / 2, x + width / 2, y + height / 2], 0, 1)
    np.testing.assert_allclose(detector.find(clip("a"), frames)[0, 0], expected, atol=1e-4)


def test_a_clip_without_phrases_has_no_objects(owl: Path) -> None:
    detector = Detector.load(owl, {}, count=3)
    assert np.isnan(detector.find(clip("a"), noise(2))).all()


def test_its_name_holds_the_weights(owl: Path) -> None:
    name = Detector.load(owl, {}, count=3).name
    assert name.startswith(f"detector {owl} ")
    assert len(name.rpartition(" ")[2]) == 16


def test_another_model_is_refused(checkpoints: dict[str, Path]) -> None:
    with pytest.raises(CheckpointError) as caught:
        Detector.load(checkpoints["qwen2_vl"], {}, count=3)
    assert str(caught.value).startswith(f"{checkpoints['qwen2_vl']}: cannot be loaded as a detector: ")
    assert str(caught.value).endswith("for example google/owlv2-base-patch16-ensemble, or `boxes`, or `motion`")


def test_the_same_object_is_kept_once() -> None:
    boxes = np.array([[0, 0, 0.5, 0.5], [0, 0, 0.5, 0.45], [0.5, 0.5, 1, 1], [0, 0, 1, 1]], dtype=np.float64)
    kept = distinct(boxes, np.array([0.5, 0.9, 0.6, 0.7]), 3)
    assert kept.tolist() == [boxes[1].tolist(), boxes[3].tolist(), boxes[2].tolist()]
    assert len(distinct(boxes, np.array([0.5, 0.9, 0.6, 0.7]), 2)) == 2


def test_intersection_over_union_by_hand() -> None:
    a, b = np.array([0, 0, 0.4, 0.4]), np.array([0.2, 0.2, 0.6, 0.6])
    assert intersection_over_union(a, b) == pytest.approx(0.04 / 0.28)
    assert intersection_over_union(a, np.array([0.5, 0.5, 1, 1])) == 0.0
    assert intersection_over_union(np.zeros(4), np.zeros(4)) == 0.0
