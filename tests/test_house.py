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

#: These and what is in them; multiprocessing pickles what it sends.
FORBIDDEN_MODULES = {"pickle", "_pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "multiprocessing"}
FORBIDDEN_NAMES = {
    *(f"{module}{name}" for module in ("", "builtins.") for name in ("eval", "exec", "__import__")),
    *(f"yaml.{how}load{what}" for how in ("", "unsafe_", "full_") for what in ("", "_all")),
    *("torch.load", "torch.multiprocessing", "pandas.read_pickle"),
}
FORBIDDEN_METHODS = {"recv_pyobj", "send_pyobj", "to_pickle", "read_pickle"}


def forbidden(source: str) -> list[str]:
    """What in `source` can turn bytes into code, by whatever name it was imported."""
    nodes, real, found = list(ast.walk(ast.parse(source))), dict[str, str](), list[str]()
    for node in nodes:
        if isinstance(node, ast.Import):
            real |= {alias.asname: alias.name for alias in node.names if alias.asname}
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
            real |= names
            found += names.values()
    for node in nodes:
        if isinstance(node, ast.Name | ast.Attribute):
            first, dot, rest = ast.unparse(node).partition(".")
            found.append(f"{real.get(first, first)}{dot}{rest}")
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("load"):
            values = [word.value for word in node.keywords if word.arg == "allow_pickle"]
            found += ["pickle" for value in (*values, *node.args[2:3]) if ast.unparse(value) != "False"]
    return [
        name
        for name in found
        if name in FORBIDDEN_NAMES
        or name.partition(".")[0] in FORBIDDEN_MODULES
        or ("." in name and name.rpartition(".")[2] in FORBIDDEN_METHODS)
    ]


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
        "numpy.load(path, None, True)",
        "import _pickle",
        "import multiprocessing.pool",
        "from torch import load",
        "import torch as t\nt.load(path)",
        "from torch import multiprocessing",
        "from yaml import load as safe",
        "import yaml as y\nf = y.unsafe_load",
        "import builtins\nbuiltins.eval('1')",
        "from builtins import exec as run",
        "import pandas as pd\npd.read_pickle(path)",
        "map(eval, texts)",
        "frame.to_pickle(path)",
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
