"""`fedmq report`: from run folders to one HTML page and the same charts as PNGs. Runs are read, never written to."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from fedmq import atomic, baselines
from fedmq.errors import ConfigError, FedmqError, StorageError
from fedmq.inspection import inspect_run
from fedmq.report.page import comparison_html, require_jinja, run_html
from fedmq.storage.run_folder import DATABASE


class Written(NamedTuple):
    """What a report is made of.

    Attributes:
      page: the HTML file.
      nbytes: its size.
      figures: the PNGs.
      damage: what of the runs could not be read, a line each.
    """

    page: Path
    nbytes: int
    figures: list[Path]
    damage: list[str]


def write_report(run_dirs: Sequence[Path], out: Path | None = None) -> Written:
    """Write the report of one run, or the comparison of several.

    Args:
      run_dirs: folders of runs: that go on, have ended, or were copied from elsewhere.
      out: the HTML file; PNGs go to the folder beside it that has its name without the suffix.
        None: RUN_DIR/report.html, and for several runs comparison.html in the current folder.

    Raises:
      ConfigError: Jinja2 is not installed, a run is named twice, or `out` names no HTML file.
      StorageError: a folder holds no run, one of another version, or one of which nothing can be read; or the files
        cannot be written.
    """
    require_jinja()
    if len({path.resolve() for path in run_dirs}) < len(run_dirs):
        raise ConfigError("a run is named twice: name each once")
    target = out or (run_dirs[0] / "report.html" if len(run_dirs) == 1 else Path("comparison.html"))
    if target.suffix.lower() not in (".html", ".htm"):
        raise ConfigError(f"--out {target} is no name of a page: let it end in .html")
    runs = [inspect_run(path) for path in run_dirs]
    release = version("fedmq")
    if len(runs) == 1:
        from fedmq.report.run_page import run_page

        single = run_page(runs[0], _baselines(run_dirs[0], runs[0]))
        html, charts, damage = run_html(single, release), single.charts, single.damage
    else:
        from fedmq.report.comparison import comparison_page

        several = comparison_page(runs)
        html, charts, damage = comparison_html(several, release), several.charts, several.damage
    content = html.encode("utf-8", "replace")
    figures = [target.with_suffix("") / f"{chart.name}.png" for chart in charts]
    try:
        for path, chart in zip(figures, charts, strict=True):
            atomic.write_bytes(path, chart.png)
        atomic.write_bytes(target, content)
    except OSError as error:
        raise StorageError(
            f"{target} cannot be written ({error.strerror or error}): give --out FILE.html, in a folder that can be"
        ) from None
    return Written(target, len(content), figures, list(damage))


def _baselines(run_dir: Path, found: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What is read of each baseline of a run, as of any run; `unreadable` says why that is nothing."""
    known, read = found.get("baselines", {}), dict[str, dict[str, Any]]()
    for database in sorted((run_dir / baselines.FOLDER).glob(f"*/{DATABASE}")):
        kind = database.parent.name
        try:
            read[kind] = inspect_run(database.parent) | {"same_settings": known.get(kind, {}).get("same_settings")}
        except FedmqError as error:
            read[kind] = {"unreadable": str(error), "scores": {}, "same_settings": None}
    return read
