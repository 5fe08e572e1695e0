"""From a matplotlib figure to an SVG that lives inside a page, and to a PNG for a paper."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from fedmq.protocol.printable import escaped
from fedmq.report.palette import GRID, GROUND, INK, MUTED, themed

_STYLE = {
    # The page's ground shows through; the PNG gets one of its own.
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "axes.edgecolor": MUTED.light,
    "axes.grid": True,
    "axes.labelcolor": INK.light,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.axisbelow": True,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 10,
    "grid.color": GRID.light,
    "grid.linewidth": 0.6,
    "legend.fontsize": 9,
    # Lines pass under it.
    "legend.edgecolor": "none",
    "legend.facecolor": GROUND.light,
    "legend.framealpha": 0.85,
    # Text stays text, so that it is small, can be searched and read aloud; names of clients are no formulas.
    "svg.fonttype": "none",
    "text.parse_math": False,
    "text.color": INK.light,
    "xtick.color": MUTED.light,
    "xtick.labelcolor": INK.light,
    "ytick.color": MUTED.light,
    "ytick.labelcolor": INK.light,
}
_PNG_DPI = 200


class Table(NamedTuple):
    """What a chart shows, as text: its first column names the row."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


class Chart(NamedTuple):
    """A chart, in both forms, and what it says without being seen.

    Attributes:
      name: of its PNG, without the suffix.
      title: above it.
      alt: what it shows, in words.
      note: what a reader has to know beside it; "" = nothing.
      table: its figures.
      svg: an svg element without a namespace, for a page of HTML.
      png: the same as a file.
    """

    name: str
    title: str
    alt: str
    note: str
    table: Table
    svg: str
    png: bytes


@contextmanager
def drawing(name: str) -> Iterator[None]:
    """The style of our charts. The same name and data give the same bytes."""
    import matplotlib

    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": name}), warnings.catch_warnings():
        # A browser has the letters that matplotlib's font lacks, and in a PNG a box stands for them.
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        yield


def axes(height: float = 3.4, width: float = 7.2) -> Any:
    """A figure's axes, in inches. No pyplot: it keeps global state and wants a display."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained").subplots()


def chart(name: str, drawn: Any, title: str, alt: str, table: Table, note: str = "") -> Chart:
    """The chart on these axes. To be called where it was drawn, inside `drawing`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    figure, svg, png = drawn.figure, io.StringIO(), io.BytesIO()
    unsaid = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    FigureCanvasSVG(figure).print_svg(svg, metadata=unsaid)
    figure.set_dpi(_PNG_DPI)
    figure.set_facecolor("white")
    FigureCanvasAgg(figure).print_png(png, metadata={"Software": None})
    return Chart(name, title, alt, note, table, _inline(svg.getvalue(), name), png.getvalue())


def name_of(text: str, length: int = 28) -> str:
    """A name that somebody else gave, as a label: one line, not too long, and never hidden for a leading underscore.

    Example:
      >>> name_of("a\\nb"), name_of("client" * 9, 12), name_of("_x")
      ('a\\\\nb', 'clientclien…', ' _x')
    """
    line = escaped(text)
    line = line if len(line) <= length else line[: length - 1] + "…"
    return f" {line}" if line.startswith("_") else line


def _inline(svg: str, name: str) -> str:
    """No prolog, no namespaces, nothing with an address; ids that are unique in a page of many charts."""
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>\s*", "", body, flags=re.DOTALL)
    body = re.sub(r' xmlns(:\w+)?="[^"]*"| version="[^"]*"', "", body)
    body = body.replace("xlink:href", "href")
    body = re.sub(r'( id="|="#|url\(#)', rf"\g<1>{name}-", body)
    body = body.replace("<svg ", '<svg aria-hidden="true" focusable="false" ', 1)
    return themed(body)
