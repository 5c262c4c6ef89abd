from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from jsonschema import Draft202012Validator
from PIL import Image

from rbft.errors import StoreError
from rbft.report.material import ArmAnswer, ExampleClip, ReportMaterial
from rbft.report.page import render_page, write_report
from rbft.report.schema import SCHEMA_PATH, report_schema, write_schema
from rbft.report.tables import report_words
from rbft.results import ArmReport, CategoryReport, Report

SECTIONS = [
    "verdict", "results", "comparisons", "dataset", "confusion", "loss", "reliability", "examples", "rationales",
    "timings", "environment", "settings", "fingerprints", "notes", "glossary",
]  # fmt: skip
ARCHITECTURE = {
    "dataset": {"train", "test", "labels", "majority_accuracy"},
    "arms": {"seeds", "accuracy", "macro_f1", "f1", "confusion", "unreadable_rate"},
    "comparisons": {"a", "b", "difference", "low", "high", "p", "verdict"},
    "rationales": {"written", "kept", "dropped"},
}


@pytest.fixture(scope="module")
def html(report: Report, material: ReportMaterial) -> str:
    return render_page(report, material)


# -- files ---------------------------------------------------------------------------------------------------------


def test_both_files_are_written_with_the_same_bytes_every_time(
    tmp_path: Path, report: Report, material: ReportMaterial, html: str
) -> None:
    page = write_report(tmp_path / "run", report, material)
    assert page == tmp_path / "run" / "report.html"
    assert sorted(p.name for p in page.parent.iterdir()) == ["report.html", "report.json"]
    assert page.read_text(encoding="utf-8") == html
    assert Report.model_validate_json((page.parent / "report.json").read_bytes()) == report


def test_json_has_the_keys_of_the_architecture(tmp_path: Path, report: Report) -> None:
    found = json.loads((write_report(tmp_path, report, ReportMaterial()).parent / "report.json").read_bytes())
    assert found["schema"] == 1
    assert ARCHITECTURE["dataset"] <= set(found["dataset"])
    assert ARCHITECTURE["rationales"] <= set(found["rationales"])
    assert all(ARCHITECTURE["comparisons"] <= set(c) for c in found["comparisons"])
    for arm in found["arms"].values():
        assert ARCHITECTURE["arms"] <= set(arm)
        assert set(arm["accuracy"]) == {"mean", "low", "high", "per_seed"}
    assert isinstance(found["timing"], dict)
    assert isinstance(found["environment"], dict)


@pytest.mark.parametrize("which", ["report", "long_report", "small_report", "curve_report"])
def test_written_json_fits_the_published_schema(tmp_path: Path, request: pytest.FixtureRequest, which: str) -> None:
    write_report(tmp_path, request.getfixturevalue(which), ReportMaterial())
    validator = Draft202012Validator(json.loads(SCHEMA_PATH.read_bytes()))
    written = json.loads((tmp_path / "report.json").read_bytes())
    assert list(validator.iter_errors(written)) == []
    assert list(validator.iter_errors(written | {"schema": 2}))
    assert list(validator.iter_errors({k: v for k, v in written.items() if k != "arms"}))


def test_published_schema_is_the_one_the_records_give(tmp_path: Path) -> None:
    assert json.loads(SCHEMA_PATH.read_bytes()) == report_schema()
    write_schema(tmp_path / "schema.json")
    assert (tmp_path / "schema.json").read_bytes() == SCHEMA_PATH.read_bytes()
    Draft202012Validator.check_schema(report_schema())


def test_a_number_that_is_not_finite_is_named_and_nothing_is_written(
    tmp_path: Path, report: Report, arm_of: Callable[..., ArmReport]
) -> None:
    arm = arm_of("direct", report.dataset.labels)
    broken = arm.model_copy(update={"accuracy": arm.accuracy.model_copy(update={"low": float("nan")})})
    bad = report.model_copy(update={"arms": {"direct": broken}, "timing": {"decode": float("inf")}})
    with pytest.raises(StoreError, match=r"report\.arms\.direct\.accuracy\.low is nan, report\.timing\.decode is inf"):
        write_report(tmp_path, bad, ReportMaterial())
    assert list(tmp_path.iterdir()) == []


# -- the page ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["report", "long_report", "small_report"])
def test_pages_are_well_formed(
    request: pytest.FixtureRequest, page_of: Callable, material_of: Callable, which: str
) -> None:
    report = request.getfixturevalue(which)
    for material in (ReportMaterial(), material_of(report, 1)):
        page = page_of(render_page(report, material))
        assert len(page.ids) == len(set(page.ids))
        assert [id for id in page.ids if id in SECTIONS] == SECTIONS
        fragments = {a["href"][1:] for a in page.all("a") if a["href"].startswith("#")}
        assert fragments == set(SECTIONS)


def test_the_top_of_the_page_says_what_to_use_how_sure_and_what_more_clips_would_buy(
    curve_report: Report, material: ReportMaterial, page_of: Callable
) -> None:
    page = page_of(render_page(curve_report, material))
    words = " ".join(page.text.replace("\u00a0", " ").split())
    at = [words.index(text) for text in report_texts(curve_report)]
    assert at == sorted(at)
    assert at[-1] < words.index("Test clips")
    assert "learning_curve=[0.25,0.5]" not in words


def report_texts(report: Report) -> list[str]:
    return [text for _, text in report_words(report)]


def test_a_learning_curve_has_a_section_with_its_numbers_and_none_is_not_mentioned(
    curve_report: Report, report: Report, page_of: Callable
) -> None:
    page = page_of(render_page(curve_report, ReportMaterial()))
    fragments = {a["href"][1:] for a in page.all("a") if a["href"].startswith("#")}
    assert fragments == {*SECTIONS, "curve"} & {*page.ids}
    [table] = [t for t in page.tables if t[0][:3] == ["arm", "training clips", "accuracy"]]
    assert table[1:4] == [
        ["direct-matched", "196 25 %", "55.0 49.0–61.0", "52.0 45.0–59.0"],
        ["direct-matched", "392 50 %", "67.0 61.5–72.5", "64.0 57.5–70.5"],
        ["direct-matched", "784 100 %", "73.0 68.0–78.0", "70.0 64.0–76.0"],
    ]
    assert len(table) == 7
    alts = [f["aria-label"] for f in page.all("figure") if (f.get("aria-label") or "").startswith("Learning curve")]
    assert alts[1] == (
        "Learning curve of rb-ft: 196 clips, accuracy 62.5 %, macro-F1 59.5 %; 392 clips, accuracy 74.5 %, macro-F1 "
        "71.5 %; 784 clips, accuracy 80.5 %, macro-F1 77.5 %"
    )
    assert "curve" not in page_of(render_page(report, ReportMaterial())).ids


def test_p_values_do_not_break_over_lines(report: Report, material: ReportMaterial, page_of: Callable) -> None:
    told = report.model_copy(
        update={"headline": "Rationales helped (interval +1.0 to +9.0, p = 0.012). Next p < 0.001."}
    )
    text = page_of(render_page(told, material)).text
    assert "p\u00a0=\u00a00.012" in text
    assert "p\u00a0<\u00a00.001" in text
    assert len(re.findall(r"\bp\u00a0[=<]\u00a0\d", text)) == 3 + len(report.comparisons)
    assert re.findall(r"\bp [=<]", text) == []


def test_page_asks_nothing_of_the_network(html: str, page_of: Callable) -> None:
    page = page_of(html)
    assert "http" not in html.replace("http-equiv", "")
    assert {tag for tag, _ in page.elements}.isdisjoint({"script", "link", "iframe", "object", "embed", "base", "form"})
    for tag, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on") or name in ("srcset", "action", "xlink:href")]
        if "src" in attributes:
            assert tag == "img"
            assert attributes["src"].startswith("data:image/jpeg;base64,")
        for name in ("href", "style", "fill", "clip-path"):
            assert "//" not in (attributes.get(name) or "")
    assert not re.search(r"url\((?!#)|@import", html)
    policy = next(m["content"] for m in page.all("meta") if m.get("http-equiv") == "Content-Security-Policy")
    assert policy.split("; ")[:3] == ["default-src 'none'", "style-src 'unsafe-inline'", "img-src data:"]


def test_page_says_what_the_report_says(html: str, report: Report, page_of: Callable) -> None:
    text = " ".join(page_of(html).text.split())
    for part in (
        *report_texts(report),
        *report.notes,
        *report.fingerprints.values(),
        *report.environment.values(),
        *report.timing,
    ):
        assert part in text
    for words in ("2 partial, 1 no video stream", "ends at 3.1 of 12.0 s", "says the same thing over and over",
                  "3 of 3 that were dropped", "3 h 04 min", "learning_rate: 1.0e-05",
                  "flagged: contradicts label", "from 2.3", "calibration error 11.9 % (9.9–13.9)"):  # fmt: skip
        assert words in text
    for arm in report.arms:
        assert arm in text


def test_page_with_nothing_to_show_says_so(small_report: Report, page_of: Callable) -> None:
    text = " ".join(page_of(render_page(small_report, ReportMaterial())).text.split())
    for words in ("nothing to compare it with", "No arm was trained", "No confidences were binned",
                  "No example clips were chosen", "No arm has a rationale stage", "Nothing was timed"):  # fmt: skip
        assert words in text
    assert "rb-ft" not in text.split("Settings")[0].replace(small_report.headline, "")


def test_many_long_labels_in_any_script_are_all_there(
    long_report: Report, material_of: Callable, page_of: Callable
) -> None:
    page = page_of(render_page(long_report, material_of(long_report, 1, loss_curves=(), reliability={})))
    for label in long_report.dataset.labels:
        assert page.text.count(label) >= 6
    assert "and 3 less likely labels" in page.text


# -- what the page leads to ----------------------------------------------------------------------------------------


def test_artifacts_link_below_the_folder_only(html: str, page_of: Callable) -> None:
    links = [a["href"] for a in page_of(html).all("a") if not a["href"].startswith("#")]
    assert links == ["./predictions/rb-ft.jsonl", "./rationales/kept.jsonl"]
    for path in ("/etc/passwd", "../other", "a/../../b", ""):
        with pytest.raises(ValueError, match="is not a path below the report's folder"):
            ReportMaterial(artifacts={"x": path})


# -- film strips ---------------------------------------------------------------------------------------------------


def test_film_strips_show_frames_with_their_times(html: str, page_of: Callable) -> None:
    page = page_of(html)
    images = page.all("img")
    assert len(images) == 3 * 6
    assert [i["alt"] for i in images[:6]] == [f"frame at {t}" for t in ("0:00.0", "0:03.0", "0:06.0", "0:09.0", "0:12.0", "0:15.0")]  # fmt: skip  # noqa: E501
    first = Image.open(io.BytesIO(base64.b64decode(images[0]["src"].split(",")[1])))
    assert first.format == "JPEG"
    assert first.size == (232, 129) == (int(images[0]["width"]), int(images[0]["height"]))


def test_page_stays_small_with_many_noisy_clips(report: Report, example_of: Callable, page_of: Callable) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (6, 400, 400, 3), dtype=np.uint8)
    many = [
        example_of(i, ["normal", "abnormal"], ["rb-ft"], frames=noise, seconds=range(6), rationale="words " * 100_000,
                   arms={"rb-ft": ArmAnswer("normal" if i != 39 else None, {"normal": 0.6, "abnormal": 0.4})},
                   label="normal")
        for i in range(40)
    ]  # fmt: skip
    html = render_page(report, ReportMaterial(examples=many))
    page = page_of(html)
    assert len(html) < 3_000_000
    assert len(page.all("img")) == 12 * 6
    assert "✗ unreadable" in " ".join(page.text.split())
    assert "more characters)" in page.text


def test_frames_and_instants_must_fit() -> None:
    frames = np.zeros((4, 8, 8, 3), np.uint8)
    with pytest.raises(ValueError, match="clip: 4 frames but 3 instants"):
        ExampleClip("clip", None, frames, [0, 1, 2])
    with pytest.raises(ValueError, match=r"clip: frames are uint8 \[T, H, W, 3\], these are float32 \(4, 8, 8, 3\)"):
        ExampleClip("clip", None, frames.astype(np.float32), [0, 1, 2, 3])
    assert repr(ExampleClip("clip", "a", frames, [0, 1, 2, 3])) == "ExampleClip('clip', label='a', frames=[4, 8, 8, 3])"


def test_categories_have_a_table_with_every_arm_and_stay_out_where_there_are_none(
    report: Report, material: ReportMaterial, page_of: Callable
) -> None:
    assert "Accuracy per category" not in render_page(report, material)
    accuracy = {name: arm.accuracy for name, arm in report.arms.items()}
    few = {name: CategoryReport(clips=n, accuracy=accuracy) for name, n in (("<Wild & life>", 65), ("Pets", 9))}
    page = page_of(render_page(report.model_copy(update={"categories": few}), material))
    [table] = [table for table in page.tables if table[0][0] == "category"]
    assert [row[:2] for row in table] == [["category", "test clips"], ["<Wild & life>", "65"], ["Pets", "9"]]
    assert table[0][2:] == list(report.arms)
    assert [cell.split()[0] for cell in table[1][2:]] == [f"{100 * a.mean:.1f}" for a in accuracy.values()]
