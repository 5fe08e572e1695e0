"""The command line: parse, build, run. What a command does is elsewhere."""

from __future__ import annotations

import json
import sys
from contextlib import ExitStack, closing
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fedmq import crash_points
from fedmq.cli_config import (
    config_group,
    data_group,
    fail,
    json_option,
    load_config,
    path_type,
    set_option,
    workers_option,
)
from fedmq.cli_dashboard import beside, dashboard, server_module
from fedmq.cli_doctor import doctor
from fedmq.cli_finished import evaluate, export, generate
from fedmq.cli_inspect import inspect
from fedmq.cli_keys import keys_group
from fedmq.cli_plan import print_plan, refuse_virtual
from fedmq.cli_report import report
from fedmq.cli_worker import worker
from fedmq.errors import FedmqError
from fedmq.loading import loading

if TYPE_CHECKING:
    from fedmq.config_baseline import Kind

_CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 110}


class _Group(click.Group):
    """Turns every error of ours into one line on stderr and its exit code."""

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except KeyboardInterrupt as interrupt:
            fail(str(interrupt) or "interrupted", 130)
        except (click.exceptions.Exit, click.exceptions.NoArgsIsHelpError, BrokenPipeError):
            raise
        except click.ClickException as error:
            where = (getattr(error, "ctx", None) or context).command_path
            fail(f"{error.format_message()} (see {where} --help)", error.exit_code)
        except Exception as error:
            if context.params.get("debug"):
                raise
            if isinstance(error, FedmqError):
                fail(str(error), error.exit_code)
            fail(f"unexpected {type(error).__name__}: {error} (--debug shows where)", 1)


@click.group(cls=_Group, context_settings=_CONTEXT)
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.version_option(package_name="fedmq")
def main(debug: bool) -> None:
    """Fine-tune a language model together, without giving the data away."""
    # What an output cannot show of a model's text, or of a path, is shown as escapes: it ends nothing.
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


_output_dir = click.option(
    "--output-dir", type=path_type, metavar="DIR", help="Folder of the run; default: the config's output_dir."
)
_resume = click.option("--resume", is_flag=True, help="Go on with the run in output_dir; starts it if there is none.")
_overwrite = click.option("--overwrite", is_flag=True, help="Replace the run in output_dir.")


def _run(config: Any, as_json: bool, with_dashboard: bool = False, **options: Any) -> None:
    with loading():
        from rich.console import Console

        from fedmq.federated_learning import FederatedLearning
        from fedmq.runtime.console import ConsoleView
        from fedmq.runtime.memory import keep_freed_memory
        from fedmq.runtime.open_files import allow_open_files
        from fedmq.storage.metrics import readable_perplexity, readable_size
        from fedmq.storage.personal import where_own_models_are

    if with_dashboard:
        server_module()
    keep_freed_memory()
    allow_open_files()
    crash_points.arm("coordinator")
    view = ConsoleView(Console(stderr=as_json), quiet=as_json)
    fed = FederatedLearning(config, view=view, **options)
    with closing(fed), ExitStack() as shown:
        fed.setup()
        if options.get("local_workers") == 0 and fed.address is not None:
            click.echo(f"listening on {fed.address}: {_how_to_join(fed.address, fed.keys)}", err=as_json)
        if with_dashboard:
            url = shown.enter_context(beside(fed.run_dir, Path(config.log_dir)))
            click.echo(f"dashboard: {url}", err=as_json)
        fed.train()
    summary = fed.summary()
    if as_json:
        click.echo(json.dumps(summary))
        return
    for text in summary["generations"]:
        view.say(f"  {' '.join((text['prompt'] + text['text']).split())}")
    first, last = (summary["perplexity"].get(str(v)) for v in (0, summary["rounds"]))
    own = "" if config.federated.shared() == "both" else ", of the clients' own models"
    if first and not summary["rounds"]:
        view.say(f"perplexity {readable_perplexity(first)}{own}, without training")
    elif first and last:
        percent = 100 * (last / first - 1)
        share = f"{percent:+.0f} %" if percent < 1e7 else f"{percent:+.3g} %"
        change = f"{readable_perplexity(first)} -> {readable_perplexity(last)} ({share})"
        view.say(f"perplexity {change} in {summary['rounds']} rounds{own}")
        before, after = (summary["unscored_clients"].get(str(v), []) for v in (0, summary["rounds"]))
        if before != after:
            odd = ", ".join(sorted({*before} ^ {*after})[:10])
            view.note("warning", f"these two are not of the same clients: in one of them {odd} could not be scored")
    up, down = readable_size(summary["bytes_up"]), readable_size(summary["bytes_down"])
    view.say(f"updates and adapters on the wire: up {up}, down {down}")
    if config.federated.shared() != "none":
        view.say(f"adapter SHA-256 {summary['digest']}")
    if own:
        view.say(where_own_models_are(Path(summary["output_dir"])))
    view.say(f"results in {summary['output_dir']}, logs in {summary['log_dir']}")
    if with_dashboard:
        view.say(f"`fedmq dashboard {summary['output_dir']}` shows it again")


def _how_to_join(address: str, keys: Path | None) -> str:
    from fedmq.transport.allowed import allowed

    if keys is None:
        return f"start workers with `fedmq worker --connect {address} --data ...`"
    names = ", ".join(key.name for key in allowed(keys))
    who = f"{names} may join" if names else f"nobody may join yet: `fedmq keys allow NAME.pub --dir {keys}`"
    return f"{who}; workers need --key and --server-key"


def _speeds(context: click.Context, option: click.Parameter, given: tuple[str, ...]) -> dict[str, float]:
    speeds = {}
    for pair in given:
        client, _, value = pair.partition("=")
        try:
            speeds[client] = float(value)
        except ValueError:
            raise click.BadParameter(f"got {pair!r}, expected CLIENT=X, such as client_3=0.1") from None
    return speeds


@main.command()
@click.argument("config", required=False, type=click.Path())
@set_option
@workers_option
@click.option("--virtual-clock", is_flag=True, help="Compute the time that each client takes, and do not wait for it.")
@click.option(
    "--speed",
    "speeds",
    multiple=True,
    callback=_speeds,
    metavar="CLIENT=X",
    help="By the virtual clock, CLIENT trains X examples a second; the others 1.",
)
@_output_dir
@_resume
@_overwrite
@click.option(
    "--baseline",
    type=click.Choice(["local", "central", "zero-shot"]),
    help="In place of the run, what it is compared with: each client alone, all data at one place, no training; "
    "default: the run itself.",
)
@click.option("--dry-run", is_flag=True, help="Print the plan: clients, steps, bytes, memory, time; train nothing.")
@click.option("--dashboard", "with_dashboard", is_flag=True, help="Show the run as a web page while it goes on.")
@json_option
def run(
    config: str | None,
    assignments: tuple[str, ...],
    workers: int | None,
    virtual_clock: bool,
    speeds: dict[str, float],
    output_dir: str | None,
    resume: bool,
    overwrite: bool,
    baseline: Kind | None,
    dry_run: bool,
    with_dashboard: bool,
    as_json: bool,
) -> None:
    """Run CONFIG (JSON or TOML) with local workers; without CONFIG, the quickstart."""
    settings = load_config(config, assignments, output_dir)
    if baseline is not None:
        from fedmq.baselines import baseline_of

        settings = baseline_of(settings, baseline)
    virtual = speeds if speeds or virtual_clock else None
    if dry_run or baseline is not None:
        refuse_virtual(virtual is not None, "--dry-run" if dry_run else "--baseline")
    if dry_run:
        if with_dashboard:
            raise click.UsageError("--dry-run trains nothing that --dashboard could show: leave one out")
        print_plan(settings, workers, as_json)
        return
    options = {"resume": resume, "overwrite": overwrite, "local_workers": workers, "speeds": virtual}
    _run(settings, as_json, with_dashboard, **options)


@main.command()
@click.argument("config", type=click.Path())
@click.option(
    "--bind",
    required=True,
    metavar="tcp://HOST:PORT",
    help="Where to listen; the data plane takes PORT + 1 if it is free.",
)
@click.option("--keys", type=path_type, metavar="DIR", help="Folder of `fedmq keys`; default: none, on loopback only.")
@set_option
@_output_dir
@_resume
@_overwrite
@json_option
def coordinator(
    config: str,
    bind: str,
    keys: str | None,
    assignments: tuple[str, ...],
    output_dir: str | None,
    resume: bool,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Coordinate CONFIG for workers that are started by hand, here or on other hosts."""
    settings = load_config(config, assignments, output_dir)
    _run(settings, as_json, resume=resume, overwrite=overwrite, bind=bind, keys=keys, local_workers=0)


main.add_command(config_group)
main.add_command(data_group)
main.add_command(dashboard)
main.add_command(doctor)
main.add_command(evaluate)
main.add_command(export)
main.add_command(generate)
main.add_command(inspect)
main.add_command(keys_group)
main.add_command(worker)
main.add_command(report)
