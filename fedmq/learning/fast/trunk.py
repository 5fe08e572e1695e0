"""What the frozen lower layers make of a shard, computed once."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from fedmq.atomic import fsync
from fedmq.learning.fast.model import PackedModel

log = logging.getLogger(__name__)
_TOKENS_AT_ONCE = 2048


class Trunks:
    """The caches of one model, a file for each split: bfloat16, one row of d values for each token.

    Where LoRA sits in the top layers only, what enters the lowest of them depends on the text alone. It
    is the same in every step, round and evaluation, without dropout, and rounded to bfloat16 once.

    Args:
      folder: of the files; made when missing. A file is named by what it depends on.
      model: its `first_adapted` layer is where a cache ends.
      on_text: told of (texts done, texts in all) while a cache is filled.
    """

    def __init__(self, folder: Path, model: PackedModel, on_text: Callable[[int, int], None]) -> None:
        self._folder, self._model, self._on_text = folder, model, on_text
        for part in folder.glob("*.part"):
            part.unlink(missing_ok=True)  # of a trainer of this worker that was killed
        self._open: dict[str, Trunk | Recomputed] = {}

    def of(self, texts: Sequence[np.ndarray]) -> Trunk | Recomputed | None:
        """The cache of a split, filled if it is not there; where the disk has no room, one that computes.

        None where an adapter sits in the lowest layer, or where the texts are no stored split.
        """
        split = getattr(texts, "sha256", None)
        if self._model.first_adapted == 0 or split is None:
            return None
        if split not in self._open:
            self._open[split] = self._make(texts, split)
        return self._open[split]

    def _make(self, texts: Sequence[np.ndarray], split: str) -> Trunk | Recomputed:
        model, lengths = self._model, texts.lengths  # type: ignore[attr-defined]
        kind = "bf16" if model.dtype is torch.bfloat16 else "fp32"
        path = self._folder / f"{split[:32]}-{model.digest[:16]}-{kind}-{model.first_adapted}"
        # Products on another number of threads may differ in their last digits.
        path = path.with_name(f"{path.name}-{torch.get_num_threads()}.trunk")
        shape = (int(lengths.sum()), model.width)
        nbytes = 2 * shape[0] * shape[1]
        if not path.is_file() or path.stat().st_size != nbytes:
            try:
                self._folder.mkdir(parents=True, exist_ok=True)
                if shutil.disk_usage(self._folder).free < 2 * nbytes:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                self._write(path, shape, texts)
            except OSError as error:
                log.warning(
                    "no room for %s (%d MB; %s): the frozen layers are computed in every step",
                    *(path, nbytes >> 20, error.strerror),
                )
                return Recomputed(model, texts)
            log.info("frozen layers 0 to %d of %d texts computed once: %s", model.first_adapted - 1, len(texts), path)
        rows = np.memmap(path, np.int16, "r", shape=shape)
        return Trunk(rows, np.concatenate([[0], np.cumsum(lengths)]), model.device)

    def _write(self, path: Path, shape: tuple[int, int], texts: Sequence[np.ndarray]) -> None:
        part = path.with_name(f"{path.name}.{os.getpid()}.part")
        try:
            with open(part, "wb") as file:
                # A disk that fills up while a mapping is written to would kill the process.
                os.posix_fallocate(file.fileno(), 0, 2 * shape[0] * shape[1])
            rows = np.memmap(part, np.int16, "r+", shape=shape)
            batch: list[np.ndarray] = []
            start = size = 0
            for number in range(len(texts)):
                batch.append(texts[number])
                size += len(texts[number])
                if size >= _TOKENS_AT_ONCE or number == len(texts) - 1:
                    with torch.inference_mode():
                        hidden = self._model.trunk(self._model.pack([batch])).to(torch.bfloat16)
                    rows[start : start + size] = hidden.cpu().view(torch.int16).numpy()
                    start, size, batch = start + size, 0, []
                    self._on_text(number + 1, len(texts))
            rows.flush()
            fsync(part)
            part.replace(path)
        finally:
            with contextlib.suppress(FileNotFoundError):
                part.unlink()


class Trunk:
    """The cache of one split."""

    def __init__(self, rows: np.ndarray, offsets: np.ndarray, device: str) -> None:
        self._rows, self._offsets, self._device = rows, offsets, device

    def rows(self, indices: Sequence[int]) -> torch.Tensor:
        """What enters the lowest adapted layer for these texts, one after the other: float32 (n, d)."""
        parts = [self._rows[self._offsets[i] : self._offsets[i + 1]] for i in indices]
        stored = torch.from_numpy(np.concatenate(parts or [self._rows[:0]]))
        return stored.view(torch.bfloat16).to(self._device).float()


class Recomputed:
    """What stands for a cache that has no room: computed in every step, and rounded likewise.

    The products are of other shapes than those of a cache, so that last digits may differ.
    """

    def __init__(self, model: PackedModel, texts: Sequence[np.ndarray]) -> None:
        self._model, self._texts = model, texts

    def rows(self, indices: Sequence[int]) -> torch.Tensor:
        """As `Trunk.rows`."""
        if not indices:
            return torch.empty(0, self._model.width, device=self._model.device)
        with torch.no_grad():
            return self._model.trunk(self._model.pack([[self._texts[i] for i in indices]])).bfloat16().float()
