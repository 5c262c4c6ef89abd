"""Manifests: what just works, and the text of every fault."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from rbft.clips.manifest import ClipFolder, Listing, listing_of_files, nearest_spelling, read_manifest, show

LABELS = {"normal": "routine", "abnormal": "a threat"}


def write(folder: Path, text: str | bytes, name: str = "clips.csv") -> Path:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def read(folder: Path, text: str | bytes, name: str = "clips.csv", **how: object) -> Listing:
    return read_manifest(write(folder, text, name), labels=how.pop("labels", {}), **how)  # type: ignore[arg-type]


def test_a_plain_table(tmp_path: Path) -> None:
    listing = read(tmp_path, "path,label,split,group,start,end\na.mp4,normal,train,g,,\nb.mp4,abnormal,TEST,h,1.5,3\n")
    assert listing.faults == () and listing.notes == ()
    first, second = listing.rows
    assert (first.clip_id, first.path, first.label, first.split) == (
        "a",
        tmp_path.resolve() / "a.mp4",
        "normal",
        "train",
    )
    assert (second.split, second.group, second.start, second.end) == ("test", "h", 1.5, 3.0)
    assert (first.where, second.where, second.clip_id) == ("row 2", "row 3", "b@1.5-3")
    assert listing.labels == {"normal": "", "abnormal": ""}


def test_labels_given_keep_their_order_and_definitions(tmp_path: Path) -> None:
    listing = read(tmp_path, "path,label\na.mp4,abnormal\nb.mp4,\n", labels=LABELS)
    assert list(listing.labels.items()) == list(LABELS.items())
    assert [row.label for row in listing.rows] == ["abnormal", None]


def test_forms_of_text_that_just_work(tmp_path: Path) -> None:
    text = (
        "\ufeffpath , label,clip_id,rationale\r\n"
        '"a, b.mp4" , normal ,one,"Two lines:\r\nthe ""second""."\r\n'
        "\r\n"
        " -dash.mp4,abnormal,-2,\r\n"
        "éツ🎬 %03d.mp4,no,NULL,\r\n"
        "it's.mp4,1e3,3,NaN\r\n"
    )
    listing = read(tmp_path, text)
    assert listing.faults == ()
    assert [row.listed for row in listing.rows] == ["a, b.mp4", "-dash.mp4", "éツ🎬 %03d.mp4", "it's.mp4"]
    assert [row.label for row in listing.rows] == ["normal", "abnormal", "no", "1e3"]
    assert [row.clip_id for row in listing.rows] == ["one", "-2", "NULL", "3"]
    assert listing.rows[0].rationale == 'Two lines:\r\nthe "second".'
    for delimiter, name in ((";", "clips.csv"), ("\t", "clips.tsv")):
        assert read(tmp_path, f"path{delimiter}label\na.mp4{delimiter}x\n", name).rows[0].label == "x"


def test_a_pipe_or_a_device_is_no_list(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "clips.csv")
    fault = "clips.csv: a device or a pipe, which may have no end; write the list into a file"
    assert read_manifest(tmp_path / "clips.csv", labels={}).faults == (fault,)


def test_unknown_columns_are_noted(tmp_path: Path) -> None:
    listing = read(tmp_path, "path,label,fps,notes\na.mp4,x,8,hello\n")
    assert listing.notes == (
        "clips.csv: columns that rbft does not know are ignored: fps, notes "
        "(known: path, label, clip_id, split, group, start, end, rationale, boxes, category)",
    )


def test_json_lines(tmp_path: Path) -> None:
    lines = [
        {"path": "a.mp4", "label": 0, "boxes": [{"t": 0.5, "box": [0, 0, 0.5, 1]}], "extra": 1},
        {"path": "b.mp4", "label": "1", "start": 1, "rationale": None},
    ]
    listing = read(tmp_path, "\n".join(map(json.dumps, lines)) + "\n\n", "clips.jsonl")
    assert listing.faults == ()
    assert [row.label for row in listing.rows] == ["0", "1"]
    assert listing.rows[0].boxes[0].box == (0, 0, 0.5, 1) and listing.rows[1].start == 1
    assert "ignored: extra" in listing.notes[0]


def test_conversations_of_llava_sharegpt_llama_factory_and_swift(tmp_path: Path) -> None:
    items = [
        {"id": "one", "video": "a.mp4", "conversations": [
            {"from": "human", "value": "<video>\nWhat?"}, {"from": "gpt", "value": "I think"},
            {"from": "human", "value": "In a word?"}, {"from": "gpt", "value": " normal\n"}]},
        {"video": ["b.mp4"], "split": "test", "conversations": [
            {"from": "user", "value": "?"}, {"from": "assistant", "value": "abnormal"}]},
        {"videos": ["c.mp4"], "messages": [
            {"role": "system", "content": "x"}, {"role": "user", "content": "?"},
            {"role": "assistant", "content": [{"type": "text", "text": "normal"}]}]},
        {"videos": ["d.mp4"], "messages": [{"role": "user", "content": "?"}]},
    ]  # fmt: skip
    listing = read(tmp_path, json.dumps(items), "train.json", labels=LABELS)
    assert [(r.clip_id, r.listed, r.label) for r in listing.rows] == [
        ("one", "a.mp4", "normal"), ("b", "b.mp4", "abnormal"), ("c", "c.mp4", "normal"), ("d", "d.mp4", None),
    ]  # fmt: skip
    assert len(listing.faults) == 1 and "1 labelled clips have a split and 2 have none" in listing.faults[0]
    del items[1]["split"]
    listing = read(tmp_path, json.dumps(items), "train.json", labels=LABELS)
    assert listing.faults == () and "has no split of its own: rbft makes one" in listing.notes[0]
    items[0]["video"] = ["a.mp4", "z.mp4"]
    items[1]["conversations"] = "none"
    faults = read(tmp_path, json.dumps([*items, 7]), "train.json").faults
    assert faults[0] == "train.json: item 1: needs one video, and names ['a.mp4', 'z.mp4']"
    assert faults[1] == "train.json: item 2: a conversation is a list of turns, this is 'none'"
    assert faults[2] == "train.json: item 5: holds 7; an object with a path is needed"


def test_a_folder_with_a_folder_per_label(tmp_path: Path) -> None:
    for name in ("fall/a.mp4", "fall/deep/b.MOV", "stand/a.mp4", "stand/readme.txt", "stand/.hidden.mp4", "loose.mp4"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    listing = read_manifest(tmp_path, labels={})
    assert [(r.clip_id, r.label) for r in listing.rows] == [
        ("fall/a", "fall"), ("fall/deep/b", "fall"), ("stand/a", "stand"),
    ]  # fmt: skip
    assert listing.labels == {"fall": "", "stand": ""} and listing.faults == ()
    assert "1 video lies beside the label folders and is not listed, 'loose.mp4' first" in listing.notes[0]
    assert "1 file is not a video by its name and is not listed, 'readme.txt' first" in listing.notes[1]


def test_a_folder_of_train_and_test(tmp_path: Path) -> None:
    for name in ("train/x/a.mp4", "train/y/b.mp4", "test/x/c.mp4", "test/y/d.mp4"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    listing = read_manifest(tmp_path, labels={})
    assert sorted((r.listed, r.label, r.split) for r in listing.rows) == [
        ("test/x/c.mp4", "x", "test"), ("test/y/d.mp4", "y", "test"),
        ("train/x/a.mp4", "x", "train"), ("train/y/b.mp4", "y", "train"),
    ]  # fmt: skip


# -- faults --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cells", "fault"),
    [
        ({"label": "abnromal"}, "'abnromal' is not in the list; did you mean 'abnormal'? Labels: normal, abnormal"),
        ({"label": "Normal"}, "label 'Normal' is not in the list; did you mean 'normal'? Labels: normal, abnormal"),
        ({"label": "zzz"}, "label 'zzz' is not in the list. Labels: normal, abnormal"),
        ({"path": ""}, "has no path"),
        ({"split": "tset"}, "split 'tset' is not train or test; did you mean 'test'?"),
        ({"split": "val"}, "split 'val' is not train or test; rbft tunes nothing on a third split"),
        ({"start": "-1"}, "start '-1' is not a number of seconds, 0 or more"),
        ({"start": "1:30"}, "start '1:30' is not a number of seconds"),
        ({"end": "inf"}, "end 'inf' is not a number of seconds"),
        ({"start": "4", "end": "4"}, "end 4 is not after start 4"),
        ({"boxes": "[1"}, "boxes '[1': "),
        ({"boxes": '[{"t":0,"box":[0,0,2,1]}]'}, "(0.0, 0.0, 2.0, 1.0) has no area inside 0 to 1; write [{"),
        ({"boxes": '[{"t":0}]'}, "Field required; write [{"),
        ({"path": "../b.mp4"}, "path '../b.mp4' leads outside "),
        ({"path": "/etc/passwd"}, "path '/etc/passwd' leads outside "),
        ({"path": "http://127.0.0.1/a.mp4"}, "path 'http://127.0.0.1/a.mp4' starts with 'http:' like an address"),
        ({"path": "concat:a.mp4|b.mp4"}, "starts with 'concat:' like an address; rbft reads local files only"),
        ({"path": "a\0b.mp4"}, "path 'a\\x00b.mp4' holds a null character"),
    ],
)  # fmt: skip
def test_faults_of_a_row(tmp_path: Path, cells: dict[str, str], fault: str) -> None:
    row = {"path": "a.mp4", "label": "normal", **cells}
    listing = read(tmp_path, json.dumps(row) + "\n", "clips.jsonl", labels=LABELS)
    assert listing.rows == () and len(listing.faults) == len(listing.refused) == 1
    assert listing.faults[0].startswith("clips.jsonl: line 1: ") and fault in listing.faults[0]
    refused = listing.refused[0]
    assert fault in refused.detail
    assert refused.reason == ("outside" if "leads outside" in fault or "like an address" in fault else "manifest")


def test_a_label_of_several_lines_is_refused_where_labels_come_from_the_list(tmp_path: Path) -> None:
    """Such a label could not stand on a line of its own in a P+C+R answer and be read back."""
    listing = read(tmp_path, 'path,label\na.mp4,"no\nfight"\nb.mp4,fight\nc.mp4,no fight\n')
    assert listing.faults == ("clips.csv: row 2: label 'no\\nfight' holds a line break or another control character",)
    for label in ("a\tb", "a\u2028b", "a\x1bb", "a\rb"):
        assert len(read(tmp_path, json.dumps({"path": "a.mp4", "label": label}), "clips.jsonl").faults) == 1
    assert read(tmp_path, json.dumps({"path": "a.mp4", "label": "a\n"}), "clips.jsonl").rows[0].label == "a"


_NO_PATH = "there is no column 'path'; the header has "


@pytest.mark.parametrize(
    ("header", "fault"),
    [
        ("Path,Label", f"{_NO_PATH}'Path', 'Label'; rename 'Path' to 'path', 'Label' to 'label'"),
        ("Video,Lable", f"{_NO_PATH}'Video', 'Lable'; rename 'Lable' to 'label', 'Video' to 'path'"),
        ("a,b", f"{_NO_PATH}'a', 'b'"),
        ("path,lable,spilt", "columns look misspelt; rename 'lable' to 'label', 'spilt' to 'split'"),
        ("path,LABEL,Clip ID", "columns look misspelt; rename 'LABEL' to 'label', 'Clip ID' to 'clip_id'"),
    ],
)
def test_misspelt_columns_are_all_named_with_a_proposal(tmp_path: Path, header: str, fault: str) -> None:
    ending = "; or give them names that are less alike" if fault.startswith("columns") else ""
    text = f"{header}\na.mp4,b{',c' * (header.count(',') - 1)}\n"
    assert read(tmp_path, text).faults == (f"clips.csv: {fault}{ending}",)


def test_misspelt_fields_of_json_are_named_once(tmp_path: Path) -> None:
    text = "".join(json.dumps({"path": f"{i}.mp4", "Label": "x", "grop": "g"}) + "\n" for i in range(20))
    assert read(tmp_path, text, "clips.jsonl").faults == (
        "clips.jsonl: fields look misspelt; rename 'Label' to 'label', 'grop' to 'group'; or give them names that are "
        "less alike",
    )


def test_other_columns_are_no_misspellings(tmp_path: Path) -> None:
    listing = read(tmp_path, "path,label,Labels,camera,category_id,start_time\na.mp4,x,y,z,1,2\nb.mp4,y,y,z,1,2\n")
    assert listing.faults == ()
    assert "are ignored: Labels, camera, category_id, start_time (known: " in listing.notes[0]


def test_many_faults_of_one_column_are_ten_and_a_count(tmp_path: Path) -> None:
    rows = [f"{i}.mp4,{'tset' if i % 2 else 'test'},{'odd' if i < 25 else 'normal'}" for i in range(1_300)]
    listing = read(tmp_path, "path,split,label\n" + "\n".join(rows) + "\n", labels=LABELS)
    assert len(listing.refused) == 25 + 638
    lines = listing.faults
    assert [line for line in lines if line.startswith("and ")] == [
        "and 15 more rows with a fault in label; `rbft check clips.csv --json` lists every row",
        "and 640 more rows with a fault in split; `rbft check clips.csv --json` lists every row",
    ]
    assert sum("label 'odd' is not in the list" in line for line in lines) == 10
    assert sum("split 'tset' is not train or test" in line for line in lines) == 10
    assert lines[0].startswith("clips.csv: row 2: label 'odd'")


def test_many_faults_between_rows_are_ten_and_a_count(tmp_path: Path) -> None:
    text = "path,label,clip_id,group,split\n"
    text += "".join(f"{i}.mp4,x,{i // 2},g{i // 2},{('train', 'test')[i % 2]}\n" for i in range(60))
    text += "a.mp4,y,a\n" * 14
    faults = read(tmp_path, text).faults
    assert [fault for fault in faults if fault.startswith("and ")] == [
        "and 4 more rows of clips.csv with another number of cells",
        "and 20 more clips or ids that are listed twice",
        "and 20 more groups that are in train and in test",
    ]
    assert len(faults) == 33


def test_many_lines_that_are_not_json_are_ten_and_a_count(tmp_path: Path) -> None:
    faults = read(tmp_path, "{\n" * 12 + "[]\n" * 13 + '{"path": "a.mp4"}\n', "clips.jsonl").faults
    assert [fault for fault in faults if fault.startswith("and ")] == [
        "and 2 more lines of clips.jsonl that are not readable as JSON",
        "and 3 more items of clips.jsonl that are no clip",
    ]
    assert len(faults) == 22


@pytest.mark.parametrize("value", [True, 1.5, ["a"], {"a": 1}])
def test_values_that_are_not_text(tmp_path: Path, value: object) -> None:
    faults = read(tmp_path, json.dumps({"path": "a.mp4", "label": value}), "clips.jsonl").faults
    assert faults == (f"clips.jsonl: line 1: label is {value!r}; it must be text",)


def test_all_faults_at_once(tmp_path: Path) -> None:
    text = "path,label,split\na.mp4,nomal,train\n../b.mp4,normal,tran\nc.mp4,normal,train,\nd.mp4,x,y,z\ne.mp4\n"
    listing = read(tmp_path, text, labels=LABELS)
    assert [fault.split(": ")[1] for fault in listing.faults] == ["row 5", "row 6", "row 2", "row 3", "row 3"]
    assert "row 5: 4 cells under a header of 3" in listing.faults[0]
    assert [row.listed for row in listing.rows] == ["c.mp4"]


def test_faults_between_rows(tmp_path: Path) -> None:
    text = (
        "path,label,clip_id,group,split\n"
        "a.mp4,x,1,g,train\nb.mp4,y,1,g,test\na.mp4,y,2,h,train\n"
        "c.mp4,x,3,,train\nc.mp4,x,4,,train\nd.mp4,X ,5,,train\n"
    )
    faults = read(tmp_path, text).faults
    assert faults == (
        "clips.csv: clip_id '1' is used twice (row 2 and row 3); ids must differ",
        "clips.csv: a.mp4 is listed with different labels, 'x' and 'y' (row 2 and row 4); keep one",
        "clips.csv: c.mp4 is listed twice (row 5 and row 6); keep one",
        "clips.csv: group 'g' is in train (row 2) and in test (row 3); a group is one source and stays in one split",
        "clips.csv: labels 'x' (row 2) and 'X' (row 7) differ only in case, spaces or form of letters; "
        "spell them the same",
    )


def test_windows_of_one_file_are_different_clips(tmp_path: Path) -> None:
    listing = read(tmp_path, "path,label,start,end\na.mp4,x,0,2\na.mp4,y,2,4\na.mp4,x,4,\n")
    assert listing.faults == ()
    assert [row.clip_id for row in listing.rows] == ["a@0-2", "a@2-4", "a@4-"]


@pytest.mark.parametrize(
    ("name", "data", "fault"),
    [
        ("clips.csv", b"", "clips.csv: is empty; the first line names the columns: path, label, clip_id"),
        ("clips.csv", b"path,label\n", "clips.csv: lists no clip; give it at least two a label"),
        ("clips.csv", b"file,label\na,b\n", "there is no column 'path'; the header has 'file', 'label'; rename 'file'"),
        ("clips.csv", b"path,label,path\na,b,c\n", "clips.csv: the header names 'path' twice; keep one"),
        ("clips.csv", b"path,label\na.mp4,caf\xe9\n", "clips.csv: not UTF-8 at byte 20, line 2; save it as UTF-8"),
        ("clips.csv", "path\n".encode("utf-16"), "clips.csv: not UTF-8 at byte 0, line 1 (it looks like UTF-16)"),
        ("clips.csv", b'path,label\n"a.mp4,x\nb.mp4,y\n', "clips.csv: row 2: a quote is opened here and never closed"),
        ("clips.jsonl", b'{"path": "a.mp4"}\n{"path"\n', "clips.jsonl: line 2: not readable as JSON"),
        ("clips.jsonl", b"[]\n", "clips.jsonl: line 1: holds []; an object with a path is needed"),
        ("clips.json", b"{}", "clips.json: holds a dict; a list of items is needed"),
        ("clips.json", b"[" * 100_000, "clips.json: not readable as JSON"),
        ("clips.xlsx", b"PK", "clips.xlsx: a manifest is a .csv, .tsv, .jsonl or .json file, or a folder"),
    ],
)  # fmt: skip
def test_sources_that_cannot_be_read(tmp_path: Path, name: str, data: bytes, fault: str) -> None:
    listing = read(tmp_path, data, name)
    assert fault in "\n".join(listing.faults)
    assert read_manifest(tmp_path / "absent.csv", labels={}).faults == (
        "absent.csv: cannot be read: No such file or directory",
    )


def test_an_empty_folder(tmp_path: Path) -> None:
    assert "lists no clip" in read_manifest(tmp_path, labels={}).faults[0]


def test_links_are_followed_before_they_are_judged(tmp_path: Path) -> None:
    inside, outside = tmp_path / "set", tmp_path / "elsewhere"
    (inside / "real").mkdir(parents=True)
    outside.mkdir()
    (outside / "b.mp4").touch()
    (inside / "real" / "a.mp4").touch()
    (inside / "ok.mp4").symlink_to("real/a.mp4")
    (inside / "bad.mp4").symlink_to(outside / "b.mp4")
    (inside / "door").symlink_to(outside)
    text = (
        "path,label\nok.mp4,x\nbad.mp4,x\ndoor/b.mp4,x\nreal/../../elsewhere/b.mp4,x\n" + f"{inside}/real/./a.mp4,y\n"
    )
    listing = read(inside, text)
    assert [row.listed for row in listing.rows] == ["ok.mp4", f"{inside}/real/./a.mp4"]
    assert sum("leads outside" in fault for fault in listing.faults) == 3
    assert "allow_outside: true (--allow-outside)" in listing.faults[0]
    allowed = read(inside, text, allow_outside=True)
    assert sum(row.path == outside.resolve() / "b.mp4" for row in allowed.rows) == 3
    linked = tmp_path / "link"
    linked.symlink_to(inside)
    assert read_manifest(linked / "clips.csv", labels={}).rows[0].listed == "ok.mp4"


def test_twenty_typos_have_twenty_suggestions() -> None:
    labels = ("normal", "abnormal", "vague abnormal", "fight", "no fight")
    near = "normla norml Normal NORMAL n0rmal nomral", "abnromal abnorml Abnormal abnormaal ABNORMAL abnormall"
    others = "figth fihgt Fight fght fightt", "no_fight vague_abnormal VagueAbnormal"
    typos = " ".join(near + others).split()
    assert len(typos) == 20
    for typo in typos:
        assert nearest_spelling(typo, labels).startswith("; did you mean '"), typo


def test_control_characters_are_escaped() -> None:
    assert show("a\x1b[31mb\nc\u202ed") == "a\\x1b[31mb\\nc\\u202ed"
    assert show("éツ🎬") == "éツ🎬"
    assert show(os.fsdecode(b"\xff.mp4")) == "\\udcff.mp4"
    assert len(show("x" * 1_000)) == 200


def test_bare_files(tmp_path: Path) -> None:
    listing = listing_of_files([tmp_path / "a.mp4", tmp_path / "b"])
    assert [row.clip_id for row in listing.rows] == [str(tmp_path / "a.mp4"), str(tmp_path / "b")]
    assert listing.faults == () and listing.labels == {}


def test_many_rows(tmp_path: Path) -> None:
    rows = "".join(f"clips/{i % 100}/{i}.mp4,l{i % 7},g{i % 1000}\n" for i in range(20_000))
    listing = read(tmp_path, "path,label,group\n" + rows)
    assert len(listing.rows) == 20_000 and listing.faults == ()


def test_a_folder_of_clips(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "clips")
    for folder in (tmp_path / "clips", tmp_path / "link"):
        inside = ClipFolder(folder, "name another folder")
        assert inside.fault("a.mp4", str(tmp_path / "clips" / "a.mp4")) is None
        assert inside.fault(".", str(tmp_path / "clips")) is None, "no clip, but not elsewhere"
        assert inside.fault("../clips2/a.mp4", str(tmp_path / "clips2" / "a.mp4")) == (
            f"path '../clips2/a.mp4' leads outside {folder}; move the clip there, or name another folder"
        )
    assert ClipFolder(Path("/")).fault("/a.mp4", "/a.mp4") is None
