"""What `rbft curate` is asked for: clips or questions, an engine for each step, and what is kept."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from rbft.curation import Curation
from rbft.errors import ExperimentError
from rbft.experiment import ClipLimits, Sampling
from rbft.files import read_yaml
from rbft.prompts import BUILT_IN
from rbft.settings import beside, curation_beside, labels_as_mapping, override_all, stop_at, validated


class CurationJob(Curation):
    """Clips with labels, or questions about clips; and the chain that they go through."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    clips: str | None = Field(None, description="a manifest, as for a run: which label each training clip has is asked")
    questions: str | None = Field(None, description="JSON lines as VideoRFT publishes them; clips lie beside the file")
    labels: dict[str, str] = Field(default_factory=dict, description="of `clips`: label to one-line definition")
    domain: str = Field("domain expert", description="as in an experiment")
    prompts: str = Field("default", description="how the trained model will be asked: `default`, `brief` or a file")
    sampling: Sampling = Sampling()
    limits: ClipLimits = ClipLimits()
    on_bad_clip: Literal["stop", "leave-out"] = "stop"
    allow_outside: bool = Field(False, description="clips may lie outside the folder of their list")
    allow_remote_code: bool = Field(False, description="run Python code that comes with a local model")
    output: str = Field("runs", description="folder for output folders")
    workers: int = Field(0, ge=0, description="processes that read clips; 0: one per processor")

    @field_validator("labels", mode="before")
    @classmethod
    def _labels_as_mapping(cls, value: Any) -> Any:
        return labels_as_mapping(value)

    @model_validator(mode="after")
    def _has_all_parts(self) -> Self:
        faults = []
        if (self.clips is None) == (self.questions is None):
            faults.append("give either `clips` (their labels are asked) or `questions` (VideoRFT's JSON lines)")
        if self.questions is not None and self.labels:
            faults.append("`labels` belong to `clips`; questions have options of their own")
        faults += [
            f"nobody writes the step {step!r}; give `{step}` an engine, or all steps one: engine: {{model: …}}"
            for step in self.steps
            if self.of(step) is None
        ]
        stop_at(faults)
        return self


def load_curation(path: Path, overrides: Sequence[str] = ()) -> CurationJob:
    """Read a settings file and apply `key.sub=value` overrides; raises ExperimentError with every fault.

    Relative paths are looked for beside the file first.
    """
    document = read_yaml(path, text_below=("labels",))
    if not isinstance(document, dict):
        raise ExperimentError(f"{path}: a curation is a mapping of names to values, this holds {document!r:.80}")
    document.setdefault("name", path.stem)
    for key in ("clips", "questions", "prompts"):
        value = document.get(key)
        if isinstance(value, str) and value and value not in BUILT_IN:
            document[key] = beside(path, value)
    curation_beside(path, document)
    override_all(document, overrides)
    return validated(CurationJob, document, str(path))
