"""The map: its settings as experiments, its numbers, its picture."""

from __future__ import annotations

from pathlib import Path

from benchmarks import grid, map, markdown, running, tables

from reports import CANNOT, arm, difference, report, saved, setting


def test_the_map_has_every_setting_once() -> None:
    names = [cell.name for cell in tables.CELLS]
    assert len(set(names)) == len(names) == 3 * 3 * 2
    assert {"mild-attribute-50", "medium-three-200", "strong-three-400"} <= set(names)


def test_a_setting_of_the_map_becomes_an_experiment(tmp_path: Path) -> None:
    task = tables.Cell("strong", "attribute", 50).task(["rb-ft-joint"], ["seeds=[7]"])
    experiment = running.experiment_of(task, tmp_path)
    assert task.key == "map-strong-attribute-50"
    assert task.yard.dials == tables.YardDials(severity=0.65, rule="attribute")
    assert (task.yard.num_train, task.yard.num_test) == (50, 200)
    assert experiment.clips == (tmp_path / "yards" / "strong-attribute" / "clips-50.csv").as_posix()
    assert experiment.labels == {"normal": "anything else", "abnormal": "a bear, a truck or a person"}
    assert [one.name for one in experiment.arms] == [
        "zero-shot", "direct", "direct-matched", "rb-ft", "rb-ft-joint", "matched-rb-ft-joint",
    ]  # fmt: skip
    assert experiment.seeds == (7,)
    assert experiment.name.startswith("strong-attribute-")
    plain = running.experiment_of(tables.Cell("strong", "attribute", 400).task(), tmp_path)
    assert plain.name == experiment.name
    assert [one.name for one in plain.arms] == ["zero-shot", "direct", "direct-matched", "rb-ft"]
    assert plain.seeds == (0, 1, 2)


def test_the_map_counts_where_it_pays() -> None:
    cells = {
        "mild-attribute-50": setting(0.06),
        "mild-three-50": setting(0.04),
        "mild-three-200": setting(0.0),
        "strong-three-400": setting(-0.07),
    }
    text = grid.map_section(cells, ["map.png"])
    assert "* 200 test clips; seeds 0, 1; 4 of 18 settings.\n* All of it took 13 minutes of one process.\n" in text
    assert (
        "\n### rb-ft\n\nOf 4 settings, rb-ft is ahead of its control by +5.0 points of macro-F1 or more, with an "
        "interval above zero, in 1; ahead by any number with an interval above zero in 1; behind with one below zero "
        "in 1.\n\n"
        "![What rb-ft gains over its control in every setting](images/map.png)\n"
    ) in text
    assert (
        "| mild, `three`, 50 | 68.0 (63.0–73.0) | 68.0 (63.0–73.0) | 68.0 (63.0–73.0) | 72.0 (67.0–77.0) | "
        f"+4.0 (−1.0 to +9.0) | 0.010 | {CANNOT} |\n"
    ) in text
    assert "map.png" not in grid.map_section(cells)


def test_another_arm_is_mapped_against_its_own_control() -> None:
    arms = {name: arm(0.7, 78) for name in ("direct-matched", "rb-ft", "rb-ft-joint", "matched-rb-ft-joint")}
    found = report(
        arms,
        difference("direct-matched", "rb-ft", 0.01, 0.5) + difference("rb-ft-joint", "matched-rb-ft-joint", -0.03, 0.5),
    )
    cells = {"mild-three-50": saved(found), "mild-three-200": setting(0.02)}
    assert grid.arms_of(cells) == ["rb-ft", "rb-ft-joint"]
    [(where, gained)] = grid.gains(cells, "rb-ft-joint").items()
    assert where.name == "mild-three-50"
    assert (gained.a, gained.b, gained.difference) == ("matched-rb-ft-joint", "rb-ft-joint", 0.03)
    assert [round(c.difference, 2) for c in grid.gains(cells, "rb-ft").values()] == [0.01, 0.02]


def test_the_picture_of_the_map_is_the_same_for_the_same_numbers() -> None:
    gained = grid.gains({"mild-three-50": setting(0.06), "strong-attribute-400": setting(-0.07)}, "rb-ft")
    turned = {where: markdown.mirrored(one) for where, one in gained.items()}
    first = map.draw(gained, "rb-ft")
    assert first.startswith(b"\x89PNG")
    assert map.draw(gained, "rb-ft") == first
    assert map.draw(turned, "rb-ft") != first


def test_the_first_setting_tells_how_long_the_others_take(tmp_path: Path) -> None:
    first = tables.Cell("mild", "three", 200).task()
    rest = [tables.Cell("mild", "three", 400).task(), tables.Cell("mild", "attribute", 50).task()]
    # 3 epochs x 5 shares x 3 seeds x 13, 25 and 4 batches of 16 clips
    assert map.steps_of(running.experiment_of(first, tmp_path), 200) == 585
    assert map.estimate(first, 585.0, rest, tmp_path, 2) == (
        "map-mild-three-200 took 9.8 minutes for 585 optimizer steps; the other 2 settings will take about 11 minutes "
        "with 2 processes"
    )
