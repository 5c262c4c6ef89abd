"""The embedded encoder: its files, its texts, its training, and what it tells apart."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from transformers import AutoModel, AutoProcessor, SiglipModel

from rbft.clips.frames import Frames
from rbft.models.encoder import ClipTextEncoder, find_encoder
from rbft.models.sources import EMBEDDED
from rbft.records import FramePlan
from rbft.tiny.__main__ import main
from rbft.tiny.encoder import (
    BIAS,
    SCALE,
    TEXT_LIMIT,
    WRONG,
    build_config,
    build_model,
    build_processor,
    build_tokenizer,
    draw_texts,
    holds,
    with_one_wrong,
)
from rbft.tiny.encoder_evaluate import Told, encoder_tables, told_apart
from rbft.tiny.encoder_training import (
    SEEN_SEVERITIES,
    Learner,
    Pupil,
    Settings,
    new_learner,
    open_pools,
    scaled,
    train_encoder,
)
from rbft.tiny.evaluate import general_sample, yard_sample
from rbft.tiny.language import describe, describe_words, parse_description
from rbft.tiny.model import MERGE, normalised, patchify
from rbft.tiny.pool import Pool
from rbft.tiny.world import DIMENSIONS, sample_spec

FOLDER = find_encoder(EMBEDDED).source.folder
WORDS = st.fixed_dictionaries({name: st.sampled_from(words) for name, words in DIMENSIONS.items()})


@pytest.fixture(scope="module")
def pools(tmp_path_factory: pytest.TempPathFactory) -> tuple[Pool, Pool]:
    return open_pools(tmp_path_factory.mktemp("pools"), 8, seed=1)


# -- files ---------------------------------------------------------------------------------------------------------


def test_the_checkpoint_is_a_small_siglip_of_transformers() -> None:
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) < 3_000_000
    assert isinstance(AutoModel.from_pretrained(FOLDER), SiglipModel)
    with safe_open(FOLDER / "model.safetensors", "pt") as file:
        kinds = {file.get_tensor(name).dtype for name in file.keys()}  # noqa: SIM118
    assert kinds == {torch.float16}
    model = AutoModel.from_pretrained(FOLDER, dtype=torch.float32)
    assert model.logit_scale.exp().item() == pytest.approx(SCALE, rel=1e-2)
    assert model.logit_bias.item() == BIAS


def test_the_tokenizer_reads_words_and_cuts_at_the_limit() -> None:
    tokenizer = AutoProcessor.from_pretrained(FOLDER).tokenizer
    assert tokenizer.get_vocab() == build_tokenizer().get_vocab(), "the same on every machine"
    rng = np.random.default_rng(0)
    for _ in range(200):
        ids = tokenizer(describe(sample_spec(rng)))["input_ids"]
        assert len(ids) <= TEXT_LIMIT
        assert tokenizer.unk_token_id not in ids
    assert tokenizer.tokenize("A Dog, running left.") == ["a", "dog", ",", "running", "left", "."]
    assert len(tokenizer("a dog " * 50, truncation=True)["input_ids"]) == TEXT_LIMIT


def test_training_sees_what_the_processor_gives() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (3, 84, 84, 3), dtype=np.uint8)
    given = build_processor(build_tokenizer()).image_processor(images=list(frames), return_tensors="pt")
    assert torch.allclose(scaled(torch.from_numpy(frames)[None]), given["pixel_values"], atol=1e-5)


# -- texts ---------------------------------------------------------------------------------------------------------


@given(WORDS, st.sampled_from(list(DIMENSIONS)), st.integers(0, 1000))
def test_one_word_is_wrong(words: dict[str, str], name: str, seed: int) -> None:
    wrong = with_one_wrong(words, name, np.random.default_rng(seed))
    assert [n for n in DIMENSIONS if wrong[n] != words[n]] == [name]
    assert parse_description(describe_words(wrong)) == wrong


@given(st.lists(WORDS, min_size=1, max_size=4), st.integers(0, 1000))
def test_every_clip_has_a_true_text_and_wrong_ones(clips: list[dict[str, str]], seed: int) -> None:
    meant, texts = draw_texts(clips, np.random.default_rng(seed))
    true = holds(meant, clips)
    assert len(texts) == len(meant) == len(clips) * (1 + WRONG)
    for row, words in enumerate(clips):
        first = row * (1 + WRONG)
        own = meant[first : first + 1 + WRONG]
        assert true[row, first : first + 1 + WRONG].tolist() == [True] + [False] * WRONG
        assert all(own[0][name] == words[name] for name in own[0])
        assert all(sum(text[n] != own[0][n] for n in text) == 1 for text in own[1:])
        assert all(
            word in text.lower() for clause, text in zip(own, texts[first:], strict=False) for word in clause.values()
        )


def test_a_text_of_another_clip_may_be_true() -> None:
    dog = {"subject": "dog", "colour": "red"}
    clips = [{**dog, "scene": "room"}, {**dog, "scene": "beach"}]
    assert holds([dog, clips[0]], clips).tolist() == [[True, True], [True, False]]


# -- training ------------------------------------------------------------------------------------------------------


def test_the_camera_changes_the_same_clips(pools: tuple[Pool, Pool]) -> None:
    plain, shifted = pools
    assert plain.specs == shifted.specs
    assert SEEN_SEVERITIES[0] < 0.5 < SEEN_SEVERITIES[1], "the night yard's"
    spread = [np.ptp(pool.frames.astype(float).mean((1, 2, 3)), axis=-1).mean() for pool in pools]
    assert spread[1] < 0.8 * spread[0], "colour is lost"


def test_a_patch_is_taught_by_the_token_of_its_own_place() -> None:
    """The token into whose pixels a square of two frames goes is the one that the pupil makes of the patches there."""
    frames = torch.full((1, 4, 84, 84, 3), 90.0)
    before = patchify(normalised(frames))[0]
    for step, row, column in ((0, 0, 0), (1, 2, 1), (0, 1, 2)):
        painted = frames.clone()
        painted[:, 2 * step : 2 * step + 2, 28 * row : 28 * row + 28, 28 * column : 28 * column + 28] = 250
        changed = (patchify(normalised(painted))[0] != before).all(-1).nonzero().flatten() // MERGE**2
        [token] = set(changed.tolist())
        patches = torch.zeros(1, 4, 6, 6, 128)
        patches[:, 2 * step : 2 * step + 2, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2] = 1
        pupil = Pupil()
        torch.nn.init.ones_(pupil.answer.weight)
        torch.nn.init.zeros_(pupil.answer.bias)
        told = torch.zeros(1, 18, 192)
        told[0, token] = 8 * 128
        assert pupil.loss(patches.flatten(2, 3), told).item() == 0.0


def learner(pools: tuple[Pool, Pool]) -> Learner:
    return new_learner(*pools, 0)


def test_an_interrupted_training_goes_on_to_the_same_weights(
    pools: tuple[Pool, Pool], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(steps=6, batch=4, save_every_seconds=0.0)
    whole, cut = learner(pools), learner(pools)
    train_encoder(tmp_path / "whole", whole, settings)
    from rbft.tiny import encoder_training as module

    real = module.step_loss

    def killed(one: Learner, asked: Settings, step: int) -> object:
        if step == 3:
            raise KeyboardInterrupt
        return real(one, asked, step)

    monkeypatch.setattr(module, "step_loss", killed)
    with pytest.raises(KeyboardInterrupt):
        train_encoder(tmp_path / "cut", cut, settings)
    monkeypatch.undo()
    again = learner(pools)
    train_encoder(tmp_path / "cut", again, settings, resume=True)
    for (name, one), other in zip(whole.model.named_parameters(), again.model.parameters(), strict=True):
        assert torch.equal(one, other), name
    with pytest.raises(ValueError, match="holds a run with seed 0, not 1; choose another --out"):
        train_encoder(tmp_path / "cut", again, replace(settings, seed=1), resume=True)


def test_scale_and_bias_are_not_learnt(pools: tuple[Pool, Pool], tmp_path: Path) -> None:
    one = learner(pools)
    train_encoder(tmp_path, one, Settings(steps=3, batch=4))
    assert one.model.logit_scale.exp().item() == pytest.approx(SCALE)
    assert one.model.logit_bias.item() == BIAS
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert rows[-1]["step"] == 3
    assert {"pairs", "heads", "taught", "ordered"} <= set(rows[-1])


def test_the_command_leaves_an_encoder_with_its_measures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["encoder", "--out", str(tmp_path), "--clips", "40", "--steps", "2", "--test", "5"]
    monkeypatch.setattr(sys, "argv", ["rbft.tiny", *asked])
    before = torch.get_num_threads()
    main()
    torch.set_num_threads(before)
    said = capsys.readouterr().out
    assert f"saved {tmp_path / 'encoder'}" in said
    assert "| night yard, severity 0.5: wrong is the | AUC |" in said
    card = (tmp_path / "encoder" / "README.md").read_text(encoding="utf-8")
    assert said.partition("\n\n")[2].strip() in card
    assert find_encoder(str(tmp_path / "encoder")).num_parameters == find_encoder(EMBEDDED).num_parameters


def test_the_model_is_the_one_of_its_seed() -> None:
    config = build_config(219, 0)
    same, other = build_model(config, 0), build_model(config, 1)
    first = build_model(config, 0).vision_model.embeddings.patch_embedding.weight
    assert torch.equal(first, same.vision_model.embeddings.patch_embedding.weight)
    assert not torch.equal(first, other.vision_model.embeddings.patch_embedding.weight)


def test_tables_by_hand() -> None:
    table = encoder_tables({"somewhere": {"colour": Told(0.75, 0.5, 0.41, -0.2, 4)}})
    assert table.splitlines()[-1] == "| colour | 0.750 | 0.500 | 0.410 | -0.200 | 4 |"


# -- what it tells apart -------------------------------------------------------------------------------------------


class Shown:
    def __init__(self, clips: np.ndarray) -> None:
        self._clips = clips

    def read(self, clip_id: str) -> Frames:
        data = self._clips[int(clip_id)]
        return Frames(data, np.arange(len(data), dtype=np.float64))

    def plan(self, clip_id: str) -> FramePlan:
        raise AssertionError("not needed")


@pytest.mark.parametrize("world", ["general", "yard"])
def test_every_word_of_a_description_counts(world: str) -> None:
    sample = general_sample(60) if world == "general" else yard_sample(60, 0.5)
    told = told_apart(FOLDER, sample)
    least = {"subject": 0.75, "size": 0.8, "colour": 0.95, "action": 0.65, "scene": 0.95, "light": 0.95}
    assert {name: told[name].ordered >= share for name, share in least.items()} == dict.fromkeys(least, True)
    assert told["another clip's"].auc > 0.98
    assert told["another clip's"].right > 0.3 > 0.0 > told["another clip's"].wrong


def test_frames_in_other_colours_fit_a_colour_less() -> None:
    """The trap: 0 to 255 read as 0 to 1 turns colours over; so do channels in another order."""
    sample = general_sample(60)
    texts = [describe(spec) for spec in sample.specs]
    clips = {
        "right": sample.frames,
        "turned over": 255 - sample.frames,
        "0 to 1": sample.frames // 255,
        "BGR": sample.frames[..., ::-1],
    }
    found = {}
    for name, frames in clips.items():
        encoder = ClipTextEncoder.load(find_encoder(EMBEDDED), Shown(frames), device=torch.device("cpu"))
        found[name] = np.array([encoder.similarities(str(row), [text])[0] for row, text in enumerate(texts)], float)
    assert (found["right"] > found["turned over"]).mean() > 0.95
    assert (found["right"] > found["0 to 1"]).mean() > 0.95
    coloured = [spec.colour in ("red", "blue") for spec in sample.specs]
    assert (found["right"] > found["BGR"])[coloured].mean() > 0.9
