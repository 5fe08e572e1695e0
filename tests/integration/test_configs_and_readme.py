"""Every file of configs/ and every command of the README works as a reader would use it."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest
from running import REPO, environment, fedmq

from fedmq.cli import main

CONFIGS = sorted(path.name for path in (REPO / "configs").iterdir() if path.suffix in (".json", ".toml"))
README = REPO / "README.md"


@pytest.mark.parametrize("name", CONFIGS)
def test_config_is_valid(name: str) -> None:
    done = fedmq("config", "validate", f"configs/{name}", cwd=REPO)
    assert (done.returncode, done.stderr) == (0, "")


def blocks(info: str) -> list[str]:
    """The README's code blocks whose info string is `info`."""
    text = README.read_text(encoding="utf-8") if README.is_file() else ""
    return re.findall(rf"^```{info}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def commands() -> list[str]:
    lines = [line for info in ("bash", "bash test", "console") for block in blocks(info) for line in block.splitlines()]
    return [line.removeprefix("$ ") for line in lines if line.removeprefix("$ ").startswith("fedmq ")]


@pytest.mark.skipif(not README.is_file(), reason="no README.md")
def test_readme_speaks_of_commands_and_options_that_exist() -> None:
    assert commands()
    for line in commands():
        command: click.Command = main
        context, words = click.Context(main), shlex.split(line, comments=True)[1:]
        while isinstance(command, click.Group):
            name = words.pop(0)
            found = command.get_command(context, name)
            assert found is not None, f"no such command: {line}"
            command = found
        command.make_context(command.name, words)
        for word in words:
            assert not word.startswith("configs/") or (REPO / word).is_file(), f"no such file: {line}"


@pytest.mark.skipif(not blocks("bash test"), reason="no block of the README is marked for testing")
def test_readme_commands_run(finished: Path, tmp_path: Path) -> None:
    # The README speaks of the folder that the quickstart leaves; one of a run that took seconds will do.
    shutil.copytree(finished / "run", tmp_path / "fed_quickstart")
    bin = tmp_path / ".bin"
    bin.mkdir()
    (bin / "fedmq").write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m fedmq "$@"\n')
    (bin / "fedmq").chmod(0o755)
    env = environment()
    for block in blocks("bash test"):
        shell = subprocess.run(
            ["bash", "-euxc", block],
            cwd=tmp_path,
            env=env | {"PATH": f"{bin}:{env['PATH']}"},
            capture_output=True,
            text=True,
            timeout=110,
        )
        assert shell.returncode == 0, shell.stderr
