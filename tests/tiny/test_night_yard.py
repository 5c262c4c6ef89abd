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

from rbft.errors import UserError
from rbft.experiment import load_experiment
from rbft.files import LOCK
from rbft.tiny import night_yard
from rbft.tiny.demo import EXPERIMENT
from rbft.tiny.language import parse_description
from rbft.tiny.night_yard import (
    LABEL_DEFINITIONS,
    YardDials,
    label_of,
    label_of_words,
    sample_yard_spec,
    write_night_yard,
)
from rbft.tiny.world import DIMENSIONS, SceneSpec
from rbft.tiny.yard_pool import RenderError


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
        files = [path for path in folder.rglob("*") if path.is_file() and path.name != LOCK]
        return {path.name: path.stat().st_mtime_ns for path in files}

    before = stamps(yard)
    write_night_yard(yard, num_train=9, num_test=5, num_unlabelled=2)
    assert stamps(yard) == before
    write_night_yard(tmp_path, num_train=2, num_test=1)
    clip = tmp_path / "clips" / "train-00000.mp4"
    same = clip.read_bytes()
    assert same == (yard / "clips" / "train-00000.mp4").read_bytes()
    write_night_yard(tmp_path, YardDials(severity=1.0), num_train=2, num_test=1)
    assert clip.read_bytes() != same
    assert [path.name for path in tmp_path.rglob(".*")] == [LOCK]


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


def stamps(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (folder / "clips").iterdir()}


def test_sizes_of_one_yard_share_their_clips(yard: Path, tmp_path: Path) -> None:
    small = write_night_yard(tmp_path, num_train=2, num_test=2, manifest="clips-2.csv")
    assert small.name == "clips-2.csv"
    before, text = stamps(tmp_path), small.read_bytes()
    large = write_night_yard(tmp_path, num_train=4, num_test=2)
    assert {name: stamp for name, stamp in stamps(tmp_path).items() if name in before} == before
    assert sorted(set(stamps(tmp_path)) - set(before)) == ["train-00002.mp4", "train-00003.mp4"]
    assert small.read_bytes() == text
    lines = large.read_text(encoding="utf-8").splitlines()
    assert text.decode().splitlines() == lines[:3] + lines[5:]
    assert lines == [*(yard / "clips.csv").read_text(encoding="utf-8").splitlines()[:5], *lines[5:]]


def test_a_lost_clip_is_rendered_again_and_no_other(tmp_path: Path) -> None:
    manifest = write_night_yard(tmp_path, num_train=2, num_test=1)
    lost = tmp_path / "clips" / "train-00001.mp4"
    kept, text = lost.read_bytes(), manifest.read_bytes()
    before = stamps(tmp_path)
    lost.unlink()
    write_night_yard(tmp_path, num_train=2, num_test=1)
    after = stamps(tmp_path)
    assert {name for name in before if before[name] != after[name]} == {"train-00001.mp4"}
    assert (lost.read_bytes(), manifest.read_bytes()) == (kept, text)


def test_another_yard_takes_the_place_of_the_one_before(tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text("path\n", encoding="utf-8")
    write_night_yard(tmp_path, num_train=3, num_test=1, manifest="three.csv")
    write_night_yard(tmp_path, YardDials(rule="two"), num_train=1, num_test=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        LOCK, "clips", "clips.csv", "mine.csv", "night-yard.json", "night-yard.jsonl",
    ]  # fmt: skip
    assert sorted(stamps(tmp_path)) == ["test-00000.mp4", "train-00000.mp4"]


def test_files_of_the_users_own_are_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "clips").mkdir()
    own = [tmp_path / "clips.csv", tmp_path / "clips" / "train-00000.mp4"]
    for path in own:
        path.write_text("mine\n", encoding="utf-8")
    with pytest.raises(UserError) as caught:
        write_night_yard(tmp_path, num_train=1, num_test=1)
    assert caught.value.faults == [
        f"{own[0]}: is there already and was not written by `render`; name another manifest or folder",
        f"{own[1].parent}: is there already and was not written by `render`; name another folder",
    ]
    assert [path.read_text(encoding="utf-8") for path in own] == ["mine\n"] * 2
    assert not (tmp_path / "night-yard.json").exists()


def test_a_list_beside_a_yard_is_not_replaced(tmp_path: Path) -> None:
    write_night_yard(tmp_path, num_train=1, num_test=1)
    own = tmp_path / "mine.csv"
    own.write_text("path,label\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"mine\.csv: is there already and was not written by `render`"):
        write_night_yard(tmp_path, num_train=1, num_test=1, manifest="mine.csv")
    assert own.read_text(encoding="utf-8") == "path,label\n"


def test_a_script_needs_no_main_guard_and_processes_give_the_same_files(yard: Path, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from pathlib import Path\nfrom rbft.tiny.night_yard import write_night_yard\n"
        "print(write_night_yard(Path('here'), num_train=22, num_test=2, workers=2))\n",
        encoding="utf-8",
    )
    for start in ([str(script)], ["-"]):
        ran = subprocess.run(
            [sys.executable, *start], input=script.read_text(), cwd=tmp_path, capture_output=True, text=True, check=True
        )
        assert (ran.stdout, ran.stderr) == (str(Path("here", "clips.csv")) + "\n", "")
    for name in ("train-00008.mp4", "test-00001.mp4"):
        assert (tmp_path / "here" / "clips" / name).read_bytes() == (yard / "clips" / name).read_bytes()
    assert len(rows_of(tmp_path / "here")) == 24


def test_a_child_that_ends_early_is_told(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "clips" / "train-00000.mp4").mkdir(parents=True)
    with pytest.raises(RenderError) as caught:
        write_night_yard(tmp_path, num_train=24, num_test=0, workers=2)
    assert str(caught.value) == (
        "clips/train-00000.mp4: the process that renders it ended with exit code 1; what it said stands above. "
        "Run again to go on with the clips that are missing; with workers=1 nothing is hidden"
    )
    assert "IsADirectoryError" in capfd.readouterr().err


def test_the_demo_asks_for_the_labels_of_its_clips() -> None:
    asked = load_experiment(EXPERIMENT)
    assert asked.labels == LABEL_DEFINITIONS
    assert asked.domain == night_yard.PERSONA


def test_counts_seed_and_manifest_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        write_night_yard(tmp_path / "new", num_train=-1, num_test=1, num_unlabelled=-2, seed=-3, manifest="a/b.csv")
    assert caught.value.faults == [
        "num_train is -1; give 0 or more",
        "num_unlabelled is -2; give 0 or more",
        "seed is -3; give 0 or more",
        "manifest is 'a/b.csv'; give a file name that ends with .csv, without a folder",
    ]
    assert not (tmp_path / "new").exists()


def test_clips_need_no_torch() -> None:
    code = "import sys, rbft.tiny, rbft.tiny.night_yard; assert not {'torch', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
