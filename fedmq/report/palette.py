"""The colours of charts and pages, on light and on dark ground."""

from __future__ import annotations

from typing import NamedTuple


class Colour(NamedTuple):
    """One colour by its role.

    Attributes:
      name: of the CSS variable.
      light: on a light ground, and in PNGs; #rrggbb, no two alike, so that it can be found in an SVG.
      dark: on a dark ground.
    """

    name: str
    light: str
    dark: str


INK = Colour("ink", "#1b2430", "#e6ebf2")
MUTED = Colour("muted", "#5b6675", "#a3afbf")
GRID = Colour("grid", "#d9dee6", "#323d4c")
GROUND = Colour("ground", "#fefefe", "#12171f")
PANEL = Colour("panel", "#f3f5f8", "#1b222d")
#: Of runs, in the order in which they are named; each has 4.5 : 1 against the ground that it is for.
SERIES = (
    Colour("blue", "#1f6fb4", "#6cb2f0"),
    Colour("orange", "#b5500b", "#f0a05a"),
    Colour("green", "#2a7d3f", "#6fce86"),
    Colour("purple", "#7b4bb3", "#bb9af0"),
    Colour("red", "#b3263a", "#f08894"),
    Colour("teal", "#0f7a80", "#5ccfd4"),
    Colour("brown", "#7a5a2b", "#cfae7b"),
    Colour("pink", "#a83279", "#f09acb"),
)
BLUE, ORANGE, GREEN, PURPLE, RED = SERIES[:5]
#: 3 : 1, as an area needs.
WAITING = Colour("waiting", "#8693a5", "#5f6d84")
_ALL = (INK, MUTED, GRID, GROUND, PANEL, *SERIES, WAITING)


def themed(svg: str) -> str:
    """An SVG in which each colour follows the page's theme.

    Example:
      >>> themed('<path style="stroke: #1f6fb4"/>')
      '<path style="stroke: var(--blue, #1f6fb4)"/>'
    """
    for colour in _ALL:
        svg = svg.replace(colour.light, f"var(--{colour.name}, {colour.light})")
    return svg


def variables(dark: bool) -> str:
    """The declarations of all colours, for one theme.

    Example:
      >>> variables(dark=True).split(";")[0]
      '--ink: #e6ebf2'
    """
    return "; ".join(f"--{colour.name}: {colour.dark if dark else colour.light}" for colour in _ALL) + ";"
