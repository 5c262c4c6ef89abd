"""What all arms of a run share: clips, frames, prompts, the base, one loaded model, and texts written once."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from rbft.answers import AuditThresholds
from rbft.clips.ingest import ClipFrames
from rbft.clips.question_set import QuestionSet
from rbft.experiment import Experiment
from rbft.models.encoder import EncoderFiles
from rbft.models.vlm import VLM
from rbft.progress import Reporter
from rbft.prompts import Describing, Prompts, Reasoning
from rbft.rationales.crew import Crew
from rbft.rationales.generate import Request, write_rationales
from rbft.records import Checkpoint, Clip, Manifest, Prediction, Probe, Rationale
from rbft.stopping import check
from rbft.store import RunStore
from rbft.training.fit import Fit


@dataclass
class Session:
    """What all arms share. Models are loaded when first needed, and only one is held at a time."""

    experiment: Experiment
    store: RunStore
    reporter: Reporter
    manifest: Manifest
    frames: ClipFrames
    frame_keys: dict[str, str]
    probes: dict[str, Probe]
    prompts: Prompts
    thresholds: AuditThresholds
    base: Checkpoint
    fit: Fit
    encoders: Mapping[str, EncoderFiles] = field(default_factory=dict)
    """What rewards compare texts with clips by, under the names that the settings give."""
    crew: Crew | None = None
    """Who writes curated thoughts, where an arm learns them."""
    unpinned: str | None = None
    """What to know where the model may be another commit of the hub tomorrow."""
    held: tuple[str, VLM] | None = None
    texts: dict[tuple[str, int], dict[str, Rationale]] = field(default_factory=dict)
    """Texts at hand, by the key of their request, its retries, and clip id."""
    curated: dict[str, Rationale] = field(default_factory=dict)
    """Curated thoughts at hand, by clip id."""
    clips: dict[str, Clip] = field(default_factory=dict)
    stages: dict[str, Checkpoint] = field(default_factory=dict)
    """Finished stages by their key."""
    answered: dict[str, list[Prediction]] = field(default_factory=dict)
    """Labels that were given, by their key."""
    chains: dict[tuple[str, int, int], Checkpoint] = field(default_factory=dict)
    """Finished stages by arm, number and seed."""
    questions: QuestionSet | None = None
    """What is learnt and asked in place of labels."""
    general: Session | None = None
    """The same over general clips, where forgetting is measured."""

    def vlm(self, path: str, working: Callable[[], None]) -> VLM:
        """The model at that path, for inference; says through `working` that there is work."""
        check()
        working()
        if self.held is None or self.held[0] != path:
            self.release()
            loaded = VLM.load(path, allow_remote_code=self.experiment.allow_remote_code)
            self.held = (path, loaded)
        return self.held[1]

    def release(self) -> None:
        """Let go of the model in memory, before another one is loaded or trained."""
        self.held = None
        gc.collect()

    @property
    def request(self) -> Request:
        """One rationale a clip, without its label: the paper's."""
        return Request(self.prompts, self.experiment.rationales, self.thresholds)

    @property
    def greedy(self) -> Request:
        """As `request`, and never sampled: how a checkpoint describes a clip that it is then asked about."""
        settings = self.experiment.rationales.model_copy(update={"temperature": 0.0, "top_p": 1.0, "retries": 0})
        return Request(self.prompts, settings, self.thresholds)

    def saying(self, describing: Describing | Reasoning) -> Request:
        """What a checkpoint says about a clip before its label is scored: its description, or what it thinks."""
        if isinstance(describing, Describing):
            return self.greedy
        settings = self.greedy.settings.model_copy(update={"max_new_tokens": describing.max_new_tokens})
        return Request(self.prompts, settings, self.thresholds, reasoning=describing)

    def ask(
        self, engine: Checkpoint, request: Request, clips: Sequence[Clip], *, what: str, step: str = "rationales"
    ) -> Mapping[str, Rationale]:
        """An engine's rationales of these clips, written once for all arms that want them; by clip id, in order."""
        key = request.key(engine, self.experiment.sampling)
        known = self.texts.setdefault((key, request.settings.retries), {})
        if any(clip.clip_id not in known for clip in clips):
            with self.store.timed(step, key) as working, self.reporter.counted(what, len(clips)) as advance:
                written = write_rationales(
                    lambda: self.vlm(engine.path, working),
                    clips,
                    self.frames,
                    self.frame_keys,
                    request,
                    self.store.rationales(key),
                    advance=advance,
                )
            known |= {rationale.clip_id: rationale for rationale in written}
        return {clip.clip_id: known[clip.clip_id] for clip in clips}

    def written(self, engine: Checkpoint, request: Request) -> Mapping[str, Rationale]:
        """What of it is at hand, by clip id."""
        return self.texts.get((request.key(engine, self.experiment.sampling), request.settings.retries), {})
