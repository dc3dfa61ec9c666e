"""The package as others get it: metadata, a wheel in an empty environment, an editable one, a checkout."""

from __future__ import annotations

import ast
import configparser
import json
import os
import re
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
KINDS = ("teacher", "data", "eval")

FLOW = """
import json, sys
from pathlib import Path
from udrl import __file__ as home, resources
from udrl.cli.main import run

assert "site-packages" in home, home
assert all("_shipped" in str(resources.folder(kind)) for kind in ("teacher", "data", "eval"))
common = ["--run", "run", "--seed", "1"]
for line in (
    ["tasks"],
    ["teachers"],
    ["init", "edit"],
    ["synth", "--task", "text-to-image", "--num-inputs", "60", "--samples", "3", *common],
    ["train", "--student", "gpt2-mini", "--steps", "3", "--device", "cpu", *common],
    ["generate", "--length", "12", "--json", "a red fox in the snow", *common],
):
    code = run(line)
    assert code == 0, (line, code)
"""


@pytest.fixture
def setup_cfg() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    return parser


def _listed(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


def _names(text: str) -> set[str]:
    found = (re.match(r"[A-Za-z0-9._-]+", line) for line in _listed(text) if not line.startswith("#"))
    return {match.group().lower().replace("_", "-") for match in found if match}


def test_every_package_is_listed(setup_cfg: configparser.ConfigParser) -> None:
    folders = {".".join(file.parent.relative_to(ROOT).parts) for file in (ROOT / "udrl").rglob("__init__.py")} | {
        f"udrl._shipped.{kind}" for kind in KINDS
    }
    assert set(_listed(setup_cfg["options"]["packages"])) == folders


def test_every_dependency_is_pinned_for_ci_without_local_paths(setup_cfg: configparser.ConfigParser) -> None:
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    wanted = _names(setup_cfg["options"]["install_requires"]) | _names(setup_cfg["options.extras_require"]["dev"])
    assert wanted <= _names(pins)
    for line in _listed(pins):
        assert line.startswith("#") or re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.]*", line), line


def test_every_import_is_a_declared_dependency(setup_cfg: configparser.ConfigParser) -> None:
    """Third-party modules that udrl imports: what an extra brings only inside the functions that need it."""
    provided = {"pyyaml": "yaml", "scikit-learn": "sklearn"}

    def modules(requirements: str) -> set[str]:
        return {provided.get(n, n.replace("-", "_")) for n in _names(requirements)}

    # transformers cannot be installed without these
    declared = modules(setup_cfg["options"]["install_requires"]) | {"huggingface_hub", "safetensors", "tokenizers"}
    extras = {name: text for name, text in setup_cfg["options.extras_require"].items() if name != "dev"}
    optional = set().union(*map(modules, extras.values()))
    own = set(sys.stdlib_module_names) | {"udrl"}
    for file in (ROOT / "udrl").rglob("*.py"):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        at_once = {name.split(".")[0] for node in tree.body for name in _imported(node)}
        anywhere = {name.split(".")[0] for node in ast.walk(tree) for name in _imported(node)}
        assert at_once - own <= declared, file
        assert anywhere - own <= declared | optional, file


def _imported(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [node.module] if isinstance(node, ast.ImportFrom) and node.module and not node.level else []


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy of what is tracked: building writes into the source folder."""
    source = tmp_path_factory.mktemp("source")
    for path in _shipped_paths():
        target = source / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((ROOT / path).read_bytes())
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    _check([*command, "--wheel-dir", str(out), str(source)])
    (built,) = out.glob("*.whl")
    return built


def _shipped_paths() -> Iterator[Path]:
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        yield Path(name)
    for folder in ("udrl", *KINDS):
        for path in sorted((ROOT / folder).rglob("*")):
            if path.is_file() and path.suffix != ".pyc":
                yield path.relative_to(ROOT)


@pytest.mark.slow
def test_wheel_holds_all_that_a_user_edits_and_nothing_else(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    for kind in KINDS:
        for path in (ROOT / kind).rglob("*"):
            if path.suffix in (".yaml", ".jsonl"):
                assert f"udrl/_shipped/{path.relative_to(ROOT).as_posix()}" in names
    students = [path for path in (ROOT / "data" / "students").rglob("*") if path.is_file()]
    assert {f"udrl/_shipped/{path.relative_to(ROOT).as_posix()}" for path in students} <= names
    assert sum(path.stat().st_size for path in students) <= 8e6
    for path in (ROOT / "udrl").rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            assert path.relative_to(ROOT).as_posix() in names
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"udrl"}


@pytest.mark.slow
def test_wheel_runs_a_small_flow_in_an_empty_environment(wheel: Path, tmp_path: Path) -> None:
    """synth, train and generate from the wheel, with no checkout in sight.

    torch and the like are not installed a second time (2 GB): a .pth file lends the new environment those of
    this one, behind its own packages. What is tested is udrl's wheel, so the file must not lend an editable
    udrl; a .pth adds a folder but does not run the .pth files in it, which is how editable installs are
    found.
    """
    environment = tmp_path / "env"
    _check([sys.executable, "-m", "venv", str(environment)])
    python = str(environment / "bin" / "python")
    site = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True,
        text=True,
    ).stdout.strip()
    (Path(site) / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    _check([python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", str(wheel)])
    work = tmp_path / "work"
    work.mkdir()
    script = work / "flow.py"
    script.write_text(FLOW, encoding="utf-8")
    out = _check([python, str(script)], cwd=work)
    answer = json.loads(out.splitlines()[-1])
    assert answer["input"] == "a red fox in the snow"
    assert answer["command"] == {"length": 12.0}
    assert answer["completion"]
    assert (work / "edit" / "data" / "tasks" / "text-to-image.yaml").is_file()
    console = _check([str(environment / "bin" / "udrl"), "--version"], cwd=work)
    assert console.startswith("udrl ")


def test_editable_install_finds_what_a_user_edits(tmp_path: Path) -> None:
    out = _check([sys.executable, "-c", "import udrl.resources as r; print(r.folder('data'))"], cwd=tmp_path)
    assert Path(out.strip()) == ROOT / "data"


def test_bare_checkout_finds_what_a_user_edits(tmp_path: Path) -> None:
    """No install at all: -S leaves out site-packages, so only what needs no third party is imported."""
    script = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import udrl.resources as r; print(r.folder('eval'))"
    out = _check([sys.executable, "-S", "-c", script], cwd=tmp_path)
    assert Path(out.strip()) == ROOT / "eval"


def test_python_interface_is_lazy_and_complete() -> None:
    script = (
        "import sys, udrl\n"
        "assert not any(m in sys.modules for m in ('torch', 'numpy', 'click')), 'import udrl is not free'\n"
        "for name in ('synth', 'score', 'train', 'load', 'render', 'bench', 'Command'):\n"
        "    assert callable(getattr(udrl, name)) and name in dir(udrl), name\n"
        "try:\n    udrl.nothing\n"
        "except AttributeError as error:\n    print(error)\n"
    )
    assert _check([sys.executable, "-c", script]).strip() == "module 'udrl' has no attribute 'nothing'"


def test_make_targets_are_what_the_docs_promise() -> None:
    for target in ("demo", "test", "check", "bench", "docs"):
        plan = subprocess.run(["make", "--dry-run", target], cwd=ROOT, capture_output=True, text=True)
        assert plan.returncode == 0, plan.stderr
        assert plan.stdout


def _check(command: list[str], cwd: Path | None = None) -> str:
    """Run ``command``, show its output where it fails, and return its standard output."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    environment.pop("PYTHONPATH", None)
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{command} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout
