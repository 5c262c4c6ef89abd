"""What fits a device: micro-batch, checkpointing and LoRA or full, chosen before any work.

The choice depends on the model's shape, the clips' frame plans, the settings and the device's whole memory, never on
what happens to be free: the same command again makes the same choice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import product
from statistics import median

from rbft.errors import ShortMemoryError
from rbft.experiment import Experiment
from rbft.models.memory import Device, Method, Peak, generating_peak, reinforcing_peak, scoring_peak, training_peak
from rbft.models.shape import ModelShape
from rbft.recipe import Lora, Recipe, Reinforce, Training
from rbft.training.plan import MOST_CLIPS, MemoryPlan, PhaseRow, size
from rbft.training.work import Work

ENOUGH_TOKENS = 16_384
"""A micro-batch of so many tokens keeps a GPU busy; a larger one only pads more."""


@dataclass(frozen=True)
class Fit:
    """The plan, what does not fit, and the recipe of each training section (of reinforce stages: with theirs)."""

    plan: MemoryPlan
    faults: tuple[str, ...]
    recipes: Mapping[str, Recipe]

    def recipe(self, training: Training, reinforce: Reinforce | None = None) -> Recipe:
        """How a stage with these settings is trained."""
        return self.recipes[_key(training, reinforce)]

    def refuse(self) -> None:
        """Raise ShortMemoryError, with the table, where something does not fit."""
        if self.faults:
            raise ShortMemoryError([*self.faults, *self.plan.lines()])


def _key(training: Training, reinforce: Reinforce | None) -> str:
    return training.model_dump_json() + ("" if reinforce is None else reinforce.model_dump_json())


# -- choosing ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Choice:
    """How a training section is run: method, micro-batch, and its peak."""

    method: Method
    clips: int
    peak: Peak


@dataclass(frozen=True)
class Chooser:
    """Finds what fits."""

    shape: ModelShape
    work: Work
    device: Device
    encoders: Mapping[str, int] = field(default_factory=dict)
    """Parameters of the encoders that rewards use, by name."""

    def fits(self, peak: Peak) -> bool:
        """Whether a peak lies within the device's budget."""
        return peak.total <= self.device.budget

    def training(self, method: Method, clips: int) -> Peak:
        """The peak of training with a micro-batch of so many clips."""
        return training_peak(self.shape, self.work.training(clips), method, self.device.kind)

    def scoring(self, clips: int) -> Peak:
        """The peak of scoring all labels of so many clips."""
        nodes = sum(length - 1 for length in self.work.labels)
        return scoring_peak(self.shape, self.work.scoring(clips), nodes, self.device.kind)

    def reinforcing(self, reinforce: Reinforce, method: Method, groups: int) -> Peak:
        """The peak of a reinforce stage that samples answers to so many clips at once; its encoder is beside it."""
        peak = reinforcing_peak(
            self.shape,
            self.work.updating(reinforce),
            self.work.sampling(groups),
            reinforce.samples,
            reinforce.max_new_tokens,
            method,
            reference=reinforce.beta > 0,
            kind=self.device.kind,
        )
        beside = self.encoders.get(reinforce.encoder_used or "", 0) * (4 if self.device.kind == "cpu" else 2)
        return replace(peak, weights=peak.weights + beside)

    def stage(self, method: Method, clips: int, reinforce: Reinforce | None) -> Peak:
        """The peak of a stage: of a micro-batch of so many clips, or of the groups that are sampled at once."""
        if reinforce is None:
            return self.training(method, min(clips, len(self.work.train)))
        return self.reinforcing(reinforce, method, min(groups_at_once(reinforce), len(self.work.train)))

    def generating(self, clips: int) -> Peak:
        """The peak of writing about so many clips."""
        return generating_peak(self.shape, self.work.asking(clips), self.work.written, self.device.kind)

    def most(self, peak: Callable[[int], Peak]) -> int:
        """The largest batch whose peak fits, up to MOST_CLIPS; 0: not one clip."""
        low, high = 0, MOST_CLIPS
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self.fits(peak(middle)) else (low, middle - 1)
        return low

    def least(self, training: Training, reinforce: Reinforce | None) -> Peak:
        """The smallest peak of full fine-tuning; a method does not change for a micro-batch that was asked for."""
        method = Method(None, True, training.vision_learning_rate > 0)
        return self.training(method, 1) if reinforce is None else self.reinforcing(reinforce, method, 1)

    def choose(self, training: Training, rank: int | None, reinforce: Reinforce | None) -> Choice:
        """The first that fits: nothing recomputed before recomputing, large micro-batches before small ones.

        Where nothing does, the smallest of all.
        """
        asked = training.gradient_checkpointing
        checkpointing = (False, True) if asked is None else (asked,)
        divisors = [n for n in range(training.batch_size, 0, -1) if training.batch_size % n == 0]
        enough = ENOUGH_TOKENS / median(
            tokens + self.work.prompt + self.work.answer for _, _, tokens in self.work.train
        )
        wanted = [n for n in divisors if n <= max(1, enough)]
        micro = wanted if training.micro_batch_size is None else [training.micro_batch_size]
        vision = rank is None and training.vision_learning_rate > 0
        choices = []
        for recompute, clips in product(checkpointing, micro):
            method = Method(rank, recompute, vision)
            choices.append(Choice(method, clips, self.stage(method, clips, reinforce)))
            if self.fits(choices[-1].peak):
                return choices[-1]
        return choices[-1]


def groups_at_once(reinforce: Reinforce) -> int:
    """Questions whose answers are sampled together."""
    return min(reinforce.batch_size, max(1, reinforce.rollout_batch_size // reinforce.samples))


def resolved(training: Training, chooser: Chooser, reinforce: Reinforce | None = None, *, lora: bool) -> Recipe:
    """The recipe with nothing open; `lora`: full fine-tuning does not fit, so whoever allows it gets LoRA."""
    falls_back = lora and training.method == "auto" and training.lora is None
    adapters = Lora() if falls_back or (training.method == "lora" and training.lora is None) else training.lora
    choice = chooser.choose(training, None if adapters is None else adapters.rank, reinforce)
    chosen = {"micro_batch_size": choice.clips, "gradient_checkpointing": choice.method.checkpointing}
    return Recipe.model_validate(training.model_dump() | chosen | {"lora": adapters})


def fit(
    experiment: Experiment, model: str, shape: ModelShape, work: Work, device: Device, *,
    lora: bool | None = None, encoders: Mapping[str, int] | None = None,
) -> Fit:  # fmt: skip
    """What fits the device: a recipe for every stage, the same method for all that leave it open, and the table.

    `lora`: whether a run that has begun fell back on it; None: what fits. `encoders`: parameters of those that rewards
    use, by name.
    """
    chooser = Chooser(shape, work, device, encoders or {})
    stages = [stage for arm in experiment.arms for stage in arm.stages]
    sections = [(experiment.stage_training(stage), experiment.reinforce_of(stage)) for stage in stages]
    sections = [section for n, section in enumerate(sections) if section not in sections[:n]]
    least = [chooser.least(t, r) for t, r in sections if t.method == "auto" and t.lora is None]
    short = next((peak for peak in least if not chooser.fits(peak)), None)
    falls_back = short is not None if lora is None else lora
    chosen = [(resolved(t, chooser, r, lora=falls_back), r) for t, r in sections]
    recipes = {_key(*section): recipe for section, (recipe, _) in zip(sections, chosen, strict=True)}
    faults = list(dict.fromkeys(f for recipe, r in chosen for f in _stage_faults(chooser, recipe, r)))
    faults += _asking_faults(chooser, experiment)
    plan = _plan(
        chooser,
        model,
        _rows(chooser, experiment, chosen),
        learns=bool(sections),
        recipes=tuple(dict.fromkeys(_in_words(recipe) for recipe in recipes.values())),
        why_lora=_why_lora(chooser, short) if falls_back else None,
    )
    return Fit(plan, tuple(faults), recipes)


def predicting(model: str, shape: ModelShape, work: Work, device: Device) -> MemoryPlan:
    """The table of `rbft predict`, which takes one clip after another."""
    chooser = Chooser(shape, work, device)
    rows = [
        _row("scoring labels", 1, chooser.scoring(1), chooser.most(chooser.scoring), True),
        _row("writing", 1, chooser.generating(1), chooser.most(chooser.generating), True),
    ]
    return _plan(chooser, model, rows, learns=False)


def _plan(
    chooser: Chooser, model: str, rows: Sequence[PhaseRow], *, learns: bool, recipes: tuple[str, ...] = (),
    why_lora: str | None = None,
) -> MemoryPlan:  # fmt: skip
    work, device = chooser.work, chooser.device
    tokens = sorted((all_, visual) for _, visual, all_ in work.every)
    text = work.prompt + (work.answer if learns else 0)
    middle, largest = tokens[len(tokens) // 2], tokens[-1]
    return MemoryPlan(
        model=model,
        device=device.name,
        device_bytes=device.total if device.given is None else device.given,
        budget_bytes=max(0, device.budget),
        parameters=chooser.shape.parameters,
        median_tokens=middle[0] + text,
        median_visual_tokens=middle[1],
        largest_tokens=largest[0] + text,
        largest_visual_tokens=largest[1],
        rows=tuple(rows),
        recipes=recipes,
        why_lora=why_lora,
    )


# -- words ---------------------------------------------------------------------------------------------------------


def _name(method: Method) -> str:
    name = "full fine-tuning" if method.rank is None else f"LoRA of rank {method.rank}"
    return f"{name}, checkpointing" if method.checkpointing else name


def _rows(
    chooser: Chooser, experiment: Experiment, chosen_recipes: Sequence[tuple[Recipe, Reinforce | None]]
) -> list[PhaseRow]:
    """Training in both ways, each with and without checkpointing; reinforcing; then scoring and writing."""
    rows = []
    recipes = [recipe for recipe, reinforce in chosen_recipes if reinforce is None]
    chosen: dict[Method, int] = {}
    for recipe in recipes:
        chosen[_method(recipe)] = max(recipe.micro_batch_size, chosen.get(_method(recipe), 0))
    vision = any(method.vision for method in chosen) or all(method.rank is not None for method in chosen)
    lora = next((method.rank for method in chosen if method.rank is not None), Lora().rank)
    methods = [Method(None, on, vision) for on in (False, True)] + [Method(lora, on, False) for on in (False, True)]
    for method in dict.fromkeys([*methods, *chosen]) if recipes else ():
        clips = chosen.get(method, 1)
        most = chooser.most(partial(chooser.training, method))
        peak = chooser.training(method, min(clips, len(chooser.work.train)))
        rows.append(_row(_name(method), clips, peak, most, method in chosen))
    for recipe, reinforce in chosen_recipes:
        if reinforce is not None:
            method, groups = _method(recipe), min(groups_at_once(reinforce), len(chooser.work.train))
            most = chooser.most(partial(chooser.reinforcing, reinforce, method))
            peak = chooser.reinforcing(reinforce, method, groups)
            rows.append(_row(f"reinforcing, {_name(method)}", groups, peak, most, True))
    for what, _, clips, asking in _asked(chooser, experiment):
        rows.append(_row(what, clips, asking(clips), chooser.most(asking), True))
    return rows


def _asked(chooser: Chooser, experiment: Experiment) -> list[tuple[str, str, int, Callable[[int], Peak]]]:
    """What is done without training: its name, the setting of its batch, so many clips at once, its peak."""
    at_once = min(experiment.evaluation.batch_size, len(chooser.work.every))
    if experiment.questions is not None:
        return [("answering", "evaluation.batch_size", at_once, chooser.generating)]
    return [
        ("scoring labels", "evaluation.batch_size", at_once, chooser.scoring),
        (
            "writing",
            "rationales.batch_size",
            chooser.work.writing(experiment.rationales.batch_size),
            chooser.generating,
        ),
    ]


def _method(recipe: Recipe) -> Method:
    rank = None if recipe.lora is None else recipe.lora.rank
    return Method(rank, recipe.gradient_checkpointing, rank is None and recipe.vision_learning_rate > 0)


def _row(phase: str, clips: int, peak: Peak, most: int, chosen: bool) -> PhaseRow:
    return PhaseRow(
        phase=phase, clips=clips, weights=peak.weights, state=peak.state, work=peak.work, most_clips=most, chosen=chosen
    )


def _in_words(recipe: Recipe) -> str:
    return (
        f"Training: {_name(_method(recipe)).split(',')[0]}, {recipe.batch_size} clips a step as {recipe.accumulated} x "
        f"{recipe.micro_batch_size}, {'with' if recipe.gradient_checkpointing else 'without'} gradient checkpointing"
    )


def _why_lora(chooser: Chooser, short: Peak | None) -> str:
    if short is None:
        return (
            "LoRA is trained instead of every weight, because this run began with it; "
            "training.method=full trains every weight, from the beginning"
        )
    return (
        f"LoRA is trained instead of every weight, which is another method than the paper's: full fine-tuning needs "
        f"{size(short.total)} at least, {size(max(0, chooser.device.budget))} are there. "
        "training.method=full forbids this. LoRA wants a higher learning rate: try training.learning_rate=1e-4, "
        "and reinforce.learning_rate=1e-5 where a stage reinforces"
    )


def _stage_faults(chooser: Chooser, recipe: Recipe, reinforce: Reinforce | None) -> list[str]:
    if reinforce is None:
        return _training_faults(chooser, recipe)
    peak = chooser.stage(_method(recipe), 1, reinforce)
    if chooser.fits(peak):
        return []
    steps = ["fewer reinforce.samples, smaller reinforce.max_new_tokens or reinforce.rollout_batch_size"]
    steps += ["training.method=lora"] if recipe.lora is None else []
    return [
        f"reinforcing does not fit the memory: {_name(_method(recipe))} with {reinforce.samples} answers of "
        f"{reinforce.max_new_tokens} tokens, {groups_at_once(reinforce)} groups at once, needs {size(peak.total)}, "
        f"{size(max(0, chooser.device.budget))} are there. Next: {', or '.join(steps)}, fewer frames "
        "(sampling.max_frames), or a smaller model"
    ]


def _training_faults(chooser: Chooser, recipe: Recipe) -> list[str]:
    method = _method(recipe)
    peak = chooser.training(method, min(recipe.micro_batch_size, len(chooser.work.train)))
    if chooser.fits(peak):
        return []
    there = size(max(0, chooser.device.budget))
    said = (
        f"training does not fit the memory: {_name(method)} with micro-batch {recipe.micro_batch_size} needs "
        f"{size(peak.total)}, {there} are there. Next: "
    )
    smallest = Method(method.rank, True, method.vision)
    if chooser.fits(chooser.training(smallest, 1)):
        return [said + "leave micro_batch_size and gradient_checkpointing out, so that they are chosen"]
    steps = []
    if method.rank is None:
        steps.append("training.method=lora")
    if peak.weights + peak.state <= chooser.device.budget:
        steps.append("fewer frames (sampling.max_frames), fewer pixels (sampling.max_pixels)")
    steps += ["a smaller model", "or a larger memory_gib if more is there"]
    return [said + ", ".join(steps)]


def _asking_faults(chooser: Chooser, experiment: Experiment) -> list[str]:
    faults = []
    for what, setting, clips, peak in _asked(chooser, experiment):
        if chooser.fits(peak(clips)):
            continue
        most = chooser.most(peak)
        step = f"{setting}={most}" if most else "fewer frames (sampling.max_frames), or a smaller model"
        faults.append(
            f"{what} does not fit the memory: {clips} clips at once need {size(peak(clips).total)}, "
            f"{size(max(0, chooser.device.budget))} are there. Next: {step}"
        )
    return faults
