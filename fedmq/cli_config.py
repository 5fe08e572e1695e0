"""Commands on configs and their data, and the options that other commands share with them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, NoReturn

import click

from fedmq.cli_completion import setting_names
from fedmq.loading import loading

#: A file or folder: what is wrong with it is said where it is used.
path_type = click.Path()
set_option = click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="SECTION.KEY=VALUE",
    shell_complete=setting_names,
    help="Override a setting; JSON value, else a string. Repeatable.",
)
workers_option = click.option(
    "--workers",
    type=click.IntRange(1),
    metavar="N",
    help="Local worker processes; default: one per GPU, else per core.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")


def fail(text: str, code: int) -> NoReturn:
    """Say in one line what is wrong, and end."""
    click.echo(f"fedmq: {' '.join(text.split())}", err=True)
    sys.exit(code)


def load_config(path: str | None, assignments: tuple[str, ...] = (), output_dir: str | None = None) -> Any:
    with loading():
        from fedmq.config import ExperimentConfig, bundled_config

    config = ExperimentConfig.load(path or bundled_config("quickstart.json"))
    extra = [] if output_dir is None else [f"output_dir={json.dumps(output_dir)}"]
    return config.with_overrides([*assignments, *extra])


@click.group("config")
def config_group() -> None:
    """Show, check or describe configs."""


@config_group.command("show")
@click.argument("config", required=False, type=click.Path())
@set_option
@json_option
def config_show(config: str | None, assignments: tuple[str, ...], as_json: bool) -> None:
    """Print CONFIG with every default filled in; without CONFIG, the defaults."""
    from fedmq.config import get_default_config

    settings = load_config(config, assignments) if config else get_default_config().with_overrides(list(assignments))
    click.echo(json.dumps(settings.to_dict()) if as_json else str(settings))


@config_group.command("validate")
@click.argument("config", type=click.Path())
@set_option
def config_validate(config: str, assignments: tuple[str, ...]) -> None:
    """Check CONFIG; exit code 2 and one line if it cannot be used."""
    load_config(config, assignments)
    click.echo(f"{config} is valid")


@config_group.command("schema")
def config_schema() -> None:
    """Print the JSON schema, with unit, default and limits of every setting."""
    from fedmq.config import ExperimentConfig

    click.echo(json.dumps(ExperimentConfig.json_schema(), indent=2))


@click.group("data")
def data_group() -> None:
    """Prepare or check the data of a config."""


@data_group.command("partition")
@click.argument("config", type=click.Path())
@click.option(
    "--out", required=True, type=path_type, metavar="DIR", help="Gets clients/client_K/, test/ and partition.json."
)
@set_option
@json_option
@click.option("--parent-fd", type=int, hidden=True)
def data_partition(config: str, out: str, assignments: tuple[str, ...], as_json: bool, parent_fd: int | None) -> None:
    """Split, deal and tokenise the data of CONFIG into shards that workers take by --data."""
    from fedmq.partitioning import partition_data
    from fedmq.runtime.console import statistics_lines
    from fedmq.runtime.local import end_with_parent

    if parent_fd is not None:
        end_with_parent(parent_fd)
    statistics = partition_data(load_config(config, assignments), Path(out))
    if as_json:
        click.echo(json.dumps(statistics))
        return
    for line in statistics_lines(statistics):
        click.echo(line)
    click.echo(f"wrote {out}")


@data_group.command("check")
@click.argument("config", type=click.Path())
@set_option
@json_option
def data_check(config: str, assignments: tuple[str, ...], as_json: bool) -> None:
    """Print the statistics of the split of CONFIG, without training."""
    import tempfile

    from fedmq.partitioning import partition_data
    from fedmq.runtime.console import statistics_lines

    settings = load_config(config, assignments)
    with tempfile.TemporaryDirectory() as folder:
        statistics = partition_data(settings, Path(folder) / "data")
    if as_json:
        click.echo(json.dumps(statistics))
        return
    for line in statistics_lines(statistics):
        click.echo(line)
