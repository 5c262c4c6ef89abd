"""What the embedded model can do, measured on clips it has never seen."""

import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from pathlib import Path

import av
import numpy as np
from transformers import PreTrainedTokenizerFast, Qwen2_5_VLForConditionalGeneration

from rbft.tiny import night_yard
from rbft.tiny.language import label_prompt, parse_description, rationale_prompt, words_of
from rbft.tiny.pool import NUM_FRAMES, small_frames, spec_at
from rbft.tiny.shift import SEVERITIES
from rbft.tiny.speak import answers, label_scores
from rbft.tiny.tasks import (
    Lesson,
    Scene,
    bare_labels,
    defined_labels,
    free_form,
    multiple_choice,
    numerical,
    ocr,
    regression,
    verification,
    with_notes,
    with_thought,
)
from rbft.tiny.world import DIMENSIONS, SceneSpec, middle_of, render

HELD_OUT_SEED = 1_000_003
"""Training pools use other seeds, so these clips are new."""


@dataclass(frozen=True)
class Share:
    """`right` of `n`, with the 95 % Wilson interval."""

    right: int
    n: int

    @property
    def value(self) -> float:
        """The share itself."""
        return self.right / self.n

    @property
    def interval(self) -> tuple[float, float]:
        """Low and high end of the 95 % Wilson interval."""
        z = 1.959964
        centre = (self.value + z * z / (2 * self.n)) / (1 + z * z / self.n)
        half = z / (1 + z * z / self.n) * sqrt(self.value * (1 - self.value) / self.n + z * z / (4 * self.n**2))
        return max(0.0, centre - half), min(1.0, centre + half)

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.value:.3f} [{low:.3f}, {high:.3f}] n={self.n}"


Results = dict[str, dict[str, Share]]


@dataclass(frozen=True)
class Sample:
    """Held-out clips: frames uint8 `[N, 4, 84, 84, 3]` and what they truly show."""

    frames: np.ndarray
    scenes: list[Scene]

    @property
    def specs(self) -> list[SceneSpec]:
        """What each clip was rendered from."""
        return [scene.spec for scene in self.scenes]


def general_sample(num: int, seed: int = HELD_OUT_SEED) -> Sample:
    """Clean clips of the general world."""
    frames, scenes = [], []
    for index in range(num):
        spec, seconds = spec_at(seed, index)
        drawn, boxes = render(spec, seconds)
        frames.append(small_frames(drawn))
        scenes.append(Scene(spec, middle_of(boxes)))
    return Sample(np.stack(frames), scenes)


def yard_sample(num: int, severity: float, seed: int = HELD_OUT_SEED) -> Sample:
    """Night-yard clips, written as H.264 files and decoded again; frames 0, 4, 8 and 12 of 16."""
    clips = night_yard.plan_yard(0, num, 0, seed)
    every = len(night_yard.frame_seconds()) // NUM_FRAMES
    frames, scenes = [], []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        for clip in clips:
            drawn, boxes = night_yard.yard_frames(clip, severity, night_yard.frame_seconds())
            night_yard.write_clip(path, drawn)
            with av.open(str(path)) as container:
                decoded = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
            frames.append(small_frames(np.stack(decoded[::every])))
            scenes.append(Scene(clip.spec, middle_of(boxes[::every])))
    return Sample(np.stack(frames), scenes)


Speaker = tuple[Qwen2_5_VLForConditionalGeneration, PreTrainedTokenizerFast]


def descriptions(speaker: Speaker, sample: Sample) -> list[dict[str, str]]:
    """The model's own descriptions, parsed; an unreadable one has no right word."""
    prompt = rationale_prompt(night_yard.PERSONA)
    texts = answers(*speaker, sample.frames, [prompt] * len(sample.scenes))
    return [parse_description(text) or dict.fromkeys(DIMENSIONS, "") for text in texts]


def description_shares(said: Sequence[Mapping[str, str]], specs: Sequence[SceneSpec]) -> dict[str, Share]:
    """Right words a dimension, and clips with all six right."""
    pairs = [(words, words_of(spec)) for words, spec in zip(said, specs, strict=True)]
    shares = {name: Share(sum(words[name] == true[name] for words, true in pairs), len(pairs)) for name in DIMENSIONS}
    return shares | {"all six": Share(sum(dict(words) == true for words, true in pairs), len(pairs))}


def _asked(speaker: Speaker, sample: Sample, lessons: list[Lesson]) -> Share:
    return _right(answers(*speaker, sample.frames, [lesson.prompt for lesson in lessons]), lessons)


def _right(said: Sequence[str], lessons: Sequence[Lesson]) -> Share:
    right = sum(_final(text) == _final(lesson.answer) for text, lesson in zip(said, lessons, strict=True))
    return Share(right, len(lessons))


_TAGGED = re.compile(r"<think>[^<]*</think><answer>[^<]*</answer>")


def _final(text: str) -> str:
    """What stands in `<answer>`, or the whole text."""
    return text.split("<answer>")[-1].split("</answer>")[0].strip()


def task_shares(speaker: Speaker, sample: Sample, seed: int = 0) -> dict[str, Share]:
    """Exact answers a question type; labels defined in the prompt at three levels, with thought and with notes."""
    rng = np.random.default_rng([HELD_OUT_SEED, seed])
    scenes = sample.scenes
    shares = {}
    for ask in (multiple_choice, numerical, ocr, free_form, verification, bare_labels):
        lessons = [ask(scene, rng, 0.5) for scene in scenes]
        shares[lessons[0].kind] = _asked(speaker, sample, lessons)
    lessons = [regression(scene, rng, 0.5) for scene in scenes]
    said = answers(*speaker, sample.frames, [lesson.prompt for lesson in lessons])
    shares["regression"] = _right(said, lessons)
    near = [text.isdecimal() and abs(int(text) - scene.middle) <= 10 for text, scene in zip(said, scenes, strict=True)]
    shares["regression, within 10 of 100"] = Share(sum(near), len(near))
    for name, level in (("one word a label", 0.0), ("mixed rules", 0.5), ("hard rules", 1.0)):
        shares[f"defined labels, {name}"] = _asked(speaker, sample, [defined_labels(s, rng, level) for s in scenes])
    hard = [defined_labels(scene, rng, 1.0) for scene in scenes]
    pairs = list(zip(hard, scenes, strict=True))
    thought = [with_thought(lesson, scene, rng) for lesson, scene in pairs]
    said = answers(*speaker, sample.frames, [lesson.prompt for lesson in thought])
    shares["defined labels, hard rules, thinking"] = _right(said, thought)
    shares["defined labels, hard rules, true notes"] = _asked(speaker, sample, [with_notes(x, s) for x, s in pairs])
    shares["thinking, tags as asked"] = Share(sum(bool(_TAGGED.fullmatch(text)) for text in said), len(said))
    return shares


def yard_shares(speaker: Speaker, sample: Sample, said: Sequence[Mapping[str, str]]) -> dict[str, Share]:
    """Zero-shot labels by log-probability, the majority, and the label rule on the model's own descriptions."""
    truth = [night_yard.label_of(spec) for spec in sample.specs]
    prompts = [label_prompt(night_yard.LABEL_DEFINITIONS)] * len(truth)
    scores = label_scores(*speaker, sample.frames, prompts, night_yard.LABELS)
    chosen = [night_yard.LABELS[column] for column in scores.argmax(1)]
    ruled = [night_yard.label_of_words(words) for words in said]
    majority = max(truth.count(label) for label in night_yard.LABELS)
    return {
        "majority class": Share(majority, len(truth)),
        "zero-shot, labels scored": Share(sum(a == b for a, b in zip(chosen, truth, strict=True)), len(truth)),
        "rule on own descriptions": Share(sum(a == b for a, b in zip(ruled, truth, strict=True)), len(truth)),
    }


def severity_shares(speaker: Speaker, num: int) -> dict[str, Share]:
    """How the yard's steps of severity change what is described and what a label can be."""
    shares: dict[str, Share] = {}
    for name, severity in SEVERITIES.items():
        yard = yard_sample(num, severity)
        said = descriptions(speaker, yard)
        found = description_shares(said, yard.specs) | yard_shares(speaker, yard, said)
        kept = ("subject", "action", "zero-shot, labels scored", "rule on own descriptions")
        shares |= {f"{name} ({severity:g}): {row}": found[row] for row in kept}
    return shares


def evaluate(speaker: Speaker, num: int, severity: float = night_yard.DEFAULT_SEVERITY) -> Results:
    """All tables, on `num` clips each."""
    clean, yard = general_sample(num), yard_sample(num, severity)
    said = descriptions(speaker, yard)
    return {
        "descriptions, general world": description_shares(descriptions(speaker, clean), clean.specs),
        "descriptions, night yard": description_shares(said, yard.specs),
        "questions, general world": task_shares(speaker, clean),
        "labels, night yard": yard_shares(speaker, yard, said),
        "night yard by severity": severity_shares(speaker, num),
    }
