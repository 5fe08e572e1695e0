"""A page of the documentation, run as its reader would: block by block, in a folder of its own.

Comments above a block say what is different about it, and why:
  <!-- tested after: COMMAND -->          it is the output of that command, not of the block before
  <!-- tested by night: PATH::TEST -->    that test, or more, does by day what it does, with less
  <!-- tested on: HOST, HOST -->          it runs in the folder of each host, beside the other hosts' blocks
  <!-- tested until: TEXT -->             it does not end by itself: once it has printed that, it gets a Ctrl-C
  <!-- tested with: WHAT -->              what stands in for what may not be shipped
  <!-- not tested: WHY -->
"""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from running import REPO, environment, free_pair

#: Put at the end of whatever trains, so that it takes seconds.
SMALL = {
    "device": "cpu",
    "training.num_epochs": 1,
    "training.num_threads": 1,
    "training.max_samples_per_client": 8,
    "federated.num_rounds": 1,
    "federated.num_workers": 1,
    "generation.max_new_tokens": 4,
}
MARKS = {"tested after", "tested by night", "tested on", "tested until", "tested with", "not tested"}
#: In place of `fedmq`: small runs of a small base, and every other host is this one.
STAND_IN = """\
#!{python}
import os, re, sys
words = [re.sub(r"tcp://[a-z0-9.-]+:5555", "tcp://127.0.0.1:{port}", word) for word in sys.argv[1:]]
if words[0] in ("run", "coordinator"):
    words += {small}
    if any(re.match("configs/(twcs_gpt2|recommended)", word) for word in words):
        words += ["--set", "model.model_name=fedmq-tiny"]
os.execv("{python}", ["{python}", "-m", "fedmq", *words])
"""
#: In place of `scp FILE HOST:`.
SCP = """\
#!/bin/sh
mkdir -p "../${2%:}" && cp "$1" "../${2%:}/"
"""


class Block(NamedTuple):
    """A fenced block: where it begins, its language, its text, and what the comments above it say."""

    line: int
    info: str
    text: str
    marks: dict[str, str]

    @property
    def file(self) -> str | None:
        """The file that it is the text of, if its first line says so."""
        found = re.match(r"# ([\w.-]+\.(?:py|toml))\n", self.text)
        return found[1] if found else None


def blocks(path: Path) -> list[Block]:
    """The fenced blocks of a page, in order."""
    text = path.read_text(encoding="utf-8")
    found = []
    for fence in re.finditer(r"^((?:<!-- [^\n]+ -->\n)*)```([^\n`]*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        marks = dict(re.findall(r"<!-- ((?:not )?tested[a-z ]*): (.+) -->", fence[1]))
        assert len(marks) == fence[1].count("<!--") and marks.keys() <= MARKS, f"{path.name}: {fence[1]}"
        found.append(Block(text.count("\n", 0, fence.start(2)) + 1, fence[2], fence[3], marks))
    assert len(found) * 2 == len(re.findall(r"^ *```", text, re.MULTILINE)), f"{path.name} has a block that is not read"
    return found


def form(line: str) -> str:
    """A line of output without what differs from run to run: figures, digests, and what a model makes up."""
    if re.match(r"  \S", line):
        return "a text"
    return " ".join(re.sub(r"\b[0-9a-f]{64}\b|\d[\d.,]*|\b(bf16|fp32|kB|MB)\b", "#", line).split())


class Reader:
    """Runs the blocks of one page in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.output = ""
        self._of_fedmq = True
        self._beside: list[tuple[str, Block, subprocess.Popen[str]]] = []
        programs = folder / ".bin"
        programs.mkdir()
        small = [word for name, value in SMALL.items() for word in ("--set", f"{name}={value}")]
        stand_in = STAND_IN.format(python=sys.executable, port=free_pair(), small=small)
        for name, text in {"fedmq": stand_in, "scp": SCP}.items():
            (programs / name).write_text(text)
            (programs / name).chmod(0o755)
        self._env = environment() | {"PATH": f"{programs}:{environment()['PATH']}"}

    def run(self, block: Block) -> None:
        """Do what the block says; AssertionError when that fails."""
        hosts = block.marks["tested on"].split(", ") if "tested on" in block.marks else []
        if not hosts or {host for host, _, _ in self._beside}.intersection(hosts):
            self.wait()
        if block.info == "text":
            self._compare(block)
        elif block.info in ("python", "toml"):
            if block.file:
                (self.folder / block.file).write_text(block.text)
            if block.info == "python":
                self._of_fedmq = False
                self._end(block, self._start([sys.executable, "-c", block.text], self.folder))
        elif block.info == "bash" and hosts:
            for host in hosts:
                text = block.text.replace(hosts[0], host)
                self._beside.append((host, block, self._start(["bash", "-euc", text], self.folder / host)))
        elif block.info == "bash" and "tested until" in block.marks:
            self._interrupt(block, self._start(["bash", "-euc", f"exec {block.text}"], self.folder))
        elif block.info == "bash":
            self._of_fedmq = True
            self._end(block, self._start(["bash", "-euc", block.text], self.folder))
        else:
            raise AssertionError(f"line {block.line}: nobody knows how to run a block of {block.info!r}")

    def wait(self) -> None:
        """Until the hosts' blocks have ended."""
        while self._beside:
            _, block, process = self._beside.pop()
            self._end(block, process)

    def close(self) -> None:
        """End what a failed block left behind."""
        for _, _, process in self._beside:
            process.kill()
            process.communicate()

    def _start(self, command: list[str], folder: Path) -> subprocess.Popen[str]:
        folder.mkdir(exist_ok=True)
        if not (folder / "configs").exists():
            (folder / "configs").symlink_to(REPO / "configs")
        return subprocess.Popen(
            command,
            cwd=folder,
            env=self._env | {"PYTHONPATH": f"{self._env['PYTHONPATH']}:{folder}"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def _end(self, block: Block, process: subprocess.Popen[str]) -> None:
        self.output, _ = process.communicate(timeout=300)
        assert process.returncode == 0, f"line {block.line}:\n{block.text}\nprinted:\n{self.output}"

    def _interrupt(self, block: Block, process: subprocess.Popen[str]) -> None:
        """Ctrl-C, once it has said what its mark says; it must take that well."""
        self._beside.append(("", block, process))
        assert process.stdout is not None
        self.output = ""
        while block.marks["tested until"] not in self.output:
            line = process.stdout.readline()
            assert line, f"line {block.line}:\n{block.text}\nprinted:\n{self.output}"
            self.output += line
        process.send_signal(signal.SIGINT)
        self.wait()

    def _compare(self, block: Block) -> None:
        """Every line that the page shows was printed: those of a run but for figures, unless they are of the split."""
        if not self._of_fedmq:
            assert block.text == self.output, f"line {block.line}: what was printed is\n{self.output}"
            return
        lines = self.output.splitlines()
        printed = {*lines, *map(form, lines)}
        for line in block.text.splitlines():
            shown = line if line.startswith(("data:", "      ")) else form(line)
            assert shown in printed, f"line {block.line}: {line!r} is not what was printed:\n{self.output}"
