"""What is installed: versions against the bounds of rbft's own metadata, and against what is known to be bad."""

from __future__ import annotations

import platform
import re
from collections.abc import Iterable, Iterator, Mapping
from importlib import metadata, resources
from pathlib import Path
from typing import Literal

from packaging.requirements import Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import Version
from pydantic import ConfigDict, field_validator

from rbft import __version__
from rbft.doctor.findings import Finding, fault, ok
from rbft.files import read_yaml
from rbft.records import Record

_EXTRAS = {
    "curate": "engines behind an endpoint",
    "parquet": "question benchmarks that come as Parquet",
}
"""Extras that a user may want, and what for; the others serve development."""


class KnownBad(Record):
    """Versions of a package that must not, or should not, be used with rbft."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    package: str
    versions: str
    state: Literal["note", "fault"]
    why: str
    advice: str
    source: str

    @field_validator("versions")
    @classmethod
    def _readable(cls, versions: str) -> str:
        try:
            SpecifierSet(versions)
        except InvalidSpecifier as error:
            raise ValueError(str(error)) from None
        return versions

    def holds(self, version: str) -> bool:
        """Whether a version is one of the bad ones."""
        return SpecifierSet(self.versions).contains(version, prereleases=True)


def known_bad() -> list[KnownBad]:
    """The rows of `known_bad.yaml`."""
    rows = read_yaml(Path(str(resources.files("rbft"))) / "doctor" / "known_bad.yaml", text_below=("known_bad",))
    return [KnownBad.model_validate(row) for row in rows["known_bad"]]


def installed_version(package: str) -> str | None:
    """The version that is installed, or None."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def python_finding() -> Finding:
    """Python and rbft themselves."""
    said = f"{platform.python_version()} on {platform.system()} {platform.machine()}, rbft {__version__}"
    if installed_version("rbft") is None:
        return fault("python", f"{said}, which is not installed: what it needs is not known", "pip install 'rbft'")
    wanted = metadata.metadata("rbft")["Requires-Python"]
    if not SpecifierSet(wanted).contains(platform.python_version(), prereleases=True):
        return fault("python", f"{said}; rbft needs {wanted}", "make an environment with a newer Python")
    return ok("python", said)


def requirements() -> list[Requirement]:
    """What rbft needs, by its own metadata."""
    return [Requirement(text) for text in metadata.requires("rbft") or []] if installed_version("rbft") else []


def package_findings(requirements: Iterable[Requirement], broken: Mapping[str, str]) -> Iterator[Finding]:
    """Every package that rbft needs, then those of its extras; `broken`: why a package could not be imported."""
    rows = known_bad()
    for needed in requirements:
        extra = _extra_of(needed)
        if extra is None:
            yield _needed(needed, rows, broken)
        elif extra in _EXTRAS:
            yield _optional(needed, extra, rows)


def _extra_of(needed: Requirement) -> str | None:
    found = re.search(r"extra\s*==\s*['\"]([^'\"]+)['\"]", str(needed.marker or ""))
    return found[1] if found else None


def _needed(needed: Requirement, rows: list[KnownBad], broken: Mapping[str, str]) -> Finding:
    version = installed_version(needed.name)
    install = f"pip install '{needed.name}{needed.specifier}'"
    if version is None:
        return fault(needed.name, f"not installed; rbft needs {needed.name}{needed.specifier}", install)
    if needed.name in broken:
        return fault(
            needed.name,
            f"{version} is installed and cannot be imported: {broken[needed.name]}",
            f"pip install --force-reinstall '{needed.name}{needed.specifier}'",
        )
    return _judged(needed, version, rows, install, unusable="fault")


def _optional(needed: Requirement, extra: str, rows: list[KnownBad]) -> Finding:
    version = installed_version(needed.name)
    install = f"pip install 'rbft[{extra}]'"
    if version is None:
        return ok(needed.name, f"not installed; only {_EXTRAS[extra]} need it: {install}")
    return _judged(needed, version, rows, install, unusable="note")


def _judged(
    needed: Requirement, version: str, rows: list[KnownBad], install: str, *, unusable: Literal["note", "fault"]
) -> Finding:
    """A version against the bound, and against what is known to be bad; the worst is said first."""
    faults = [row for row in rows if row.package == needed.name and row.holds(version)]
    faults.sort(key=lambda row: row.state != "fault")
    if not needed.specifier.contains(version, prereleases=True):
        why = "".join(f"; {row.why} ({row.source})" for row in faults)
        said = f"{version} is {_side(needed, version)} {needed.name}{needed.specifier}, which rbft needs{why}"
        return Finding(name=needed.name, state=unusable, found=said, advice=install)
    if faults:
        said = f"{version}: " + "; ".join(f"{row.why} ({row.source})" for row in faults)
        return Finding(name=needed.name, state=faults[0].state, found=said, advice=faults[0].advice)
    return ok(needed.name, version)


def _side(needed: Requirement, version: str) -> str:
    """`older than` or `newer than`: on which side of the bound a version lies."""
    floors = [Version(part.version) for part in needed.specifier if part.operator == ">="]
    return "older than" if any(Version(version) < floor for floor in floors) else "outside"
