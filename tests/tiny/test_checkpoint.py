"""The embedded checkpoint is a plain Hugging Face folder and describes clean clips."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors import safe_open
from transformers import AutoModelForImageTextToText, AutoProcessor, AutoTokenizer

from rbft.tiny import CHECKPOINT
from rbft.tiny.checkpoint import load_checkpoint, save_checkpoint
from rbft.tiny.evaluate import (
    Share,
    description_shares,
    descriptions,
    evaluate,
    general_sample,
    yard_sample,
    yard_shares,
)
from rbft.tiny.language import parse_description, rationale_prompt
from rbft.tiny.report import draw_curves, model_card, results_tables
from rbft.tiny.speak import label_scores
from rbft.tiny.world import render


@pytest.fixture(scope="module")
def loaded():  # type: ignore[no-untyped-def]
    return load_checkpoint(CHECKPOINT)


TOKENIZER = AutoTokenizer.from_pretrained(CHECKPOINT)


@given(st.text())
def test_any_text_survives_the_tokenizer(text: str) -> None:
    assert TOKENIZER.decode(TOKENIZER(text).input_ids, skip_special_tokens=False) == text


@pytest.mark.parametrize(
    "text", ["日本語\n\n\t x  ", "🐻‍❄️ é ﬁ \r\n", "<|im_end|> <think>7</think>", " 2048 ", "\x00\u200b"]
)
def test_odd_text_survives_the_tokenizer(text: str) -> None:
    assert TOKENIZER.decode(TOKENIZER(text).input_ids, skip_special_tokens=False) == text


def test_the_folder_is_small_and_whole() -> None:
    files = {path.name: path.stat().st_size for path in CHECKPOINT.iterdir()}
    needed = {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "processor_config.json"}
    assert needed <= files.keys() and "README.md" in files
    assert sum(files.values()) <= 12 * 2**20
    with safe_open(CHECKPOINT / "model.safetensors", "pt") as file:
        assert {file.get_tensor(name).dtype for name in file.keys()} == {torch.bfloat16}  # noqa: SIM118
    config = json.loads((CHECKPOINT / "config.json").read_text())
    assert config["architectures"] == ["Qwen2_5_VLForConditionalGeneration"]
    assert config["text_config"]["max_position_embeddings"] >= 4096


def test_the_chat_form_is_qwens_without_a_system_prompt() -> None:
    content = [{"type": "video"}, {"type": "image"}, {"type": "text", "text": "Hello"}]
    turns = [{"role": "user", "content": content}, {"role": "assistant", "content": "Yes"}]
    assert TOKENIZER.apply_chat_template(turns, tokenize=False) == (
        "<|im_start|>user\n<|vision_start|><|video_pad|><|vision_end|><|vision_start|><|image_pad|><|vision_end|>Hello"
        "<|im_end|>\n<|im_start|>assistant\nYes<|im_end|>\n"
    )


def test_the_stock_classes_load_it_and_generate_a_description() -> None:
    model = AutoModelForImageTextToText.from_pretrained(CHECKPOINT).eval()
    processor = AutoProcessor.from_pretrained(CHECKPOINT)
    assert type(model).__name__ == "Qwen2_5_VLForConditionalGeneration" and model.dtype == torch.bfloat16
    frames, _ = render(general_sample(1).specs[0], [0.0, 0.5, 1.0, 1.5])
    content = [{"type": "video", "video": frames}, {"type": "text", "text": rationale_prompt("Film Editor")}]
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": content}],
        tokenize=True,
        add_generation_prompt=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs={"video_metadata": [{"fps": 2.0, "total_num_frames": 4, "duration": 2.0}]},
    )
    assert inputs["video_grid_thw"].tolist() == [[2, 6, 6]]
    assert inputs["second_per_grid_ts"].tolist() == [1.0]
    out = model.generate(**inputs, max_new_tokens=48)
    text = processor.batch_decode(out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)[0]
    assert parse_description(text) is not None


def test_it_describes_clean_clips_far_better_than_chance(loaded) -> None:  # type: ignore[no-untyped-def]
    model, processor = loaded
    sample = general_sample(40)
    shares = description_shares(descriptions((model, processor.tokenizer), sample), sample.specs)
    at_least = {"subject": 0.7, "size": 0.7, "colour": 0.8, "action": 0.8, "scene": 0.9, "light": 0.9, "all six": 0.4}
    assert {name: share.value for name, share in shares.items() if share.value < at_least[name]} == {}


def test_the_night_yard_is_harder_than_the_world_it_knows(loaded) -> None:  # type: ignore[no-untyped-def]
    model, processor = loaded
    yard = yard_sample(16, severity=1.0)
    said = descriptions((model, processor.tokenizer), yard)
    assert description_shares(said, yard.specs)["subject"].value < 0.6
    assert yard_shares((model, processor.tokenizer), yard, said)["majority class"].value >= 0.5


def test_every_table_is_measured_and_written(loaded) -> None:  # type: ignore[no-untyped-def]
    model, processor = loaded
    results = evaluate((model, processor.tokenizer), 2)
    assert set(results["questions, general world"]) >= {
        "multiple choice", "numerical", "OCR", "free-form", "regression", "thinking, tags as asked",
        "defined labels, hard rules, thinking",
    }  # fmt: skip
    assert len(results["night yard by severity"]) == 4 * 5
    assert all(share.n == 2 for rows in results.values() for share in rows.values())
    tables = results_tables({"labels": {"majority": Share(1, 2)}})
    assert tables == (
        "| labels | right | 95 % interval | n |\n|---|---|---|---|\n| majority | 0.500 | 0.095 to 0.905 | 2 |"
    )
    assert tables.splitlines()[0] in model_card({"labels": {"majority": Share(1, 2)}})


def test_curves_of_a_training_are_drawn(tmp_path: Path) -> None:
    seen = dict.fromkeys(("subject", "action", "colour", "size", "scene"), 0.5)
    said = dict.fromkeys(("answers", "tokens", "clause", "level"), 0.5)
    rows = [{"phase": "vision", "step": n, **seen} for n in (25, 50)] + [{"phase": "language", "step": 25, **said}]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    draw_curves(tmp_path / "log.jsonl", tmp_path / "curves.png")
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.width > 800 and len(picture.convert("RGB").getcolors(1 << 20) or []) > 10


def test_label_scores_are_log_probabilities_that_read_the_clip(loaded) -> None:  # type: ignore[no-untyped-def]
    model, processor = loaded
    frames = general_sample(4).frames
    prompts = ["Which label fits the clip? yes: a dog. no: anything else."] * 4
    scores = label_scores(model, processor.tokenizer, frames, prompts, ["yes", "no", "dog running"])
    assert scores.shape == (4, 3) and (scores < 0).all()
    assert len(set(scores[:, 0].round(6))) == 4


def test_saving_what_was_loaded_gives_the_same_weights(loaded, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    model, processor = loaded
    save_checkpoint(model, processor.tokenizer, tmp_path, "card")
    again, _ = load_checkpoint(tmp_path)
    for (name, value), (_, other) in zip(model.named_parameters(), again.named_parameters(), strict=True):
        assert torch.equal(value, other), name
    assert (tmp_path / "tokenizer.json").read_bytes() == (CHECKPOINT / "tokenizer.json").read_bytes()


def test_the_wilson_interval() -> None:
    low, high = Share(81, 263).interval
    assert (round(low, 4), round(high, 4)) == (0.2553, 0.3662)
    assert str(Share(1, 2)) == "0.500 [0.095, 0.905] n=2"
