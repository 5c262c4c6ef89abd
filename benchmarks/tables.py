"""What is measured for docs/evidence.md: the tables of the paper, what lies beyond it, and the settings of the map.

Every experiment is a file in examples/tables; the clips of each are a night yard, named by its dials.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rbft.tiny.night_yard import SEVERITIES, YardDials, write_night_yard

EXAMPLES = Path(__file__).parents[1] / "examples" / "tables"
YARD_SEED = 0
CONTROL = "direct-matched"
MAP_SEVERITIES = ("mild", "medium", "strong")
MAP_CLIPS = (50, 200, 400)
MAP_RULES = ("attribute", "three")


@dataclass(frozen=True)
class Yard:
    """The clips of an experiment: a night yard's dials, how many of its clips, and the manifest that lists these."""

    dials: YardDials
    num_train: int = 200
    num_test: int = 200
    num_unlabelled: int = 0
    manifest: str = "clips.csv"

    @property
    def severity(self) -> str:
        """The severity as a word."""
        return next(name for name, value in SEVERITIES.items() if value == self.dials.severity)

    @property
    def name(self) -> str:
        """The folder of these dials: `medium-three`, `medium-three-labels`. Yards of several sizes share it."""
        return f"{self.severity}-{self.dials.rule}" + ("-labels" if self.dials.labels == "three" else "")

    def path(self, root: Path) -> Path:
        """Where the manifest is, below the folder of the evidence."""
        return root / "yards" / self.name / self.manifest

    def render(self, root: Path) -> Path:
        """Write the clips that are not there yet; returns the manifest's path."""
        return write_night_yard(
            self.path(root).parent,
            self.dials,
            num_train=self.num_train,
            num_test=self.num_test,
            num_unlabelled=self.num_unlabelled,
            seed=YARD_SEED,
            manifest=self.manifest,
        )

    def resized(self, num_train: int | None, num_test: int | None) -> Yard:
        """The same dials with other numbers of clips (None: as they are), under a manifest of their own."""
        if num_train is None and num_test is None:
            return self
        train, test = num_train or self.num_train, num_test or self.num_test
        stem = Path(self.manifest).stem
        return replace(self, num_train=train, num_test=test, manifest=f"{stem}-{train}-{test}.csv")


@dataclass(frozen=True)
class Task:
    """One experiment to run: `key` names its saved report. With `grounding`, its run is also explained."""

    key: str
    file: Path
    yard: Yard
    overrides: tuple[str, ...] = ()
    grounding: bool = False


@dataclass(frozen=True)
class Table:
    """One section of the evidence.

    `pairs` are the differences to show, each (a, b) as b minus a. A control of the form `matched-ARM` whose row is that
    of `direct-matched` is the same checkpoints; the section then names `direct-matched` alone.
    """

    key: str
    title: str
    question: str
    file: Path
    yard: Yard
    pairs: tuple[tuple[str, str], ...] = ()
    published: str | None = None
    grounding: bool = False

    def task(self, overrides: Sequence[str] = (), num_train: int | None = None, num_test: int | None = None) -> Task:
        """The experiment behind the section."""
        yard = self.yard.resized(num_train, num_test)
        return Task(self.key, self.file, yard, tuple(overrides), self.grounding)


def _own_controls(arms: Sequence[str]) -> tuple[tuple[str, str], ...]:
    return tuple((f"matched-{arm}", arm) for arm in arms)


_DEFAULT = Yard(YardDials())
_MAIN_PAIRS = ((CONTROL, "zero-shot"), (CONTROL, "direct"), (CONTROL, "rb-ft"))
_FORMATS = ("rb-ft-p+c+r", "rb-ft-p+r+c")
OWN_SHARES = tuple(f"own-{share}" for share in (80, 60, 40, 20, 0))
BEYOND = tuple(
    f"rb-ft-{name}"
    for name in ("voted", "confident", "right", "audited", "distilled", "hinted", "twice", "labels-first", "joint",
                 "describe")
)  # fmt: skip

TABLES = (
    Table(
        "table1",
        "Table 1: does RB-FT beat direct fine-tuning?",
        "`direct` learns the labels for as many epochs as each stage of `rb-ft` has; `direct-matched` learns them for "
        "as many optimizer steps as both stages of `rb-ft` take together.",
        EXAMPLES / "table1.yaml",
        _DEFAULT,
        (*_MAIN_PAIRS, ("direct", "rb-ft")),
        "table1",
    ),
    Table(
        "table1-base2",
        "Table 1 again, from a second base",
        "The same experiment from another base model, as the paper has two.",
        EXAMPLES / "table1.yaml",
        _DEFAULT,
        (*_MAIN_PAIRS, ("direct", "rb-ft")),
    ),
    Table(
        "table2",
        "Table 2: three labels, one of them rare",
        "Labels weighted as they come, and (`-balanced`) so that each label weighs the same in the label stage.",
        EXAMPLES / "table2.yaml",
        Yard(YardDials(labels="three")),
        (
            *_MAIN_PAIRS,
            ("matched-rb-ft-balanced", "direct-balanced"),
            ("matched-rb-ft-balanced", "rb-ft-balanced"),
            ("rb-ft", "rb-ft-balanced"),
        ),
        "table2",
    ),
    Table(
        "table3",
        "Table 3: where the label stands in a rationale",
        "`rb-ft` learns rationales without the label (P+R); the other two with the label before or after them.",
        EXAMPLES / "table3.yaml",
        _DEFAULT,
        ((CONTROL, "rb-ft"), *_own_controls(_FORMATS), *(("rb-ft", arm) for arm in _FORMATS)),
        "table3",
    ),
    Table(
        "table4",
        "Table 4: the model's own rationales, or human ones",
        "`own-N`: N % of the clips have the model's own rationale, the rest the human one, here the renderer's truth. "
        "`rb-ft` has all of its own.",
        EXAMPLES / "table4.yaml",
        _DEFAULT,
        ((CONTROL, "rb-ft"), *_own_controls(OWN_SHARES), *(("rb-ft", arm) for arm in OWN_SHARES)),
        "table4",
    ),
    Table(
        "table5",
        "Table 5 and Figure 2: what the answers look at",
        "The checkpoints of Table 1 on the same test clips, with the true boxes of the objects covered, with random "
        "patches of the same sizes covered, and as they are; and how much of an answer's attention lies in the boxes.",
        EXAMPLES / "table1.yaml",
        _DEFAULT,
        published="table5",
        grounding=True,
    ),
    Table(
        "beyond",
        "Beyond the paper: other ways to use rationales",
        "Each arm differs from `rb-ft` in one thing. Its control learns labels alone for as many steps.",
        EXAMPLES / "beyond.yaml",
        _DEFAULT,
        (
            (CONTROL, "rb-ft"),
            *((CONTROL if arm == "rb-ft-joint" else f"matched-{arm}", arm) for arm in BEYOND),
        ),
    ),
    Table(
        "unlabelled",
        "Beyond the paper: clips without labels",
        "`rb-ft` learns the rationales of labelled and unlabelled clips, `rb-ft-confident` the surer half of them, "
        "`rb-ft-labels-first` those that a model wrote which had learnt the labels, `rb-ft-labelled` those of the "
        "labelled clips. `true-rationales` is `rb-ft` with the renderer's truth in place "
        "of the model's own texts: how far better rationales could go.",
        EXAMPLES / "unlabelled.yaml",
        Yard(YardDials(), num_train=100, num_unlabelled=1000, manifest="clips-unlabelled.csv"),
        (
            (CONTROL, "rb-ft"),
            *_own_controls(("rb-ft-confident", "rb-ft-labels-first", "rb-ft-labelled")),
            (CONTROL, "true-rationales"),
            ("rb-ft-labelled", "rb-ft"),
            ("rb-ft", "true-rationales"),
        ),
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """One setting of the map."""

    severity: str
    rule: str
    clips: int

    @property
    def name(self) -> str:
        """As `--only` takes it: `mild-three-50`."""
        return f"{self.severity}-{self.rule}-{self.clips}"

    @property
    def key(self) -> str:
        """The name of its saved report."""
        return f"map-{self.name}"

    def task(self, arms: Sequence[str] = (), overrides: Sequence[str] = (), num_test: int = 200) -> Task:
        """The experiment of this setting; `arms` are presets beside the four, each with a control of its own."""
        dials = YardDials(severity=SEVERITIES[self.severity], rule=self.rule)
        yard = Yard(dials, num_train=self.clips, num_test=num_test, manifest=f"clips-{self.clips}.csv")
        changes = [f"labels={json.dumps(dials.label_rule.definitions)}"]
        if arms:
            controls = [
                {"name": f"matched-{arm}", "stages": [{"kind": "label", "match_steps_of": arm}]} for arm in arms
            ]
            named = ["zero-shot", "direct", CONTROL, "rb-ft", *arms, *controls]
            changes.append(f"arms={json.dumps(named)}")
        return Task(self.key, EXAMPLES / "map.yaml", yard, (*changes, *overrides))


CELLS = tuple(
    Cell(severity, rule, clips) for rule in MAP_RULES for severity in MAP_SEVERITIES for clips in MAP_CLIPS
)  # fmt: skip
