"""The training's fast paths compute what the library computes."""

import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerFast, Qwen2VLVideoProcessor

from rbft.tiny.lessons import answer_loss, pack, segment_of
from rbft.tiny.model import build_config, build_model, normalised, patchify, see
from rbft.tiny.tasks import Lesson
from rbft.tiny.tokenizer import CHAT_TEMPLATE, SPECIAL_TOKENS, build_tokenizer, special_ids, world_texts

GRIDS = [(84, 84), (56, 84), (84, 112)]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return build_tokenizer(world_texts(num=300))


@pytest.fixture(scope="module")
def model(tokenizer: PreTrainedTokenizerFast) -> torch.nn.Module:
    built = build_model(build_config(len(tokenizer), special_ids(tokenizer)), seed=0).eval()
    with torch.no_grad():
        for parameter in built.parameters():
            if parameter.dim() > 1:
                parameter.mul_(3)
    return built


def random_frames(batch: int, height: int, width: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randint(0, 256, (batch, 4, height, width, 3), generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize(("height", "width"), GRIDS)
def test_patches_equal_the_video_processors(height: int, width: int) -> None:
    frames = random_frames(2, height, width)
    theirs = Qwen2VLVideoProcessor(cap_pixels_per_frame=True)(
        videos=list(frames.permute(0, 1, 4, 2, 3)), do_resize=False, return_tensors="pt"
    )
    patches, grid = patchify(normalised(frames))
    torch.testing.assert_close(patches, theirs["pixel_values_videos"], rtol=0, atol=2e-6)
    assert grid.tolist() == theirs["video_grid_thw"].tolist()


@pytest.mark.parametrize(("height", "width"), GRIDS)
def test_seeing_equals_the_librarys_vision_tower(model: torch.nn.Module, height: int, width: int) -> None:
    patches, grid = patchify(normalised(random_frames(2, height, width)))
    with torch.no_grad():
        ours = see(model.model.visual, patches, grid).flatten(0, 1)
        theirs = torch.cat(list(model.get_video_features(patches, grid).pooler_output))
    assert float(theirs.std()) > 0.01
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_packed_questions_cost_what_they_cost_alone(model: torch.nn.Module, tokenizer: PreTrainedTokenizerFast) -> None:
    lessons = [Lesson("x", "What is it doing?", "running left"), Lesson("x", "Is it a dog?", "yes")]
    patches, grid = patchify(normalised(random_frames(1, 84, 112)))
    packed = pack([[segment_of(tokenizer, lesson, {}) for lesson in lessons]], pad_id=0)
    with torch.no_grad():
        together, _, states = answer_loss(model, tokenizer, see(model.model.visual, patches, grid), grid, packed)
    costs, weights = [], []
    for lesson in lessons:
        ids, num_answer = conversation(tokenizer, lesson, num_visual=24)
        video = ids == tokenizer.convert_tokens_to_ids("<|video_pad|>")
        with torch.no_grad():
            logits = model(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                mm_token_type_ids=video.int() * 2,
                pixel_values_videos=patches,
                video_grid_thw=grid,
                second_per_grid_ts=torch.ones(1),
            ).logits
        said = logits[0, -num_answer - 1 : -1].log_softmax(-1).gather(1, ids[0, -num_answer:, None])
        costs.append(-said.mean())
        weights.append(num_answer**0.5)
    alone = sum(c * w for c, w in zip(costs, weights, strict=True)) / sum(weights)
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)
    assert len(states) == model.config.text_config.num_hidden_layers + 1
    assert all(state.shape[:2] == packed.ids.shape for state in states)


def conversation(tokenizer: PreTrainedTokenizerFast, lesson: Lesson, num_visual: int) -> tuple[torch.Tensor, int]:
    """The chat template's text with one question, and the answer with the end of the turn."""
    parts = [{"type": "video"}, {"type": "text", "text": lesson.prompt}]
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": parts}], tokenize=False, add_generation_prompt=True, chat_template=CHAT_TEMPLATE
    ).replace("<|video_pad|>", "<|video_pad|>" * num_visual)
    answer = tokenizer(lesson.answer + "<|im_end|>").input_ids
    return torch.tensor([tokenizer(text).input_ids + answer]), len(answer)


def test_a_word_of_an_answer_can_not_look_ahead_or_into_other_questions(
    model: torch.nn.Module, tokenizer: PreTrainedTokenizerFast
) -> None:
    patches, grid = patchify(normalised(random_frames(1, 84, 84)))
    tokens = see(model.model.visual, patches, grid)

    def cost(first: str) -> float:
        rows = [
            [segment_of(tokenizer, Lesson("x", first, ""), {}), segment_of(tokenizer, Lesson("x", "Where?", "a"), {})]
        ]
        packed = pack(rows, pad_id=0)
        packed.weights[packed.segment == 1] = 0
        with torch.no_grad():
            return float(answer_loss(model, tokenizer, tokens, grid, packed)[0])

    assert cost("Is it a dog?") == pytest.approx(cost("What number is on the sign? 12"), abs=1e-5)


def test_the_model_is_small_and_its_shape_fits_rotary_positions(model: torch.nn.Module) -> None:
    text = model.config.text_config
    assert 1e6 < sum(p.numel() for p in model.parameters()) < 4e6
    assert 2 * sum(text.rope_parameters["mrope_section"]) == text.hidden_size // text.num_attention_heads
    assert list(model.config.vision_config.fullatt_block_indexes) == list(range(model.config.vision_config.depth))
    assert model.lm_head.weight.data_ptr() == model.model.language_model.embed_tokens.weight.data_ptr()


def test_special_tokens_are_single(tokenizer: PreTrainedTokenizerFast) -> None:
    for token in (*SPECIAL_TOKENS, "<think>", "</think>", "<answer>", "</answer>"):
        assert len(tokenizer(token).input_ids) == 1
    assert len(set(special_ids(tokenizer).values())) == len(SPECIAL_TOKENS)
    assert len(tokenizer("2048").input_ids) == 4
    assert np.asarray(tokenizer("<think>a</think>").input_ids).shape == (3,)
