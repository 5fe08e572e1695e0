"""Every option says what it is, in which unit, and what it is when it is not given; and shells complete them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from fedmq.cli import main

#: What a number of an option may be of.
UNITS = r"tokens|TCP port|threads|processes|probability|logits|number >= 0"


def options(command: click.Command = main, path: str = "fedmq") -> Iterator[tuple[str, click.Option]]:
    for parameter in command.params:
        if isinstance(parameter, click.Option) and not parameter.hidden:
            yield f"{path} {parameter.opts[-1]}", parameter
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            yield from options(inner, f"{path} {name}")


ALL = dict(options())


def test_there_are_many() -> None:
    assert len(ALL) > 60


@pytest.mark.parametrize("name", ALL)
def test_help_has_meaning_unit_and_default(name: str) -> None:
    option = ALL[name]
    assert option.help and option.help.endswith("."), "a sentence"
    if option.is_flag or option.required:
        return
    if option.multiple:
        assert "Repeatable" in option.help or "=" in (option.metavar or "") or name.endswith("worker --client")
    else:
        assert option.show_default or "default: " in option.help
    if isinstance(option.type, (click.types.IntParamType, click.types.FloatParamType)):
        assert re.search(UNITS, option.help)


def test_what_an_output_cannot_show_is_escaped(tmp_path: Path) -> None:
    """A run that was finished ended with exit code 1, as its texts could not be printed."""
    done = subprocess.run(
        [sys.executable, "-m", "fedmq", "keys", "new", "north", "--dir", "☃"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONIOENCODING": "latin-1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == r"wrote \u2603/north.key: secret, it stays on this host"


def test_places_are_completed_as_files() -> None:
    for name, option in ALL.items():
        if option.metavar in ("DIR", "FILE", "PATH", "CSV", "FILE.html"):
            assert isinstance(option.type, click.Path), name


def complete(*words: str, kind: str = "zsh") -> list[str]:
    """What the shell's function gets from fedmq, as it asks for it."""
    position = len(words) - 1
    env = {"_FEDMQ_COMPLETE": f"{kind}_complete", "COMP_WORDS": " ".join(words), "COMP_CWORD": str(position)}
    if kind == "fish":
        env["COMP_CWORD"] = words[-1]
    command = [sys.executable, "-c", "from fedmq.cli import main; main(prog_name='fedmq')"]
    done = subprocess.run(command, env=os.environ | env, capture_output=True, text=True, check=True, timeout=60)
    assert not done.stderr
    return done.stdout.splitlines()


def test_zsh_and_fish_get_commands_options_choices_and_settings() -> None:
    assert "generate" in complete("fedmq", "ge")
    assert "--top-p" in complete("fedmq", "generate", "--to")
    assert complete("fedmq", "run", "--baseline", "c")[1] == "central"
    assert complete("fedmq", "run", "con")[0] == "file"
    lines = complete("fedmq", "run", "--set", "generation.ev")
    assert lines[1] == "generation.every" and "generation" in lines[2]
    assert [line.partition(",")[2].partition("\t")[0] for line in complete("fedmq", "ex", kind="fish")] == ["export"]


def test_bash_itself_completes(tmp_path: Path) -> None:
    program = Path(sys.executable).with_name("fedmq")
    if not program.exists():
        pytest.skip("fedmq is not installed beside this Python")
    (tmp_path / "my_config.json").touch()
    script = """
        eval "$(_FEDMQ_COMPLETE=bash_source fedmq)"
        complete -p fedmq
        for words in "fedmq ge" "fedmq run --base" "fedmq run --baseline z" "fedmq run --set seed"; do
            COMP_WORDS=($words); COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); COMPREPLY=()
            _fedmq_completion fedmq
            echo "${COMPREPLY[@]}"
        done
    """
    path = os.pathsep.join([str(program.parent), os.environ["PATH"]])
    done = subprocess.run(
        ["bash", "--norc", "-c", script], env=os.environ | {"PATH": path}, cwd=tmp_path, capture_output=True, text=True,
        timeout=60,
    )  # fmt: skip
    assert not done.stderr
    assert done.stdout.splitlines()[1:] == ["generate", "--baseline", "zero-shot", "seed"]
