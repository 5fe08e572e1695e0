"""One check: what was found, whether that is fit for a run, what to do if it is not."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Literal, NamedTuple

from fedmq.errors import FedmqError

Status = Literal["ok", "warning", "failed"]


class Check(NamedTuple):
    """What one check came to.

    Attributes:
      name: of what was looked at.
      status: "warning": a run works, or may; "failed": it cannot.
      found: what is there.
      advice: what to do; "" where there is nothing to do.
      exit_code: of the run that would fail because of it.
    """

    name: str
    status: Status
    found: str
    advice: str = ""
    exit_code: int = 1


def made(name: str, check: Callable[[], Iterable[Check]]) -> list[Check]:
    """Make a check. An error of ours is its outcome; any other is a fault of the check, and says nothing of the run.

    Example:
      >>> def port() -> list[Check]:
      ...     raise FedmqError("the port is in use; choose another")
      >>> made("network", port)
      [Check(name='network', status='failed', found='the port is in use; choose another', advice='', exit_code=1)]
    """
    try:
        return list(check())
    except FedmqError as error:
        return [Check(name, "failed", _one_line(error), exit_code=error.exit_code)]
    except Exception as error:
        what = f"could not be checked ({type(error).__name__}: {_one_line(error)})"
        return [Check(name, "warning", what, "the run may work all the same")]


def exit_code(checks: Iterable[Check]) -> int:
    """0 when nothing failed; else as the run would end: 2 where config, keys, data or base are at fault, else 1.

    Example:
      >>> exit_code([Check("disk", "failed", "full"), Check("data", "failed", "no such file", exit_code=2)])
      2
    """
    return max((check.exit_code for check in checks if check.status == "failed"), default=0)


def lines(checks: Iterable[Check]) -> Iterator[str]:
    """For people, one line for each.

    Example:
      >>> list(lines([Check("cores", "ok", "2"), Check("keys", "warning", "nobody may join", "allow a key")]))
      ['ok       cores     2', 'warning  keys      nobody may join: allow a key']
    """
    for check in checks:
        advice = f": {check.advice}" if check.advice else ""
        yield f"{check.status:<8} {check.name:<9} {check.found}{advice}"


def _one_line(error: object) -> str:
    return " ".join(str(error).split())
