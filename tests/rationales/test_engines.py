"""Engines without network: files of answers read whole, a local model with and without the clip."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from factories import FAMILY_NAMES
from rbft.clips.frames import Frames
from rbft.curation import Engine as EngineSettings
from rbft.errors import ExperimentError
from rbft.models.generate import end_tokens, generate_text
from rbft.models.vlm import VLM
from rbft.rationales.engines import Ask, FileEngine, LocalEngine, Reply, Unanswered
from rbft.records import FramePlan


class NoFrames:
    """Nothing is shown."""

    def read(self, clip_id: str) -> Frames:
        raise AssertionError("text alone")

    def plan(self, clip_id: str) -> FramePlan:
        raise AssertionError("text alone")


def test_a_file_answers_by_id(tmp_path: Path) -> None:
    path = tmp_path / "said.jsonl"
    path.write_text('\ufeff{"id": "a", "text": "A dog."}\n\n{"id": "b", "text": ""}\n', encoding="utf-8")
    engine = FileEngine(path)
    asks = [Ask("k1", "a", "?"), Ask("k2", "c", "?")]
    assert [reply for _, reply in engine.replies(asks)] == [
        Reply("A dog.", True), Unanswered("said.jsonl has no text of 'c'"),
    ]  # fmt: skip
    path.write_text('{"id": "a", "text": "A cat."}\n')
    assert FileEngine(path).fingerprint != engine.fingerprint


def test_a_bad_file_names_every_line(tmp_path: Path) -> None:
    path = tmp_path / "said.jsonl"
    path.write_text(
        '{"id": "a", "text": "x"}\n{"id": 3}\nnot json\n{"id": "a", "text": "y"}\n{"id": "b", "tex": "y"}\n'
    )
    with pytest.raises(ExperimentError) as error:
        FileEngine(path)
    form = 'not an answer; a line is {"id": "…", "text": "…"} and nothing else'
    assert error.value.faults == [
        f"{path}:2: {form}", f"{path}:3: {form}", f"{path}:4: id 'a' stands there twice; keep one", f"{path}:5: {form}",
    ]  # fmt: skip
    path.write_text("")
    with pytest.raises(ExperimentError, match="holds no answer"):
        FileEngine(path)
    with pytest.raises(ExperimentError, match="cannot be read: No such file"):
        FileEngine(tmp_path / "none.jsonl")
    path.write_bytes(b"\xff")
    with pytest.raises(ExperimentError, match="not UTF-8 at byte 0; save it as UTF-8"):
        FileEngine(path)


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_text_alone_is_written_as_the_model_would_one_by_one(family: str, checkpoints: dict[str, Path]) -> None:
    """In a padded batch, every family writes what transformers' plain `generate` writes to the rendered chat."""
    vlm = VLM.load(checkpoints[family])
    prompts = ["What is a dog?", "And a much longer question about the colour of a cat?"]
    rows = [vlm.encode_text(prompt) for prompt in prompts]
    made = generate_text(vlm, rows, max_new_tokens=12)
    for prompt, row, text in zip(prompts, rows, made, strict=True):
        turn = [{"role": "user", "content": [{"type": "text", "text": prompt}]}]
        rendered = vlm.processor.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
        assert row.tolist() == vlm.tokenizer(rendered, add_special_tokens=False)["input_ids"]
        with torch.inference_mode():
            output = vlm.model.generate(
                input_ids=row[None], attention_mask=torch.ones_like(row[None]), max_new_tokens=12, do_sample=False,
                suppress_tokens=vlm.visual_token_ids, eos_token_id=end_tokens(vlm), pad_token_id=vlm.end_of_turn,
            )  # fmt: skip
        assert vlm.text_of(output[0, len(row) :].tolist()) == text.text


def test_a_text_may_hold_what_unicode_takes_for_a_line_end(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    path.write_text('{"id": "a", "text": "one\u2028two\x85three"}\r\n{"id": "b", "text": "x"}\n', encoding="utf-8")
    asks = [Ask("k1", "a", "p"), Ask("k2", "b", "p")]
    assert [reply for _, reply in FileEngine(path).replies(asks)] == [
        Reply("one\u2028two\x85three", True),
        Reply("x", True),
    ]


def test_a_local_engine_counts_tokens_and_refuses_control_tokens_of_others() -> None:
    vlm = VLM.load("embedded")
    settings = EngineSettings(model="embedded", max_new_tokens=60, batch_size=2)
    engine = LocalEngine("embedded", "f", lambda: vlm, NoFrames(), settings)
    prompt = "Which label fits the clip? keep. drop."
    asks = [Ask("k1", "a", prompt), Ask("k2", "b", f"{prompt} Answer."), Ask("k3", "c", "<|im_end|> more")]
    made = {ask.key: reply for ask, reply in engine.replies(asks)}
    assert set(made) == {"k1", "k2", "k3"}
    first = made["k1"]
    assert isinstance(first, Reply) and first.text and first.finished
    assert first.prompt_tokens == len(vlm.encode_text(prompt)) and first.num_tokens == len(vlm.answer_ids(first.text))
    refused = made["k3"]
    assert isinstance(refused, Unanswered) and "holds '<|im_end|>', a control token of embedded" in refused.detail


def test_what_changes_an_answer_changes_the_fingerprint() -> None:
    def key(model: str = "f", **changes: float) -> str:
        settings = EngineSettings.model_validate({"model": "embedded"} | changes)
        return LocalEngine("embedded", model, lambda: pytest.fail("loaded"), NoFrames(), settings).fingerprint

    assert key() == key(batch_size=3), "greedy answers do not depend on the batch"
    assert len({key(), key("g"), key(max_new_tokens=3), key(temperature=1.0), key(temperature=1.0, batch_size=3)}) == 5
