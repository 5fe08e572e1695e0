"""HTML of a page: one file, with everything in it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from fedmq.errors import ConfigError
from fedmq.report import palette
from fedmq.report.comparison import ComparisonPage
from fedmq.report.run_page import RunPage

if TYPE_CHECKING:
    from jinja2 import Environment


def require_jinja() -> None:
    """Raises:
    ConfigError: the extra is not installed; said before any work is done.
    """
    try:
        import jinja2  # noqa: F401 - whether it can be
    except ImportError:
        raise ConfigError("fedmq report needs Jinja2, which is not installed: pip install 'fedmq[report]'") from None


def run_html(page: RunPage, version: str) -> str:
    """The page of one run.

    Args:
      page: what it says.
      version: of fedmq, which wrote it.
    """
    return _rendered("run.html", page, version)


def comparison_html(page: ComparisonPage, version: str) -> str:
    """The page of several runs."""
    return _rendered("comparison.html", page, version)


def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    # All that is put in is escaped, whatever the template's name; a name that the page has not is an error.
    return Environment(
        loader=PackageLoader("fedmq.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _rendered(template: str, page: RunPage | ComparisonPage, version: str) -> str:
    return (
        _environment()
        .get_template(template)
        .render(
            page=page,
            light=palette.variables(dark=False),
            dark=palette.variables(dark=True),
            version=version,
            made=time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
        )
    )
