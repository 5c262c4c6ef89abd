"""How chains of thought are curated (VideoRFT, arXiv 2505.12434): who writes each step, and by which prompts."""

from __future__ import annotations

import re
import string
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import SplitResult, urlsplit

from pydantic import Field, ValidationError, model_validator

from rbft.errors import ExperimentError
from rbft.files import read_yaml
from rbft.records import CurationStep, Record
from rbft.section import Section

BUILT_IN_CHAINS = ("default", "brief")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
MAX_FAILED_IN_A_ROW = 10
"""Asks in a row without any answer after which an endpoint counts as gone."""


def _has_a_port(address: SplitResult) -> bool:
    """Whether the port of an address is one, or is left out."""
    try:
        return address.port != 0
    except ValueError:
        return False


class Engine(Section):
    """Who writes: a local model (`model`), an OpenAI-compatible endpoint (`endpoint` and `model`), or a file of
    `answers` that were written elsewhere."""

    model: str | None = Field(
        None, description="a Hugging Face name, a folder or `embedded`; with `endpoint` the name that its server knows"
    )
    revision: str | None = Field(None, description="of the model; another one asks for everything anew")
    endpoint: str | None = Field(None, description="base URL of a server that speaks OpenAI's chat completions")
    key_from: str | None = Field(
        None, description="environment variable that holds the endpoint's key; empty: the server needs none"
    )
    answers: str | None = Field(None, description='JSON lines {"id": …, "text": …} of one step')
    max_new_tokens: int = Field(1024, ge=1)
    temperature: float | None = Field(0.0, ge=0, description="0 is greedy; empty: the endpoint's own")
    top_p: float = Field(1.0, gt=0, le=1)
    batch_size: int = Field(8, ge=1, description="local: answers written at once")
    concurrency: int = Field(8, ge=1, le=256, description="endpoint: requests at once")
    timeout_seconds: float = Field(120.0, gt=0, description="endpoint: a request without an answer fails after that")
    retries: int = Field(5, ge=0, le=100, description="endpoint: how often a failed request is sent again")
    longest_wait_seconds: float = Field(
        120.0, gt=0, description="endpoint: bound of the pauses between retries; a longer Retry-After ends them"
    )
    strict_json: bool = Field(
        True, description="endpoint: send the schema as `response_format`; false: only ask for it"
    )
    limit_name: Literal["max_tokens", "max_completion_tokens"] = Field(
        "max_tokens", description="endpoint: what it calls the limit of an answer's tokens"
    )
    input_price: float | None = Field(None, ge=0, description="of a million tokens read; empty: no cost is reckoned")
    output_price: float | None = Field(None, ge=0, description="of a million tokens written")

    @model_validator(mode="after")
    def _is_one_engine(self) -> Self:
        if self.answers is not None and (self.model is not None or self.endpoint is not None):
            raise ValueError("`answers` were written elsewhere; leave out `model` and `endpoint`")
        if self.answers is None and self.model is None:
            raise ValueError(
                "nobody writes; give `model` (local), `endpoint` and `model` (a server), or `answers` (a file)"
            )
        if self.endpoint is None:
            return self
        if self.key_from is not None and not _VARIABLE.fullmatch(self.key_from):
            raise ValueError(
                "key_from names the environment variable that holds the key, such as EXAMPLE_KEY, and is not the key; "
                "export EXAMPLE_KEY=… and write key_from: EXAMPLE_KEY"
            )
        address = urlsplit(self.endpoint)
        if address.scheme not in ("http", "https") or not address.hostname:
            raise ValueError(f"endpoint {self.endpoint!r} is no address; it begins with http:// or https://")
        if not self.endpoint.isprintable() or " " in self.endpoint or not _has_a_port(address):
            raise ValueError(
                f"endpoint {self.endpoint!r} is no address; it holds no space, and a port is a number up to 65535"
            )
        if address.username or address.password or address.query:
            raise ValueError(
                "endpoint holds a user, a password or a query, which would be written down; put the key into the "
                "environment variable that `key_from` names"
            )
        if (self.input_price is None) != (self.output_price is None):
            raise ValueError("input_price and output_price belong together; give both or none")
        return self


class Curation(Section):
    """Represent, reason, revise, filter: the engine of each step, and what is kept."""

    engine: Engine | None = Field(None, description="writes every step that names no engine of its own")
    represent: Engine | None = Field(None, description="sees the clip: a caption, and notes on every frame")
    reason: Engine | None = Field(None, description="sees these notes and the question alone, never the clip")
    revise: Engine | None = Field(
        None, description="sees clip and thought, and corrects it; `none` leaves the step out"
    )
    revises: bool = Field(True, description="false: the same as `revise: none`")
    max_requests: int | None = Field(
        None, ge=1, description="requests to endpoints, with those that the output folder holds the answers of; empty: "
        "as many as it takes"
    )  # fmt: skip
    max_tokens: int | None = Field(
        None, ge=1, description="tokens that endpoints read and write, counted like `max_requests`"
    )
    chain: str | None = Field(
        None, description="`default`, `brief` or a file of the same form; empty: as `prompts`, where that is built in"
    )
    open_accuracy: float = Field(
        0.5,
        ge=0,
        le=1,
        description="least accuracy of free-form, OCR and regression answers; closed ones must be right",
    )

    @model_validator(mode="before")
    @classmethod
    def _without_revision(cls, value: Any) -> Any:
        if isinstance(value, Mapping) and value.get("revise") == "none":
            return {**value, "revise": None, "revises": False}
        return value

    def of(self, step: CurationStep) -> Engine | None:
        """The engine of a step as it was asked for; None where none was named."""
        own: Engine | None = getattr(self, step)
        return own or self.engine

    @property
    def steps(self) -> tuple[CurationStep, ...]:
        """The steps that engines write."""
        return ("represent", "reason", "revise") if self.revises else ("represent", "reason")

    def with_default(self, engine: Engine) -> Curation:
        """The same, where steps without an engine get this one."""
        return self if self.engine is not None else self.model_copy(update={"engine": engine})

    def chain_for(self, prompts: str) -> str:
        """The name or file of the chain's prompts, beside an experiment's `prompts`."""
        return self.chain or (prompts if prompts in BUILT_IN_CHAINS else "default")

    @property
    def max_new_tokens(self) -> int:
        """Tokens of the longest thought that is written."""
        engines = [self.of(step) for step in self.steps if step != "represent"]
        return max((engine.max_new_tokens for engine in engines if engine is not None), default=0)


class CurationPrompts(Record):
    """One file of the chain's prompts; `form` is how a clip is represented, by JSON with a schema or by plain text."""

    schema_version: Literal[1]
    name: str
    form: Literal["json", "text"]
    represent: str
    repair: str
    reason: str
    revise: str
    label_problem: str
    """The problem of a row that a label question becomes: its options are the labels."""
    names_notes: tuple[str, ...]
    """Regular expressions: a thought that speaks of captions or notes, and not of the video, is dropped."""


_FIELDS: dict[str, tuple[set[str], set[str]]] = {
    "represent": (set(), {"num_frames", "times", "duration"}),
    "repair": ({"prompt", "faults"}, {"answer"}),
    "reason": ({"representation", "question"}, set()),
    "revise": ({"think"}, {"question", "answer"}),
    "label_problem": (set(), set()),
}
"""By template the fields that it must have, and those that it may have."""


def load_chain(name_or_file: str) -> CurationPrompts:
    """Load `default`, `brief` or a file. Raises ExperimentError with every fault."""
    if name_or_file in BUILT_IN_CHAINS:
        name = {"default": "curate", "brief": "curate-brief"}[name_or_file]
        path = Path(str(resources.files("rbft"))) / "prompts" / f"{name}.yaml"
    else:
        path = Path(name_or_file)
        if not path.is_file():
            raise ExperimentError(
                f"chain: no file {name_or_file!r}; give a file or one of {', '.join(BUILT_IN_CHAINS)}"
            )
    document = read_yaml(path)
    if not isinstance(document, dict):
        raise ExperimentError(f"{path}: the prompts of a chain are a mapping of names to texts")
    renamed = {("schema_version" if key == "schema" else key): value for key, value in document.items()}
    try:
        prompts = CurationPrompts.model_validate(renamed)
    except ValidationError as error:
        faults = [f"{path}: {'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
        raise ExperimentError([fault.replace(": schema_version: ", ": schema: ", 1) for fault in faults]) from None
    found = [_field_fault(getattr(prompts, name), *fields) for name, fields in _FIELDS.items()]
    faults = [f"{path}: {name}: {fault}" for name, fault in zip(_FIELDS, found, strict=True) if fault]
    faults += [f"{path}: names_notes: {fault}" for p in prompts.names_notes if (fault := _pattern_fault(p))]
    if faults:
        raise ExperimentError(faults)
    return prompts


def _field_fault(template: str, needed: set[str], allowed: set[str]) -> str | None:
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as error:
        return f"{error}; a brace that is meant as text is doubled"
    if any(specification or conversion for _, _, specification, conversion in parts):
        return "a field is a bare name, without `:` or `!`"
    found = {field for _, field, _, _ in parts if field is not None}
    if needed <= found <= needed | allowed:
        return None
    return f"holds the fields {sorted(found)}, needs {sorted(needed)} and may hold {sorted(allowed)}"


def _pattern_fault(pattern: str) -> str | None:
    try:
        re.compile(pattern)
    except re.error as error:
        return f"{pattern!r} is not a regular expression: {error}"
    return None
