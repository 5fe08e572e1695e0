"""A user's own function, by name: found, or one line that says why not."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedmq import build, own_code
from fedmq.algorithms.candidates import Candidate, Draw
from fedmq.errors import ConfigError

SOURCE = """\
from fedmq.rng import derive_seed
number = 3
def first(candidates, draw, skip=0):
    return [one.client_id for one in candidates][int(skip):][:draw.num_clients]
class Rules:
    pass
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_a_module_in_the_current_folder(folder: Path) -> None:
    (folder / "own_rules_a.py").write_text(SOURCE)
    assert own_code.load("own_rules_a:number") == 3
    assert sys.path[-1] == str(folder) and own_code.load("own_rules_a:first") is own_code.load("own_rules_a:first")
    assert sys.path.count(str(folder)) == 1


def test_a_module_of_a_package_and_one_that_is_installed(folder: Path) -> None:
    (folder / "own_pack").mkdir()
    (folder / "own_pack" / "rules.py").write_text(SOURCE)
    assert own_code.load("own_pack.rules:number") == 3
    (folder / "math.py").write_text("sqrt = 3")
    assert own_code.load("math:sqrt") != 3, "a file here takes the place of nothing that is installed"


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("own_rules_b", "own_rules_b: expected module:attribute"),
        ("own_rules_b:", "expected module:attribute"),
        ("own_rules_b:a.b", "expected module:attribute"),
        ("../own_rules_b:a", "expected module:attribute"),
        ("own_rules_none:first", "own_rules_none:first: there is no module own_rules_none, neither installed nor in /"),
        ("own_rules_b.sub:first", "own_rules_b.sub:first: there is no module own_rules_b.sub, neither"),
        ("own_rules_b:second", "own_rules_b:second: the module own_rules_b (/"),
        ("own_rules_syntax:x", "own_rules_syntax cannot be imported: SyntaxError: "),
        ("own_rules_import:x", "own_rules_import cannot be imported: No module named 'not_there'"),
        ("own_rules_raise:x", "own_rules_raise cannot be imported: ZeroDivisionError: division by zero"),
    ],
)
def test_what_cannot_be_loaded(folder: Path, reference: str, said: str) -> None:
    for name, source in {
        "own_rules_b": SOURCE,
        "own_rules_syntax": "def",
        "own_rules_import": "import not_there",
        "own_rules_raise": "1 / 0",
    }.items():
        (folder / f"{name}.py").write_text(source)
    with pytest.raises(ConfigError) as caught:
        own_code.load(reference)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_an_own_rule_of_selection_with_options(folder: Path) -> None:
    (folder / "own_rules_c.py").write_text(SOURCE)
    pool = [Candidate(name) for name in "abcd"]
    draw = Draw(1, 2, None)  # type: ignore[arg-type]  # the rule leaves nothing to chance
    assert build.sampler("own_rules_c:first")(pool, draw) == ["a", "b"]
    assert build.sampler("own_rules_c:first", skip=2.0)(pool, draw) == ["c", "d"]
    for reference, options, said in (
        ("own_rules_c:number", {}, "own_rules_c:number: is 3, expected a function of candidates and draw"),
        ("own_rules_c:first", {"jump": 1.0}, "with candidates, draw and the options jump: got an unexpected keyword"),
        ("own_rules_c:Rules", {}, "own_rules_c:Rules: cannot be called with candidates, draw: too many positional"),
    ):
        with pytest.raises(ConfigError) as caught:
            build.sampler(reference, **options)
        assert said in str(caught.value)
