"""The evidence: which experiments it runs, that each is run once, and what is written from their reports."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml
from benchmarks import evidence, markdown, page, running, tables

from rbft.errors import StoreError, UserError
from rbft.experiment import Experiment, load_experiment
from rbft.models.sources import resolve
from rbft.results import ArmFocus, ArmMasking, ArmRetention, Grounding, GroundingComparison, Interval, Report, Retention
from reports import CANNOT, arm, difference, estimate, report, saved, setting, table_of

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "examples" / "tables").glob("*.yaml"))


# -- the experiments -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", FILES, ids=lambda path: path.stem)
def test_every_file_is_the_demo_with_other_arms_and_clips(file: Path) -> None:
    experiment = load_experiment(file)
    demo = load_experiment(ROOT / "examples" / "night-yard.yaml")
    assert experiment.evaluation.retention == running.general_path(evidence.ROOT).as_posix()
    evaluation = experiment.evaluation.model_copy(update={"retention": None})
    experiment = experiment.model_copy(update={"evaluation": evaluation})
    for section in ("model", "prompts", "domain", "sampling", "rationales", "training", "evaluation"):
        assert getattr(experiment, section) == getattr(demo, section), section
    assert experiment.seeds == ((0, 1, 2) if file.stem == "map" else (0, 1, 2, 3, 4))


def test_every_file_is_used_and_every_table_has_one() -> None:
    assert {table.file for table in tables.TABLES} | {tables.CELLS[0].task().file} == set(FILES)


@pytest.mark.parametrize("table", tables.TABLES, ids=lambda table: table.key)
def test_a_table_and_its_file_agree(table: tables.Table) -> None:
    experiment = load_experiment(table.file)
    assert experiment.name == table.yard.name
    assert experiment.clips == table.yard.path(evidence.ROOT).as_posix()
    assert experiment.output == evidence.ROOT.as_posix()
    assert experiment.labels == table.yard.dials.label_rule.definitions
    names = [one.name for one in experiment.arms]
    assert [pair for pair in table.pairs if not set(pair) <= set(names)] == []
    controls = {name for name in names if name.startswith(("matched-", "direct-matched"))}
    if table.pairs:
        assert controls <= {a for a, _ in table.pairs}


def test_a_control_takes_as_many_steps_as_its_arm() -> None:
    for file in FILES:
        for one in load_experiment(file).arms:
            if one.name.startswith("matched-"):
                assert [stage.match_steps_of for stage in one.stages] == [one.name.removeprefix("matched-")]


def test_tables_of_one_yard_share_a_run_directory_and_bases_do_not(tmp_path: Path) -> None:
    first, third = (running.experiment_of(table_of(key).task(), tmp_path) for key in ("table1", "table3"))
    base = resolve("embedded").fingerprint()
    assert first.name == third.name == f"medium-three-{base[:8]}"
    assert first.output == tmp_path.as_posix()
    assert first.clips == (tmp_path / "yards" / "medium-three" / "clips.csv").as_posix()
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text("{}")
    (other / "model.safetensors").write_bytes(b"other weights")
    second = running.experiment_of(table_of("table1-base2").task([f"model={other}"]), tmp_path)
    assert second.name == f"medium-three-{resolve(other).fingerprint()[:8]}" != first.name


def test_other_numbers_of_clips_are_another_manifest_of_the_same_yard(tmp_path: Path) -> None:
    task = table_of("unlabelled").task((), 12, None)
    assert task.yard.path(tmp_path) == tmp_path / "yards" / "medium-three" / "clips-unlabelled-12-200.csv"
    assert (task.yard.num_train, task.yard.num_test, task.yard.num_unlabelled) == (12, 200, 1000)
    assert table_of("table1").task().yard == table_of("table1").yard


def test_unknown_names_of_only_are_told_with_those_there_are() -> None:
    with pytest.raises(UserError, match=r"--only 'table1,tabel2': no table 'tabel2'; there are table1, table2"):
        evidence.chosen("table1,tabel2", ["table1", "table2"], "table")
    assert evidence.chosen("table2, table1", ["table1", "table2"], "table") == ["table1", "table2"]
    assert evidence.chosen(None, ["a", "b"], "table") == ["a", "b"]


# -- running once --------------------------------------------------------------------------------------------------


def test_an_experiment_is_run_once_and_again_for_more_seeds(tmp_path: Path) -> None:
    seen: list[tuple[int, ...]] = []

    def work(task: tables.Task, experiment: Experiment, reporter: Any) -> tuple[Report, None]:
        seen.append(experiment.seeds)
        return report({"rb-ft": arm(0.7, 78)}, []), None

    task = table_of("table1").task(["seeds=[0]"])
    assert running.finished(task, tmp_path, tmp_path / "reports") is None
    first = running.run_task(task, tmp_path, tmp_path / "reports", work=work)
    assert (
        running.run_task(task, tmp_path, tmp_path / "reports", work=work)
        == first
        == running.finished(task, tmp_path, tmp_path / "reports")
    )
    more = table_of("table1").task(["seeds=[0, 1]"])
    assert running.finished(more, tmp_path, tmp_path / "reports") is None
    running.run_task(more, tmp_path, tmp_path / "reports", work=work)
    running.run_task(
        table_of("table1").task(["seeds=[0]", "training.epochs=1"]), tmp_path, tmp_path / "reports", work=work
    )
    assert seen == [(0,), (0, 1), (0,)]


def test_a_setting_that_is_not_asked_for_leaves_an_experiment_finished(tmp_path: Path) -> None:
    def work(task: tables.Task, experiment: Experiment, reporter: Any) -> tuple[Report, None]:
        return report({"rb-ft": arm(0.7, 78)}, []), None

    running.run_task(table_of("table1").task(), tmp_path, tmp_path / "reports", work=work)
    assert running.finished(table_of("table1").task(["split.seed=0"]), tmp_path, tmp_path / "reports") is not None
    assert running.finished(table_of("table1").task(["split.seed=1"]), tmp_path, tmp_path / "reports") is None


def test_an_interrupted_experiment_is_not_finished(tmp_path: Path) -> None:
    def interrupted(task: tables.Task, experiment: Experiment, reporter: Any) -> tuple[Report, None]:
        raise KeyboardInterrupt

    task = table_of("table1").task()
    with pytest.raises(KeyboardInterrupt):
        running.run_task(task, tmp_path, tmp_path / "reports", work=interrupted)
    assert running.finished(task, tmp_path, tmp_path / "reports") is None


def test_the_time_of_a_table_is_that_of_its_own_arms() -> None:
    timing = {"train rb-ft: label": 60.0, "train rb-ft: rationale": 30.0, "predict rb-ft": 4.0, "retention": 9.0,
              "train rb-ft-twice: label": 500.0, "predict rb-ft-twice": 5.0}  # fmt: skip
    made = report({"rb-ft": arm(0.7, 78)}, [], timing=timing)
    assert running.spent_seconds(made) == 94.0
    earlier = report({}, [], timing={"train rb-ft: label": 60.0})
    other = report({}, [], timing={"retention": 1.0}, name="strong-three-12345678")
    assert running.all_seconds([earlier, made, other]) == 608.0 + 1.0


def test_a_report_of_another_version_is_named_with_what_to_do(tmp_path: Path) -> None:
    path = running.saved_path(tmp_path, "table1")
    path.write_text('{"seconds": 3}')
    with pytest.raises(
        StoreError, match=r"table1\.json: not a Saved of this version.*delete the file: what is trained"
    ):
        running.read_saved(tmp_path, "table1")


# -- what is written -----------------------------------------------------------------------------------------------

ARMS = {
    "zero-shot": arm(0.5, 0),
    "direct-matched": arm(0.7, 78),
    "rb-ft": arm(0.75, 78),
    "rb-ft-twice": arm(0.8, 117),
    "matched-rb-ft": arm(0.7, 78),
    "matched-rb-ft-twice": arm(0.72, 117),
}
COMPARISONS = [
    *difference("zero-shot", "direct-matched", 0.2, 0.0004, "helped"),
    *difference("direct-matched", "rb-ft", 0.05, 0.2),
    *difference("rb-ft-twice", "matched-rb-ft-twice", -0.08, 0.0312, "hurt"),
]
PAIRS = (("direct-matched", "zero-shot"), ("matched-rb-ft", "rb-ft"), ("matched-rb-ft-twice", "rb-ft-twice"))


def test_a_section_is_written_from_its_report_alone() -> None:
    table = tables.Table("t", "A title", "A question.", FILES[0], table_of("table1").yard, PAIRS, "table3")
    text = page.section(table, saved(report(ARMS, COMPARISONS)))
    assert (
        text
        == f"""## A title

A question.

* Yard: severity medium (0.5), rule `three`, 2 labels; 200 training clips (101 normal, 99 abnormal); \
200 test clips (120 normal, 80 abnormal).
* Base `embedded` (fingerprint 0123456789abcdef); seeds 0, 1; 3 epochs a stage, learning rate 0.0003, vision 0.0001, \
batches of 16.
* Rationales of the base: 200 written, 197 kept (dropped: 3 repeating).
* Training these arms and asking them took 13 minutes of one CPU process.

> Use rb-ft.

| arm | accuracy | macro-F1 | F1 normal | F1 abnormal | steps |
| --- | ---: | ---: | ---: | ---: | ---: |
| `zero-shot` | 50.0 (45.0–55.0) | 48.0 (43.0–53.0) | 48.0 (43.0–53.0) | 48.0 (43.0–53.0) | 0 |
| `direct-matched` | 70.0 (65.0–75.0) | 68.0 (63.0–73.0) | 68.0 (63.0–73.0) | 68.0 (63.0–73.0) | 78 |
| `rb-ft` | 75.0 (70.0–80.0) | 73.0 (68.0–78.0) | 73.0 (68.0–78.0) | 73.0 (68.0–78.0) | 78 |
| `rb-ft-twice` | 80.0 (75.0–85.0) | 78.0 (73.0–83.0) | 78.0 (73.0–83.0) | 78.0 (73.0–83.0) | 117 |
| `matched-rb-ft-twice` | 72.0 (67.0–77.0) | 70.0 (65.0–75.0) | 70.0 (65.0–75.0) | 70.0 (65.0–75.0) | 117 |
| _always normal_ | 60.0 | 37.5 | 75.0 | 0.0 | – |

| difference | points | 95 % interval | p | verdict |
| --- | ---: | ---: | ---: | --- |
| zero-shot − direct-matched | −20.0 | −25.0 to −15.0 | < 0.001 | hurt |
| zero-shot − direct-matched, macro-F1 | −20.0 | −25.0 to −15.0 | < 0.001 | hurt |
| rb-ft − direct-matched | +5.0 | 0.0 to +10.0 | 0.200 | {CANNOT} |
| rb-ft − direct-matched, macro-F1 | +5.0 | 0.0 to +10.0 | 0.200 | {CANNOT} |
| rb-ft-twice − matched-rb-ft-twice | +8.0 | +3.0 to +13.0 | 0.031 | helped |
| rb-ft-twice − matched-rb-ft-twice, macro-F1 | +8.0 | +3.0 to +13.0 | 0.031 | helped |

| published: Table 3, SmartHome-Bench, 196 test clips | accuracy | F1 normal | F1 abnormal |
| --- | ---: | ---: | ---: |
| Qwen2-VL-7B P+R | 80.61 | 74.67 | 84.30 |
| Qwen2-VL-7B P+C+R | 79.59 | 73.33 | 83.47 |
| Qwen2-VL-7B P+R+C | 80.61 | 73.97 | 84.55 |
| Qwen2.5-VL-7B P+R | 82.65 | 76.06 | 86.40 |
| Qwen2.5-VL-7B P+C+R † | 81.10 | 74.90 | 85.30 |
| Qwen2.5-VL-7B P+R+C † | 81.65 | 75.10 | 85.70 |

† No whole numbers of right answers give this row.
"""
    )


def test_what_every_arm_forgets_is_written() -> None:
    kept = Retention(
        clips=100,
        base={"subjects": estimate(0.9, 0.85, 0.95), "mean": estimate(0.92, 0.9, 0.94)},
        arms={
            name: ArmRetention(
                f1={"subjects": estimate(0.8, 0.75, 0.85), "mean": estimate(0.82, 0.8, 0.84)},
                difference={"subjects": Interval(mean=-0.1, low=-0.2, high=0.0),
                            "mean": Interval(mean=-0.1, low=-0.12, high=-0.08)},
            )
            for name in ("rb-ft", "matched-rb-ft")
        },
    )  # fmt: skip
    table = tables.Table("t", "A title", "A question.", FILES[0], table_of("table1").yard, PAIRS)
    text = page.section(table, saved(report(ARMS, COMPARISONS, retention=kept)))
    assert text.endswith("""
Forgetting: descriptions of 100 general clips against true ones, ROUGE-1 F1.

| arm | subjects | mean | mean − base |
| --- | ---: | ---: | ---: |
| _base_ | 90.0 (85.0–95.0) | 92.0 (90.0–94.0) | – |
| `rb-ft` | 80.0 (75.0–85.0) | 82.0 (80.0–84.0) | −10.0 (−12.0 to −8.0) |
""")


def test_the_document_begins_with_rb_ft_and_the_best_of_the_others() -> None:
    table = tables.Table("t", "Table 9: a title", "A question.", FILES[0], table_of("table1").yard, PAIRS)
    assert (
        page.in_short([(table, saved(report(ARMS, COMPARISONS)))])
        == f"""## In short

| table | arm | points of macro-F1 above its control | verdict |
| --- | --- | ---: | --- |
| Table 9: a title | `rb-ft` | +5.0 (0.0 to +10.0) | {CANNOT} |
| Table 9: a title | `rb-ft-twice`, the best of the others | +8.0 (+3.0 to +13.0) | helped |

All of these tables took 13 minutes of one process; `make evidence` keeps two busy.
"""
    )
    assert page.in_short([(table_of("table5"), saved(report(ARMS, COMPARISONS)))]) == ""


def test_a_comparison_that_is_not_there_is_an_error() -> None:
    with pytest.raises(KeyError, match="no comparison of rb-ft and direct in accuracy"):
        markdown.comparison(report(ARMS, COMPARISONS), "rb-ft", "direct", "accuracy")


def test_published_rows_fit_whole_numbers_where_the_paper_fits_them() -> None:
    published = yaml.safe_load((ROOT / "benchmarks" / "published.yaml").read_text(encoding="utf-8"))
    odd = {
        (key, name)
        for key, table in published.items()
        for name, values in table["rows"].items()
        if "counts" in table and not page.whole(values, *table["counts"].values())
    }
    assert {key for key, _ in odd} == {"table3", "table4"}
    assert len(odd) == 6
    assert {table.published for table in tables.TABLES} - {None} == set(published)
    assert all(len(values) == len(t["columns"]) for t in published.values() for values in t["rows"].values())


def test_what_objects_and_attention_tell_is_written() -> None:
    masking = ArmMasking(
        original=arm(0.7, 78), random=arm(0.6, 78), objects=arm(0.5, 78), random_drop=estimate(0.1, 0.05, 0.15),
        object_drop=estimate(0.2, 0.1, 0.3), effect=estimate(0.1, -0.02, 0.2),
    )  # fmt: skip
    share = estimate(0.3, 0.25, 0.35)
    focus = ArmFocus(visual_share=share, mass=share, pointing=share, gradient_mass=share, gradient_pointing=share)
    change = Interval(mean=0.05, low=-0.01, high=0.1)
    found = Grounding(
        name="x", objects="boxes", clips=190, clips_without_objects=10, area=0.06, target_share=0.11,
        covered_share=0.08, touched_share=0.0, attention={"rb-ft": focus}, masking={"rb-ft": masking},
        comparisons=(GroundingComparison(a="direct", b="rb-ft", mass=change),), notes=("a note",),
    )  # fmt: skip
    text = page.section(table_of("table5"), saved(report(ARMS, COMPARISONS), grounding=found), ["attention.png"])
    assert "190 test clips with objects, from boxes. Covered: 8.0 % of the pixels; of the random patches, 0.0 %" in text
    assert (
        "| `rb-ft` | 70.0 (65.0–75.0) | 60.0 (55.0–65.0) | 50.0 (45.0–55.0) | +10.0 (+5.0 to +15.0) | "
        "+20.0 (+10.0 to +30.0) | +10.0 (−2.0 to +20.0) |\n"
    ) in text
    assert "| `rb-ft` | 30.0 (25.0–35.0) | 30.0 (25.0–35.0) | 30.0 (25.0–35.0) | 30.0 (25.0–35.0) |\n" in text
    assert "| _chance_ | 6.0 | 11.0 | 6.0 | 11.0 |\n" in text
    assert "| `rb-ft` − `direct` | +5.0 (−1.0 to +10.0) | – | – | – |\n" in text
    assert "](images/attention.png)\n* a note\n" in text
    assert "| Qwen2-VL-7B RB-FT, objects covered | 66.33 | 40.00 | 76.60 |\n" in text
    assert "attention.png" not in page.section(table_of("table5"), saved(report(ARMS, COMPARISONS), grounding=found))


# -- the document --------------------------------------------------------------------------------------------------


def test_a_document_says_what_is_not_measured_yet() -> None:
    text = page.render({}, {"mild-three-50": setting(0.0)})
    assert text.count("## ") == 3  # the map, its arm, and what is waiting
    assert "* Table 2: three labels, one of them rare (`make evidence`)\n" in text
    assert '(`make evidence ARGS="--base2 FOLDER"`)\n' in text
    assert "* When it pays: 17 of 18 settings (`make map`)\n" in text


def test_only_the_present_base_is_shown_and_any_other_as_the_second(tmp_path: Path) -> None:
    here, other = {"base": resolve("embedded").fingerprint()}, {"base": "feedfeedfeedfeed"}
    for key, base in (("table1", other), ("table3", here), ("table1-base2", other)):
        pairs = table_of(key).pairs
        names = list(dict.fromkeys(name for pair in pairs for name in pair))
        comparisons = [c for a, b in combinations(names, 2) for c in difference(a, b, 0.01, 0.5)]
        made = report({name: arm(0.7, 78) for name in names}, comparisons, fingerprints=base)
        running.write_record(running.saved_path(tmp_path / "evidence", key), saved(made))
    page.write_document(tmp_path, tmp_path / "evidence.md")
    text = (tmp_path / "evidence.md").read_text(encoding="utf-8")
    headings = [line for line in text.splitlines() if line.startswith("## ")]
    assert headings == [
        "## In short",
        "## Table 1 again, from a second base",
        "## Table 3: where the label stands in a rationale",
        "## Not measured yet",
    ]


def test_the_evidence_runs_end_to_end_and_a_second_time_does_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setattr(running, "GENERAL_CLIPS", 3)
    options = ["training.epochs=1", "--only", "table1", "--seeds", "0", "--train", "8", "--test", "6", "--jobs", "1"]
    options += ["--root", str(tmp_path / "evidence"), "--out", str(tmp_path / "docs" / "evidence.md")]
    evidence.main(options)
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    text = (tmp_path / "docs" / "evidence.md").read_text(encoding="utf-8")
    rows = [line.split(" | ")[0] for line in text.splitlines() if line.startswith(("| `", "| _"))]
    assert rows[:4] == ["| `zero-shot`", "| `direct`", "| `direct-matched`", "| `rb-ft`"]
    assert rows[4].startswith("| _always ")
    assert "8 training clips" in text
    assert "6 test clips" in text
    assert "descriptions of 3 general clips" in text
    assert str(tmp_path) not in text
    evidence.main(options)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()} == files
    options[options.index("--root") + 1] = str(tmp_path / "elsewhere")
    capsys.readouterr()
    evidence.main(options)
    assert f"table1: measured already, {tmp_path / 'docs' / 'evidence' / 'table1.json'}" in capsys.readouterr().err
    assert not (tmp_path / "elsewhere").exists(), "the reports stand beside the document: nothing is run again"
    assert (tmp_path / "docs" / "evidence.md").read_text(encoding="utf-8") == text
