"""`rb-ft+grpo` through a whole run on the embedded model: what stands on disk, and what its checkpoint is asked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

import rbft
from rbft.clips.cache import FrameCache
from rbft.clips.ingest import clip_frames, inspect_clips
from rbft.clips.manifest import read_manifest
from rbft.evaluation.predict import LabelQuery
from rbft.experiment import ClipLimits, Evaluation, Experiment, make_experiment
from rbft.files import read_jsonl
from rbft.models.vlm import VLM
from rbft.prompts import load_prompts
from rbft.records import Prediction, Rationale, ReinforcePoint, RolloutRecord
from rbft.results import Report
from rbft.serving.explain import explain_clips, question_of
from rbft.store import Card, read_card
from rbft.thinking import parse_thought
from rbft.tiny.night_yard import LABEL_DEFINITIONS, write_night_yard
from rbft.training.plan import MemoryPlan

pytestmark = pytest.mark.usefixtures("one_thread")

QUERY = (
    "Which label fits the clip? normal: anything else. abnormal: {}. "
    "Describe the clip in <think> </think>, then give the answer in <answer> </answer>."
)


@dataclass(frozen=True)
class Finished:
    experiment: Experiment
    report: Report
    root: Path

    def cards(self) -> dict[str, Card]:
        """By stage."""
        found = [read_card(folder) for folder in (self.root / "checkpoints").iterdir() if folder.is_dir()]
        return {card.checkpoint.stage: card for card in found}

    def folder(self, stage: str) -> Path:
        return self.root / "checkpoints" / self.cards()[stage].checkpoint.fingerprint

    def predictions(self, stage: str) -> list[Prediction]:
        key = self.cards()[stage].checkpoint.fingerprint
        files = [read_jsonl(file, Prediction) for file in (self.root / "predictions").glob("*.jsonl")]
        return next(made for made in files if made[0].checkpoint == key)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    folder = tmp_path_factory.mktemp("grpo")
    yard = write_night_yard(folder / "yard", num_train=12, num_test=4, num_unlabelled=1, seed=3)
    asked = make_experiment(
        {
            "name": "grpo", "clips": str(yard), "model": "embedded", "prompts": "brief", "labels": LABEL_DEFINITIONS,
            "domain": "Night Yard Security Expert", "arms": ["rb-ft", "rb-ft+grpo"], "seeds": [0],
            "output": str(folder), "sampling": {"fps": 2, "min_pixels": 7056, "max_pixels": 7056}, "workers": 1,
            "rationales": {"max_new_tokens": 48, "batch_size": 8},
            "training": {"learning_rate": 3e-4, "micro_batch_size": 8, "batch_size": 8},
            "reinforce": {"samples": 3, "max_new_tokens": 48, "batch_size": 4, "learning_rate": 1e-4,
                          "temperature": 1.5, "save_every_steps": 1},
            "evaluation": {"batch_size": 8, "resamples": 100},
        }
    )  # fmt: skip
    return Finished(asked, rbft.run(asked, quiet=True).report, folder / "grpo")


def test_four_stages_each_the_child_of_the_one_before(finished: Finished) -> None:
    cards = finished.cards()
    assert set(cards) == {"rationale", "label", "cot", "reinforce"}
    for parent, child in (("rationale", "label"), ("label", "cot"), ("cot", "reinforce")):
        assert cards[child].checkpoint.parent == cards[parent].checkpoint.fingerprint
    assert cards["reinforce"].checkpoint.num_steps == 3, "12 questions, four a step"
    assert not list((finished.root / "checkpoints").glob(".*.work"))


def test_every_rollout_and_every_step_is_on_disk(finished: Finished) -> None:
    logs = finished.root / "logs" / finished.cards()["reinforce"].checkpoint.fingerprint
    records = read_jsonl(logs / "rollouts.jsonl", RolloutRecord)
    points = read_jsonl(logs / "reinforce.jsonl", ReinforcePoint)
    assert len(records) == 12 * 3
    assert len({record.clip_id for record in records}) == 12
    assert [point.step for point in points] == [1, 2, 3]
    assert {frozenset(point.rewards) for point in points} == {frozenset({"format", "accuracy"})}
    assert sum(r.rewards["format"] == 1.0 for r in records) > 30, "the format is there after the cot stage"
    assert {r.finished for r in records if parse_thought(r.text)} == {True}


def test_the_held_out_curve_is_of_test_clips_and_on_the_page(finished: Finished) -> None:
    """Four test clips after 0, 1, 2 and 3 steps; the page says where reward and accuracy begin and end."""
    logs = finished.root / "logs" / finished.cards()["reinforce"].checkpoint.fingerprint
    records = read_jsonl(logs / "held_out.jsonl", RolloutRecord)
    tested = {prediction.clip_id for prediction in finished.predictions("reinforce")}
    assert {record.clip_id for record in records} == tested
    assert [record.step for record in records] == [step for step in range(4) for _ in tested]
    ends = [[r.rewards["accuracy"] or 0.0 for r in records if r.step == step] for step in (0, 3)]
    first, last = (sum(values) / len(values) for values in ends)
    page = (finished.root / "report.html").read_text(encoding="utf-8")
    assert f"held out from {first:.2f} to {last:.2f}" in page
    assert "Mean accuracy of rb-ft+grpo, reinforce stage: from " in page
    assert tested.isdisjoint(r.clip_id for r in read_jsonl(logs / "rollouts.jsonl", RolloutRecord))


def test_the_report_has_its_row_and_the_stages_in_words(finished: Finished) -> None:
    assert set(finished.report.arms) == {"rb-ft", "rb-ft+grpo"}
    page = (finished.root / "report.html").read_text(encoding="utf-8")
    assert "Mean reward of rb-ft+grpo, reinforce stage: from " in page
    assert "Training loss of rb-ft+grpo, cot stage: from " in page
    assert "reinforced by rewards" in finished.report.model_dump_json()


def test_one_query_in_cot_rollouts_and_evaluation(finished: Finished) -> None:
    cards = finished.cards()
    for stage in ("cot", "reinforce"):
        card = cards[stage]
        assert card.describing is not None
        assert card.describing.asks(card.prompts) == QUERY.format(LABEL_DEFINITIONS["abnormal"].rstrip("."))
        assert card.describing.max_new_tokens == 48
    assert cards["label"].describing is None
    prompts = load_prompts("brief", persona="Night Yard Security Expert", labels=LABEL_DEFINITIONS)
    assert prompts.reasoned() == QUERY.format(LABEL_DEFINITIONS["abnormal"].rstrip(".")), "what examples hold"


def test_the_answer_is_read_strictly_and_labels_are_scored_after_the_thinking(finished: Finished) -> None:
    """The scores are those of a plain forward over prompt, own thinking, and each label in its tags."""
    card, folder = finished.cards()["reinforce"], finished.folder("reinforce")
    assert card.describing is not None
    vlm = VLM.load(folder)
    listing = read_manifest(Path(finished.experiment.clips), labels=finished.experiment.labels)
    cache = FrameCache(finished.root.parent / "cache" / "frames")
    inspections = inspect_clips(
        listing, sampling=card.sampling, grid=vlm.grid, limits=ClipLimits(), workers=1, cache=cache
    )
    frames = clip_frames(cache, inspections)
    for prediction in finished.predictions("reinforce"):
        assert prediction.text is not None
        thought = parse_thought(prediction.text)
        assert prediction.text_label == (None if thought is None else thought.answer)
        shown, plan = frames.read(prediction.clip_id), frames.plan(prediction.clip_id)
        clip = vlm.encode(shown, plan, card.describing.asks(card.prompts))
        begun = prediction.text.partition("</think>")[0] + "</think><answer>"
        start = len(vlm.answer_ids(begun)) - 1
        for label, told in prediction.log_probabilities.items():
            answer = vlm.answer_ids(f"{begun}{label}</answer>")
            with torch.inference_mode():
                logits = vlm.model(**vlm.inputs([clip], [answer])).logits[0, -len(answer) - 1 : -1].log_softmax(-1)
            expected = logits.gather(-1, answer[:, None])[start:, 0].sum().item()
            assert told == pytest.approx(expected, abs=1e-3)
    assert any(p.text_label is not None for p in finished.predictions("reinforce"))


def test_thinking_that_was_cut_off_is_closed(finished: Finished) -> None:
    card, vlm = finished.cards()["cot"], VLM.load(finished.folder("cot"))
    query = LabelQuery(vlm, card.prompts, Evaluation(generate=False), card.describing)
    assert vlm.text_of(query._begun("<think>Subjects: a dog").tolist()) == "<think>Subjects: a dog</think><answer>"
    whole = "<think>Subjects: a dog.</think><answer>abnormal</answer>"
    assert vlm.text_of(query._begun(whole).tolist()) == "<think>Subjects: a dog.</think><answer>"


def test_the_checkpoint_answers_alone_as_it_did_in_the_run(finished: Finished, tmp_path: Path) -> None:
    classifier = rbft.Classifier.load(finished.folder("reinforce"))
    predicted = finished.predictions("reinforce")[0]
    clip = Path(finished.experiment.clips).parent / f"{predicted.clip_id}.mp4"
    answer = classifier.predict(clip, rationale=True)
    assert answer.label == predicted.label
    assert answer.log_probabilities == pytest.approx(predicted.log_probabilities, abs=1e-3)
    assert answer.rationale == predicted.text
    card = question_of(str(finished.folder("reinforce")), None)
    [made] = explain_clips(VLM.load(finished.folder("reinforce")), card, [clip], tmp_path)
    assert made.explanation.predicted == predicted.label


def test_what_it_says_is_kept_as_texts_and_not_as_rationales_to_learn(finished: Finished) -> None:
    assert finished.report.rationales.written == 13, "one of each training clip, by the base"
    texts = [read_jsonl(file, Rationale) for file in (finished.root / "rationales").glob("*.jsonl")]
    assert sum(any("<think>" in text.text for text in part) for part in texts) == 1


def test_the_memory_was_expected(finished: Finished) -> None:
    plan = MemoryPlan.model_validate_json((finished.root / "memory.json").read_text(encoding="utf-8"))
    assert [row.phase for row in plan.rows if row.phase.startswith("reinforcing")] == ["reinforcing, full fine-tuning"]


def test_run_again_it_redoes_nothing(finished: Finished, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(VLM, "load", lambda *_, **__: pytest.fail("a model was loaded"))
    again = rbft.run(finished.experiment, quiet=True).report
    assert again.arms == finished.report.arms
