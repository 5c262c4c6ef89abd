"""The chain with engines that say what a test wants: what is dropped where, what is asked how often, what resumes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from noise import Still
from rbft.answers import load_thresholds
from rbft.curation import Curation as Settings
from rbft.curation import Engine as EngineSettings
from rbft.curation import load_chain
from rbft.errors import EngineError
from rbft.files import read_jsonl
from rbft.progress import Reporter
from rbft.prompts import load_prompts
from rbft.rationales.curate import Chain, Curation, Item, curate
from rbft.rationales.engines import Ask, Engine, Reply, Unanswered
from rbft.rationales.tally import tally
from rbft.records import Question, StepAnswer
from rbft.results import StepUsage

NOTES = {
    "objects": [], "actions": [], "scene": "", "notable_features": [], "spatial_relations": [],
    "human_attributes": None, "potential_interactions": [],
}  # fmt: skip
GOOD_JSON = json.dumps(
    {"caption": "A dog runs.", "frames": [{"timestamp": t, "caption": "a dog", "key_elements": NOTES} for t in (0, 2)]}
)
THINK = "A dog runs through the yard and later stops at the door"


class Says(Engine):
    """Says what a function of the ask gives; None is no answer. Notes what it was asked; may be killed."""

    can_repair = True

    def __init__(self, say: Callable[[Ask], str | None], name: str = "says") -> None:
        self.name = self.fingerprint = name
        self.say = say
        self.asked: list[Ask] = []
        self.killed_after: int | None = None

    def replies(self, asks: Sequence[Ask]) -> Iterator[tuple[Ask, Reply | Unanswered]]:
        for ask in asks:
            if self.killed_after is not None and len(self.asked) == self.killed_after:
                raise KeyboardInterrupt
            self.asked.append(ask)
            text = self.say(ask)
            yield ask, Unanswered("gone") if text is None else Reply(text.removesuffix("✂"), text[-1:] != "✂", 100, 10)


def item(name: str = "q", kind: str = "label", answer: str = "dog", options: tuple[str, ...] = ("dog", "cat")) -> Item:
    question = Question.model_validate(
        {"question_id": name, "clip_id": f"clip-{name}", "kind": kind, "text": f"What is {name}?", "options": options,
         "answer": answer}
    )  # fmt: skip
    return Item(question, f"frames-{name}", 0.0, 2.0)


def thought(answer: str = "dog", think: str = THINK) -> str:
    return f"<think>{think}</think><answer>{answer}</answer>"


def chain(
    represent: Any = None, reason: Any = None, revise: Any = None, *, with_revise: bool = True, form: str = "default",
    open_accuracy: float = 0.5,
) -> Chain:  # fmt: skip
    return Chain(
        prompts=load_chain(form),
        asking=load_prompts("default", persona="x", labels={}),
        represent=represent or Says(lambda _: GOOD_JSON, "r1"),
        reason=reason or Says(lambda _: thought(), "r2"),
        revise=(revise or Says(lambda _: f"<think>{THINK}.</think>", "r3")) if with_revise else None,
        thresholds=load_thresholds(),
        open_accuracy=open_accuracy,
    )


def run(made: Chain, folder: Path, *items: Item) -> Curation:
    return curate(items or [item()], made, folder, Still(), Reporter(quiet=True))


def test_what_each_step_is_shown(tmp_path: Path) -> None:
    made = chain()
    [kept] = run(made, tmp_path).items
    [represent], [reason], [revise] = (engine.asked for engine in (made.represent, made.reason, made.revise))  # type: ignore[union-attr, attr-defined]
    assert represent.clip_id == revise.clip_id == "clip-q" and reason.clip_id is None, "reason never sees the clip"
    assert represent.schema is not None and reason.schema is revise.schema is None
    assert "2 frames of one video of 2.0 seconds" in represent.prompt and "0, 2" in represent.prompt
    assert "What is q?" not in represent.prompt, "a clip is represented whatever is asked about it"
    assert "A dog runs." in reason.prompt and "What is q?" in reason.prompt
    assert THINK in revise.prompt and "What is q?" in revise.prompt and "\ndog\n" in revise.prompt
    assert kept.verdict.kept and kept.step == "revise"
    assert (kept.reasoned, kept.think, kept.answer, kept.accuracy) == (THINK, f"{THINK}.", "dog", 1.0)


@pytest.mark.parametrize(
    ("engines", "step", "reasons", "detail"),
    [
        ({"represent": lambda _: None}, None, ("no_reply",), "no_reply: gone"),
        ({"represent": lambda _: GOOD_JSON[:50]}, None, ("not_json",), "not_json: the answer: Invalid JSON"),
        ({"represent": lambda _: GOOD_JSON[:50] + "✂"}, None, ("truncated",), "truncated: cut at the token limit; the"),
        ({"represent": lambda _: GOOD_JSON.replace(" 2,", " 20,")}, None, ("outside_clip",), "outside_clip: timestamp"),
        ({"reason": lambda _: None}, "represent", ("no_reply",), "no_reply: gone"),
        ({"reason": lambda _: "dog"}, "represent", ("no_thought",), "no_thought: not one <think>…</think><answer>"),
        ({"reason": lambda _: thought() + "✂"}, "revise", (), ""),
        ({"reason": lambda _: "<think>A dog✂"}, "represent", ("truncated",), "truncated: cut at the token limit"),
        ({"reason": lambda _: "  "}, "represent", ("empty",), "empty: no words"),
        ({"reason": lambda _: thought(think="…")}, "represent", ("empty",), "empty: no words"),
        ({"reason": lambda _: thought("cat")}, "represent", ("wrong_answer",), "wrong_answer: 'cat', not 'dog' ("),
        ({"reason": lambda _: thought(think="The captions show a dog")}, "represent", ("names_notes",),
         "names_notes: 'The captions'"),
        ({"reason": lambda _: thought("cat", "According to the frame descriptions, a cat")}, "represent",
         ("names_notes", "wrong_answer"), "names_notes: 'frame descriptions'; wrong_answer:"),
        ({"reason": lambda _: thought(think="a dog runs " * 40)}, "represent", ("repeating",), "repeating: "),
        ({"reason": lambda _: thought(think="I'm sorry, I cannot view the video")}, "represent", ("refusal",),
         "refusal: "),
        ({"revise": lambda _: None}, "reason", ("no_reply",), "no_reply: gone"),
        ({"revise": lambda _: THINK}, "reason", ("no_thought",), "no_thought: not one <think>…</think>"),
        ({"revise": lambda _: thought("cat")}, "reason", ("changed_answer",), "changed_answer: 'cat', and 'dog' was"),
        ({"revise": lambda _: "<think>The given description says dog</think>"}, "reason", ("names_notes",),
         "names_notes: 'given description'"),
    ],
)  # fmt: skip
def test_every_drop_has_its_reason(
    engines: dict[str, Any], step: str, reasons: tuple[str, ...], detail: str, tmp_path: Path
) -> None:
    [made] = run(chain(**{name: Says(say, name) for name, say in engines.items()}), tmp_path).items
    assert (made.step, made.verdict.reasons) == (step, reasons)
    assert made.verdict.detail.startswith(detail)
    assert made.verdict.kept == (not reasons) == (made.think is not None)


def test_a_revision_may_repeat_the_answer(tmp_path: Path) -> None:
    [made] = run(chain(revise=Says(lambda _: thought("Dog.", "A brown dog runs"))), tmp_path).items
    assert made.verdict.kept and (made.think, made.answer) == ("A brown dog runs", "dog"), "the answer is carried over"


def test_without_a_revision_the_thought_stays(tmp_path: Path) -> None:
    [made] = run(chain(with_revise=False), tmp_path).items
    assert made.verdict.kept and made.think == made.reasoned == THINK and made.step == "reason"


def test_speech_about_what_stands_in_the_video_is_no_speech_about_notes(tmp_path: Path) -> None:
    said = "The caption at the bottom of the screen reads EXIT, and a man describes the notes of a song"
    assert run(chain(with_revise=False, reason=Says(lambda _: thought(think=said))), tmp_path).items[0].verdict.kept


@pytest.mark.parametrize(
    ("kind", "true", "said", "threshold", "kept"),
    [
        ("numerical", "3", "3.001", 0.0, True),
        ("numerical", "3", "3.1", 0.0, False),
        ("multiple choice", "A", "A. dog", 0.5, True),
        ("multiple choice", "A", "B", 0.0, False),
        ("regression", "10", "8", 0.8, True),
        ("regression", "10", "8", 0.81, False),
        ("OCR", "no exit here", "no exit", 0.66, True),
        ("OCR", "no exit here", "no exit", 0.67, False),
        ("free-form", "a dog runs", "a dog runs", 1.0, True),
        ("free-form", "a dog runs", "a cat sits", 0.5, False),
    ],
)
def test_closed_answers_must_be_right_and_open_ones_near(
    kind: str, true: str, said: str, threshold: float, kept: bool, tmp_path: Path
) -> None:
    asked = item(kind=kind, answer=true, options=("dog", "cat") if kind == "multiple choice" else ())
    reason = Says(lambda _: thought(said))
    [made] = run(chain(reason=reason, with_revise=False, open_accuracy=threshold), tmp_path, asked).items
    assert made.verdict.kept is kept
    assert made.verdict.reasons == (() if kept else ("wrong_answer",))


# -- JSON that is mended -------------------------------------------------------------------------------------------


def test_json_is_asked_for_once_more_with_its_faults(tmp_path: Path) -> None:
    bad = GOOD_JSON[:60]
    represent = Says(lambda ask: GOOD_JSON if bad in ask.prompt else bad)
    made = run(chain(represent=represent), tmp_path)
    assert made.items[0].verdict.kept
    assert len(represent.asked) == 2 and "Invalid JSON" in represent.asked[1].prompt
    assert represent.asked[1].clip_id == "clip-q" and represent.asked[1].schema is not None
    assert len(read_jsonl(tmp_path / "repair.jsonl", StepAnswer)) == 1
    assert len(made.answers["represent"]) == 2, "both are counted"


def test_json_that_stays_bad_is_dropped_after_one_attempt_and_asked_no_more(tmp_path: Path) -> None:
    represent = Says(lambda _: "{}")
    made = chain(represent=represent)
    for _ in range(2):
        assert run(made, tmp_path).items[0].verdict.reasons == ("not_json",)
    assert len(represent.asked) == 2


def test_plain_text_needs_no_json(tmp_path: Path) -> None:
    represent = Says(lambda _: "A dog runs.")
    [made] = run(chain(represent=represent, form="brief"), tmp_path).items
    assert made.representation == "A dog runs." and made.verdict.kept
    assert represent.asked[0].schema is None
    for text, reason in (("✂", "truncated"), ("...", "empty")):
        [made] = run(chain(represent=Says(lambda _, t=text: t, text), form="brief"), tmp_path).items  # type: ignore[misc]
        assert made.verdict.reasons == (reason,)


# -- asked once ----------------------------------------------------------------------------------------------------


def test_nothing_is_asked_twice(tmp_path: Path) -> None:
    made = chain()
    first = run(made, tmp_path, item("a"), item("b"))
    again = run(made, tmp_path, item("a"), item("b"))
    assert again.items == first.items and (first.asked, again.asked) == (6, 0)
    assert [len(e.asked) for e in (made.represent, made.reason, made.revise)] == [2, 2, 2]  # type: ignore[union-attr, attr-defined]
    more = run(made, tmp_path, item("a"), item("b"), item("c"))
    assert more.asked == 3 and more.items[:2] == first.items


def test_questions_about_one_clip_share_its_representation(tmp_path: Path) -> None:
    made = chain()
    first, second = item("a"), item("b")
    second = Item(second.question.model_copy(update={"clip_id": "clip-a"}), first.clip_key, 0.0, 2.0)
    assert all(i.verdict.kept for i in run(made, tmp_path, first, second).items)
    assert len(made.represent.asked) == 1 and len(made.reason.asked) == 2  # type: ignore[attr-defined]


def test_what_was_not_answered_is_asked_again(tmp_path: Path) -> None:
    replies = iter([None, thought()])
    made = chain(reason=Says(lambda _: next(replies)))
    assert run(made, tmp_path).items[0].verdict.reasons == ("no_reply",)
    assert run(made, tmp_path).items[0].verdict.kept


@pytest.mark.parametrize("step", ["represent", "reason", "revise"])
@pytest.mark.parametrize("after", [0, 1, 3])
def test_killed_anywhere_it_continues_with_what_is_missing(step: str, after: int, tmp_path: Path) -> None:
    items = [item(name) for name in "abcd"]
    whole = run(chain(), tmp_path / "whole", *items)
    made = chain()
    engine = getattr(made, step)
    engine.killed_after = after
    with pytest.raises(KeyboardInterrupt):
        run(made, tmp_path / "killed", *items)
    engine.killed_after = None
    assert run(made, tmp_path / "killed", *items).items == whole.items
    assert len(engine.asked) == 4, "each once"


def test_a_torn_last_line_is_asked_again(tmp_path: Path) -> None:
    made = chain()
    whole = run(made, tmp_path)
    path = tmp_path / "reason.jsonl"
    path.write_bytes(path.read_bytes()[:-5])
    assert run(made, tmp_path).items == whole.items
    assert len(made.reason.asked) == 2 and len(read_jsonl(path, StepAnswer)) == 1  # type: ignore[attr-defined]


@pytest.mark.parametrize("what", ["engine", "clip", "upstream"])
def test_another_engine_clip_or_text_before_it_is_another_question(what: str, tmp_path: Path) -> None:
    run(chain(), tmp_path)
    made, asked = chain(), item()
    if what == "engine":
        made = chain(reason=Says(lambda _: thought(), "other"))
    elif what == "clip":
        asked = Item(asked.question, "frames-other", 0.0, 2.0)
    else:
        made = chain(reason=Says(lambda _: thought(think="A dog runs"), "other"))
    run(made, tmp_path, asked)
    counts = [len(e.asked) for e in (made.represent, made.reason, made.revise)]  # type: ignore[union-attr, attr-defined]
    assert counts == {"engine": [0, 1, 0], "clip": [1, 0, 1], "upstream": [0, 1, 1]}[what]


# -- the funnel ----------------------------------------------------------------------------------------------------


def test_the_funnel_counts_every_question_once_and_every_reason(tmp_path: Path) -> None:
    represent = Says(lambda ask: "{}" if ask.item == "clip-a" else GOOD_JSON, "r1")
    reason = Says(lambda ask: {"b": "nothing", "c": thought("cat", "The captions show a cat")}.get(ask.item, thought()))
    revise = Says(lambda ask: thought("cat") if ask.item == "d" else f"<think>{THINK}</think>")
    items = [item(name) for name in "abcde"] + [item("f", answer="cat")]
    made = run(chain(represent=represent, reason=reason, revise=revise), tmp_path, *items)
    engine = EngineSettings(model="x", endpoint="http://x", input_price=2.0, output_price=8.0)
    report = tally("n", made, Settings(engine=engine), ["noted"])
    assert (report.read, report.represented, report.reasoned, report.revised, report.kept) == (6, 5, 2, 1, 1)
    assert report.dropped == {
        "represent": {"not_json": 1}, "reason": {"names_notes": 1, "no_thought": 1, "wrong_answer": 2},
        "revise": {"changed_answer": 1},
    }  # fmt: skip
    assert report.kinds == {"label": (6, 1)} and report.answers == {"cat": (1, 0), "dog": (5, 1)}
    assert report.usage["represent"] == StepUsage(
        engine="r1", answers=7, prompt_tokens=700, num_tokens=70, cost=(700 * 2 + 70 * 8) / 1e6
    )
    assert report.notes == (
        "noted", "every thought that is kept leads to 'dog'; a model that learns them answers nothing else",
    )  # fmt: skip


def test_a_step_that_answers_nothing_stops_the_work_and_says_why(tmp_path: Path) -> None:
    items = [item(name) for name in "abc"]
    silent = chain(reason=Says(lambda _: None, "r2"))
    said = (
        "reason: r2 answered none of 3 questions; the last: gone. Mend that; what other steps wrote is kept, and the "
        "same command continues"
    )
    with pytest.raises(EngineError, match=re.escape(said)):
        curate(items, silent, tmp_path, Still(), Reporter())
    assert len(read_jsonl(tmp_path / "represent.jsonl", StepAnswer)) == 3
    represent = Says(lambda _: GOOD_JSON, "r1")
    made = curate(items, chain(represent), tmp_path, Still(), Reporter())
    assert not represent.asked and all(one.verdict.kept for one in made.items)


# -- servers that do as they like ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer",
    ["wolf", "", " ", "dog or cat", "dog, cat", "not dog", "A dog", "DOG CAT", '{"answer": "dog"}', "A", "1", "NaN",
     "null", "dogs", "dog because it barks", "label: wolf", "cat", "dog\nwolf", "猫", "<b>dog</b>"],
)  # fmt: skip
def test_an_answer_outside_the_options_is_never_kept_though_the_server_ignores_them(
    answer: str, tmp_path: Path
) -> None:
    [made] = run(chain(reason=Says(lambda _: thought(answer))), tmp_path).items
    assert not made.verdict.kept and made.think is None
    assert set(made.verdict.reasons) <= {"wrong_answer", "no_thought"}


@pytest.mark.parametrize(
    "text",
    [
        "A dog runs through the yard.",
        "{}",
        "[]",
        '{"caption": "A dog runs."}',
        GOOD_JSON.replace('"frames"', '"pictures"'),
        GOOD_JSON.replace('"caption": "a dog"', '"caption": 3'),
        GOOD_JSON.replace("}]}", '}], "more": 1}'),
        GOOD_JSON.replace('"timestamp": 0', '"timestamp": NaN'),
        GOOD_JSON.replace('"timestamp": 0', '"timestamp": "soon"'),
        GOOD_JSON + GOOD_JSON,
        f"Here it is: {GOOD_JSON}",
    ],
)
def test_json_that_is_not_of_the_schema_is_never_kept_though_the_server_ignores_it(text: str, tmp_path: Path) -> None:
    [made] = run(chain(represent=Says(lambda _: text)), tmp_path).items
    assert not made.verdict.kept and made.representation is None
    assert set(made.verdict.reasons) <= {"not_json", "frame_count", "outside_clip"}


class Served(Says):
    """Says who answers, too."""

    def __init__(self, who: Callable[[int], str], **more: Any) -> None:
        super().__init__(lambda _: thought(), **more)
        self.who = who

    def replies(self, asks: Sequence[Ask]) -> Iterator[tuple[Ask, Reply | Unanswered]]:
        for number, (ask, reply) in enumerate(super().replies(asks)):
            yield ask, replace(reply, served_by=self.who(number)) if isinstance(reply, Reply) else reply


def test_another_model_in_the_middle_of_the_work_stops_it(tmp_path: Path) -> None:
    items = [item(f"q{i}") for i in range(5)]
    with pytest.raises(EngineError) as error:
        run(chain(reason=Served(lambda number: "m-1" if number < 3 else "m-2", name="m")), tmp_path, *items)
    assert str(error.value) == (
        "m: the server answered as 'm-1', and now as 'm-2'; texts of two models would be mixed. What was answered is "
        "kept: put the first model back and the same command continues, or name the new one in `revision`, and "
        "everything is asked anew"
    )
    written = read_jsonl(tmp_path / "reason.jsonl", StepAnswer)
    assert [answer.served_by for answer in written] == ["m-1"] * 3, "nothing of the other model is kept"
    with pytest.raises(EngineError, match="answered as 'm-1', and now as 'm-2'"):
        run(chain(reason=Served(lambda _: "m-2", name="m")), tmp_path, *items)
    made = run(chain(reason=Served(lambda _: "m-1", name="m")), tmp_path, *items)
    assert made.asked == 2 + 5, "two thoughts, and the revisions"
    other = run(chain(reason=Served(lambda _: "m-2", name="m@2")), tmp_path, *items)
    assert all(kept.verdict.kept for kept in other.items), "another revision is another engine"
