"""rbft: labelled clips and a video-language model in; a classifier, and whether rationales helped, out.

    report = rbft.run("experiment.yaml").report
    rbft.Classifier.load("runs/NAME/checkpoints/KEY").predict("clip.mp4")

Names are loaded when they are first used: `import rbft` loads no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rbft.errors import RbftError, UserError
    from rbft.experiment import Arm, Experiment, Sampling, Stage, load_experiment
    from rbft.records import Checkpoint, Clip, Manifest, Prediction, Rationale
    from rbft.results import Report
    from rbft.runs import run, run_questions
    from rbft.serving.predictor import Answer, Classifier

__version__ = "0.1.0"
_HOME = {
    "Answer": "rbft.serving.predictor",
    "Arm": "rbft.experiment",
    "Checkpoint": "rbft.records",
    "Classifier": "rbft.serving.predictor",
    "Clip": "rbft.records",
    "Experiment": "rbft.experiment",
    "Manifest": "rbft.records",
    "Prediction": "rbft.records",
    "Rationale": "rbft.records",
    "RbftError": "rbft.errors",
    "Report": "rbft.results",
    "Sampling": "rbft.experiment",
    "Stage": "rbft.experiment",
    "UserError": "rbft.errors",
    "load_experiment": "rbft.experiment",
    "run": "rbft.runs",
    "run_questions": "rbft.runs",
}
__all__ = [
    "Answer",
    "Arm",
    "Checkpoint",
    "Classifier",
    "Clip",
    "Experiment",
    "Manifest",
    "Prediction",
    "Rationale",
    "RbftError",
    "Report",
    "Sampling",
    "Stage",
    "UserError",
    "__version__",
    "load_experiment",
    "run",
    "run_questions",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'rbft' has no attribute {name!r}; there are {', '.join(__all__)}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return __all__
