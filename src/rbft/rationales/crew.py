"""The engines of a chain, built from its settings, with every fault of them at once."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from rbft.answers import AuditThresholds
from rbft.curation import Curation, load_chain
from rbft.curation import Engine as EngineSettings
from rbft.errors import ExperimentError, UserError
from rbft.experiment import Experiment
from rbft.models.sources import Source, resolve
from rbft.models.vlm import VLM, FrameSource, grid_of
from rbft.prompts import Prompts
from rbft.rationales.budget import Budget
from rbft.rationales.curate import Chain
from rbft.rationales.endpoint import EndpointEngine
from rbft.rationales.engines import Engine, FileEngine, LocalEngine
from rbft.records import CurationStep, Grid

Load = Callable[[Source], VLM]


class Find(Protocol):
    """Where a model's files are: `models.sources.resolve`, or `models.vlm.local_source`."""

    def __call__(self, name_or_folder: str, *, revision: str | None, allow_remote_code: bool) -> Source | None:
        """The place, or None."""


_SEES_CLIP = ("represent", "revise")


@dataclass(frozen=True)
class Crew:
    """Who writes, found and checked before anything is: the local models, the files, the keys."""

    settings: Curation
    sources: Mapping[CurationStep, Source]
    keys: Mapping[CurationStep, str]

    def grid(self) -> Grid | None:
        """How frames must be cut for the local models that see clips; None where none does."""
        return next((grid_of(self.sources[step]) for step in _seeing(self.sources)), None)

    def chain(
        self, prompts: Prompts, prompts_name: str, frames: FrameSource, thresholds: AuditThresholds, load: Load
    ) -> Chain:
        """The chain; `load` gives a local model when it is needed."""
        budget = Budget(self.settings.max_requests, self.settings.max_tokens)
        made = {step: self._engine(step, frames, load, budget) for step in self.settings.steps}
        return Chain(
            prompts=load_chain(self.settings.chain_for(prompts_name)),
            asking=prompts,
            represent=made["represent"],
            reason=made["reason"],
            revise=made.get("revise"),
            thresholds=thresholds,
            open_accuracy=self.settings.open_accuracy,
            budget=budget,
        )

    def _engine(self, step: CurationStep, frames: FrameSource, load: Load, budget: Budget) -> Engine:
        settings = _named(self.settings, step)
        if settings.answers is not None:
            return FileEngine(Path(settings.answers))
        if settings.endpoint is not None:
            return EndpointEngine(settings, self.keys[step], frames, budget)
        source = self.sources[step]
        return LocalEngine(source.name, source.fingerprint(), lambda: load(source), frames, settings)


def gather(
    settings: Curation,
    prompts_name: str,
    *,
    allow_remote_code: bool = False,
    grid: Grid | None = None,
    find: Find = resolve,
) -> Crew:
    """Find the engines of every step; raises ExperimentError with every fault of them and of the chain's prompts.

    `grid` is how frames are cut already, where they are.
    """
    faults: list[str] = []
    sources: dict[CurationStep, Source] = {}
    keys: dict[CurationStep, str] = {}
    for step in settings.steps:
        engine = _named(settings, step)
        try:
            if engine.answers is not None:
                FileEngine(Path(engine.answers))
            elif engine.endpoint is not None:
                keys[step] = _key(engine)
            else:
                assert engine.model is not None, "an engine has one of three"
                found = find(engine.model, revision=engine.revision, allow_remote_code=allow_remote_code)
                sources |= {} if found is None else {step: found}
        except UserError as error:
            faults += [f"{step}: {fault}" for fault in error.faults]
    try:
        load_chain(settings.chain_for(prompts_name))
    except UserError as error:
        faults += error.faults
    if not faults:
        faults += _grid_faults(sources, grid, allow_remote_code)
    if faults:
        raise ExperimentError(list(dict.fromkeys(faults)))
    return Crew(settings, sources, keys)


def crew_of(experiment: Experiment, grid: Grid, *, find: Find = resolve) -> Crew | None:
    """Who writes an experiment's curated thoughts, None where no arm learns them; raises ExperimentError.

    A `find` that fetches nothing leaves models unchecked that are not on this machine yet.
    """
    if not experiment.curates:
        return None
    allow = experiment.allow_remote_code
    return gather(experiment.curation_used, experiment.prompts, allow_remote_code=allow, grid=grid, find=find)


def _named(settings: Curation, step: CurationStep) -> EngineSettings:
    engine = settings.of(step)
    assert engine is not None, "settings are refused where nobody writes a step"
    return engine


def _key(engine: EngineSettings) -> str:
    if engine.key_from is None:
        return "none"
    key = os.environ.get(engine.key_from, "").strip()
    if not key:
        raise ExperimentError(
            f"the environment variable {engine.key_from} is empty; put the key of {engine.endpoint} into it, "
            "or leave out key_from where the server needs none"
        )
    if not key.isascii() or not key.isprintable():
        raise ExperimentError(
            f"the environment variable {engine.key_from} holds no key: there are line breaks in it, or letters outside "
            f"ASCII; put the key of {engine.endpoint} into it as the server gave it"
        )
    return key


def _seeing(sources: Mapping[CurationStep, Source]) -> list[CurationStep]:
    return [step for step in sources if step in _SEES_CLIP]


def _grid_faults(sources: Mapping[CurationStep, Source], grid: Grid | None, allow_remote_code: bool) -> list[str]:
    """Frames are cut once, so that all local models that see them must cut them alike."""
    grids = {step: grid_of(sources[step], allow_remote_code=allow_remote_code) for step in _seeing(sources)}
    expected = grid or next(iter(grids.values()), None)
    return [
        f"{step}: {sources[step].name} cuts frames into {found.pixels} pixels a token and {found.temporal_patch_size} "
        f"frames a step, the clips are read for {expected.pixels} and {expected.temporal_patch_size}; "
        "take models of one family, or an endpoint"
        for step, found in grids.items()
        if expected is not None and found != expected
    ]
