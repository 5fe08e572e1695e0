"""Every block of README, of the tutorials and of docs/coming-from.md is run as its reader would run it."""

from __future__ import annotations

import csv
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from page import Reader, blocks
from running import REPO, fedmq

from fedmq.cli import main

README = REPO / "README.md"
PAGES = [README, *sorted((REPO / "docs" / "tutorials").glob("*.md")), REPO / "docs" / "coming-from.md"]
EVERY_PAGE = [README, *sorted((REPO / "docs").rglob("*.md"))]
name = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
#: a reader's own texts
SAMPLE = REPO / "fedmq" / "assets" / "support_tweets.csv"


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    """Somebody with three CSVs of customers' messages, as README asks for."""
    with SAMPLE.open(encoding="utf-8", newline="") as file:
        texts = [row["text"] for row in csv.DictReader(file) if row["inbound"] == "True"][:120]
    for path, column in (("mine.csv", "message"), ("north/north.csv", "text"), ("south/south.csv", "text")):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        with (tmp_path / path).open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerows([[column, "customer"], *([text, f"customer_{k % 7}"] for k, text in enumerate(texts))])
    reader = Reader(tmp_path)
    yield reader
    reader.close()


@name
def test_every_block_runs(page: Path, reader: Reader, finished: Path, nightly: bool) -> None:
    if page == README:
        # The folder that the quickstart leaves: one of a run that took seconds will do.
        shutil.copytree(finished / "run", reader.folder / "fed_quickstart")
        (reader.folder / "twcs").mkdir()
        shutil.copyfile(SAMPLE, reader.folder / "twcs" / "twcs.csv")
    if page.stem == "own-rule":
        for block in blocks(page.with_name("own-csv.md"))[:2]:  # its data and its config
            reader.run(block)
    for block in blocks(page):
        if "not tested" in block.marks:
            continue
        if "tested after" in block.marks:
            data = fedmq("data", "check", "configs/quickstart.json", cwd=REPO)
            run = (finished / "stdout").read_text()
            reader.output = data.stdout + run.replace("run, logs in ", "fed_quickstart, logs in ./fed_quickstart/")
        if nightly or "tested by night" not in block.marks:
            reader.run(block)
    reader.wait()


def test_what_is_not_run_here() -> None:
    """Each block that is not, or not by day, says why; this is the list."""
    left_out = {
        (page.name, block.marks["not tested"])
        for page in PAGES
        for block in blocks(page)
        if "not tested" in block.marks
    }
    assert left_out == {
        ("README.md", "they make an environment from the package index; .ci/run gives both commands"),
    }
    assert {"./launch/test.sh", "./launch/quickstart.sh"} < set((REPO / ".ci" / "run").read_text().splitlines())
    by_day = [
        block.marks["tested by night"] for page in PAGES for block in blocks(page) if "tested by night" in block.marks
    ]
    for test in {test for tests in by_day for test in tests.split(", ")}:
        path, name = test.split("::")
        found = re.search(rf"((?:^@.*\n)*)^def {name}\(", (REPO / path).read_text(encoding="utf-8"), re.MULTILINE)
        assert found and "nightly" not in found[1], f"{test} is no test that runs by day"


def commands(page: Path) -> Iterator[str]:
    """The lines of a page's shell blocks, indented ones too, that call fedmq."""
    for block in re.findall(r"^ *```bash\n(.*?)^ *```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
        for line in block.replace("\\\n", "").splitlines():
            yield from (part.strip() for part in line.split("&&") if part.strip().startswith("fedmq "))


@pytest.mark.parametrize("page", EVERY_PAGE, ids=lambda page: str(page.relative_to(REPO)))
def test_commands_and_options_exist(page: Path) -> None:
    for line in commands(page):
        command: click.Command = main
        context, words = click.Context(main), shlex.split(line, comments=True)[1:]
        while isinstance(command, click.Group):
            found = command.get_command(context, words.pop(0))
            assert found is not None, f"no such command: {line}"
            command = found
        command.make_context(command.name, words)
        for word in words:
            assert not word.startswith("configs/") or (REPO / word).is_file(), f"no such file: {line}"
