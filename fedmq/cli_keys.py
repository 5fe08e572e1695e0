"""Commands on keys: who is who, and who may join."""

from __future__ import annotations

import json
from pathlib import Path

import click

from fedmq.cli_config import json_option, path_type

_dir_option = click.option(
    "--dir",
    "folder",
    type=path_type,
    default="keys",
    show_default=True,
    metavar="DIR",
    help="Folder of the keys and the allow-list.",
)


@click.group("keys")
def keys_group() -> None:
    """Make keys, and say whose may join. A coordinator that runs follows within a second."""


@keys_group.command("new")
@click.argument("name")
@_dir_option
def keys_new(name: str, folder: str) -> None:
    """Make NAME.key, which stays on this host, and NAME.pub, which is given away."""
    from fedmq.transport.keys import fingerprint, new_pair

    pair = new_pair(name, Path(folder))
    click.echo(f"wrote {folder}/{name}.key: secret, it stays on this host")
    click.echo(f"wrote {folder}/{name}.pub: to be given away; fingerprint {fingerprint(pair.public.z85)}")


@keys_group.command("allow")
@click.argument("pub", type=click.Path())
@_dir_option
def keys_allow(pub: str, folder: str) -> None:
    """Let the worker with this NAME.pub join the coordinator whose folder this is."""
    from fedmq.transport.allowed import allow
    from fedmq.transport.keys import fingerprint, read_public

    public = read_public(Path(pub))
    allow(public, Path(folder))
    click.echo(f"{public.name} may join; compare its fingerprint with its owner's: {fingerprint(public.z85)}")


@keys_group.command("revoke")
@click.argument("name")
@_dir_option
def keys_revoke(name: str, folder: str) -> None:
    """Let NAME join no more; where it is connected, it is dropped."""
    from fedmq.transport.allowed import revoke

    revoke(name, Path(folder))
    click.echo(f"{name} may not join any more")


@keys_group.command("list")
@_dir_option
@json_option
def keys_list(folder: str, as_json: bool) -> None:
    """Show who may join, with fingerprints."""
    from fedmq.transport.allowed import allowed
    from fedmq.transport.keys import fingerprint

    found = [{"name": key.name, "fingerprint": fingerprint(key.z85)} for key in allowed(Path(folder))]
    if as_json:
        click.echo(json.dumps(found))
        return
    for key in found:
        click.echo(f"{key['name']:<24} {key['fingerprint']}")
    if not found:
        click.echo(f"nobody may join: `fedmq keys allow NAME.pub --dir {folder}`")
