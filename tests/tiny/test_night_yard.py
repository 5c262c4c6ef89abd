"""The night yard is real video with true, balanced labels, written once."""

import csv
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import av
import numpy as np
import pytest

from rbft.tiny import night_yard
from rbft.tiny.language import parse_description
from rbft.tiny.night_yard import LABEL_DEFINITIONS, label_of, label_of_words, sample_yard_spec, write_night_yard
from rbft.tiny.world import DIMENSIONS, SceneSpec


@pytest.fixture(scope="module")
def yard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_night_yard(tmp_path_factory.mktemp("yard"), num_train=9, num_test=5, num_unlabelled=2).parent


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "clips.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_files_are_h264_of_two_seconds(yard: Path) -> None:
    for row in rows_of(yard):
        with av.open(str(yard / row["path"])) as container:
            stream = container.streams.video[0]
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
            assert stream.codec_context.name == "h264"
            assert float(stream.average_rate) == 8
        assert np.stack(frames).shape == (16, 168, 168, 3)


def test_the_manifest_says_what_is_there(yard: Path) -> None:
    rows = rows_of(yard)
    assert list(rows[0]) == ["path", "label", "split", "group", "boxes", "rationale"]
    assert Counter(row["split"] for row in rows) == {"train": 11, "test": 5}
    unlabelled = [row["path"] for row in rows if not row["label"]]
    assert unlabelled == ["clips/unlabelled-00000.mp4", "clips/unlabelled-00001.mp4"]
    cameras = {split: {row["group"] for row in rows if row["split"] == split} for split in ("train", "test")}
    assert not cameras["train"] & cameras["test"]
    for row in rows:
        words = parse_description(row["rationale"])
        assert words is not None and "" not in words.values()
        assert row["label"] in ("", label_of_words(words))
        marks = json.loads(row["boxes"])
        assert [mark["t"] for mark in marks] == night_yard.frame_seconds()
        assert all(0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1 for x0, y0, x1, y1 in (mark["box"] for mark in marks))


def test_writing_again_does_nothing_and_other_settings_write(yard: Path, tmp_path: Path) -> None:
    def stamps(folder: Path) -> dict[str, int]:
        return {path.name: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}

    before = stamps(yard)
    write_night_yard(yard, num_train=9, num_test=5, num_unlabelled=2)
    assert stamps(yard) == before
    write_night_yard(tmp_path, num_train=2, num_test=1)
    clip = tmp_path / "clips" / "train-00000.mp4"
    same = clip.read_bytes()
    assert same == (yard / "clips" / "train-00000.mp4").read_bytes()
    write_night_yard(tmp_path, num_train=2, num_test=1, severity=1.0)
    assert clip.read_bytes() != same
    assert not list(tmp_path.rglob(".*"))


def test_the_decoded_clip_is_what_was_rendered(yard: Path) -> None:
    clip = night_yard.plan_yard(9, 5, 2, 0)[0]
    frames, _ = night_yard.yard_frames(clip, night_yard.DEFAULT_SEVERITY, night_yard.frame_seconds())
    with av.open(str(yard / clip.path)) as container:
        decoded = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    assert np.abs(decoded.astype(int) - frames).mean() < 8


def test_labels_are_balanced_and_no_single_attribute_gives_them_away() -> None:
    rng = np.random.default_rng(0)
    specs = [sample_yard_spec(rng) for _ in range(4000)]
    abnormal = np.asarray([label_of(spec) == "abnormal" for spec in specs])
    assert 0.45 < abnormal.mean() < 0.55
    for name, words in DIMENSIONS.items():
        values = np.asarray([getattr(spec, name) for spec in specs])
        right = sum(max(abnormal[values == word].sum(), (~abnormal[values == word]).sum()) for word in words)
        assert right / len(specs) < 0.70, name


@pytest.mark.parametrize(
    ("subject", "action", "scene", "label"),
    [
        ("bear", "standing", "forest", "abnormal"),
        ("cat", "falling", "room", "abnormal"),
        ("person", "climbing", "porch", "abnormal"),
        ("person", "standing", "porch", "normal"),
        ("cat", "climbing", "porch", "normal"),
        ("truck", "standing", "garden", "abnormal"),
        ("truck", "standing", "street", "normal"),
    ],
)
def test_the_rule(subject: str, action: str, scene: str, label: str) -> None:
    assert label_of(SceneSpec(subject, "red", "small", action, scene, "night")) == label
    assert set(LABEL_DEFINITIONS) == {"normal", "abnormal"}


def test_negative_counts_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must be 0 or more"):
        write_night_yard(tmp_path, num_train=-1, num_test=1)


def test_clips_need_no_torch() -> None:
    code = "import sys, rbft.tiny, rbft.tiny.night_yard; assert not {'torch', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
