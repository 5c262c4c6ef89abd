"""What is installed is held against the bounds of rbft's own metadata and against what is known to be bad."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from rbft.doctor import packages
from rbft.doctor.findings import Finding
from rbft.doctor.packages import installed_version, known_bad, package_findings, python_finding, requirements

ROOT = Path(__file__).parents[2]


def found(
    monkeypatch: pytest.MonkeyPatch, needed: str, version: str | None, broken: dict[str, str] | None = None
) -> Finding:
    """What is said about one requirement where that version is installed."""
    monkeypatch.setattr(packages, "installed_version", lambda _: version)
    [finding] = package_findings([Requirement(needed)], broken or {})
    return finding


def test_a_version_within_its_bounds_is_well(monkeypatch: pytest.MonkeyPatch) -> None:
    assert found(monkeypatch, "torch>=2.10", "2.15.0+cpu") == Finding(name="torch", state="ok", found="2.15.0+cpu")


@pytest.mark.parametrize(
    ("needed", "version", "said", "advice"),
    [
        ("scipy>=1.14", None, "not installed; rbft needs scipy>=1.14", "pip install 'scipy>=1.14'"),
        ("scipy>=1.14", "1.13.1", "1.13.1 is older than scipy>=1.14, which rbft needs", "pip install 'scipy>=1.14'"),
        ("transformers<6,>=5.23", "6.1.0", "6.1.0 is outside transformers<6,>=5.23, which rbft needs",
         "pip install 'transformers<6,>=5.23'"),
        ("torch>=2.10", "2.9.1",
         "2.9.1 is older than torch>=2.10, which rbft needs; a crafted checkpoint corrupts memory though it is loaded "
         "with weights_only=True, as Trainer's optimizer.pt is (CVE-2026-24747)", "pip install 'torch>=2.10'"),
        ("jinja2>=3", "3.1.5",
         "3.1.5: a model's chat template can leave the sandbox that it is rendered in, and run code (CVE-2024-56326, "
         "CVE-2025-27516)", "pip install 'jinja2>=3.1.6'"),
    ],
)  # fmt: skip
def test_what_is_missing_old_or_known_to_be_bad_is_a_fault(
    monkeypatch: pytest.MonkeyPatch, needed: str, version: str | None, said: str, advice: str
) -> None:
    name = Requirement(needed).name
    assert found(monkeypatch, needed, version) == Finding(name=name, state="fault", found=said, advice=advice)


def test_a_package_that_cannot_be_imported_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    finding = found(monkeypatch, "torch>=2.10", "2.15.0", {"torch": "OSError: libcudart.so.13: cannot open"})
    assert finding == Finding(
        name="torch", state="fault",
        found="2.15.0 is installed and cannot be imported: OSError: libcudart.so.13: cannot open",
        advice="pip install --force-reinstall 'torch>=2.10'",
    )  # fmt: skip


def test_a_package_of_an_extra_may_be_missing_or_old(monkeypatch: pytest.MonkeyPatch) -> None:
    openai = "openai>=2; extra == 'curate'"
    missing = "not installed; only engines behind an endpoint need it: pip install 'rbft[curate]'"
    assert found(monkeypatch, openai, None) == Finding(name="openai", state="ok", found=missing)
    old = found(monkeypatch, openai, "1.40.0")
    assert (old.state, old.found, old.advice) == (
        "note", "1.40.0 is older than openai>=2, which rbft needs", "pip install 'rbft[curate]'"
    )  # fmt: skip
    pyarrow = found(monkeypatch, "pyarrow>=14; extra == 'parquet'", "14.0.0")
    assert (pyarrow.state, pyarrow.found) == (
        "fault", "14.0.0: reading a Parquet file can run code that is hidden in it (CVE-2023-47248)"
    )  # fmt: skip


def test_packages_for_development_are_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "installed_version", lambda _: None)
    assert list(package_findings([Requirement("pytest>=8; extra == 'dev'")], {})) == []


def test_bounds_are_those_of_the_metadata() -> None:
    """Every dependency of pyproject.toml, and the extras that a user may want, are looked at."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *extras["curate"], *extras["parquet"]]
    names = [finding.name for finding in package_findings(requirements(), {})]
    assert sorted(names) == sorted(Requirement(text).name for text in wanted)


def test_no_row_of_what_is_bad_holds_for_what_the_tests_run_with() -> None:
    pinned = dict(re.findall(r"^([\w-]+)==([^\s;]+)", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.M))
    assert [row.package for row in known_bad() if row.holds(pinned[row.package])] == []


def test_the_bounds_of_the_project_keep_bad_versions_out() -> None:
    """The lowest version that a bound lets in is none of the bad ones: a bound may not be lowered below a row."""
    lowest = {
        one.name: str(min(Version(part.version) for part in one.specifier if part.operator == ">="))
        for one in requirements() if str(one.specifier)
    }  # fmt: skip
    assert {row.package for row in known_bad()} <= lowest.keys()
    assert [(row.package, row.source) for row in known_bad() if row.holds(lowest[row.package])] == []


def test_every_row_has_a_source_and_a_next_step() -> None:
    rows = known_bad()
    assert len({(row.package, row.versions) for row in rows}) == len(rows) >= 7
    assert all(re.fullmatch(r"CVE-\d{4}-\d+(, CVE-\d{4}-\d+)*", row.source) for row in rows)
    assert all(row.advice.startswith("pip install ") for row in rows)


@pytest.mark.parametrize(
    ("package", "version", "bad"),
    [
        ("torch", "2.5.1", 2), ("torch", "2.9.1+cu128", 1), ("torch", "2.10.0", 0),
        ("transformers", "4.55.4", 1), ("transformers", "4.56.0", 2), ("transformers", "5.2.0", 1),
        ("transformers", "5.3.0", 0), ("pyarrow", "14.0.0", 1), ("pyarrow", "14.0.1", 0),
    ],
)  # fmt: skip
def test_where_bad_versions_begin_and_end(package: str, version: str, bad: int) -> None:
    assert sum(row.holds(version) for row in known_bad() if row.package == package) == bad


def test_python_and_rbft(monkeypatch: pytest.MonkeyPatch) -> None:
    assert python_finding().state == "ok"
    monkeypatch.setattr(packages.platform, "python_version", lambda: "3.10.4")
    old = python_finding()
    assert (old.state, old.advice) == ("fault", "make an environment with a newer Python")
    assert old.found.startswith("3.10.4 on ") and old.found.endswith("; rbft needs >=3.11")
    monkeypatch.setattr(packages, "installed_version", lambda _: None)
    bare = python_finding()
    assert (bare.state, bare.advice) == ("fault", "pip install 'rbft'")
    assert bare.found.endswith(", which is not installed: what it needs is not known")
    assert requirements() == []


def test_a_package_that_nobody_has() -> None:
    assert installed_version("rbft-no-such-package") is None
