"""What the source must not hold: unpickling, code from data, shells, servers, requests to addresses from data."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "rbft"
MODULES = {
    "cloudpickle", "dill", "ftplib", "http.server", "joblib", "marshal", "pickle", "requests", "shelve", "smtplib",
    "socketserver", "tarfile", "telnetlib", "urllib.request", "zipfile",
    "fastapi", "flask", "gradio", "httpx", "starlette", "uvicorn",
}  # fmt: skip
ALLOWED = {"pickle": {"UnpicklingError"}}
"""Names that hold no code that reads: the error alone is caught, where another library reads."""
CALLS = {
    "eval", "exec", "compile", "__import__", "os.system", "os.popen", "yaml.load", "yaml.load_all", "yaml.full_load",
    "yaml.unsafe_load", "torch.jit.load", "torch.hub.load", "torch.package.PackageImporter", "joblib.load",
}  # fmt: skip
_TELLING = ("shell", "allow_pickle", "trust_remote_code", "weights_only", "use_safetensors")


def broken(code: str) -> Iterator[str]:
    """The rules that a module breaks, each with its line."""
    for node in ast.walk(ast.parse(code)):
        match node:
            case ast.Import(names=names):
                found = [alias.name for alias in names if _forbidden(alias.name)]
            case ast.ImportFrom(module=str(module), names=names):
                taken = {alias.name for alias in names} - ALLOWED.get(module, set())
                found = [module] if _forbidden(module) and taken else []
                found += [f"{module}.{name}" for name in taken if f"{module}.{name}" in MODULES]
            case ast.Call(func=func, keywords=keywords):
                given = {k.arg: ast.unparse(k.value) for k in keywords if k.arg in _TELLING}
                name = _dotted(func)
                found = [name] if name in CALLS else []
                found += [f"{name}(shell=True)"] if given.get("shell", "False") != "False" else []
                found += [f"{name}(allow_pickle=True)"] if given.get("allow_pickle", "False") != "False" else []
                found += [f"{name}(trust_remote_code=True)"] if given.get("trust_remote_code") == "True" else []
                if name == "torch.load" and given.get("weights_only") != "True":
                    found.append("torch.load without weights_only=True")
                if name.endswith(".from_pretrained") and "Model" in name and given.get("use_safetensors") != "True":
                    found.append(f"{name} without use_safetensors=True")
            case _:
                found = []
        yield from (f"line {node.lineno}: {name}" for name in found)  # type: ignore[attr-defined]


def _dotted(node: ast.expr) -> str:
    """`a.b.c` of a call's function; what is called on another thing than a name begins with a point."""
    match node:
        case ast.Name(id=name):
            return name
        case ast.Attribute(value=value, attr=name):
            return f"{_dotted(value)}.{name}"
        case _:
            return ""


def _forbidden(module: str) -> bool:
    parts = module.split(".")
    return any(".".join(parts[: i + 1]) in MODULES for i in range(len(parts)))


def test_nothing_in_the_source_runs_code_from_data() -> None:
    files = sorted(SOURCE.rglob("*.py"))
    assert len(files) > 100
    found = [f"{file.relative_to(SOURCE)}: {rule}" for file in files for rule in broken(file.read_text("utf-8"))]
    assert found == []


@pytest.mark.parametrize(
    "code",
    [
        "import pickle", "from pickle import loads", "import pickle as p", "from urllib import request",
        "import http.server", "import zipfile", "torch.load(path)", "torch.load(path, weights_only=False)",
        "eval(text)", "exec(text)", "yaml.load(text, Loader=yaml.Loader)", "subprocess.run(text, shell=True)",
        "np.load(path, allow_pickle=True)", "AutoModel.from_pretrained(folder)", "os.system(text)",
        "AutoModel.from_pretrained(folder, use_safetensors=True, trust_remote_code=True)",
    ],
)  # fmt: skip
def test_every_rule_finds_what_breaks_it(code: str) -> None:
    assert len(list(broken(code))) == 1


def test_what_is_safe_breaks_no_rule() -> None:
    safe = (
        "from pickle import UnpicklingError\nimport urllib.parse\nre.compile(text)\nyaml.safe_load(text)\n"
        "torch.load(path, weights_only=True)\nsubprocess.run([name])\nmodel.eval()\nnp.load(path, allow_pickle=False)\n"
        "AutoProcessor.from_pretrained(folder)"
    )
    assert list(broken(safe)) == []


def test_no_template_switches_escaping_off() -> None:
    templates = sorted((SOURCE / "report" / "templates").glob("*.j2"))
    assert len(templates) > 10
    for file in templates:
        text = "".join(file.read_text(encoding="utf-8").split())
        assert not re.search(r"[^'\"]\|safe", text), f"{file.name}: a variable is not escaped"
        for sign in ("autoescapefalse", "<script", "javascript:", "onclick=", "onload="):
            assert sign not in text, f"{file.name}: {sign}"
