"""A hook of mkdocs: a notebook as a page, its cells and what they printed and drew when it was kept."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files


def page(notebook: Any, pictures: dict[str, bytes], name: str) -> Iterator[str]:
    """Its Markdown; the pictures go into `pictures`, by the names that it calls them."""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            yield cell.source
            continue
        yield f"```python\n{cell.source}\n```"
        for output in cell.outputs:
            data = output.get("data", {})
            if "image/png" in data:
                file = f"{name}_{len(pictures)}.png"
                pictures[file] = base64.b64decode(data["image/png"])
                yield f"![what the cell above draws]({file})"
            elif printed := output.get("text") or data.get("text/plain"):
                yield f"```text\n{printed.rstrip()}\n```"
    yield f'<a href="../{name}.ipynb" download>The notebook itself</a>'


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page and its pictures for each notebook of docs/notebooks."""
    for path in sorted((Path(config.docs_dir) / "notebooks").glob("*.ipynb")):
        pictures: dict[str, bytes] = {}
        text = "\n\n".join(page(nbformat.read(path, as_version=4), pictures, path.stem))
        files.append(File.generated(config, f"notebooks/{path.stem}.md", content=text))
        for file, content in pictures.items():
            files.append(File.generated(config, f"notebooks/{file}", content=content))
    return files
