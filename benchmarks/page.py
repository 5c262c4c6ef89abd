"""docs/evidence.md from saved reports: the same reports give the same text, and no number is written by hand."""

from __future__ import annotations

import math
import shutil
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from benchmarks.folded import Folded, all_folded, folded_section
from benchmarks.grid import map_section
from benchmarks.markdown import RULE, cell, comparison, difference_rows, head, interval_cell, minutes, row
from benchmarks.running import Saved, all_seconds, read_saved, reports_of, spent_seconds
from benchmarks.tables import CELLS, CONTROL, TABLES, Table, Yard

from rbft.evaluation.retention import MEAN
from rbft.files import read_yaml, write_text
from rbft.models.sources import EMBEDDED, resolve
from rbft.report.tables import Value, main_rows, percent, report_words
from rbft.results import Comparison, Grounding, Report, Retention

PICTURE = "attention.png"
_PUBLISHED = Path(__file__).with_name("published.yaml")
_HEAD = """# Evidence

What the embedded model measures on its night yard, table by table of the paper, and beyond. Written by `make evidence`
and `make map` from the reports of their runs: every number here is one of theirs. Percent, with 95 % intervals over
clips and seeds together; differences in points. What the words of a verdict mean: [statistics.md](statistics.md). What
the model and the yard are: [tiny.md](tiny.md). Published rows are of other clips and other models: they are context,
not targets. Arms that stand in several tables are trained once; the time of a table counts all of its own.
"""


def write_document(root: Path, document: Path, tables: Sequence[Table] = TABLES) -> None:
    """Write the document from the reports beside it; other bases' are left out, but for the second base.

    The picture of Figure 2 is copied from the runs below `root`. What is there with the same content is left as it is.
    A report that lacks what its table shows, since the table has changed, is not shown.
    """
    base, reports = resolve(EMBEDDED).fingerprint(), reports_of(document)
    saved = {table.key: (table, read_saved(reports, table.key)) for table in tables}
    shown = {
        key: one
        for key, (table, one) in saved.items()
        if one is not None and _belongs(key, one, base) and _is_whole(table, one)
    }
    images = document.parent / "images"
    if "table5" in shown:
        _copy_picture(root, shown["table5"], images / PICTURE)
    pictures = {path.name for path in images.glob("*.png")}
    text = render(shown, current_cells(reports), tables=tables, pictures=pictures, folded=all_folded(reports))
    if not document.is_file() or document.read_text(encoding="utf-8") != text:
        write_text(document, text)


def current_cells(reports: Path) -> dict[str, Saved]:
    """The settings of the map that were measured with the embedded model as it is now, by name."""
    base = resolve(EMBEDDED).fingerprint()
    cells = {cell.name: read_saved(reports, cell.key) for cell in CELLS}
    return {name: one for name, one in cells.items() if one is not None and _belongs(name, one, base)}


def _is_whole(table: Table, saved: Saved) -> bool:
    return {arm for pair in table.pairs for arm in pair} <= set(saved.report.arms)


def _belongs(key: str, saved: Saved, base: str) -> bool:
    """Whether a report is of the embedded model as it is now (the second base's: of another)."""
    return (saved.report.fingerprints["base"] == base) != (key == "table1-base2")


def _copy_picture(root: Path, saved: Saved, picture: Path) -> None:
    made = root / saved.report.name / "grounding" / "example-1.png"
    if made.is_file() and not (picture.is_file() and picture.read_bytes() == made.read_bytes()):
        picture.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(made, picture)


def render(
    saved: Mapping[str, Saved],
    cells: Mapping[str, Saved],
    *,
    tables: Sequence[Table] = TABLES,
    pictures: Collection[str] = (),
    folded: Sequence[Folded] = (),
) -> str:
    """The whole document: a section for each table in `saved`, the map's, real clips', and what is not measured yet.

    `pictures` are the names of those that are there to be shown.
    """
    parts = [_HEAD]
    if short := in_short([(table, saved[table.key]) for table in tables if table.key in saved]):
        parts.append(short)
    parts += [section(table, saved[table.key], pictures) for table in tables if table.key in saved]
    if cells:
        parts.append(map_section(cells, pictures))
    parts += [folded_section(one) for one in folded]
    waiting = [f"* {table.title} (`make evidence{_option(table)}`)" for table in tables if table.key not in saved]
    if len(cells) < len(CELLS):
        waiting.append(f"* When it pays: {len(CELLS) - len(cells)} of {len(CELLS)} settings (`make map`)")
    if not folded:
        waiting.append("* Real clips: cross-validation (`python -m benchmarks.folds`, where the clips are at hand)")
    if waiting:
        parts.append("\n".join(["## Not measured yet", "", *waiting]) + "\n")
    return "\n".join(parts)


def in_short(shown: Sequence[tuple[Table, Saved]]) -> str:
    """Of every table `rb-ft` and the arm that gained most, each minus the control with as many steps, in macro-F1."""
    lines = []
    for table, saved in shown:
        gains = _gains(saved.report, table.pairs)
        best = max((one for one in gains if one.b != "rb-ft"), key=lambda one: one.difference, default=None)
        noted = [(one, "") for one in gains if one.b == "rb-ft"]
        noted += [] if best is None else [(best, ", the best of the others")]
        for one, note in noted:
            gained = cell(Value(one.difference, one.low, one.high), signed=True)
            lines.append(row([table.title, f"`{one.b}`{note}", gained, one.verdict]))
    if not lines:
        return ""
    spent = all_seconds(saved.report for _, saved in shown)
    took = f"All of these tables took {minutes(spent)} of one process; `make evidence` keeps two busy."
    columns = ["table", "arm", "points of macro-F1 above its control", "verdict"]
    return "\n".join(["## In short", "", row(columns), row(["---", "---", "---:", "---"]), *lines, "", took]) + "\n"


def _gains(report: Report, pairs: Sequence[tuple[str, str]]) -> list[Comparison]:
    """Every arm that learns rationales minus its control in macro-F1."""
    return [
        comparison(report, CONTROL if same_as_control(report, a) else a, b, "macro_f1")
        for a, b in pairs
        if (a == CONTROL or a.startswith("matched-")) and b not in ("zero-shot", "direct", "direct-balanced")
    ]


def _option(table: Table) -> str:
    return ' ARGS="--base2 FOLDER"' if table.key == "table1-base2" else ""


# -- one table -----------------------------------------------------------------------------------------------------


def section(table: Table, saved: Saved, pictures: Collection[str] = ()) -> str:
    """Question, settings, rows, differences and published rows of one table, as Markdown."""
    report = saved.report
    lines = [f"## {table.title}", "", table.question, "", *settings(table.yard, report), ""]
    if table.grounding:
        assert saved.grounding is not None
        lines += grounding_lines(saved.grounding, picture=PICTURE in pictures)
    else:
        words = " ".join(text for _, text in report_words(report)[:2])
        lines += [f"> {words}", "", *arm_rows(report), "", *differences(report, table.pairs)]
        if report.retention is not None:
            lines += ["", *retention_rows(report, report.retention)]
    if table.published is not None:
        lines += ["", *published_rows(read_yaml(_PUBLISHED)[table.published])]
    return "\n".join(lines) + "\n"


def settings(yard: Yard, report: Report) -> list[str]:
    """What the numbers are of, and how long they took, one item each."""
    data, asked = report.dataset, report.experiment
    per_label = [", ".join(f"{n} {label}" for label, n in of.items()) for of in (data.train_labels, data.labels)]
    unlabelled = f"; {data.unlabelled} unlabelled" if data.unlabelled else ""
    recipe, seeds = asked["training"], ", ".join(map(str, asked["seeds"]))
    lines = [
        f"* Yard: severity {yard.severity} ({yard.dials.severity:g}), rule `{yard.dials.rule}`, {len(data.labels)} "
        f"labels; {data.train} training clips ({per_label[0]}){unlabelled}; {data.test} test clips ({per_label[1]}).",
        f"* Base `{_base_name(asked['model'])}` (fingerprint {report.fingerprints['base']}); seeds {seeds}; "
        f"{recipe['epochs']:g} epochs a stage, learning rate {recipe['learning_rate']:g}, vision "
        f"{recipe['vision_learning_rate']:g}, batches of {recipe['batch_size']}.",
    ]
    if report.rationales is not None:
        written = report.rationales
        dropped = ", ".join(f"{n} {reason}" for reason, n in written.dropped.items() if n)
        lines.append(
            f"* Rationales of the base: {written.written} written, {written.kept} kept"
            + (f" (dropped: {dropped})." if dropped else ".")
        )
    took = minutes(spent_seconds(report))
    return [*lines, f"* Training these arms and asking them took {took} of one {report.environment['device']} process."]


def _base_name(model: str) -> str:
    """The base as the experiment names it; a folder by its last two names, since its place is this machine's own."""
    return "/".join(Path(model).parts[-2:])


def arm_rows(report: Report) -> list[str]:
    """A row for each arm, and for the majority class. Controls that are the same as `direct-matched` have none."""
    labels = [label for label, count in report.dataset.labels.items() if count]
    keys = ["accuracy", "macro_f1", *(f"f1:{label}" for label in labels)]
    lines = head(["arm", "accuracy", "macro-F1", *(f"F1 {label}" for label in labels), "steps"])
    for line in main_rows(report):
        if line.kind == "arm" and not same_as_control(report, line.name):
            steps = f"{report.arms[line.name].num_steps:,}"
            lines.append(row([f"`{line.name}`", *(cell(line.values.get(key)) for key in keys), steps]))
        elif line.note == "the majority class":
            lines.append(row([f"_{line.name}_", *(cell(line.values.get(key)) for key in keys), RULE]))
    return lines


def same_as_control(report: Report, arm: str) -> bool:
    """Whether an arm is a control of its own that came out as the same checkpoints as `direct-matched`."""
    return arm.startswith("matched-") and CONTROL in report.arms and report.arms[arm] == report.arms[CONTROL]


def differences(report: Report, pairs: Sequence[tuple[str, str]]) -> list[str]:
    """A row for each pair and metric, from the report's own comparisons."""
    found: list[Comparison] = []
    for a, b in pairs:
        a = CONTROL if same_as_control(report, a) else a
        found += [comparison(report, a, b, metric) for metric in ("accuracy", "macro_f1")]
    return difference_rows(found)


def retention_rows(report: Report, kept: Retention) -> list[str]:
    """What arms forget: a row for the base and each trained arm by dimension, and the change of their mean."""
    lines = [f"Forgetting: descriptions of {kept.clips} general clips against true ones, ROUGE-1 F1.", ""]
    lines += head(["arm", *kept.base, "mean − base"])
    lines.append(row(["_base_", *(interval_cell(score) for score in kept.base.values()), RULE]))
    for arm, of in kept.arms.items():
        if not same_as_control(report, arm):
            change = interval_cell(of.difference[MEAN], signed=True)
            lines.append(row([f"`{arm}`", *(interval_cell(score) for score in of.f1.values()), change]))
    return lines


# -- Table 5 and Figure 2 ------------------------------------------------------------------------------------------


def grounding_lines(found: Grounding, *, picture: bool) -> list[str]:
    """Accuracy with and without the objects, attention in boxes, and the differences between arms."""
    lines = [f"{found.clips} test clips with objects, from {found.objects}."]
    if found.masking and found.covered_share is not None and found.touched_share is not None:
        lines[0] += (
            f" Covered: {percent(found.covered_share)} % of the pixels; of the random patches, "
            f"{percent(found.touched_share)} % lie on an object."
        )
        lines += ["", *head(["arm", "original", "random covered", "objects covered", "random drop", "object drop",
                             "objects − random"])]  # fmt: skip
        for arm, of in found.masking.items():
            accuracies = [interval_cell(one.accuracy) for one in (of.original, of.random, of.objects)]
            drops = [interval_cell(drop, signed=True) for drop in (of.random_drop, of.object_drop, of.effect)]
            lines.append(row([f"`{arm}`", *accuracies, *drops]))
    if found.attention and found.area is not None and found.target_share is not None:
        lines += ["", *head(["arm", "attention in boxes", "pointing game", "in boxes, by gradient",
                             "pointing, by gradient"])]  # fmt: skip
        for arm, seen in found.attention.items():
            shares = (seen.mass, seen.pointing, seen.gradient_mass, seen.gradient_pointing)
            lines.append(row([f"`{arm}`", *map(interval_cell, shares)]))
        area, target = percent(found.area), percent(found.target_share)
        lines.append(row(["_chance_", area, target, area, target]))
    lines += ["", *_grounding_differences(found)]
    if picture:
        lines += ["", f"![Frames with their objects, and the attention of each arm](images/{PICTURE})"]
    return lines + [f"* {note}" for note in found.notes]


def _grounding_differences(found: Grounding) -> list[str]:
    lines = head(["difference, points", "attention in boxes", "pointing game", "object drop", "objects − random"])
    for one in found.comparisons:
        parts = (one.mass, one.pointing, one.object_drop, one.effect)
        lines.append(row([f"`{one.b}` − `{one.a}`", *(interval_cell(part, signed=True) for part in parts)]))
    return lines


# -- published rows ------------------------------------------------------------------------------------------------


def published_rows(table: Mapping[str, object]) -> list[str]:
    """The paper's rows as printed; those that no whole numbers of right answers give are marked."""
    columns, rows, counts = table["columns"], table["rows"], table.get("counts")
    assert isinstance(columns, list) and isinstance(rows, dict)
    lines = head([f"published: {table['source']}", *columns])
    marked = False
    for name, values in rows.items():
        odd = isinstance(counts, dict) and not whole(values, *counts.values())
        marked = marked or odd
        lines.append(row([f"{name}{' †' if odd else ''}", *(f"{value:.2f}" for value in values)]))
    return [*lines, "", "† No whole numbers of right answers give this row."] if marked else lines


def whole(values: Sequence[float], negatives: int, positives: int) -> bool:
    """Whether accuracy, F1 of the negative and of the positive label, in percent to two decimals, fit whole counts."""
    total = negatives + positives
    for right_negative in range(negatives + 1):
        for right_positive in range(positives + 1):
            errors = total - right_negative - right_positive
            made = (
                (right_negative + right_positive) / total,
                2 * right_negative / max(2 * right_negative + errors, 1),
                2 * right_positive / max(2 * right_positive + errors, 1),
            )
            if all(math.isclose(100 * m, v, abs_tol=0.0051) for m, v in zip(made, values, strict=True)):
                return True
    return False
