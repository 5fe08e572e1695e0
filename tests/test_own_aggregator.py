"""A user's own aggregation rule: from a config, from Python, as docs/algorithms.md shows it; and what is none."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from fedmq import build
from fedmq.algorithms.aggregate import Aggregator, Update, fedavg
from fedmq.config import get_default_config
from fedmq.errors import ConfigError
from fedmq.federated_learning import FederatedLearning
from fedmq.storage.journal import Journal

DOCS = (Path(__file__).resolve().parent.parent / "docs" / "algorithms.md").read_text(encoding="utf-8")
MODULE = """\
from fedmq.algorithms.aggregate import fedavg
from fedmq.algorithms.rows import of_rows
ready = fedavg()
number = 3
def needs(fewest=4):
    return of_rows(lambda matrix: matrix.last, fewest=int(fewest))
def nothing():
    return None
def refuses(f=1):
    raise ValueError(f"f is\\n{f:g}")
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A current folder with modules of the user, which are forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "own_mean.py").write_text(MODULE)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def aggregate(rule: Aggregator, rows: list[list[float]]) -> list[float]:
    state = rule.init({"w": np.zeros(len(rows[0]))})
    for k, row in enumerate(rows):
        state = rule.fold(state, Update(f"client_{k}", 0, 1, 1, {"w": np.array(row)}), 1.0 + k)
    return list(rule.finish(state)["w"])


def test_the_rules_of_the_documentation(folder: Path) -> None:
    sources = re.findall(r"```python\n(# my_rules\.py\n.*?)```", DOCS, re.DOTALL)
    (folder / "my_rules.py").write_text("\n".join(sources))
    rows = [[1.0, -4.0], [2.0, 5.0], [4.0, 6.0], [9.0, 900.0]]
    # 1 becomes 2 and 9 becomes 4; -4 becomes 5 and 900 becomes 6.
    assert aggregate(build.aggregator("my_rules:winsorized", cut=1.0), rows) == [3.0, 5.5]
    assert build.aggregator("my_rules:winsorized", cut=2.0).fewest == 5
    # Votes of weights 1 to 4: 1 + 2 - 3 + 0, and -1 + 2 + 3 + 4.
    signs = [[1.0, -4.0], [2.0, 5.0], [-4.0, 6.0], [0.0, 900.0]]
    assert aggregate(build.aggregator("my_rules:sign_vote", step=0.5), signs) == [0.0, 0.5]


def test_an_aggregator_and_a_function_that_gives_one() -> None:
    assert aggregate(build.aggregator("own_mean:ready"), [[1.0], [4.0]]) == [3.0]
    assert build.aggregator("own_mean:needs").fewest == 4
    assert build.aggregator("own_mean:needs", fewest=2.0).label() == "own_mean.needs.<locals>.<lambda>"


@pytest.mark.parametrize(
    ("reference", "options", "said"),
    [
        ("own_none:rule", {}, "own_none:rule: there is no module own_none, neither installed nor in /"),
        ("own_mean:second", {}, "own_mean:second: the module own_mean (/"),
        ("own_mean:number", {}, "own_mean:number: is 3, expected an Aggregator or a function that gives one"),
        ("own_mean:nothing", {}, "own_mean:nothing: gave None, expected an Aggregator"),
        (
            "own_mean:ready",
            {"f": 1.0},
            "own_mean:ready: is an Aggregator, not a function that gives one, and takes no f",
        ),
        (
            "own_mean:needs",
            {"least": 1.0},
            "own_mean:needs: TypeError: needs() got an unexpected keyword argument 'least'",
        ),
        ("own_mean:refuses", {}, "own_mean:refuses: ValueError: f is 1"),
    ],
)
def test_what_is_no_rule(reference: str, options: dict[str, float], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build.aggregator(reference, **options)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_a_config_that_names_one_is_not_a_reason_to_import_it(folder: Path) -> None:
    (folder / "own_raising.py").write_text("1 / 0")
    config = get_default_config()
    config.federated.aggregation_method = "own_raising:rule"
    config.federated.aggregation_options = {"whatever": "my rule says"}
    config.validate_all()
    assert "own_raising" not in sys.modules
    with pytest.raises(ConfigError, match="own_raising cannot be imported: ZeroDivisionError"):
        build.server(config, folder, Journal.create(folder / "run.db", {}))


def test_one_that_needs_more_updates_than_a_round_may_close_with(folder: Path) -> None:
    config = get_default_config()
    config.federated.aggregation_method = "own_mean:needs"
    journal = Journal.create(folder / "run.db", {})
    with pytest.raises(ConfigError, match=r"own_mean.needs.* needs at least 4 updates, and a round may close with 3"):
        build.server(config, folder, journal)
    config.federated.aggregation_options = {"fewest": 3}
    assert build.server(config, folder, journal).aggregator.fewest == 3
    journal.close()


@pytest.mark.parametrize(("field", "value"), [("aggregation_method", "norm_clip"), ("lora_aggregation", "ffa")])
def test_an_object_and_a_name_are_one_rule_too_many(folder: Path, field: str, value: str) -> None:
    config = get_default_config()
    setattr(config.federated, field, value)
    fed = FederatedLearning(config, aggregator=fedavg(), local_workers=0)
    with pytest.raises(
        ConfigError, match=rf"federated.{field} is '{value}', and an aggregator was given: leave one out"
    ):
        fed.setup()
    assert not (folder / "fed_results").exists(), "nothing is left of it"
