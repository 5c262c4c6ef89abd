"""Settings that a user writes, of an experiment or a curation: read into one value, every fault in words."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from rbft.arms import did_you_mean
from rbft.errors import ExperimentError
from rbft.files import parse_yaml, yaml_fault

S = TypeVar("S", bound=BaseModel)


def validated(kind: type[S], document: Mapping[str, Any], where: str) -> S:
    """A mapping as settings of that kind; raises ExperimentError with every fault, one line each."""
    try:
        return kind.model_validate(document)
    except ValidationError as error:
        raise ExperimentError([f"{where}: {line}" for line in fault_lines(error, kind)]) from None


def stop_at(faults: Sequence[str]) -> None:
    """Inside a validator: raise ValueError with every fault, a line each, where there are any."""
    if faults:
        raise ValueError("\n".join(faults))


# -- labels --------------------------------------------------------------------------------------------------------


def labels_as_mapping(value: Any) -> Any:
    """Labels with their definitions, from a mapping or a list; raises ValueError with every fault."""
    if isinstance(value, Mapping):
        given = list(value.items())
    elif isinstance(value, Sequence) and not isinstance(value, str):
        given = [(label, None) for label in value]
    else:
        return value
    stop_at(_label_faults([label for label, _ in given]))
    return {str(label): _one_line(definition) for label, definition in given}


def _label_faults(labels: Sequence[Any]) -> list[str]:
    """What keeps labels from being written, read back and told apart; the same rules as for a manifest's cells."""
    faults = []
    seen: dict[str, str] = {}
    for label in labels:
        if isinstance(label, bool) or not isinstance(label, str | int):
            faults.append(f"{label!r} is not text; put it in quotes")
            continue
        text = str(label)
        folded = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
        if not folded:
            faults.append(f"{text!r} is empty; a label is a word or a few")
        elif any(unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") for c in text):
            faults.append(f"{text!r} holds a line break or another control character")
        elif text != text.strip():
            faults.append(f"{text!r} has spaces around it; write {text.strip()!r}")
        elif folded in seen and text == seen[folded]:
            faults.append(f"{text!r} is there twice; keep one")
        elif folded in seen:
            faults.append(f"{seen[folded]!r} and {text!r} differ only in case, spaces or form of letters; keep one")
        else:
            seen[folded] = text
    if len(labels) == 1:
        faults.append(f"one label ({str(labels[0])!r}) cannot be classified; give two or more")
    return faults


def _one_line(definition: Any) -> Any:
    """A definition without line breaks: YAML's block texts end with one."""
    return " ".join(definition.split()) if isinstance(definition, str) else "" if definition is None else definition


# -- files and overrides -------------------------------------------------------------------------------------------


def curation_beside(file: Path, section: dict[str, Any]) -> None:
    """Relative paths in a curation's settings, as ones beside the file where there are such."""
    for part in (section, *(section.get(name) for name in ("engine", "represent", "reason", "revise"))):
        for key in ("model", "answers", "chain"):
            if isinstance(part, dict) and isinstance(part.get(key), str) and part[key] and "endpoint" not in part:
                part[key] = beside(file, part[key])


def beside(file: Path, value: str) -> str:
    """A relative path as one beside the file, where there is such a one."""
    return str(file.parent / value) if not Path(value).is_absolute() and (file.parent / value).exists() else value


def override_all(document: dict[str, Any], overrides: Sequence[str]) -> None:
    """Put `key.sub=value` overrides into a document; raises ExperimentError with every one that cannot be."""
    faults = [fault for override in overrides if (fault := _override(document, override))]
    if faults:
        raise ExperimentError(faults)


def _override(document: dict[str, Any], override: str) -> str | None:
    """Put an override into the document; a fault where it cannot be."""
    key, equals, text = override.partition("=")
    if not equals or not key:
        return f"{override!r} is not an override; write key=value, for example training.epochs=2"
    *parents, last = key.split(".")
    place: Any = document
    for name in parents:
        if isinstance(place, dict) and place.get(name) is None:
            place[name] = {}
        place = place[name] if isinstance(place, dict) else None
    if not isinstance(place, dict):
        return f"{override!r}: {key!r} is not a place in an experiment; give the whole of {'.'.join(parents)!r}"
    try:
        place[last] = parse_yaml(text, all_text=key.split(".")[0] == "labels")
    except yaml.YAMLError as error:
        return f"{override!r}: the value is not readable: {yaml_fault(error)}"
    return None


# -- faults in words -----------------------------------------------------------------------------------------------


_IN_WORDS = {
    "tuple_type": "must be a list",
    "dict_type": "must be a mapping of names to values",
    "model_type": "must be a mapping of names to values",
    "string_type": "must be text; put it in quotes",
}


def fault_lines(error: ValidationError, root: type[BaseModel]) -> list[str]:
    """One line for each fault of settings of the kind `root`: where, what was given, what is allowed."""
    lines = []
    for fault in error.errors():
        where = ".".join(str(part) for part in fault["loc"])
        if fault["type"] == "extra_forbidden":
            lines.append(f"{where}: no such setting{_nearest(fault['loc'], root)}")
            continue
        if fault["type"] == "missing":
            lines.append(f"{where}: is needed and was not given")
            continue
        if fault["input"] is None:
            lines.append(f"{where}: is empty; give a value, or leave it out for the default")
            continue
        message = _IN_WORDS.get(fault["type"], fault["msg"].removeprefix("Value error, "))
        if fault["type"] == "string_pattern_mismatch":
            message = "must start with a letter or digit; letters, digits, '.', '_' and '-' may follow, 64 in all"
        given = "" if fault["type"] == "value_error" else f" (given: {fault['input']!r:.80})"
        lines += [f"{where}: {line}{given}" if where else f"{line}{given}" for line in message.split("\n")]
    return lines


def _nearest(location: tuple[int | str, ...], root: type[BaseModel]) -> str:
    section: type[BaseModel] | None = root
    for part in location[:-1]:
        if section is not None and isinstance(part, str):
            section = _section_in(section.model_fields[part].annotation) if part in section.model_fields else None
    names = list(section.model_fields) if section else []
    return did_you_mean(str(location[-1]), names) or (f"; there are {', '.join(names)}" if names else "")


def _section_in(annotation: Any) -> type[BaseModel] | None:
    """The section that a field holds: `Training`, the `Lora` of `Lora | None`, the `Arm` of `tuple[Arm, ...]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _section_in(part))), None)
