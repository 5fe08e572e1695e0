"""`fedmq export`: the model of a run as a folder for plain peft or transformers, with a card."""

from __future__ import annotations

from pathlib import Path

from fedmq import atomic
from fedmq.errors import ConfigError
from fedmq.finished_run import FinishedRun
from fedmq.inspection import inspect_run
from fedmq.model_card import model_card

CARD = "README.md"


def export_model(run: FinishedRun, out: Path, merge: bool) -> None:
    """Write a PEFT adapter folder, or a plain transformers folder, and its card; whole or not at all.

    Args:
      run: whose newest model.
      out: the folder; made if it is not there.
      merge: the adapter merged into the base, with the tokenizer.

    Raises:
      ConfigError: `out` holds something already.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"--out {out} exists and is not empty: name a new folder")
    found, name = inspect_run(run.run_dir, spans=False), run.config.model.model_name
    base = Path(name).absolute()
    card = model_card(
        found,
        run.version,
        merged=merge,
        local_base=str(base) if base.is_dir() else None,
        client=run.client,
    )
    model = run.model("cpu")
    with atomic.replacing_folder(out) as temporary:
        inner = temporary / "model"
        if merge:
            model.save_merged(inner)
        else:
            model.save_adapter(inner)
        atomic.write_bytes(temporary / CARD, card.encode())
        for path in inner.iterdir():
            # Some libraries let nobody else read what they write; a model is made to be given away.
            path.chmod((temporary / CARD).stat().st_mode)
            path.rename(temporary / path.name)
        inner.rmdir()
