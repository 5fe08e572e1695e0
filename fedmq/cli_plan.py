"""`fedmq run --dry-run`."""

from __future__ import annotations

import json
from typing import Any

import click


def print_plan(config: Any, workers: int | None, as_json: bool) -> None:
    """The plan, for people or as one JSON object."""
    from fedmq.planning.lines import plan_lines
    from fedmq.planning.plan import make_plan

    plan = make_plan(config, workers)
    if as_json:
        click.echo(json.dumps(plan))
        return
    for line in plan_lines(plan):
        click.echo(line)


def refuse_virtual(virtual: bool, option: str) -> None:
    """Raise UsageError: what an option measures, or compares, is not by a virtual clock."""
    if virtual:
        raise click.UsageError(f"{option} is of a run by the real clock: leave --virtual-clock and --speed out")
