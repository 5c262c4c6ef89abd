"""The embedded model's tokenizer: byte-level BPE over the clip world's texts, Qwen's special tokens and chat form."""

import re

import numpy as np
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from rbft.tiny.language import PERSONAS, rationale_prompt
from rbft.tiny.tasks import LABEL_SETS, Scene, draw_lesson
from rbft.tiny.world import sample_spec

VOCABULARY = 832
"""Rows of the word table, 13 x 64: the tokenizer learns at most as many tokens, the rest stays unused."""
MAX_LENGTH = 8192
SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
SPACE = "\u0120"
"""How byte-level BPE writes the space before a word."""
WORD_TOKENS = ("<think>", "</think>", "<answer>", "</answer>")
"""Single tokens that are text: decoding keeps them."""
_TAGS = re.compile("|".join(WORD_TOKENS))

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' or 'image' in part or 'image_url' in part %}"
    "<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif part['type'] == 'video' or 'video' in part %}<|vision_start|><|video_pad|><|vision_end|>"
    "{% elif 'text' in part %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""Qwen2-VL's chat form without a system prompt of its own."""

_QWEN_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def world_texts(num: int = 4000, seed: int = 0) -> list[str]:
    """Prompts and answers of the clip world, from which the vocabulary is learnt."""
    rng = np.random.default_rng([seed, 4242])
    texts = [rationale_prompt(persona) for persona in PERSONAS] * 40
    texts += [f"{label}: anything else." for labels in LABEL_SETS for label in labels] * 20
    texts += ["user\n", "assistant\n", "system\n"] * 50
    for index in range(num):
        lesson = draw_lesson(Scene(sample_spec(rng), int(rng.integers(101))), rng, level=index / num)
        texts += [lesson.prompt, *_TAGS.split(lesson.answer)]
    return texts


def build_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """Learns the merges and wraps them; any string survives encoding and decoding."""
    raw = Tokenizer(models.BPE(byte_fallback=False))
    raw.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_QWEN_WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(SPECIAL_TOKENS) - len(WORD_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    raw.train_from_iterator(texts, trainer)
    raw.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    raw.add_tokens([AddedToken(token, special=False, normalized=False) for token in WORD_TOKENS])
    return PreTrainedTokenizerFast(
        tokenizer_object=raw,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens=[token for token in SPECIAL_TOKENS if token not in ("<|im_end|>", "<|endoftext|>")],
        clean_up_tokenization_spaces=False,
        model_max_length=MAX_LENGTH,
        padding_side="left",
        chat_template=CHAT_TEMPLATE,
    )


def special_ids(tokenizer: PreTrainedTokenizerFast) -> dict[str, int]:
    """The number of each special token."""
    return {token: int(tokenizer.convert_tokens_to_ids(token)) for token in SPECIAL_TOKENS}
