"""The house: public names, configs, packaging, and what no file of the package may hold."""

from __future__ import annotations

import ast
import configparser
import re
import subprocess
import sys
from pathlib import Path

import pytest

import fedmq
from fedmq.config import ExperimentConfig, bundled_config

REPO = Path(__file__).resolve().parent.parent
SOURCES = sorted(path for folder in ("fedmq", "launch") for path in (REPO / folder).rglob("*.py"))
CONFIGS = sorted(path for path in (REPO / "configs").iterdir() if path.suffix in (".json", ".toml"))
SETUP = configparser.ConfigParser()
SETUP.read(REPO / "setup.cfg")

FORBIDDEN_MODULES = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}
FORBIDDEN_CALLS = {"eval", "exec", "__import__", "torch.load", "yaml.load", "pandas.read_pickle", "pd.read_pickle"}
FORBIDDEN_METHODS = {"recv_pyobj", "send_pyobj", "to_pickle"}


def forbidden(source: str) -> list[str]:
    """What in `source` can turn bytes into code."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.split(".")[0] in FORBIDDEN_MODULES]
        elif isinstance(node, ast.ImportFrom):
            found += [node.module] if node.module and node.module.split(".")[0] in FORBIDDEN_MODULES else []
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            if name in FORBIDDEN_CALLS or name.rpartition(".")[2] in FORBIDDEN_METHODS:
                found.append(name)
            for keyword in node.keywords:
                if keyword.arg == "allow_pickle" and ast.unparse(keyword.value) != "False":
                    found.append("allow_pickle")
    return found


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from marshal import loads",
        "def f():\n    import cloudpickle as c",
        "eval('1')",
        "torch.load(path)",
        "yaml.load(text)",
        "socket.recv_pyobj()",
        "numpy.load(path, allow_pickle=True)",
    ],
)
def test_the_search_finds_what_is_forbidden(source: str) -> None:
    assert forbidden(source)


def test_the_search_lets_the_rest_pass() -> None:
    assert forbidden("model.eval(); numpy.load(path, allow_pickle=False); safetensors.torch.load_file(path)") == []


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(REPO)))
def test_sources(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    assert forbidden(source) == []
    assert source.count("\n") <= 300, "a file holds one concept in at most 300 lines"


def test_what_makes_durable_is_in_one_file() -> None:
    """There a test can make a process die before and after each step."""
    callers = [
        path.name for path in SOURCES if re.search(r"\bos\.(fsync|fdatasync|replace|rename)\(", path.read_text())
    ]
    assert callers == ["atomic.py"]


def test_public_names() -> None:
    assert len(set(fedmq.__all__)) == len(fedmq.__all__)
    for name in fedmq.__all__:
        assert getattr(fedmq, name).__name__ == name


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_configs_load(path: Path) -> None:
    config = ExperimentConfig.load(path)
    assert ExperimentConfig.from_dict(config.to_dict()) == config


def test_installed_configs_are_those_of_the_checkout() -> None:
    assert bundled_config("quickstart.json").read_text() == (REPO / "configs" / "quickstart.json").read_text()


def test_importing_is_light() -> None:
    code = (
        "import sys, fedmq, fedmq.config;"
        "print([m for m in ('torch', 'transformers', 'numpy', 'pandas', 'zmq', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_package_is_installed() -> None:
    packages = {
        ".".join(path.parent.relative_to(REPO).parts)
        for path in (REPO / "fedmq").rglob("__init__.py")
        if not path.is_relative_to(REPO / "fedmq" / "assets")
    }
    assert set(SETUP["options"]["packages"].split()) == packages | {"fedmq.launch", "fedmq.configs"}


def test_every_direct_dependency_is_pinned() -> None:
    def normal(name: str) -> str:
        return re.sub(r"[-_.]+", "-", name).lower()

    pins = dict(re.findall(r"^([\w.-]+)==(\S+)$", (REPO / "constraints.txt").read_text(), re.MULTILINE))
    wanted = SETUP["options"]["install_requires"].split() + SETUP["options.extras_require"]["test"].split()
    names = {normal(re.split(r"[<>=!~\[]", requirement)[0]) for requirement in wanted}
    assert names <= {normal(name) for name in pins}
    assert not [version for version in pins.values() if "+" in version], "a local version exists on one machine only"
