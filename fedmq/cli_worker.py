"""`fedmq worker`: train for a coordinator."""

from __future__ import annotations

from typing import Any

import click

from fedmq.cli_config import fail
from fedmq.loading import loading


@click.command()
@click.option("--connect", required=True, metavar="tcp://HOST:PORT", help="The coordinator.")
@click.option(
    "--data",
    multiple=True,
    type=click.Path(),
    metavar="PATH",
    help="A client shard, the test shard, a folder of shards, or a CSV. Repeatable.",
)
@click.option(
    "--client", "clients", multiple=True, metavar="NAME", help="Name of the client whose CSV the --data before it is."
)
@click.option(
    "--device", default="cuda", show_default=True, help="cuda, cuda:N, cpu or mps; cuda without a GPU is cpu."
)
@click.option("--name", metavar="NAME", help="Name of this worker; default: host name and the names of its data.")
@click.option("--model", metavar="NAME", help="The base model here; default: where the run's config says.")
@click.option(
    "--cache-dir", type=click.Path(), metavar="DIR", help="Folder of downloaded models; default: the library's."
)
@click.option(
    "--work-dir", type=click.Path(), metavar="DIR", help="Outbox, adapters and shards; default: ./fedmq_NAME."
)
@click.option(
    "--log-dir", type=click.Path(), metavar="DIR", help="Logs of the trainer and of each client; default: the work dir."
)
@click.option("--num-threads", type=click.IntRange(1), help="CPU threads of the trainer; default: all cores.")
@click.option(
    "--key",
    type=click.Path(),
    metavar="FILE",
    help="This worker's NAME.key; NAME is then its name; default: none, on loopback only.",
)
@click.option(
    "--server-key",
    type=click.Path(),
    metavar="FILE",
    help="The coordinator's .pub: nobody else is talked to; default: none, on loopback only.",
)
@click.option("--parent-fd", type=int, hidden=True)
def worker(**options: Any) -> None:
    """Train for a coordinator, on this host's device and data."""
    with loading():
        from fedmq.runtime.worker_process import run_worker

    code, reason = run_worker(**options)
    if code:
        fail(reason, code)
    click.echo(reason)
