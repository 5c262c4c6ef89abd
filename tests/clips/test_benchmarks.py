"""`rbft import`: the benchmarks' own files, hand-written here, and the published ones where they are at hand."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections import Counter
from pathlib import Path

import pytest
from rich.console import Console

from rbft.cli import main
from rbft.clips.benchmarks import Imported, import_benchmark, render_counts, write_manifest
from rbft.clips.check import check
from rbft.clips.manifest import read_manifest
from rbft.errors import ManifestError
from rbft.experiment import ClipLimits, Sampling
from rbft.records import Grid
from videos import picture, write_clip

HEADER = "Title,Category,Label,Video Description,Reasoning behind Normality/Anomalies"
HOME = "\r\n".join([
    f"\ufeff{HEADER}",
    'h1,"Security, Wildlife",Abnormal,"A fox, at night,\r\nnear the door.",Foxes bite.',
    "h2,Pet Monitoring,Normal,A dog sleeps.,Dogs do.",
    "h3,Security,Vague Abnormal,A man waits.,Nobody knows why.",
    "h4,Security,Normal,A parcel comes.,",
    "h5,Security,Abnormal,A man climbs.,He should not.", "",
])  # fmt: skip
HATE_HEADER = "Video_ID\tMajority_Voting\tLabel\tTarget_Victim\tComponent\tDuration"


def hate_row(clip_id: str, label: str, victims: str = "[]") -> str:
    return f"{clip_id}\t{label}\t['{label}', '{label}']\t{victims}\t[]\t[]"


HATE = {
    "train": [hate_row("-a_1", "Normal"), hate_row("b2", "Hateful", "['LGBTQ', 'Woman']"), hate_row("both", "Normal")],
    "valid": [hate_row("c3", "Offensive", "['Woman']")],
    "test": [hate_row("both", "Normal"), hate_row("d4", "Hateful"), hate_row("e5", "Offensive", "['Man']")],
}


def conversation(clip_id: str, answer: str) -> dict[str, object]:
    """As the authors write it: `ground_truth` is abnormal on every row, the true label is in the conversation."""
    turns = [{"from": "human", "value": "<video>\nnormal or abnormal?"}, {"from": "gpt", "value": answer}]
    return {"id": f"{clip_id}-x", "video": f"{clip_id}.mp4", "ground_truth": "abnormal", "conversations": turns}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "home.csv").write_bytes(HOME.encode())
    train = [conversation("h1", "abnormal"), conversation("h2", "normal"), conversation("h3", "abnormal")]
    (tmp_path / "train.json").write_text(json.dumps(train), encoding="utf-8")
    (tmp_path / "test.json").write_text(json.dumps([conversation("h4", "normal")]), encoding="utf-8")
    return tmp_path


@pytest.fixture
def hate(tmp_path: Path) -> Path:
    for side, rows in HATE.items():
        (tmp_path / f"{side}.tsv").write_bytes("\r\n".join([HATE_HEADER, *rows, ""]).encode())
    return tmp_path


def import_home(home: Path, **how: object) -> Imported:
    settings = {"train": [home / "train.json"], "test": [home / "test.json"], **how}
    return import_benchmark("smarthome", [home / "home.csv"], **settings)  # type: ignore[arg-type]


def import_hate(hate: Path, **how: object) -> Imported:
    settings = {"train": [hate / "train.tsv", hate / "valid.tsv"], "test": [hate / "test.tsv"], **how}
    return import_benchmark("multihateclip", [], **settings)  # type: ignore[arg-type]


def touch(folder: Path, *names: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())
    return folder


def rows_of(imported: Imported, folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(imported.manifest(folder))))


def faults_of(**how: object) -> list[str]:
    with pytest.raises(ManifestError) as caught:
        import_benchmark(**how)  # type: ignore[arg-type]
    return caught.value.faults


# -- what is read --------------------------------------------------------------------------------------------------


def test_the_annotation_gives_labels_categories_and_text(home: Path) -> None:
    clips = {clip.clip_id: (clip, split) for clip, split in import_home(home).clips}
    assert list(clips) == ["h1", "h2", "h3", "h4"]
    first, split = clips["h1"]
    assert (first.label, first.tag, first.category, split) == (
        "abnormal",
        "Abnormal",
        ("Security", "Wildlife"),
        "train",
    )
    assert first.rationale == "A fox, at night, near the door. Foxes bite."
    assert clips["h3"][0].label == "abnormal"
    assert clips["h4"][0].rationale == "A parcel comes."
    assert clips["h4"][1] == "test"
    assert import_home(home).notes == ("1 annotated clips are on neither side of the split and are left out",)


def test_vague_clips_are_abnormal_or_left_out(home: Path) -> None:
    imported = import_home(home, drop_vague=True)
    assert [clip.clip_id for clip, _ in imported.clips] == ["h1", "h2", "h4"]
    assert imported.notes[0] == "1 clip tagged Vague Abnormal is left out (--drop-vague)"


def test_without_a_split_every_annotated_clip_is_listed_without_one(home: Path) -> None:
    imported = import_home(home, train=[], test=[])
    assert [(clip.clip_id, split) for clip, split in imported.clips] == [(f"h{i}", None) for i in range(1, 6)]


def test_the_label_is_that_of_the_conversation_and_not_of_the_field_beside_it(home: Path) -> None:
    imported = import_benchmark("smarthome", [], train=[home / "train.json"], test=[home / "test.json"])
    assert [clip.label for clip, _ in imported.clips] == ["abnormal", "normal", "abnormal", "normal"]


def test_a_conversation_that_contradicts_the_annotation_is_a_fault(home: Path) -> None:
    (home / "test.json").write_text(json.dumps([conversation("h4", "Classification: Abnormal")]), encoding="utf-8")
    with pytest.raises(ManifestError) as caught:
        import_home(home)
    assert caught.value.faults == ["test.json: item 1: ends with 'Abnormal', but home.csv: row 5 says normal"]


def test_a_list_of_ids_is_a_table_with_a_split_or_a_text_file(home: Path) -> None:
    (home / "split.csv").write_text("video_id,split\nh1,train\nh2,test\nh4,private\n", encoding="utf-8")
    (home / "ids.txt").write_text("h5\n\nh4\n", encoding="utf-8")
    table = import_home(home, train=[home / "split.csv"], test=[home / "split.csv"])
    assert [(clip.clip_id, split) for clip, split in table.clips] == [("h1", "train"), ("h2", "test")]
    text = import_home(home, train=[home / "split.csv"], test=[home / "ids.txt"])
    assert [(clip.clip_id, split) for clip, split in text.clips] == [("h1", "train"), ("h4", "test"), ("h5", "test")]


def test_multihateclip_reads_labels_from_the_files_of_its_split(hate: Path) -> None:
    imported = import_hate(hate)
    assert [(clip.clip_id, clip.label, clip.category, split) for clip, split in imported.clips] == [
        ("-a_1", "normal", (), "train"), ("b2", "hateful", ("LGBTQ", "Woman"), "train"),
        ("both", "normal", (), "train"), ("both", "normal", (), "test"), ("c3", "offensive", ("Woman",), "train"),
        ("d4", "hateful", (), "test"),
        ("e5", "offensive", ("Man",), "test"),
    ]  # fmt: skip
    assert imported.notes == ("in train and in test: both; --drop-leaks keeps them in test alone",)


def test_a_leak_can_be_kept_in_test_alone(hate: Path) -> None:
    imported = import_hate(hate, drop_leaks=True)
    assert [split for clip, split in imported.clips if clip.clip_id == "both"] == ["test"]
    assert imported.notes == ("in train and in test, kept in test alone (--drop-leaks): both",)


# -- what is wrong -------------------------------------------------------------------------------------------------


def test_what_was_asked_for(home: Path) -> None:
    file = home / "home.csv"
    assert faults_of(name="smarthom", annotation=[file]) == [
        "no benchmark 'smarthom'; did you mean 'smarthome'? Benchmarks: smarthome, multihateclip, vsi-bench, "
        "videommmu, mmvu, mvbench, tempcompass, videomme"
    ]
    assert faults_of(name="smarthome", annotation=[]) == [
        "smarthome: name the annotation file of SmartHome-Bench, or --train and --test files"
    ]
    assert faults_of(name="smarthome", annotation=[file], test=[file]) == [
        "--test was given without --train; give both sides of the split, or neither"
    ]
    assert faults_of(name="smarthome", annotation=[], train=[home / "train.json"], test=[home / "test.json"],
                     drop_vague=True) == [
        "--drop-vague: no clip is tagged 'Vague Abnormal'; only the annotation table of SmartHome-Bench has that tag"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "has no column 'Title', 'Label', 'Category', 'Video Description', 'Reasoning behind Normality/Anomalies', "
             "so it is not the annotation of SmartHome-Bench; its columns are none"),
        ("Title,Tag\nh1,Normal", "so it is not the annotation of SmartHome-Bench; its columns are Title, Tag"),
        (f"{HEADER}\nh1,A,Odd,,", "row 2: Label 'Odd' is not one of Normal, Abnormal, Vague Abnormal"),
        (f"{HEADER}\n,A,Normal,,", "row 2: Title is empty"),
        (f"{HEADER}\nh1,A,Normal", "row 2: 3 cells under a header of 5"),
        (f"{HEADER}\nh1,[1],Normal,,", "row 2: Category '[1]' is not a list of names"),
        (f"{HEADER}\nh1,[" + "[" * 5000 + ",Normal,,", "is not a list of names"),
        (f'{HEADER}\nh1,"A,Normal,,', "not readable as a table: unexpected end of data"),
        (f"{HEADER}\nh1,A,Normal,,\nh1,A,Abnormal,,",
         "h1 is annotated twice, as normal (home.csv: row 2) and abnormal (home.csv: row 3)"),
    ],
)  # fmt: skip
def test_faults_of_an_annotation(home: Path, text: str, fault: str) -> None:
    (home / "home.csv").write_text(text, encoding="utf-8")
    [said] = faults_of(name="smarthome", annotation=[home / "home.csv"])
    assert fault in said


def test_many_faults_are_cut_after_ten(home: Path) -> None:
    (home / "home.csv").write_text("\n".join([HEADER, *["h,A,Odd,,"] * 13]), encoding="utf-8")
    said = faults_of(name="smarthome", annotation=[home / "home.csv"])
    assert len(said) == 11
    assert said[-1] == "and 3 more faults of this kind"


@pytest.mark.parametrize(
    ("name", "content", "fault"),
    [
        ("x.json", b"[1", "x.json: not readable as JSON: "),
        ("x.json", b"{}", "x.json: a list of objects with `video` and `conversations` is needed"),
        ("x.json", b'[{"id": 3}]', "x.json: item 1: needs `video`, the name of a file; this is {'id': 3}"),
        ("x.csv", b"name,split\na,train", "x.csv: has no column of ids (Title, Video_ID, video_id, clip_id, id); "
                                          "its columns are name, split"),
        ("x.csv", b"id,split\nh1,private", "--train: the files name no clip of this side"),
        ("x.csv", b"id\n \nh1", None),
        ("x.txt", b"\xff\xfeh", "x.txt: not UTF-8 at byte 0; save it as UTF-8"),
        ("x.txt", b"h1\nh9\n", "1 id of --train is not in the annotation: h9"),
        ("none.txt", None, "none.txt: cannot be read: No such file or directory"),
    ],
)  # fmt: skip
def test_faults_of_a_list_of_ids(home: Path, name: str, content: bytes | None, fault: str | None) -> None:
    if content is not None:
        (home / name).write_bytes(content)
    if fault is None:
        assert [c.clip_id for c, _ in import_home(home, train=[home / name]).clips] == ["h1", "h4"]
        return
    with pytest.raises(ManifestError) as caught:
        import_home(home, train=[home / name])
    assert fault in caught.value.faults[0]


def test_a_conversation_without_a_label_is_no_annotation(home: Path) -> None:
    (home / "train.json").write_text(json.dumps([conversation("h1", "I see a fox")]), encoding="utf-8")
    said = faults_of(name="smarthome", annotation=[], train=[home / "train.json"], test=[home / "test.json"])
    assert said == ["train.json: item 1: ends with 'I see a fox', which is not one of normal, abnormal"]


# -- videos --------------------------------------------------------------------------------------------------------


def test_videos_are_found_by_their_ids_at_any_depth(hate: Path) -> None:
    videos = touch(hate / "v", "-a_1.mp4", "deep/b2.webm", "A title [c3].mkv", "both.mp4", "d4.mp4", "e5.mp4", "b2.txt")
    imported = import_hate(hate, videos=videos)
    assert write_manifest(imported, videos / "clips.csv") == []
    rows = {row["clip_id"]: row for row in rows_of(imported, videos)}
    assert [rows[i]["path"] for i in ("-a_1", "b2", "c3")] == ["-a_1.mp4", "deep/b2.webm", "A title [c3].mkv"]
    assert (rows["b2"]["category"], rows["b2"]["split"]) == ("LGBTQ;Woman", "train")
    listing = read_manifest(videos / "clips.csv", labels={})
    assert {row.clip_id: row.category for row in listing.rows}["b2"] == ("LGBTQ", "Woman")


def test_missing_videos_are_counted_and_left_out_only_when_asked_for(home: Path) -> None:
    videos = touch(home / "v", "h1.mp4", "h4.mp4")
    with pytest.raises(ManifestError) as caught:
        import_home(home, videos=videos)
    assert caught.value.faults == [
        f"2 of 4 clips have no video in {videos}: h2, h3. Put them there, named by their ids, or leave these clips out "
        "with --leave-out-missing"
    ]
    imported = import_home(home, videos=videos, leave_out_missing=True)
    assert [row["clip_id"] for row in rows_of(imported, videos)] == ["h1", "h4"]
    assert imported.notes[-1] == "2 of 4 clips have no video and are left out: h2, h3"


def test_of_many_missing_videos_ten_are_named(home: Path) -> None:
    lines = [f"m{i:02},Security,Normal,," for i in range(14)]
    (home / "home.csv").write_text("\n".join([HEADER, *lines]), encoding="utf-8")
    [said] = faults_of(name="smarthome", annotation=[home / "home.csv"], videos=touch(home / "v", "m00.mp4"))
    assert said.startswith(f"13 of 14 clips have no video in {home / 'v'}: m01, m02, ")
    assert "m10 and 3 more. Put them there" in said


def test_no_video_at_all_two_videos_or_no_folder(home: Path) -> None:
    with pytest.raises(ManifestError, match=r"not one of 4 clips has a video in .*named by its id, such as h1.mp4"):
        import_home(home, videos=touch(home / "empty"), leave_out_missing=True)
    with pytest.raises(ManifestError, match=r"h1 has 2 videos, (a/h1.mp4 and h1.avi|h1.avi and a/h1.mp4); keep one"):
        import_home(home, videos=touch(home / "v", "h1.avi", "a/h1.mp4", "h2.mp4", "h3.mp4", "h4.mp4"))
    with pytest.raises(ManifestError, match=r"--videos .*home.csv: is not a folder"):
        import_home(home, videos=home / "home.csv")


def test_a_manifest_that_differs_is_not_replaced_and_one_outside_says_so(home: Path) -> None:
    imported = import_home(home, videos=touch(home / "v", "h1.mp4", "h2.mp4", "h3.mp4", "h4.mp4"))
    out = home / "lists" / "clips.csv"
    assert write_manifest(imported, out) == [
        f"clips lie outside {home / 'lists'}: use --allow-outside with check, allow_outside: true with run"
    ]
    assert next(csv.DictReader(out.read_text(encoding="utf-8").splitlines()))["path"] == "../v/h1.mp4"
    write_manifest(imported, out)
    out.write_text("mine", encoding="utf-8")
    with pytest.raises(ManifestError, match="is there already and differs; remove it, or name another with --out"):
        write_manifest(imported, out)
    assert out.read_text(encoding="utf-8") == "mine"


# -- the commands --------------------------------------------------------------------------------------------------


def called(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["rbft", *map(str, words)])
    with pytest.raises(SystemExit) as caught:
        main()
    assert isinstance(caught.value.code, int)
    return (caught.value.code, *capsys.readouterr())


def test_import_then_check_names_the_leak(
    hate: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(hate)
    monkeypatch.setenv("COLUMNS", "200")
    Path("v").mkdir()
    for number, name in enumerate(("-a_1", "b2", "both", "c3", "d4", "e5")):
        write_clip(Path("v", f"{name}.mp4"), [picture(20 * number + i) for i in range(10)])
    asked = ["import", "multihateclip", "--train", "train.tsv", "--train", "valid.tsv", "--test", "test.tsv"]
    code, said, _ = called(monkeypatch, capsys, *asked)
    assert code == 0
    assert said.endswith("Nothing is written without --videos FOLDER.\n")
    assert not Path("v", "clips.csv").exists()
    code, said, _ = called(monkeypatch, capsys, *asked, "--videos", "v")
    assert code == 0
    assert said.endswith("\nNext: rbft check v/clips.csv\n")
    code, said, _ = called(monkeypatch, capsys, "check", "v/clips.csv", "--workers", 1)
    assert code == 2
    [fault] = [line for line in said.splitlines() if line.startswith("fault: ")]
    assert fault == (
        "fault: clips.csv: both.mp4 is listed in train and in test, a leak between splits (clip_id 'both') "
        "(row 4 and row 5); keep one"
    )
    assert "both are used" not in said
    again = ["--videos", "v", "--drop-leaks", "--out", "v/mended.csv"]
    assert called(monkeypatch, capsys, *asked, *again)[0] == 0
    code, said, _ = called(monkeypatch, capsys, "check", "v/mended.csv", "--workers", 1)
    assert code == 0, said


def test_a_fault_is_a_plain_line(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert called(monkeypatch, capsys, "import", "smarthome", home / "none.csv") == (
        2, "", f"rbft: {home / 'none.csv'}: cannot be read: No such file or directory\n",
    )  # fmt: skip


# -- as the authors give them ------------------------------------------------------------------------------------


def test_smarthome_bench_as_published(shared: Path) -> None:
    data = shared / "data" / "smarthome"
    files = {"train": [data / "sft_label.json"], "test": [data / "test.json"]}
    imported = import_benchmark("smarthome", [data / "annotation.csv"], **files)  # type: ignore[arg-type]
    assert Counter((split, clip.label) for clip, split in imported.clips) == {
        ("train", "abnormal"): 494, ("train", "normal"): 284, ("test", "abnormal"): 128, ("test", "normal"): 68,
    }  # fmt: skip
    assert len([clip for clip, split in imported.clips if split == "test" and "Security" in clip.category]) == 80
    assert all(clip.rationale and len(clip.rationale) > 40 for clip, _ in imported.clips)
    both = data / "split.csv"
    by_table = import_benchmark("smarthome", [data / "annotation.csv"], train=[both], test=[both])
    assert by_table.clips == imported.clips
    hinted = import_benchmark("smarthome", [], train=[data / "reasoning_w_answer.json"], test=files["test"])
    assert {c.clip_id: (c.label, s) for c, s in hinted.clips} == {c.clip_id: (c.label, s) for c, s in imported.clips}
    dropped = import_benchmark("smarthome", [data / "annotation.csv"], drop_vague=True, **files)  # type: ignore[arg-type]
    assert Counter(split for _, split in dropped.clips) == {"train": 707, "test": 180}
    out = io.StringIO()
    render_counts(imported, Console(file=out, width=100))
    assert "Wildlife" in out.getvalue()


def test_the_official_split_of_multihateclip_leaks_and_check_says_so(shared: Path, tmp_path: Path) -> None:
    data = shared / "data" / "multihateclip"
    files = {"train": [data / "train.tsv", data / "valid.tsv"], "test": [data / "test.tsv"]}
    imported = import_benchmark("multihateclip", [], **files)  # type: ignore[arg-type]
    assert Counter(split for _, split in imported.clips) == {"train": 801, "test": 200}
    videos = touch(tmp_path / "v", *{f"{clip.clip_id}.mp4" for clip, _ in imported.clips})
    found = import_benchmark("multihateclip", [], videos=videos, **files)  # type: ignore[arg-type]
    write_manifest(found, videos / "clips.csv")
    result = check(
        videos / "clips.csv", labels={}, sampling=Sampling(), grid=Grid(), limits=ClipLimits(), workers=1,
    )  # fmt: skip
    assert result.exit_code == 2
    [leak] = [fault for fault in result.faults if "leak" in fault]
    assert "is listed in train and in test, a leak between splits (clip_id 'k9OtaMbK0Ac')" in leak
