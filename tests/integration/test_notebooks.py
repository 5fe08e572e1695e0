"""The notebooks of docs/ run from top to bottom, with what they assert: by day with few texts, at night as they are."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from running import REPO, environment

NOTEBOOKS = REPO / "docs" / "notebooks"
#: in place of what their cell of parameters says
BY_DAY: dict[str, dict[str, Any]] = {
    "first_run": {"num_rounds": 1, "texts_per_client": 8, "num_workers": 1},
    "non_iid": {"num_rounds": 1, "texts_per_client": 8, "num_workers": 1, "trained": ["dirichlet"]},
    "own_strategy": {"num_rounds": 2, "texts_per_client": 8, "num_workers": 1, "compared": ["own rule"]},
}
EXECUTE = """\
import sys
import nbclient, nbformat
notebook = nbformat.read(sys.argv[1], as_version=4)
(at,) = [k for k, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", [])]
notebook.cells.insert(at + 1, nbformat.v4.new_code_cell(sys.argv[2]))
nbclient.NotebookClient(notebook, timeout=900, kernel_name="python3").execute()
outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
assert not [output for output in outputs if "text/html" in output.get("data", {})], "lines, not a block for each"
assert not [output for output in outputs if "\\x1b" in output.get("text", "")], "nothing is drawn over"
"""


def test_each_has_its_parameters() -> None:
    assert {path.stem for path in NOTEBOOKS.glob("*.ipynb")} == BY_DAY.keys()
    for name, parameters in BY_DAY.items():
        cells = json.loads((NOTEBOOKS / f"{name}.ipynb").read_text())["cells"]
        (source,) = ["".join(cell["source"]) for cell in cells if "parameters" in cell["metadata"].get("tags", [])]
        assert parameters.keys() <= set(re.findall(r"^(\w+) = ", source, re.MULTILINE))


@pytest.mark.parametrize("name", BY_DAY)
def test_its_outputs_are_kept(name: str) -> None:
    """Of a run from top to bottom, without what this or that machine had to say."""
    cells = json.loads((NOTEBOOKS / f"{name}.ipynb").read_text())["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell["outputs"]]
    assert {output.get("name") for output in outputs if output["output_type"] == "stream"} == {"stdout"}
    assert any("image/png" in output.get("data", {}) for output in outputs)


@pytest.mark.parametrize("name", BY_DAY)
def test_it_runs(name: str, tmp_path: Path, nightly: bool) -> None:
    small = "".join(f"{parameter} = {value!r}\n" for parameter, value in BY_DAY[name].items())
    done = subprocess.run(
        [sys.executable, "-c", EXECUTE, str(NOTEBOOKS / f"{name}.ipynb"), "" if nightly else small],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=1000,
    )
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.glob("fed_*/run.db"))
