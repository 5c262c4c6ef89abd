"""The benchmarks of speed without clocks: their arithmetic, what they promise, and what does not grow."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from benchmarks.speed import __main__ as speed
from benchmarks.speed import growth, measuring, page
from benchmarks.speed.clips import make_clip
from benchmarks.speed.measuring import Measured, Row, check_close, peak_megabytes
from benchmarks.speed.model import like_real_lengths
from benchmarks.speed.read import _OURS

from rbft.clips.decode import decode
from rbft.clips.frames import plan_frames
from rbft.clips.probe import examine
from rbft.experiment import ClipLimits, Sampling
from rbft.files import read_record
from rbft.records import Grid


def row(ours: float, theirs: float, promised: float | None = 2.0) -> Row:
    return Row(phase="a phase", case="a case", against="a peer", ours=ours, theirs=theirs, unit="ms", promised=promised,
               equal="equal")  # fmt: skip


def test_a_ratio_says_how_many_times_less_ours_is() -> None:
    assert (row(2.0, 5.0).ratio, row(2.0, 5.0).kept, row(3.0, 5.0).kept) == (2.5, True, False)
    assert row(3.0, 5.0, None).kept
    assert measuring.cells(row(2.0, 5000.0)) == [
        "a phase", "a case", "a peer", "2", "5,000", "ms", "2,500", "2", "yes", "equal",
    ]  # fmt: skip
    assert measuring.cells(row(3.0, 5.0))[-2] == "NO"


def test_nothing_is_timed_where_outputs_differ() -> None:
    assert check_close("loss", 1e-6, 1e-5) == "loss within 1.0e-06"
    with pytest.raises(
        SystemExit, match=r"^loss: the outputs differ by 0.1, at most 1e-05 is allowed; nothing was timed$"
    ):
        check_close("loss", 0.1, 1e-5)
    with pytest.raises(SystemExit):
        check_close("loss", float("nan"), 1e-5)


def test_both_sides_are_run_equally_often_in_turn() -> None:
    calls: list[str] = []
    measuring.in_turn(lambda: calls.append("ours"), lambda: calls.append("theirs"), repeats=3, warm_up=1)
    assert calls == ["theirs", "ours", "ours", "theirs", "theirs", "ours", "ours", "theirs"]


def test_lengths_are_even_and_bounded() -> None:
    lengths = like_real_lengths(200, median=12, cap=48)
    assert all(length % 2 == 0 and 4 <= length <= 48 for length in lengths)
    assert 10 <= float(np.median(lengths)) <= 14


def test_every_phase_has_a_script_that_explains_itself() -> None:
    folder = Path(speed.__file__).parent
    for phase in speed.PHASES:
        text = (folder / f"{phase}.py").read_text(encoding="utf-8")
        assert f"python -m benchmarks.speed.{phase}" in text.split('"""')[1], phase


def test_an_unknown_phase_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["speed", "--only", "read,write"])
    with pytest.raises(SystemExit):
        speed.main()
    assert "no phase write; phases are read, passes, collate" in capsys.readouterr().err


def test_the_page_says_where_it_was_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notes = tmp_path / "notes.md"
    notes.write_text("## Notes\n", encoding="utf-8")
    monkeypatch.setattr(page, "NOTES", notes)
    monkeypatch.setattr(page, "PAGE", tmp_path / "page.md")
    found = Measured(
        phase="read", rows=(row(2.0, 5.0),), machine="a machine", threads=1, versions={"av": "1"}, day="today"
    )
    page.write_page([found])
    text = (tmp_path / "page.md").read_text(encoding="utf-8")
    assert "| a phase | a case | a peer | 2 | 5 | ms | 2.5 | 2 | yes | equal |" in text
    assert "Measured on a machine, 1 thread(s), today; av 1 (read)." in text
    assert text.endswith("## Notes\n")


def test_the_page_is_made_of_what_is_measured() -> None:
    """Every row of docs/performance/*.json stands in docs/performance.md, and keeps what it promises or says NO."""
    text = page.PAGE.read_text(encoding="utf-8")
    for path in page.REPORTS.glob("*.json"):
        for comparison in read_record(path, Measured).rows:
            assert f"| {' | '.join(measuring.cells(comparison))} |" in text, path.name


# -- what does not grow --------------------------------------------------------------------------------------------


def test_memory_of_a_read_does_not_grow_with_length(tmp_path: Path) -> None:
    """Four times the frames at one size: beside the frames that are kept, a few megabytes more at most."""
    short, long = (
        make_clip(tmp_path / f"{seconds}.mp4", seconds=seconds, width=640, height=360, fps=5) for seconds in (15, 60)
    )
    kept = [frames_of(clip).nbytes / 1e6 for clip in (short, long)]
    peaks = [peak_megabytes(_OURS, str(clip)) - more for clip, more in zip((short, long), kept, strict=True)]
    assert peaks[1] < peaks[0] + 8
    assert max(peaks) < 100


def frames_of(clip: Path) -> np.ndarray:
    limits = ClipLimits()
    probe, index = examine(clip, limits)
    return decode(clip, plan_frames(probe, Sampling(), Grid()), probe, limits, index=index).data


def test_a_whole_recipe_decodes_every_clip_once(tmp_path: Path) -> None:
    """Rationales, two stages and the evaluation read each clip; its file is decoded once."""
    assert growth.whole_run(tmp_path, 8)["decodes"] == 8


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "many"])
def test_a_count_is_at_least_one(
    text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["speed", f"--repeats={text}"])
    with pytest.raises(SystemExit) as caught:
        speed.main()
    assert caught.value.code == 2
    assert f"argument --repeats: {text!r} is no count; give a whole number of at least 1" in capsys.readouterr().err
