"""Arms as chains of checkpoints: what each stage learns, its training, and the predictions of the last one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rbft.errors import ExperimentError
from rbft.evaluation.predict import predict_clips
from rbft.evaluation.questions import answer_questions, answers_key
from rbft.experiment import Arm, Evaluation, Stage
from rbft.files import read_jsonl, write_jsonl
from rbft.findings import ArmRun
from rbft.progress import plural
from rbft.prompts import Describing, Reasoning
from rbft.question_findings import QuestionRun
from rbft.rationales.choose import (
    kept_by_confidence,
    leading_to_label,
    unchanged_by_hint,
    voted,
    without_contradicting,
    without_tags,
)
from rbft.rationales.generate import Request
from rbft.records import Answered, Checkpoint, Clip, Example, Prediction, Question, Rationale, fingerprint
from rbft.session import Session
from rbft.stopping import check
from rbft.thoughts import curated_thoughts
from rbft.training.examples import (
    cot_examples,
    label_examples,
    rationale_examples,
    reinforce_examples,
    thought_examples,
    usable_clips,
)
from rbft.training.rollouts import label_questions
from rbft.training.stages import StageJob, finished_stage, train_stage
from rbft.training.supervised import num_steps


def run_arm(session: Session, arm: Arm) -> ArmRun:
    """All seeds of an arm: its stages, then its predictions of the test clips. Zero-shot has nothing to seed."""
    checkpoints = _trained(session, arm)
    last = len(arm.stages)
    predictions = {seed: _predict(session, arm, _checkpoint(session, arm, last, seed), seed) for seed in checkpoints}
    chosen = [
        rationale
        for number, stage in enumerate(arm.stages, 1)
        if stage.learns_rationales
        for rationale in _rationales(session, arm, number, next(iter(checkpoints))).values()
    ]
    return ArmRun(arm=arm, checkpoints=checkpoints, predictions=predictions, rationales=chosen)


def ask_arm(session: Session, arm: Arm) -> QuestionRun:
    """The same in an experiment about questions: its stages, then its answers to the test questions."""
    checkpoints = _trained(session, arm)
    last = len(arm.stages)
    answers = {seed: _ask(session, arm, _checkpoint(session, arm, last, seed), seed) for seed in checkpoints}
    return QuestionRun(arm=arm, checkpoints=checkpoints, answers=answers)


def _trained(session: Session, arm: Arm) -> dict[int, list[Checkpoint]]:
    """By seed, what the stages of an arm left, one after the other. Zero-shot has nothing to seed."""
    seeds = session.experiment.seeds if arm.stages else session.experiment.seeds[:1]
    numbers = range(1, len(arm.stages) + 1)
    return {seed: [_checkpoint(session, arm, n, seed) for n in numbers] for seed in seeds}


# -- stages --------------------------------------------------------------------------------------------------------


def _checkpoint(session: Session, arm: Arm, number: int, seed: int) -> Checkpoint:
    """What stage `number` of an arm left under a seed, trained if it is not there yet; number 0 is the base."""
    if number == 0:
        return session.base
    place = (arm.name, number, seed)
    if place not in session.chains:
        session.chains[place] = _run_stage(session, arm, number, seed)
    return session.chains[place]


def _run_stage(session: Session, arm: Arm, number: int, seed: int) -> Checkpoint:
    stage = arm.stages[number - 1]
    examples, questions = stage_examples(session, arm, number, seed), stage_questions(session, stage)
    reinforce = session.experiment.reinforce_of(stage)
    recipe = session.fit.recipe(session.experiment.stage_training(stage), reinforce)
    steps = stage_steps(session, arm, number, seed)
    job = StageJob(
        stage=stage,
        parent=_checkpoint(session, arm, number - 1, seed),
        examples=examples,
        recipe=recipe,
        steps=steps,
        seed=seed,
        prompts=session.prompts,
        sampling=session.experiment.sampling,
        length_normalisation=session.experiment.evaluation.length_normalisation,
        clips=session.clips,
        frame_keys=session.frame_keys,
        questions=questions,
        describing=describing_of(session, stage),
        reinforce=reinforce,
        encoder=None if reinforce is None else session.encoders.get(reinforce.encoder_used or ""),
        held_out=_held_out(session, stage),
    )
    if job.key not in session.stages:
        asked = plural(len(questions), "question", "questions")
        what = asked if questions else plural(len(examples), "example", "examples")
        title = f"{arm.name}, seed {seed}, stage {number} ({stage.kind}): {what}, {plural(steps, 'step', 'steps')}"
        session.stages[job.key] = finished_stage(job, session.store, session.reporter.say) or _train(
            session, arm, job, title
        )
    return session.stages[job.key]


def _held_out(session: Session, stage: Stage) -> list[Question]:
    """What a reinforce stage's held-out curve is of: all that is asked about test clips; the stage draws its number."""
    if stage.kind != "reinforce":
        return []
    if session.questions is not None:
        return list(session.questions.test)
    asked = reinforce_examples(session.manifest.of("test", labelled=True), session.prompts)
    return label_questions(asked, list(session.prompts.labels))


def _train(session: Session, arm: Arm, job: StageJob, title: str) -> Checkpoint:
    check()
    session.release()
    session.reporter.say(title)
    with session.store.timed(f"train {arm.name}: {job.stage.kind}", job.key) as working:
        working()
        return train_stage(
            job, session.store, session.frames, allow_remote_code=session.experiment.allow_remote_code,
            say=session.reporter.say,
        )  # fmt: skip


def stage_steps(session: Session, arm: Arm, number: int, seed: int) -> int:
    """Optimizer steps of a stage: of its own examples, or of the whole arm that it matches."""
    stage = arm.stages[number - 1]
    if stage.match_steps_of is None:
        num_learnt = len(stage_examples(session, arm, number, seed)) + len(stage_questions(session, stage))
        reinforce = session.experiment.reinforce_of(stage)
        batches = num_steps(num_learnt, session.experiment.stage_training(stage))
        return batches * (1 if reinforce is None else reinforce.updates)
    matched = session.experiment.arm(stage.match_steps_of)
    return sum(stage_steps(session, matched, n, seed) for n in range(1, len(matched.stages) + 1))


# -- examples ------------------------------------------------------------------------------------------------------


def stage_examples(session: Session, arm: Arm, number: int, seed: int) -> list[Example]:
    """What a stage learns; raises ExperimentError, naming arm and stage, where nothing is left to learn."""
    stage = arm.stages[number - 1]
    if session.questions is not None:
        return thought_examples(session.questions.cot, session.prompts) if stage.kind == "cot" else []
    train = session.manifest.of("train")
    examples: list[Example] = []
    if stage.learns_rationales:
        written = _rationales(session, arm, number, seed)
        made = cot_examples if stage.kind == "cot" else rationale_examples
        examples += made(train, stage, session.prompts, written, seed=seed)
        if not examples:
            raise ExperimentError(
                f"arm {arm.name!r}, stage {number} ({stage.kind}): no training example is left; "
                f"every {'thought' if stage.thoughts == 'curated' else 'rationale'} was dropped, see the "
                f"{'curation' if stage.thoughts == 'curated' else 'rationales'} folder"
            )
    if stage.learns_labels:
        balanced = session.experiment.stage_training(stage).class_weights == "balanced"
        queries = _queries(session, arm, number, seed) if stage.describe_first else None
        examples += label_examples(train, session.prompts, balanced=balanced, queries=queries)
    if stage.kind == "reinforce":
        examples += reinforce_examples(train, session.prompts)
    return examples


def stage_questions(session: Session, stage: Stage) -> Sequence[Question]:
    """The questions that a reinforce stage of an experiment about questions learns; none of any other."""
    return session.questions.train if session.questions is not None and stage.kind == "reinforce" else ()


def _queries(session: Session, arm: Arm, number: int, seed: int) -> dict[str, str]:
    """The label query after the engine's own description, for every labelled training clip."""
    engine = _engine(session, arm, number, seed)
    train = session.manifest.of("train", labelled=None if engine == session.base else True)
    described = session.ask(engine, session.greedy, train, what=_writing("descriptions", engine, arm, seed))
    describing = session.prompts.describing(session.experiment.rationales.max_new_tokens)
    return {clip_id: describing.query(session.prompts, told.text) for clip_id, told in described.items()}


def describing_of(session: Session, stage: Stage) -> Describing | Reasoning | None:
    """What the stage's child says about a clip before its label is scored; None where it is scored at once."""
    if stage.reasons and session.questions is not None and session.prompts.templates.reasoned is None:
        return None
    if stage.reasons:
        return session.prompts.reasoning(session.experiment.stage_reinforce(stage).max_new_tokens)
    if not stage.describe_first:
        return None
    return session.prompts.describing(session.experiment.rationales.max_new_tokens)


# -- rationales ----------------------------------------------------------------------------------------------------


def _rationales(session: Session, arm: Arm, number: int, seed: int) -> dict[str, Rationale]:
    """The own rationales that a stage may learn, by clip id, with the verdict of audit and choice.

    The engine writes about all training clips, labelled or not, so that every arm shares its texts.
    """
    stage = arm.stages[number - 1]
    if stage.thoughts == "curated":
        return curated_thoughts(session)
    if stage.self_share == 0:
        return {}
    engine = _engine(session, arm, number, seed)
    requests = _requests(session, stage)
    what = _writing("rationales", engine, arm, seed)
    dimensions = session.prompts.templates.dimensions
    usable = usable_clips(session.manifest.of("train"), stage)
    chosen = _voted(session, engine, stage, requests, usable, what)
    if stage.drop_contradicting:
        chosen = {clip_id: without_contradicting(r) for clip_id, r in chosen.items()}
    if stage.vote is not None:
        chosen = kept_by_confidence(chosen, stage.vote.keep_share)
    if stage.hint is not None:
        labelled = session.manifest.of("train", labelled=True)
        told = Request(session.prompts, session.experiment.rationales, session.thresholds, hinted=True)
        hinted = session.ask(engine, told, labelled, what=f"{what}, with the label told")
        chosen = {
            clip_id: unchanged_by_hint(free, hinted[clip_id], dimensions, stage.hint.agreement)
            for clip_id, free in chosen.items()
        }
        requests.append(told)
    if stage.kind == "cot":
        chosen = {clip_id: without_tags(r) for clip_id, r in chosen.items()}
    if stage.vote is not None or stage.hint is not None or stage.drop_contradicting:
        keys = [request.key(engine, session.experiment.sampling) for request in requests]
        _keep(
            session, fingerprint("chosen", keys, list(chosen), stage.vote, stage.hint, stage.drop_contradicting), chosen
        )
    return chosen


def _engine(session: Session, arm: Arm, number: int, seed: int) -> Checkpoint:
    return session.base if arm.stages[number - 1].engine == "base" else _checkpoint(session, arm, number - 1, seed)


def _requests(session: Session, stage: Stage) -> list[Request]:
    """The label-free requests of a stage: one, or one a sample."""
    if stage.vote is None:
        return [session.request]
    settings = session.experiment.rationales.model_copy(
        update={"temperature": stage.vote.temperature, "top_p": stage.vote.top_p, "retries": 0}
    )
    return [
        Request(session.prompts, settings, session.thresholds, sample=sample) for sample in range(stage.vote.samples)
    ]


def _voted(
    session: Session, engine: Checkpoint, stage: Stage, requests: Sequence[Request], usable: list[Clip], what: str
) -> dict[str, Rationale]:
    """The label-free rationale of every usable clip: the only one, or the vote over the samples."""
    train = session.manifest.of("train")
    if len(requests) == 1:
        written = session.ask(engine, requests[0], train, what=what)
        return {clip.clip_id: written[clip.clip_id] for clip in usable}
    samples = [
        session.ask(engine, request, train, what=f"{what}, sample {number} of {len(requests)}")
        for number, request in enumerate(requests, 1)
    ]
    if stage.vote is not None and stage.vote.right_only:
        samples = [_right_only(session, engine, sample, f"{what}, sample {n}") for n, sample in enumerate(samples, 1)]
    dimensions = session.prompts.templates.dimensions

    def vote(clip: Clip) -> Rationale:
        texts = [sample[clip.clip_id] for sample in samples]
        return voted(texts, dimensions, lambda text: requests[0].audit(text, True, clip))

    return {clip.clip_id: vote(clip) for clip in usable}


def _right_only(
    session: Session, engine: Checkpoint, sample: Mapping[str, Rationale], what: str
) -> dict[str, Rationale]:
    """A sample of every clip; of labelled ones dropped where the engine gives another label after it."""
    labelled = session.manifest.of("train", labelled=True)
    describing = session.prompts.describing(session.experiment.rationales.max_new_tokens)
    texts = {clip.clip_id: sample[clip.clip_id].text for clip in labelled}
    settings = session.experiment.evaluation.model_copy(update={"generate": False})
    said = _answers(session, engine, labelled, settings, what=f"{what}: labels after it", step="rationales",
                    describing=describing, descriptions=texts)  # fmt: skip
    judged = {p.clip_id: leading_to_label(sample[p.clip_id], p) for p in said}
    return {clip_id: judged.get(clip_id, text) for clip_id, text in sample.items()}


def _keep(session: Session, key: str, chosen: Mapping[str, Rationale]) -> None:
    """Put what was chosen beside what was written, to be read; an equal file is left as it is."""
    path = session.store.rationales(key)
    if not path.exists() or read_jsonl(path, Rationale) != list(chosen.values()):
        write_jsonl(path, chosen.values())


def _writing(what: str, engine: Checkpoint, arm: Arm, seed: int) -> str:
    return f"Writing {what}" if engine.stage == "base" else f"{arm.name}, seed {seed}: writing {what}"


# -- answers ---------------------------------------------------------------------------------------------------------


def _ask(session: Session, arm: Arm, checkpoint: Checkpoint, seed: int) -> list[Answered]:
    """A checkpoint's answers to the test questions, all arms under the same limit; what is on disk is read."""
    assert session.questions is not None, "the experiment is about questions"
    questions, settings = session.questions.test, session.experiment.reinforce
    key = answers_key(
        checkpoint.fingerprint,
        questions,
        session.frame_keys,
        session.prompts,
        max_new_tokens=settings.max_new_tokens,
    )
    what = f"{arm.name}, seed {seed}: test questions" if arm.stages else f"{arm.name}: test questions"
    with (
        session.store.timed(f"ask {arm.name}", key) as working,
        session.reporter.counted(what, len(questions), unit="questions") as advance,
    ):
        return answer_questions(
            lambda: session.vlm(checkpoint.path, working),
            checkpoint.fingerprint,
            questions,
            session.frames,
            session.prompts,
            max_new_tokens=settings.max_new_tokens,
            batch_size=session.experiment.evaluation.batch_size,
            path=session.store.answers(key),
            advance=advance,
        )


# -- predictions ---------------------------------------------------------------------------------------------------


def _predict(session: Session, arm: Arm, checkpoint: Checkpoint, seed: int) -> list[Prediction]:
    test = session.manifest.of("test", labelled=True)
    name = f"{arm.name}, seed {seed}" if arm.stages else arm.name
    describing, descriptions = None, None
    if arm.describes_first:
        describing = describing_of(session, arm.stages[-1])
        assert describing is not None
        told = session.ask(
            checkpoint, session.saying(describing), test, what=f"{name}: describing test clips",
            step=f"predict {arm.name}",
        )  # fmt: skip
        descriptions = {clip_id: rationale.text for clip_id, rationale in told.items()}
    return _answers(
        session,
        checkpoint,
        test,
        session.experiment.evaluation,
        what=f"{name}: test clips",
        step=f"predict {arm.name}",
        describing=describing,
        descriptions=descriptions,
    )


def _answers(
    session: Session,
    checkpoint: Checkpoint,
    clips: Sequence[Clip],
    settings: Evaluation,
    *,
    what: str,
    step: str,
    describing: Describing | Reasoning | None,
    descriptions: Mapping[str, str] | None,
) -> list[Prediction]:
    """A checkpoint's labels of these clips, after the descriptions where they are given; what is on disk is read."""
    key = fingerprint(
        "predict", checkpoint.fingerprint, session.prompts.label(), list(session.prompts.labels),
        settings.length_normalisation, settings.generate,
        [(clip.clip_id, clip.label, session.frame_keys[clip.clip_id]) for clip in clips],
        *([] if describing is None else [describing, descriptions]),
    )  # fmt: skip
    if key in session.answered:
        return session.answered[key]
    with session.store.timed(step, key) as working, session.reporter.counted(what, len(clips)) as advance:
        session.answered[key] = predict_clips(
            lambda: session.vlm(checkpoint.path, working),
            checkpoint.fingerprint,
            clips,
            session.frames,
            session.prompts,
            settings,
            session.store.predictions(key),
            advance=advance,
            describing=describing,
            descriptions=descriptions,
        )
    return session.answered[key]
