"""`fedmq report`: a run, or several, as a page to send and pictures for papers."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("run_dirs", metavar="RUN_DIR...", nargs=-1, required=True, type=click.Path())
@click.option(
    "--out",
    type=click.Path(),
    metavar="FILE.html",
    help="The page to write, and beside it a folder of the same name for the PNGs; default: RUN_DIR/report.html, for "
    "several runs ./comparison.html.",
)
def report(run_dirs: tuple[str, ...], out: str | None) -> None:
    """Write a run, or a comparison of several, as one HTML file that needs no network, and its charts as PNGs."""
    from fedmq.reporting import write_report

    written = write_report([Path(path) for path in run_dirs], None if out is None else Path(out))
    for line in written.damage:
        click.echo(f"warning: {line}", err=True)
    click.echo(f"wrote {written.page} ({written.nbytes / 1e6:.1f} MB)")
    if written.figures:
        click.echo(f"wrote {len(written.figures)} PNGs in {written.figures[0].parent}")
