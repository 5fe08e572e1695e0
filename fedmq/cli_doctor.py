"""`fedmq doctor`: is this machine, and this config, fit for a run?"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from fedmq.cli_config import json_option, load_config, set_option, workers_option

_file = click.Path(path_type=Path)


@click.command()
@click.argument("config", required=False, type=click.Path())
@set_option
@workers_option
@click.option(
    "--output-dir",
    type=click.Path(),
    metavar="DIR",
    help="Folder of the run; default: the config's output_dir, else this one.",
)
@click.option(
    "--bind",
    metavar="tcp://HOST:PORT",
    help="Where a coordinator would listen: whether it can; default: any port of 127.0.0.1.",
)
@click.option("--keys", type=_file, metavar="DIR", help="A coordinator's folder of `fedmq keys`; default: not checked.")
@click.option("--key", type=_file, metavar="FILE", help="A worker's NAME.key; default: not checked.")
@click.option(
    "--server-key", type=_file, metavar="FILE", help="The coordinator's .pub that a worker has; default: not checked."
)
@json_option
def doctor(
    config: str | None,
    assignments: tuple[str, ...],
    workers: int | None,
    output_dir: str | None,
    bind: str | None,
    keys: Path | None,
    key: Path | None,
    server_key: Path | None,
    as_json: bool,
) -> None:
    """Check this machine and, if given, CONFIG: nothing is trained, fetched or written.

    A line for each check: ok, warning or failed, what was found, what to do. The exit code is 0 when nothing failed,
    2 where config, keys, data or base are at fault, else 1.
    """
    from fedmq.doctor.check import Check, exit_code, lines, made
    from fedmq.doctor.diagnosis import diagnose

    settings: Any = None

    def read() -> Iterator[Check]:
        nonlocal settings
        if config is not None or assignments:
            settings = load_config(config, assignments, output_dir)
            yield Check("config", "ok", config or "the quickstart's")

    def all_checks() -> Iterator[Check]:
        yield from made("config", read)
        folder = Path(output_dir or (settings.output_dir if settings else "."))
        yield from diagnose(settings, folder, workers=workers, bind=bind, keys=keys, key=key, server_key=server_key)

    checks = []
    for check in all_checks():
        checks.append(check)
        if not as_json:
            click.echo(next(lines([check])))
    if as_json:
        fields = ("name", "status", "found", "advice")
        rows = [{field: getattr(check, field) for field in fields} for check in checks]
        click.echo(json.dumps({"exit_code": exit_code(checks), "checks": rows}))
    sys.exit(exit_code(checks))
