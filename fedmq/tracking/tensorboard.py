"""TensorBoard event files, by tensorboard's own writer."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from typing import Any

from fedmq.protocol.printable import escaped
from fedmq.tracking.tracker import About, Tracker


def tensorboard(about: About) -> Tracker:
    """Scalars, and config and digest as texts. The files are written anew from the first round on."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.plugins.text import metadata
    from tensorboard.summary.writer.event_file_writer import EventFileWriter
    from tensorboard.util.tensor_util import make_tensor_proto

    shutil.rmtree(about.folder, ignore_errors=True)
    writer = EventFileWriter(str(about.folder))

    def text(tag: str, value: str) -> Summary.Value:
        kind = metadata.create_summary_metadata(display_name=tag, description="")
        return Summary.Value(tag=tag, metadata=kind, tensor=make_tensor_proto([value.encode()], shape=[1]))

    rows = ((key, escaped(str(value)).replace("|", "&#124;")) for key, value in about.config.items())
    table = "".join(f"| {key} | {value} |\n" for key, value in rows)
    config = text("config", f"| setting | value |\n|---|---|\n{table}")
    last: dict[str, Any] = {}

    def log(step: int, at: float, scalars: Mapping[str, float]) -> None:
        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in scalars.items()]
        if step == 0:
            values.append(config)
        last.update(step=step, wall_time=at)
        writer.add_event(Event(**last, summary=Summary(value=values)))
        writer.flush()

    def end(done: bool, digest: str) -> None:
        if done:
            writer.add_event(Event(**last, summary=Summary(value=[text("digest", digest)])))
        writer.close()

    return Tracker(log, end)
