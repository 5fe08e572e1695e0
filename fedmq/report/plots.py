"""training_progress.png: loss and perplexity over the rounds."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from fedmq import atomic
from fedmq.loading import loading


def training_progress(
    path: Path,
    rounds: Sequence[int],
    losses: Sequence[float],
    perplexities: Sequence[float],
    per_client: Mapping[str, Sequence[tuple[int, float]]],
    title: str,
    scored: str = "global model, test split",
) -> None:
    """Draw the loss and perplexity side by side, and each client's training loss as a thin line.

    The same arguments give the same bytes. The file is written whole or not at all.

    Args:
      path: the PNG to write.
      rounds: the evaluated rounds, 0 = before training.
      losses: the evaluation loss of each of them, in nats per token.
      perplexities: the perplexity of each of them.
      per_client: client id -> (round, training loss) of each round that it took part in.
      title: the line above the plots.
      scored: what loss and perplexity are of.

    Raises:
      ValueError: rounds, losses and perplexities differ in length.
    """
    if not len(rounds) == len(losses) == len(perplexities):
        raise ValueError(f"{len(rounds)} rounds, {len(losses)} losses and {len(perplexities)} perplexities: one each")

    # The coordinator imports this module and must listen at once: matplotlib takes half a second.
    # Figure without pyplot keeps no global state and needs no display.
    with loading():
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(11, 4.2), layout="constrained")
    figure.suptitle(title, wrap=True)
    loss_axes, perplexity_axes = figure.subplots(1, 2)

    label: str | None = f"training, each of {len(per_client)} clients"
    for points in per_client.values():
        loss_axes.plot(*zip(*points, strict=True), color="tab:gray", alpha=0.55, lw=0.9, marker=".", ms=3, label=label)
        label = None
    loss_axes.plot(rounds, losses, color="tab:blue", lw=2.2, marker="o", ms=5, label=scored)
    loss_axes.legend(frameon=False)
    perplexity_axes.plot(rounds, perplexities, color="tab:orange", lw=2.2, marker="o", ms=5)

    for axes, name in ((loss_axes, "loss (nats per token)"), (perplexity_axes, f"perplexity ({scored})")):
        axes.set_xlabel("round (0 = before training)")
        axes.set_ylabel(name)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.margins(x=0.07)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    for index in sorted({0, len(rounds) - 1}) if rounds else ():
        perplexity_axes.annotate(
            f"{perplexities[index]:.4g}",
            (rounds[index], perplexities[index]),
            xytext=(0, 7),
            textcoords="offset points",
            ha="center",
        )

    png = io.BytesIO()
    # Software holds matplotlib's version; the pixels are what counts.
    figure.savefig(png, format="png", dpi=130, metadata={"Software": None})
    atomic.write_bytes(path, png.getvalue())
