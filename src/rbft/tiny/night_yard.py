"""The night yard: labelled clips from a few infrared cameras around a house, as real H.264 files with a manifest.

The labels follow a rule over subject, action and scene together, so no single attribute gives them away. The clips are
the general world's, seen through `Shift`.
"""

import csv
import hashlib
import json
import multiprocessing
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from rbft.tiny.language import describe, words_of
from rbft.tiny.shift import Shift
from rbft.tiny.world import CLIP_SECONDS, DIMENSIONS, SceneSpec, render

PERSONA = "Night Yard Security Expert"
LABELS = ("normal", "abnormal")
LABEL_DEFINITIONS: dict[str, str] = {
    "normal": "anything else",
    "abnormal": "a bear, anything falling, a person climbing or a truck in the garden",
}
DEFAULT_SEVERITY = 0.5
SIDE = 168
FRAMES_PER_SECOND = 8
_VERSION = 2
_CRF = 20
_GROUPS = {"train": 8, "test": 4, "unlabelled": 4}
_FIELDS = ("path", "label", "split", "group", "boxes", "rationale")
_FINGERPRINT = "night-yard.json"


def label_of_words(words: Mapping[str, str]) -> str:
    """The rule behind `LABEL_DEFINITIONS`, on the words of a description."""
    subject, action, scene = words["subject"], words["action"], words["scene"]
    abnormal = (
        subject == "bear"
        or action == "falling"
        or (subject == "person" and action == "climbing")
        or (subject == "truck" and scene == "garden")
    )
    return "abnormal" if abnormal else "normal"


def label_of(spec: SceneSpec) -> str:
    """The true label of a clip."""
    return label_of_words(words_of(spec))


_Kinds = tuple[tuple[float, dict[str, str]], ...]
_ABNORMAL_SHARE = 0.5
# Kinds of abnormal clips, their shares, and what is fixed in each.
_ABNORMAL: _Kinds = (
    (0.30, {"subject": "bear"}),
    (0.22, {"action": "falling"}),
    (0.26, {"subject": "person", "action": "climbing"}),
    (0.22, {"subject": "truck", "scene": "garden"}),
)
# Normal clips that share one attribute with an abnormal kind, so that the rule needs both.
_NEAR: _Kinds = (
    (0.28, {"subject": "person"}),
    (0.22, {"action": "climbing"}),
    (0.18, {"subject": "truck"}),
    (0.14, {"scene": "garden"}),
    (0.18, {}),
)


def sample_yard_spec(rng: np.random.Generator) -> SceneSpec:
    """A spec of the yard: half of them abnormal, the normal ones near misses."""
    wanted = "abnormal" if rng.random() < _ABNORMAL_SHARE else "normal"
    kinds = _ABNORMAL if wanted == "abnormal" else _NEAR
    fixed = kinds[int(rng.choice(len(kinds), p=[share for share, _ in kinds]))][1]
    while True:
        words = {name: str(rng.choice(values)) for name, values in DIMENSIONS.items()} | fixed
        lamps, sign = int(rng.integers(0, 3)), f"{rng.integers(0, 100):02d}" if rng.random() < 0.2 else ""
        spec = SceneSpec(**words, lamps=lamps, sign=sign, seed=int(rng.integers(0, 2**31)))
        if label_of(spec) == wanted:
            return spec


@dataclass(frozen=True)
class YardClip:
    """One clip to write: where, what, from which camera."""

    path: str
    spec: SceneSpec
    split: str
    group: str
    noise_seed: int


def plan_yard(num_train: int, num_test: int, num_unlabelled: int, seed: int) -> list[YardClip]:
    """Every clip of a set; a camera belongs to one split."""
    clips = []
    for split, count in (("train", num_train), ("test", num_test), ("unlabelled", num_unlabelled)):
        rng = np.random.default_rng([seed, len(split), 31])
        for index in range(count):
            camera = f"camera-{split}-{index % _GROUPS[split] + 1}"
            spec = sample_yard_spec(rng)
            clips.append(YardClip(f"clips/{split}-{index:05d}.mp4", spec, split, camera, int(rng.integers(2**31))))
    return clips


def frame_seconds() -> list[float]:
    """The times of a file's frames."""
    return [index / FRAMES_PER_SECOND for index in range(round(CLIP_SECONDS * FRAMES_PER_SECOND))]


def yard_frames(clip: YardClip, severity: float, seconds: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """The clip as its camera sees it: frames uint8 `[T, 168, 168, 3]` and true boxes `[T, 4]`."""
    frames, boxes = render(clip.spec, seconds, SIDE)
    return Shift(severity).apply(frames, np.random.default_rng(clip.noise_seed)), boxes


def write_clip(path: Path, frames: np.ndarray) -> None:
    """Encodes uint8 `[T, S, S, 3]` as H.264 beside `path`, then renames; the same frames give the same bytes."""
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.mp4")
    with av.open(str(temporary), "w") as container:
        stream = container.add_stream("libx264", rate=FRAMES_PER_SECOND)
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], "yuv420p"
        stream.time_base = Fraction(1, FRAMES_PER_SECOND)
        stream.options = {"crf": str(_CRF), "preset": "superfast", "threads": "1"}
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    temporary.replace(path)


def _write_one(task: tuple[str, YardClip, float]) -> dict[str, str]:
    folder, clip, severity = task
    seconds = frame_seconds()
    frames, boxes = yard_frames(clip, severity, seconds)
    write_clip(Path(folder) / clip.path, frames)
    marks = [{"t": t, "box": [round(float(x), 4) for x in box]} for t, box in zip(seconds, boxes, strict=True)]
    return {
        "path": clip.path,
        "label": "" if clip.split == "unlabelled" else label_of(clip.spec),
        "split": "test" if clip.split == "test" else "train",
        "group": clip.group,
        "boxes": json.dumps(marks),
        "rationale": describe(clip.spec),
    }


def _fingerprint(clips: list[YardClip], severity: float) -> str:
    text = json.dumps([_VERSION, severity, _CRF, [asdict(clip) for clip in clips]], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def write_night_yard(
    folder: Path,
    *,
    num_train: int,
    num_test: int,
    num_unlabelled: int = 0,
    seed: int = 0,
    severity: float = DEFAULT_SEVERITY,
    workers: int | None = None,
) -> Path:
    """Writes `clips/*.mp4` and `clips.csv` into `folder` and returns the path of `clips.csv`.

    Columns: path, label, split, group, boxes (JSON: seconds, and x0, y0, x1, y1 in 0..1) and rationale (the renderer's
    truth). Unlabelled clips belong to train and have an empty label. A folder that holds the same set already is left
    as it is. About 90 ms a clip and process.
    """
    if min(num_train, num_test, num_unlabelled) < 0:
        raise ValueError("num_train, num_test and num_unlabelled must be 0 or more")
    clips = plan_yard(num_train, num_test, num_unlabelled, seed)
    print_of_set = _fingerprint(clips, severity)
    manifest, note = folder / "clips.csv", folder / _FINGERPRINT
    if note.is_file() and manifest.is_file() and json.loads(note.read_text())["fingerprint"] == print_of_set:
        return manifest
    (folder / "clips").mkdir(parents=True, exist_ok=True)
    note.unlink(missing_ok=True)
    rows = _write_all([(str(folder), clip, severity) for clip in clips], workers)
    _replace_text(manifest, rows)
    note.write_text(json.dumps({"fingerprint": print_of_set, "severity": severity, "seed": seed, "clips": len(rows)}))
    return manifest


def _write_all(tasks: list[tuple[str, YardClip, float]], workers: int | None) -> list[dict[str, str]]:
    workers = workers or min(os.cpu_count() or 1, 8)
    if workers == 1 or len(tasks) < 24:
        return [_write_one(task) for task in tasks]
    with multiprocessing.get_context("spawn").Pool(workers) as processes:
        return processes.map(_write_one, tasks, chunksize=8)


def _replace_text(path: Path, rows: list[dict[str, str]]) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, _FIELDS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    temporary.replace(path)
