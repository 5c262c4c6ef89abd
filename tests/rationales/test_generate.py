"""What a request is keyed by and holds, and what becomes of blanks, loops and refusals; a fake writes for the model."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noise import Still
from rbft.answers import load_thresholds
from rbft.arms import PRESET_ARMS, Stage
from rbft.chains import _requests
from rbft.experiment import Rationales, Sampling
from rbft.files import read_jsonl
from rbft.models.generate import Generated
from rbft.prompts import load_prompts
from rbft.rationales.generate import RETRY_TEMPERATURE, Request, write_rationales
from rbft.records import Checkpoint, Clip, Rationale

LABELS = {"normal": "anything else", "abnormal": "a person at the fence"}
PROMPTS = load_prompts("brief", persona="guard", labels=LABELS)
RULES = load_thresholds()
GOOD = "Subjects: dog. Attributes: small brown. Actions: runs left. Scenes: a wet garden at night."
REFUSED = "I'm sorry, I cannot help with that."


class Writer:
    """Stands for the model: what it says about a clip follows from clip and seed. Notes seed and temperature."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, say: Any) -> None:
        self.asked: list[tuple[list[str], int, float]] = []
        self.source = SimpleNamespace(name="writer")
        self.say = say
        self.killed_after: int | None = None
        monkeypatch.setattr("rbft.rationales.generate.generate", self._generate)

    def encode_clip(self, frames: Any, clip_id: str, prompt: str) -> str:
        return clip_id

    def _generate(self, vlm: Any, batch: Sequence[str], *, seed: int, temperature: float, **_: Any) -> list[Generated]:
        if len(self.asked) == self.killed_after:
            raise KeyboardInterrupt
        self.asked.append((list(batch), seed, temperature))
        return [Generated(self.say(clip, seed, temperature), True, 9) for clip in batch]


def clips(number: int) -> list[Clip]:
    return [
        Clip(clip_id=f"c{i:03}", path="x", sha256=f"{i}", duration_seconds=1, label=list(LABELS)[i % 2], split="train")
        for i in range(number)
    ]


def write(writer: Writer, number: int, path: Path, **settings: Any) -> list[Rationale]:
    listed = clips(number)
    request = Request(PROMPTS, Rationales(**({"batch_size": 8} | settings)), RULES)
    keys = {clip.clip_id: clip.clip_id for clip in listed}
    return write_rationales(lambda: writer, listed, Still(), keys, request, path, advance=lambda _: None)  # type: ignore[arg-type, return-value]


def blank(clip: str, seed: int, temperature: float) -> str:
    """One of ten texts is blank, by chance where it is sampled, for the same clips where it is not."""
    rng = random.Random(f"{clip} {seed if temperature else 0}")
    return rng.choice(["", " \n", "<|im_end|>", "…"]) if rng.random() < 0.1 else GOOD


# -- blanks, loops, refusals ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_of_ten_in_a_hundred_blanks_none_is_learnt(
    temperature: float, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "texts.jsonl"
    writer = Writer(monkeypatch, blank)
    made = write(writer, 200, path, temperature=temperature)
    assert [r.clip_id for r in made] == [clip.clip_id for clip in clips(200)]
    first = [r for r in read_jsonl(path, Rationale) if r.attempt == 0]
    blanks = {r.clip_id for r in first if r.verdict.reasons == ("empty",)}
    assert len(first) == 200 and 10 <= len(blanks) <= 30
    assert all(r.text == GOOD for r in made if r.verdict.kept), "no blank is kept"
    assert sum(r.verdict.kept for r in made) >= 199, "and another sample mends all but one in a thousand"
    assert {r.clip_id for r in made if r.attempt > 0} == blanks, "what was good is not asked again"
    assert {t for _, _, t in writer.asked} == {temperature, max(temperature, RETRY_TEMPERATURE)}


@pytest.mark.parametrize(
    ("text", "reason", "tries"),
    [
        ("", "empty", 3),
        (REFUSED, "refusal", 3),
        ("a dog runs on and " * 40, "repeating", 3),
        ("a dog", "off_template", 1),
    ],
)
def test_what_never_mends_is_asked_three_times_and_dropped_with_its_reason(
    text: str, reason: str, tries: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    writer = Writer(monkeypatch, lambda *_: text)
    made = write(writer, 3, tmp_path / "texts.jsonl")
    assert len(writer.asked) == tries
    assert len({seed for _, seed, _ in writer.asked}) == tries, "every attempt has a seed of its own"
    assert all(not r.verdict.kept and reason in r.verdict.reasons and r.attempt == tries - 1 for r in made)
    write(writer, 3, tmp_path / "texts.jsonl")
    assert len(writer.asked) == tries, "the same command again asks nothing"


def test_without_retries_the_first_attempt_of_the_same_file_counts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "texts.jsonl"
    writer = Writer(monkeypatch, lambda clip, seed, temperature: GOOD if temperature else "")
    assert all(r.verdict.kept and r.attempt == 1 for r in write(writer, 3, path))
    number = len(writer.asked)
    assert not any(r.verdict.kept or r.attempt for r in write(writer, 3, path, retries=0))
    assert len(writer.asked) == number


@pytest.mark.parametrize("after", range(8))
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_killed_at_any_batch_the_texts_are_those_of_an_unbroken_run(
    after: int, temperature: float, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fickle(clip: str, seed: int, temperature: float) -> str:
        return "" if random.Random(f"{clip} {seed} {temperature}").random() < 0.5 else GOOD

    writer = Writer(monkeypatch, fickle)
    whole = write(writer, 20, tmp_path / "whole.jsonl", temperature=temperature)
    assert len(writer.asked) > 4 and {r.attempt for r in whole} == {0, 1, 2}
    writer.killed_after = len(writer.asked) + after
    path = tmp_path / "killed.jsonl"
    try:
        write(writer, 20, path, temperature=temperature)
    except KeyboardInterrupt:
        writer.killed_after = None
    assert write(writer, 20, path, temperature=temperature) == whole
    kept = read_jsonl(path, Rationale)
    assert len({(r.clip_id, r.attempt) for r in kept}) == len(kept), "nothing is written twice"


# -- what a text is keyed by ---------------------------------------------------------------------------------------


def base(**changes: Any) -> Checkpoint:
    fields: dict[str, Any] = {
        "fingerprint": "f", "path": "p", "stage": "base", "base": "b", "parent": None, "data_fingerprint": "",
        "sampling_fingerprint": "", "prompts_fingerprint": "", "config_fingerprint": "", "seed": 0, "num_steps": 0,
    }  # fmt: skip
    return Checkpoint(**(fields | changes))


def key(
    engine: Checkpoint | None = None,
    settings: dict[str, Any] | None = None,
    sampling: dict[str, Any] | None = None,
    prompts: Any = PROMPTS,
    rules: Any = RULES,
    **request: Any,
) -> str:
    made = Request(prompts, Rationales(**settings or {}), rules, **request)
    return made.key(engine or base(), Sampling(**sampling or {}))


def test_each_of_twenty_changes_misses_what_was_written_before() -> None:
    """Engine, prompt, persona, labels, every setting of writing, which frames, every rule: none reuses a text."""
    strict = RULES.model_copy(update={"repeating": RULES.repeating.model_copy(update={"zlib_ratio": 2.5})})
    kinder = RULES.model_copy(update={"refusal": RULES.refusal.model_copy(update={"content_words": 61})})
    changed = {
        "engine": key(base(fingerprint="g")),
        "template": key(prompts=load_prompts("default", persona="guard", labels=LABELS)),
        "persona": key(prompts=load_prompts("brief", persona="nurse", labels=LABELS)),
        "labels": key(prompts=load_prompts("brief", persona="guard", labels={"normal": "", "abnormal": ""})),
        "max_new_tokens": key(settings={"max_new_tokens": 255}),
        "temperature": key(settings={"temperature": 0.1}),
        "top_p": key(settings={"top_p": 0.9}),
        "drop_contradicting": key(settings={"drop_contradicting": True}),
        "sampled in batches": key(settings={"temperature": 0.1, "batch_size": 3}),
        "fps": key(sampling={"fps": 3.5}),
        "max_frames": key(sampling={"max_frames": 6}),
        "max_pixels": key(sampling={"max_pixels": 7056, "min_pixels": 3136}),
        "rule": key(rules=strict),
        "another rule": key(rules=kinder),
        "hinted": key(hinted=True),
        "sample": key(sample=0),
        "another sample": key(sample=1),
        "reasoning": key(reasoning=PROMPTS.reasoning(64)),
        "reasoning's tokens": key(reasoning=PROMPTS.reasoning(65)),
        "revision": key(base(fingerprint="f@2")),
    }
    assert len({key(), *changed.values()}) == 1 + len(changed)
    assert key() == key(settings={"batch_size": 3}) == key(settings={"retries": 0}) == key(base(path="elsewhere"))


@pytest.mark.parametrize("what", ["frames", "label"])
def test_other_frames_or_another_label_of_a_clip_ask_for_its_text_again(
    what: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    writer = Writer(monkeypatch, lambda *_: GOOD)
    path, listed = tmp_path / "texts.jsonl", clips(4)
    request = Request(PROMPTS, Rationales(), RULES)
    keys = {clip.clip_id: clip.clip_id for clip in listed}
    write_rationales(lambda: writer, listed, Still(), keys, request, path, advance=lambda _: None)  # type: ignore[arg-type, return-value]
    if what == "frames":
        keys["c002"] = "other"
    else:
        listed[2] = listed[2].model_copy(update={"label": "abnormal"})
    write_rationales(lambda: writer, listed, Still(), keys, request, path, advance=lambda _: None)  # type: ignore[arg-type, return-value]
    assert [asked for asked, _, _ in writer.asked] == [["c000", "c001", "c002", "c003"], ["c002"]]


# -- the label stays out -------------------------------------------------------------------------------------------


@given(st.text(min_size=1, max_size=12), st.sampled_from(["default", "brief"]), st.booleans())
def test_no_arm_tells_the_label_but_the_one_whose_stage_says_so(label: str, name: str, defined: bool) -> None:
    """Over every stage of every preset that writes texts: what is asked is the same whatever the clip's label."""
    labels = {label: "what it means" if defined else "", "the other": ""}
    prompts = load_prompts(name, persona="guard", labels=labels)
    session = SimpleNamespace(
        prompts=prompts, thresholds=RULES, experiment=SimpleNamespace(rationales=Rationales()),
        request=Request(prompts, Rationales(), RULES),
    )  # fmt: skip
    told = [c.model_copy(update={"label": each}) for c in clips(1) for each in (label, "the other", None)]
    seen = 0
    for stages in PRESET_ARMS.values():
        for stage in stages:
            for request in _requests(session, stage):  # type: ignore[arg-type]
                seen += 1
                assert len({request.prompt(clip) for clip in told}) == 1
                assert request.hinted is False
    assert seen >= len(PRESET_ARMS)
    reasoning = Request(prompts, Rationales(), RULES, reasoning=prompts.reasoning(8))
    assert len({reasoning.prompt(clip) for clip in told}) == 1
    hinted = Request(prompts, Rationales(), RULES, hinted=True)
    assert hinted.prompt(told[0]) != hinted.prompt(told[1]), "the only request that tells it"
    hinting = {arm for arm, stages in PRESET_ARMS.items() if any(stage.hint for stage in stages)}
    assert hinting == {"rb-ft-hinted"} and Stage(kind="rationale").hint is None
