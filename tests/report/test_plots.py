"""The plot of a run: deterministic, whole, and drawn from what it was given."""

from __future__ import annotations

import math
import struct
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from fedmq.report.plots import training_progress

ROUNDS = [0, 1, 2]
LOSSES = [5.0, 4.5, 4.2]
CLIENTS = {"client_0": [(1, 4.8), (2, 4.4)], "client_1": [(2, 4.3)]}


PERPLEXITIES = [148.4, 90.0, 66.7]


def draw(
    path: Path,
    losses: Sequence[float] = LOSSES,
    perplexities: Sequence[float] = PERPLEXITIES,
    clients: Mapping[str, Sequence[tuple[int, float]]] = CLIENTS,
) -> bytes:
    training_progress(path, ROUNDS, losses, perplexities, clients, "a run")
    return path.read_bytes()


def test_a_readable_png_and_nothing_else(tmp_path: Path) -> None:
    png = draw(tmp_path / "progress.png")
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", png[16:24])
    assert width >= 1200 and height >= 400
    assert [path.name for path in tmp_path.iterdir()] == ["progress.png"]


def test_same_arguments_same_bytes(tmp_path: Path) -> None:
    first = draw(tmp_path / "a.png")
    assert draw(tmp_path / "b.png") == first
    assert b"Software" not in first and b"tIME" not in first


def test_every_series_is_drawn(tmp_path: Path) -> None:
    full = draw(tmp_path / "full.png")
    assert draw(tmp_path / "losses.png", losses=[5.0, 4.5, 4.4]) != full
    assert draw(tmp_path / "perplexities.png", perplexities=[148.4, 90.0, 66.0]) != full
    assert draw(tmp_path / "clients.png", clients={"client_0": CLIENTS["client_0"]}) != full


def test_a_run_that_diverged_can_be_drawn(tmp_path: Path) -> None:
    assert draw(
        tmp_path / "nan.png",
        losses=[5.0, math.nan, math.inf],
        perplexities=[148.4, math.nan, math.inf],
        clients={"client_0": []},
    )


def test_lengths_must_match(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="3 rounds, 2 losses and 3 perplexities"):
        training_progress(tmp_path / "x.png", ROUNDS, [5.0, 4.5], [1.0, 2.0, 3.0], {}, "a run")
    assert not list(tmp_path.iterdir())


def test_importing_it_does_not_load_matplotlib() -> None:
    code = "import sys, fedmq.report.plots; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
