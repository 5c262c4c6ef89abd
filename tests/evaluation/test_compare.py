"""Two prediction files: what is read, what is refused, and the numbers that come out."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from scipy import stats
from sklearn.metrics import f1_score

from rbft.errors import StoreError, UserError
from rbft.evaluation.compare import compare_files, read_pair, render_comparison, write_predictions_csv
from rbft.records import Prediction

HEADER = "clip_id,label,predicted\n"


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def rows(cells: list[tuple[str, str, int]]) -> list[tuple[str, str]]:
    """(truth, predicted) pairs from (truth, predicted, count)."""
    return [(truth, predicted) for truth, predicted, count in cells for _ in range(count)]


def file(path: Path, pairs: list[tuple[str, str]]) -> Path:
    return write(path, HEADER + "".join(f"c{i:03},{t},{p}\n" for i, (t, p) in enumerate(pairs)))


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """A is right on 60 of 100, B on 75: 20 clips only B has right, 5 only A."""
    truth = ["x"] * 50 + ["y"] * 50
    right_a = [i % 5 < 3 for i in range(100)]
    flips = {i for i in range(100) if not right_a[i]}
    gained = sorted(flips)[:20]
    lost = [i for i in range(100) if right_a[i]][:5]
    right_b = [(right_a[i] or i in gained) and i not in lost for i in range(100)]
    other = {"x": "y", "y": "x"}
    a = file(tmp_path / "a.csv", [(t, t if ok else other[t]) for t, ok in zip(truth, right_a, strict=True)])
    b = file(tmp_path / "b.csv", [(t, t if ok else other[t]) for t, ok in zip(truth, right_b, strict=True)])
    return a, b


def test_the_result_has_exactly_the_promised_form(pair: tuple[Path, Path]) -> None:
    result = compare_files(*pair)
    assert list(result) == ["a", "b", "difference", "low", "high", "p", "verdict"]
    assert list(result["a"]) == list(result["b"]) == ["accuracy", "macro_f1", "f1", "n"]
    assert list(result["a"]["f1"]) == ["x", "y"]
    assert json.loads(json.dumps(result, allow_nan=False)) == result


def test_the_numbers_are_those_of_other_libraries(pair: tuple[Path, Path]) -> None:
    result = compare_files(*pair)
    assert (result["a"]["n"], result["a"]["accuracy"], result["b"]["accuracy"]) == (100, 0.6, 0.75)
    truth, predicted = zip(*(line.split(",")[1:] for line in pair[1].read_text().splitlines()[1:]), strict=True)
    assert result["b"]["macro_f1"] == pytest.approx(f1_score(truth, predicted, average="macro"))
    assert result["difference"] == pytest.approx(0.15)
    assert result["p"] == pytest.approx(stats.binomtest(5, 25).pvalue)
    # Percentile bootstrap of a paired mean: about 0.15 plus or minus 1.96 sqrt((0.25 - 0.15^2) / 100).
    assert (result["low"], result["high"]) == pytest.approx((0.0565, 0.2435), abs=0.011)
    assert result["verdict"] == "helped"
    assert compare_files(pair[1], pair[0])["verdict"] == "hurt"
    assert compare_files(*pair) == result


def test_a_file_against_itself_cannot_tell(pair: tuple[Path, Path]) -> None:
    result = compare_files(pair[0], pair[0])
    assert (result["difference"], result["p"]) == (0.0, 1.0)
    # No clip of 100 differs: up to 3.6 % could (Clopper and Pearson), either way.
    assert (result["low"], result["high"]) == pytest.approx((-0.0362, 0.0362), abs=1e-4)
    assert result["verdict"] == "these clips cannot tell: the smallest difference they could show is 7.7 points"


def test_bom_line_endings_spaces_quotes_order_and_more_columns_do_not_matter(tmp_path: Path) -> None:
    a = write(tmp_path / "a.csv", HEADER + "1,x,x\n2,y,x\n3,x,y\n")
    text = '\ufeff"predicted", score ,clip_id , label\r\n x ,0.5,"2" , y\r\n"y",0.5,3,x\r\n\r\nx,0.1, 1,x\r\n'
    b = write(tmp_path / "b.csv", text)
    assert compare_files(a, b)["difference"] == 0.0


def test_empty_and_foreign_answers_are_unreadable_wrong_and_noted(tmp_path: Path) -> None:
    a = file(tmp_path / "a.csv", [("x", "x"), ("y", ""), ("y", "Y"), ("x", "x or y")])
    b = file(tmp_path / "b.csv", [("x", "x"), ("y", "y"), ("y", "y"), ("x", "x")])
    result = compare_files(a, b)
    assert (result["a"]["accuracy"], result["a"]["n"]) == (0.25, 4)
    assert result["a"]["f1"] == pytest.approx({"x": 2 / 3, "y": 0.0})
    assert read_pair(a, b).notes == (f"{a}: 3 of 4 answers are none of the labels and count as wrong",)


def test_a_given_label_without_a_clip_has_no_f1(tmp_path: Path) -> None:
    a = file(tmp_path / "a.csv", [("x", "x"), ("y", "z")])
    result = compare_files(a, a, labels=["z", "y", "x"])
    assert result["a"]["f1"] == {"z": None, "y": 0.0, "x": 1.0}
    assert result["a"]["macro_f1"] == 0.5


def test_clips_without_a_label_are_left_out_with_a_note(tmp_path: Path) -> None:
    a = write(tmp_path / "a.csv", HEADER + "1,x,x\n2,,y\n3,y,y\n")
    assert compare_files(a, a)["a"]["n"] == 2
    assert read_pair(a, a).notes == ("1 clip without a label is left out",)


def test_every_fault_of_both_files_is_named_at_once(tmp_path: Path) -> None:
    a = write(tmp_path / "a.csv", HEADER + "1,x,x\n1,x,x\n2,y,y\n3,x\n,x,x\n5,x,x\n")
    b = write(tmp_path / "b.csv", HEADER + "1,x,x\n2,x,y\n6,x,x\n7,x,x\n8,x,x\n9,x,x\n10,x,x\n11,x,x\n")
    with pytest.raises(UserError) as error:
        compare_files(a, b)
    assert error.value.faults == [
        f"{a}: line 5: 2 fields where the header has 3",
        f"{a}: line 6: clip_id is empty",
        f"{a}: 1 clip ids stand more than once: 1",
        f"1 clip is only in {a}: 5; both files need the same clips",
        f"6 clips are only in {b}: 6, 7, 8, 9, 10 and 1 more; both files need the same clips",
        f"1 clip has different true labels in {a} and {b}: 2 ('y' and 'x')",
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty; it needs the columns clip_id, label, predicted"),
        (b"\n\n", "the file is empty; it needs the columns clip_id, label, predicted"),
        (HEADER.encode(), "has a header and no rows"),
        (b"clip_id,label\n1,x\n", "lacks predicted; it has clip_id, label, and needs clip_id, label, predicted"),
        (b"clip_id,label,predicted,label\n1,x,x,x\n", "the column 'label' stands twice"),
        (HEADER.encode() + b"1,caf\xe9,x\n", "not UTF-8 at byte 29; save it as UTF-8"),
        ("clip_id,label,predicted\n1,x,x\n".encode("utf-16"), "not UTF-8 at byte 0; save it as UTF-8"),
        (HEADER.encode() + b'1,x,"' + b"x" * 200_000 + b'"\n', "line 2: not readable as CSV: field larger than field "
         "limit (131072)"),
        (HEADER.encode() + b"1,,x\n", "no clip has a label; fill the column 'label'"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_used_is_named_with_the_reason(tmp_path: Path, content: bytes, message: str) -> None:
    path = write(tmp_path / "a.csv", content)
    with pytest.raises(UserError) as error:
        compare_files(path, path)
    assert error.value.faults[0] == f"{path}: {message}"
    assert error.value.exit_code == 2


def test_a_missing_file_is_named_beside_the_other_files_faults(tmp_path: Path) -> None:
    a, b = tmp_path / "none.csv", write(tmp_path / "b.csv", "")
    with pytest.raises(UserError) as error:
        compare_files(a, b)
    assert error.value.faults == [
        f"{a}: cannot be read: No such file or directory",
        f"{b}: the file is empty; it needs the columns clip_id, label, predicted",
    ]
    with pytest.raises(UserError) as error:
        compare_files(tmp_path, b)
    told = "a folder; name a CSV of predictions, as a run keeps in predictions/ARM-seedN.csv"
    assert error.value.faults[0] == f"{tmp_path}: {told}"


def test_a_true_label_outside_the_given_ones_gets_the_nearest_spelling(tmp_path: Path) -> None:
    a = file(tmp_path / "a.csv", [("normal", "normal"), ("abnromal", "abnormal"), ("zzz", "normal")])
    with pytest.raises(UserError) as error:
        compare_files(a, a, labels=["normal", "abnormal"])
    assert error.value.faults == [
        "the true label 'abnromal' (1 clip) is not one of normal, abnormal; did you mean 'abnormal'?",
        "the true label 'zzz' (1 clip) is not one of normal, abnormal",
    ]


# -- writing -------------------------------------------------------------------------------------------------------


def prediction(clip_id: str, truth: str | None, label: str | None, text_label: str | None = None) -> Prediction:
    return Prediction(
        clip_id=clip_id, checkpoint="c", truth=truth, label=label, log_probabilities={}, probabilities={},
        text_label=text_label,
    )  # fmt: skip


def test_formulas_are_written_as_text(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    write_predictions_csv(path, [prediction("=1+1", "-1", "@x"), prediction('a,"b"', "+1", None, "-1")])
    assert path.read_text() == 'clip_id,label,predicted\n\'=1+1,\'-1,\'@x\n"a,""b""",\'+1,\n'
    write_predictions_csv(path, [prediction("1", "x", "y", "x")], generated=True)
    assert path.read_text() == "clip_id,label,predicted\n1,x,x\n"
    (tmp_path / "folder").mkdir()
    with pytest.raises(StoreError):
        write_predictions_csv(tmp_path / "folder", [])


VALUES = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1, max_size=8)


@settings(max_examples=100)
@given(st.dictionaries(st.sampled_from("=+-@'\"") | VALUES, st.tuples(VALUES, VALUES | st.none()), min_size=1))
def test_what_is_written_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, answers: dict[str, tuple[str, str | None]]
) -> None:
    path = tmp_path_factory.mktemp("round") / "p.csv"
    write_predictions_csv(path, [prediction(clip, truth, label) for clip, (truth, label) in answers.items()])
    try:
        pair = read_pair(path, path)
    except UserError as error:  # two ids, or labels, that are one after Unicode normalisation
        assert "stand more than once" in str(error)
        return
    truth = [pair.a.labels[t] for t in pair.a.truth]
    assert truth == [unicode_form(t) for t, _ in answers.values()]
    expected = [t == unicode_form(p or "") for t, (_, p) in zip(truth, answers.values(), strict=True)]
    assert pair.a.correct[0].tolist() == expected


def unicode_form(text: str) -> str:
    import unicodedata

    return unicodedata.normalize("NFC", text)


def test_the_printed_table_says_what_the_result_holds(pair: tuple[Path, Path], tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), width=100, color_system=None)
    render_comparison(compare_files(*pair), console, notes=["a note [red]"])
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert "accuracy" in printed
    assert "│ 60.0 │ 75.0 │      +15.0 │" in printed
    assert "B against A: +15.0 points in accuracy, 95 % interval +" in printed
    assert "p = 0.004 (exact McNemar)" in printed
    assert printed.endswith("Verdict: helped\na note [red]\n")
    odd = file(tmp_path / "odd.csv", [("[bold]x", "[bold]x")])
    render_comparison(compare_files(odd, odd, labels=["[bold]x", "none"]), console)
    assert "F1 [bold]x" in console.file.getvalue()  # type: ignore[attr-defined]
    assert "n/a" in console.file.getvalue()  # type: ignore[attr-defined]
    assert "they are too few to show any difference" in console.file.getvalue()  # type: ignore[attr-defined]
