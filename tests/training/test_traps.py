"""What reinforcement of video models got silently wrong elsewhere, and the test that would catch it here.

Tests of this file stand without a path.

frames reach the semantic reward with colours turned over, or 0-255 read as 0-1
    tests/models/test_encoder.py::test_one_frame_is_the_models_own_cosine
    tests/models/test_encoder.py::test_values_of_0_to_255_are_read_as_such
    tests/test_semantic_run.py::test_the_reward_is_that_of_the_frames_and_the_thought
a reward that cannot be computed becomes 0
    tests/test_rewards.py::test_a_term_that_counts_and_is_none_makes_the_reward_none
    tests/training/test_semantic.py::test_what_cannot_be_compared_is_none_and_not_learnt_from
    tests/training/test_reinforce.py::test_too_many_answers_without_a_reward_stop_the_stage
a clip that cannot be read is replaced by another one
    test_a_clip_that_cannot_be_read_stops_the_stage_and_is_named
the policy's log-probabilities are computed without the video
    tests/models/test_rollout.py::test_another_clip_has_other_log_probabilities
    tests/models/test_rollout.py::test_the_rate_of_the_frames_counts
seconds between frames, token types or positions are lost between sampling and learning
    test_the_model_gets_the_same_tensors_in_rollout_policy_and_reference
    tests/models/test_rollout.py::test_training_sees_what_sampling_saw
only the first question's kind or clip is read
    test_every_question_is_graded_by_its_own_kind_beside_its_own_clip
the policy emits tokens that stand for pixels
    tests/models/test_rollout.py::test_pads_for_pixels_are_never_drawn
the loss is over prompt and video, too
    test_nothing_but_the_tokens_of_answers_is_learnt
    tests/training/test_supervised.py::test_answers_end_together_and_prompts_are_not_learnt
another prompt in fine-tuning, reinforcement or evaluation
    test_one_prompt_for_examples_rollouts_held_out_and_evaluation
    test_another_template_is_another_stage_and_other_answers
the first "." cuts "A." or "3.5"
    tests/test_describing.py::test_sentences
the semantic reward counts for wrong answers, too
    tests/training/test_semantic.py::test_describing_parts_of_a_group_are_compared_at_once_each_once
    tests/training/test_semantic.py::test_without_the_gate_wrong_answers_are_compared_too
    test_the_ablation_without_the_gate_is_another_stage
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from noise import NoiseClips, noise_clip
from rbft.asking import question_prompt
from rbft.clips.cache import FrameCache
from rbft.clips.frames import Frames
from rbft.clips.ingest import ClipFrames
from rbft.clips.question_set import Thoughtful
from rbft.errors import StoreError
from rbft.evaluation.predict import LabelQuery
from rbft.evaluation.questions import answer_questions, answers_key
from rbft.experiment import Evaluation, Recipe, Reinforce, Sampling, Stage
from rbft.files import read_jsonl
from rbft.models.rollout import Sampled
from rbft.models.vlm import VLM, Encoded
from rbft.prompts import Prompts, load_prompts
from rbft.records import Checkpoint, Clip, Example, FramePlan, Question, Rationale, RolloutRecord, Verdict
from rbft.rewards import RewardFormula
from rbft.training import reinforce as module
from rbft.training.batches import Collator
from rbft.training.examples import cot_examples, reinforce_examples, thought_examples
from rbft.training.reinforce import reinforce
from rbft.training.rollouts import Grader, Written, label_questions
from rbft.training.stages import StageJob

ROOT = Path(__file__).parents[2]
LABELS = {"cat": "a small pet", "dog": "a pet that barks"}
PROMPTS = load_prompts("brief", persona="Expert", labels=LABELS)
RECIPE = Recipe(
    learning_rate=1e-3, vision_learning_rate=1e-3, batch_size=2, micro_batch_size=1, gradient_checkpointing=False,
    scheduler="constant", warmup_ratio=0.0, max_grad_norm=100,
)  # fmt: skip
SETTINGS = Reinforce(samples=3, max_new_tokens=6, cut_off="scored", held_out=2)


def label_question(number: int) -> Question:
    return Question(
        question_id=str(number), clip_id=str(number), kind="label", text=PROMPTS.reasoned(), options=tuple(LABELS),
        answer="cat",
    )  # fmt: skip


OF_EVERY_KIND = (
    Question(question_id="n", clip_id="0", kind="numerical", text="How long?", answer="3.1"),
    Question(question_id="m", clip_id="1", kind="multiple choice", text="Which?", options=("3", "4"), answer="B"),
    Question(question_id="o", clip_id="2", kind="OCR", text="What is written?", answer="3.10 m"),
    Question(question_id="f", clip_id="3", kind="free-form", text="What?", answer="3.10"),
    Question(question_id="r", clip_id="4", kind="regression", text="Where?", answer="6.2"),
    Question(question_id="l", clip_id="5", kind="label", text="cat or dog?", options=("cat", "dog"), answer="dog"),
)


class ByLetters(Grader):
    """Rewards what a random model writes now and then, so that groups have a signal."""

    def rewards(self, question: Question, answer: Written) -> dict[str, float | None]:
        return {"format": 0.0, "accuracy": float(sum(map(ord, answer.text)) % 7)}


def run(
    vlm: VLM, folder: Path, questions: Sequence[Question], *, judge: type[Grader] = ByLetters, steps: int = 1,
    frames: Any = None, held_out: Sequence[Question] = (), batch: int | None = None,
) -> list[RolloutRecord]:  # fmt: skip
    size = batch or len(questions)
    recipe = RECIPE.model_copy(update={"batch_size": size, "micro_batch_size": size})
    reinforce(
        vlm, questions, frames or NoiseClips(vlm.grid), recipe, judge.of(SETTINGS, PROMPTS), steps=steps, seed=5,
        work=folder / "work", logs=folder / "logs", held_out=held_out,
    )  # fmt: skip
    return read_jsonl(folder / "logs" / "rollouts.jsonl", RolloutRecord)


def test_every_test_that_the_table_names_is_there() -> None:
    named = re.findall(r"^    (?:(\S+)::)?(test_\w+)$", __doc__ or "", flags=re.MULTILINE)
    assert len(named) == sum(line.startswith("    ") for line in (__doc__ or "").splitlines())
    for path, name in named:
        file = ROOT / path if path else Path(__file__)
        assert f"def {name}(" in file.read_text(encoding="utf-8"), name


def test_a_clip_that_cannot_be_read_stops_the_stage_and_is_named(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    """Its frames are damaged after they were read once. No clip takes its place; steps before it keep their answers."""
    vlm = VLM.load(checkpoints["qwen2_5_vl"])
    asked = [label_question(number) for number in range(4)]
    order = [record.clip_id for record in run(vlm, tmp_path / "whole", asked, batch=1, steps=4) if record.sample == 0]
    cache = FrameCache(tmp_path / "cache")
    plans = {}
    for question in asked:
        frames, plan = noise_clip(int(question.clip_id), vlm.grid)
        plans[question.clip_id] = (cache.write(question.clip_id * 8, plan, frames), plan)
    damaged = order[2]
    file = cache.path(plans[damaged][0])
    file.write_bytes(file.read_bytes()[:-1])
    read: list[str] = []

    class Told(ClipFrames):
        def read(self, clip_id: str) -> Frames:
            read.append(clip_id)
            return super().read(clip_id)

    source = Told(cache, plans)
    with pytest.raises(StoreError, match=rf"^clip {damaged}: .*a damaged cache file .* run again to decode the clip"):
        run(VLM.load(checkpoints["qwen2_5_vl"]), tmp_path / "cut", asked, batch=1, steps=4, frames=source)
    assert read == order[:3]
    records = read_jsonl(tmp_path / "cut" / "logs" / "rollouts.jsonl", RolloutRecord)
    assert [r.clip_id for r in records] == [clip for clip in order[:2] for _ in range(3)]


def test_every_question_is_graded_by_its_own_kind_beside_its_own_clip(
    checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One batch of six kinds and six clips, and the answer 3.10 to all; what it earns is by hand.

    OCR: one of two words is missing; regression: half of the truth. Pixels in the update are those of the clip.
    """
    vlm = VLM.load(checkpoints["qwen2_5_vl"])
    monkeypatch.setattr(VLM, "text_of", lambda *_: "<think>A pet.</think><answer>3.10</answer>")
    scored: list[tuple[torch.Tensor, str]] = []
    score = module.score_group

    def noted(of: VLM, clip: Encoded, *given: Any, **more: Any) -> Any:
        scored.append((clip.visual.pixels, clip.text))
        return score(of, clip, *given, **more)

    monkeypatch.setattr(module, "score_group", noted)
    records = run(vlm, tmp_path, OF_EVERY_KIND, judge=Grader)
    clips = {question.question_id: question.clip_id for question in OF_EVERY_KIND}
    assert {r.question_id: r.clip_id for r in records} == clips
    earned = {r.question_id: r.rewards["accuracy"] for r in records}
    assert earned == pytest.approx({"n": 1.0, "m": 0.0, "o": 0.5, "f": 1.0, "r": 0.5, "l": 0.0})
    assert len(scored) == 12, "the reference and the policy, a group each"
    by_text = {question.text: question for question in OF_EVERY_KIND}
    for pixels, text in scored:
        [question] = [question for start, question in by_text.items() if start in text]
        own = vlm.encode(*noise_clip(int(question.clip_id), vlm.grid), question_prompt(PROMPTS, question))
        assert text == own.text
        assert torch.equal(pixels, own.visual.pixels)


def test_nothing_but_the_tokens_of_answers_is_learnt(
    checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gradients of a step are those of its answers' tokens alone, an answer at a time in the model's own forward.

    Of the rows of the head none is for what the prompt or the video holds: only the last token of the prompt, which
    predicts an answer's first, and the answers' own.
    """
    vlm, plain = VLM.load(checkpoints["qwen2_5_vl"]), VLM.load(checkpoints["qwen2_5_vl"])
    rows: list[int] = []
    drawn: list[list[Sampled]] = []
    sample = module.sample_groups

    def noted(*given: Any, **more: Any) -> list[list[Sampled]]:
        drawn.extend(sample(*given, **more))
        return drawn

    monkeypatch.setattr(module, "sample_groups", noted)

    def counted(_: torch.nn.Module, __: object, logits: torch.Tensor) -> None:
        if logits.requires_grad:
            rows.append(logits.shape[1])

    vlm.model.lm_head.register_forward_hook(counted)
    learnt: dict[str, torch.Tensor] = {}
    step = torch.optim.AdamW.step

    def kept(self: torch.optim.AdamW, *given: Any, **more: Any) -> Any:
        learnt.update({n: p.grad.clone() for n, p in vlm.model.named_parameters() if p.grad is not None})
        return step(self, *given, **more)

    monkeypatch.setattr(torch.optim.AdamW, "step", kept)
    question = label_question(0)
    records = run(vlm, tmp_path, [question])
    [group] = drawn
    prefixes = {tuple(a.tokens[:n].tolist()) for a in group for n in range(1, len(a.tokens))}
    assert rows == [1 + len(prefixes)]
    clip = plain.encode(*noise_clip(0, plain.grid), question.text)
    for one, record in zip(group, records, strict=True):
        logits = plain.model(**plain.inputs([clip], [one.tokens])).logits[0, -len(one.tokens) - 1 : -1]
        logps = logits.log_softmax(-1).gather(-1, one.tokens[:, None])[:, 0]
        assert record.advantage is not None
        (-record.advantage * logps.mean() / len(group)).backward()  # policy and reference are one: no divergence
    gradients = {n: p.grad for n, p in plain.model.named_parameters() if p.grad is not None}
    assert learnt.keys() == gradients.keys()
    assert 0.01 < torch.cat([g.flatten() for g in gradients.values()]).norm() < RECIPE.max_grad_norm, "not cut"
    for name, gradient in gradients.items():
        torch.testing.assert_close(learnt[name], gradient, atol=2e-5, rtol=1e-3, msg=name)


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
def test_the_model_gets_the_same_tensors_in_rollout_policy_and_reference(
    family: str, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    """A spy at the model's own inputs; positions over the prompt are those of the library with all that it is told."""
    vlm = VLM.load(checkpoints[family])
    seen: list[dict[str, Any]] = []

    def spy(_: torch.nn.Module, __: object, given: dict[str, Any]) -> None:
        if "pixel_values_videos" in given:
            seen.append({name: v.detach().clone() for name, v in given.items() if isinstance(v, torch.Tensor)})

    vlm.model.register_forward_pre_hook(spy, with_kwargs=True)
    run(vlm, tmp_path, [label_question(0)])
    assert len(seen) == 3, "sampled, by the reference, by the policy; the reference is a copy, the spy with it"
    clip = vlm.encode(*noise_clip(0, vlm.grid), label_question(0).text)
    collated = vlm.collate([clip])
    length = len(clip.input_ids)
    told = {"second_per_grid_ts": torch.tensor([1.0])} if family == "qwen2_5_vl" else {}
    types = (clip.input_ids[None] == vlm.model.config.video_token_id).int() * 2
    grid = collated["video_grid_thw"]
    positions, _ = vlm.model.model.get_rope_index(clip.input_ids[None], types, video_grid_thw=grid, **told)
    assert not torch.equal(positions[0], positions[1]), "time is not height"
    assert torch.equal(seen[0]["mm_token_type_ids"], types)
    for given in seen:
        assert torch.equal(given["pixel_values_videos"], seen[0]["pixel_values_videos"])
        assert torch.equal(given["video_grid_thw"], grid)
        assert torch.equal(given["input_ids"][:, :length], clip.input_ids[None])
        assert torch.equal(given["position_ids"][..., :length], positions)
        assert ("second_per_grid_ts" in given) == bool(told)
        assert given.get("second_per_grid_ts", torch.tensor([1.0])).tolist() == [1.0]


# -- prompts -------------------------------------------------------------------------------------------------------


def of_labels() -> tuple[list[Example], list[Question]]:
    """One labelled clip as it is learnt in the cot stage, and asked in the reinforce stage."""
    clip = Clip(clip_id="0", path="0.mp4", sha256="0", duration_seconds=1.0, split="train", label="cat")
    written = Rationale(
        clip_id="0", clip_key="k", text="A pet sits.", finished=True, num_tokens=4, engine="base",
        prompt_fingerprint="p", seed=0, verdict=Verdict(kept=True),
    )  # fmt: skip
    examples = cot_examples([clip], Stage(kind="cot"), PROMPTS, {"0": written}, seed=0)
    return examples, label_questions(reinforce_examples([clip], PROMPTS), list(LABELS))


def of_questions() -> tuple[list[Example], list[Question]]:
    question = OF_EVERY_KIND[1].model_copy(update={"clip_id": "0"})
    thought = Thoughtful(question, "<think>A pet.</think>")
    return thought_examples([thought], PROMPTS), [question]


@pytest.mark.parametrize("kind", ["label", "question"])
def test_one_prompt_for_examples_rollouts_held_out_and_evaluation(
    kind: str, checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole text that is made into tokens, chat template and all, in the four places where a clip is encoded."""
    vlm = VLM.load(checkpoints["qwen2_5_vl"])
    frames = NoiseClips(vlm.grid)
    texts: list[str] = []
    encode = VLM.encode

    def noted(self: VLM, shown: Frames, plan: FramePlan, prompt: str) -> Encoded:
        made = encode(self, shown, plan, prompt)
        texts.append(made.text)
        return made

    monkeypatch.setattr(VLM, "encode", noted)
    examples, questions = of_labels() if kind == "label" else of_questions()
    Collator(vlm, frames)(examples)
    learnt = len(texts)
    run(vlm, tmp_path, questions, held_out=questions)
    reinforced = len(texts)
    if kind == "label":
        query = LabelQuery(vlm, PROMPTS, Evaluation(), PROMPTS.reasoning(6))
        query.encode(frames.read("0"), frames.plan("0"), "<think>A pet.</think>")
    else:
        answer_questions(
            lambda: vlm, "made", questions, frames, PROMPTS, max_new_tokens=4, batch_size=1,
            path=tmp_path / "answers.jsonl", advance=lambda _: None,
        )  # fmt: skip
    assert (learnt, reinforced, len(texts)) == (1, 4, 5), "a rollout, and two points of the held-out curve"
    assert len(set(texts)) == 1
    assert (PROMPTS.reasoned() if kind == "label" else "Which? A: 3. B: 4.") in texts[0]


def job(prompts: Prompts, settings: Reinforce, *, questions: Sequence[Question] = ()) -> StageJob:
    base = Checkpoint(
        fingerprint="base", path="embedded", stage="base", base="embedded", parent=None, data_fingerprint="",
        sampling_fingerprint="s", prompts_fingerprint="p", config_fingerprint="", seed=0, num_steps=0,
    )  # fmt: skip
    return StageJob(
        stage=Stage(kind="reinforce"), parent=base, examples=(), recipe=RECIPE, steps=1, seed=0, prompts=prompts,
        sampling=Sampling(), length_normalisation="none", clips={}, frame_keys={"1": "f"}, questions=questions,
        describing=prompts.reasoning(9), reinforce=settings,
    )  # fmt: skip


@pytest.mark.parametrize("name", ["reasoned", "question", "option"])
def test_another_template_is_another_stage_and_other_answers(name: str) -> None:
    """What a checkpoint's card holds, what a stage is named by, and what answers are kept under change with it."""
    text = str(getattr(PROMPTS.templates, name))
    other = PROMPTS.model_copy(
        update={"templates": PROMPTS.templates.model_copy(update={name: text.replace("{", " {", 1)})}
    )
    assert other.templates != PROMPTS.templates, "the card holds them"
    asked = () if name == "reasoned" else (OF_EVERY_KIND[1],)
    keys = {job(prompts, SETTINGS, questions=asked).key for prompts in (PROMPTS, other)}
    assert len(keys) == 2
    if name == "reasoned":
        assert PROMPTS.reasoning(9) != other.reasoning(9)
        return
    assert PROMPTS.templates.asking != other.templates.asking
    made = {answers_key("made", asked, {"1": "f"}, prompts, max_new_tokens=4) for prompts in (PROMPTS, other)}
    assert len(made) == 2


# -- the gate ------------------------------------------------------------------------------------------------------


def test_the_ablation_without_the_gate_is_another_stage() -> None:
    gated = SETTINGS.changed({"rewards": {"semantic": 1.0}})
    open_ = gated.changed({"rewards": {"semantic_gate": False}})
    assert RewardFormula().semantic_gate
    assert job(PROMPTS, gated).key != job(PROMPTS, open_).key

    class Alike:
        def similarities(self, clip_id: str, texts: Sequence[str]) -> list[float | None]:
            return [0.4 for _ in texts]

    wrong = Written("<think>A pet.</think><answer>dog</answer>", True, 9)
    right = replace(wrong, text=wrong.text.replace("dog", "cat"))
    made = [Grader.of(s, PROMPTS, Alike()).group(label_question(0), [right, wrong], 1) for s in (gated, open_)]
    assert [[r.reward for r in records] for records in made] == [pytest.approx([2.8, 1.0]), pytest.approx([2.8, 1.8])]
