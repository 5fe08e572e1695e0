"""A hook of mkdocs: README, CHANGELOG and whatever else a page links to outside docs/ is in the site, too."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

REPO = Path(__file__).resolve().parents[2]
_LINK = re.compile(r"(?<=\]\()([^)#:\s]+)")


def place(path: str) -> str:
    """Where a file of the checkout is in the site: docs/ is its root, a folder is its list, a notebook its page."""
    if (REPO / path).is_dir():
        path = f"{path}/index.md"
    return re.sub(r"\.ipynb$", ".md", path.removeprefix("docs/"))


def targets(path: str) -> Iterator[str]:
    """The files and folders of the checkout that one of its pages links to."""
    for link in _LINK.findall((REPO / path).read_text(encoding="utf-8")):
        target = posixpath.normpath(posixpath.join(posixpath.dirname(path), link))
        if (REPO / target).exists():
            yield target


def contents(folder: str) -> str:
    """The list of a folder: its pages by their headings, its scripts by their first lines."""
    lines = [f"# {folder.removeprefix('docs/').capitalize()}", ""]
    for file in sorted((REPO / folder).rglob("*.*")):
        first = file.read_text(encoding="utf-8").partition("\n")[0] if file.suffix in (".md", ".py") else ""
        link = file.relative_to(REPO / folder).as_posix()
        if file.suffix == ".md":
            lines.append(f"- [{first.lstrip('# ')}]({link})")
        elif file.name.startswith("bench_"):
            lines.append(f"- `{file.name}`: {first.strip(chr(34))}")
    return "\n".join([*lines, ""])


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what the pages link to, and what those link to."""
    found = ["README.md", "CHANGELOG.md"]
    pages = [f"docs/{file.src_uri}" for file in files.documentation_pages() if file.generated_by is None]
    for page in [*found, *pages]:
        found += targets(page)
    for path in found:  # it grows
        uri, full = place(path), REPO / path
        if files.get_file_from_path(uri):
            continue
        if full.is_dir():
            files.append(File.generated(config, uri, content=contents(path)))
            found += [file.relative_to(REPO).as_posix() for file in full.rglob("*.md")]
        else:
            files.append(File.generated(config, uri, abs_src_path=str(full)))
            found += targets(path) if path.endswith(".md") else []
    return files


def on_page_markdown(markdown: str, page: Any, config: MkDocsConfig, files: Files) -> str:
    """Links between files of the checkout become links between pages of the site."""
    uri = page.file.src_uri
    path = uri if (REPO / uri).exists() else f"docs/{uri}"

    def moved(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(path), link[0]))
        if not (REPO / target).exists() or (file := files.get_file_from_path(place(target))) is None:
            return link[0]
        return posixpath.relpath(file.src_uri, posixpath.dirname(uri) or ".")

    return _LINK.sub(moved, markdown)
