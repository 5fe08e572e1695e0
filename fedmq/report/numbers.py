"""Numbers as a page shows them."""

from __future__ import annotations

import math
from collections.abc import Sequence


def shown(value: float | int | None, digits: int = 4) -> str:
    """A figure; a dash where there is none.

    Example:
      >>> shown(2.65774), shown(12345.678, 2), shown(7), shown(None), shown(float("nan"))
      ('2.6577', '12,345.68', '7', '–', '–')
    """
    if value is None or not math.isfinite(value):
        return "–"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.{digits}f}" if abs(value) < 1e7 else f"{value:.3g}"


def size(nbytes: float | None) -> str:
    """Bytes for people.

    Example:
      >>> size(1_234_567), size(1234), size(None), size(45_000_000_000)
      ('1.23 MB', '1.2 kB', '–', '45.00 GB')
    """
    if nbytes is None:
        return "–"
    if nbytes >= 1e9:
        return f"{nbytes / 1e9:.2f} GB"
    return f"{nbytes / 1e6:.2f} MB" if nbytes >= 1e5 else f"{nbytes / 1e3:.1f} kB"


def unit_of_bytes(largest: float) -> tuple[float, str]:
    """By what to divide, and the unit's name.

    Example:
      >>> unit_of_bytes(3e7)
      (1000000.0, 'MB')
    """
    return next(
        (step, name)
        for step, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "bytes"))
        if largest >= step or step == 1
    )


def unit_of_seconds(largest: float) -> tuple[float, str]:
    """By what to divide, and the unit's name.

    Example:
      >>> unit_of_seconds(90.0), unit_of_seconds(3 * 3600.0)
      ((1.0, 'seconds'), (60.0, 'minutes'))
    """
    if largest >= 12 * 3600:
        return 3600.0, "hours"
    return (60.0, "minutes") if largest >= 600 else (1.0, "seconds")


def duration(seconds: float | None) -> str:
    """Time for people.

    Example:
      >>> duration(8.61), duration(75.2), duration(7265), duration(None)
      ('8.6 s', '1 min 15 s', '2 h 1 min', '–')
    """
    if seconds is None or not math.isfinite(seconds):
        return "–"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def wide(values: Sequence[float]) -> bool:
    """Whether positive values are so far apart that an axis should be logarithmic.

    Example:
      >>> wide([385.0, 14.0]), wide([9.0, 7.0]), wide([0.0, 1.0])
      (True, False, False)
    """
    known = [value for value in values if math.isfinite(value)]
    return bool(known) and min(known) > 0 and max(known) / min(known) > 10
