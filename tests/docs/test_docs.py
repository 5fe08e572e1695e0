"""What the documents name is there: files, tests, functions, modules, floors, dependencies."""

from __future__ import annotations

import ast
import configparser
import re
from pathlib import Path

import pytest
from doc_tables import DOCS, REPO, quoted, section, tables, text_of

import fedmq
from fedmq.config import ExperimentConfig
from fedmq.config_section import Section

PAGES = [*DOCS, REPO / "README.md", REPO / "CHANGELOG.md"]
MODULES = [path for path in sorted((REPO / "fedmq").rglob("*.py")) if not path.name.startswith("__")]
TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in MODULES}
SETUP = configparser.ConfigParser()
SETUP.read(REPO / "setup.cfg")
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPO)))


def members() -> dict[str, set[str]]:
    """Class, or module without its folder -> the names defined in it."""
    found: dict[str, set[str]] = {}
    for path, tree in TREES.items():
        classes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
        for name, body in [(path.stem, tree.body), *((node.name, node.body) for node in classes)]:
            names = found.setdefault(name, set())
            for node in body:
                if isinstance(node, ast.FunctionDef | ast.ClassDef):
                    names.add(node.name)
                elif isinstance(node, ast.AnnAssign | ast.Assign):
                    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                    names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return found


MEMBERS = members()
SETTINGS = {name: set(type(value).model_fields) for name, value in ExperimentConfig() if isinstance(value, Section)}


@each_page
def test_links(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]*)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        if target and "://" not in target:
            assert (page.parent / target).exists(), target


@each_page
def test_anchors(page: Path) -> None:
    for target, anchor in re.findall(r"\]\(([^)#:]*)#([^)]+)\)", page.read_text(encoding="utf-8")):
        text = ((page.parent / target) if target else page).read_text(encoding="utf-8")
        headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
        assert anchor in {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@each_page
def test_files(page: Path) -> None:
    for name in quoted(page.read_text(encoding="utf-8")):
        if re.fullmatch(r"(fedmq|tests|benchmarks|configs|launch|docs|\.ci)/[\w./-]*", name):
            assert (REPO / name).exists(), name


@each_page
def test_test_ids(page: Path) -> None:
    for name in quoted(page.read_text(encoding="utf-8")):
        if "::" in name:
            path, test = name.split("::")
            assert re.search(rf"^def {test}\(", (REPO / path).read_text(encoding="utf-8"), re.MULTILINE), name


@each_page
def test_functions(page: Path) -> None:
    """`Class.name` and `module.name`, of classes and modules that there are."""
    for name in quoted(page.read_text(encoding="utf-8")):
        found = re.fullmatch(r"(\w+)\.(\w+)(\(.*\))?", name)
        if found and found[1] in MEMBERS and found[2] not in ("db", "json", "py", "toml"):
            # `model` is a module and a section of the config.
            assert found[2] in MEMBERS[found[1]] | SETTINGS.get(found[1], set()), name


@each_page
def test_settings(page: Path) -> None:
    """`section.key` of the config."""
    for name in quoted(page.read_text(encoding="utf-8")):
        found = re.fullmatch(r"(\w+)\.(\w+)", name)
        if found and found[1] in SETTINGS and found[2] != "jsonl":
            assert found[2] in SETTINGS[found[1]], name


def test_architecture_names_every_module() -> None:
    text = text_of("architecture.md")
    assert [path for path in MODULES if f"`{path.relative_to(REPO)}`" not in text] == []


def test_floors() -> None:
    layers = SETUP["importlinter:contract:floors"]["layers"].strip()
    assert f"```\n{layers}\n```" in text_of("architecture.md")


def test_every_dependency_has_a_reason() -> None:
    (rows,) = tables(text_of("decisions/0001-dependencies.md"))
    required = SETUP["options"]["install_requires"].split()
    assert [row[0] for row in rows[1:]] == [re.split(r"[<>=!~]", name)[0] for name in required]


def test_decisions_are_numbered_and_short() -> None:
    pages = sorted((REPO / "docs" / "decisions").glob("*.md"))
    for number, page in enumerate(pages, 1):
        lines = page.read_text(encoding="utf-8").splitlines()
        assert page.name.startswith(f"{number:04d}-") and lines[0].startswith(f"# {number}. ")
        assert len(lines) <= 40
        assert all(f"**{part}.**" in "\n".join(lines) for part in ("Context", "Decision", "Consequences"))


def test_changelog_knows_this_version() -> None:
    changelog = (REPO / "CHANGELOG.md").read_text(encoding="utf-8")
    assert section(changelog, f"[{fedmq.__version__}]").strip()
