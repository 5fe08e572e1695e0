"""What a worker has on its way: one blob in a window of pieces, in or out."""

from __future__ import annotations

from dataclasses import dataclass

from fedmq.protocol import messages as m
from fedmq.protocol.window import Window
from fedmq.storage.blobs import PartialBlob


@dataclass(kw_only=True)
class Transfer:
    """Either direction. `look_at`: when to see whether anything came; `unsent`: it was the link that took no more."""

    window: Window
    moved_at: float
    look_at: float = 0.0
    unsent: bool = False


@dataclass(kw_only=True)
class Download(Transfer):
    """`blob` is on its way in: what `adapter` needs first, or itself.

    With `merged`, it is one of the links of the adapter's base, up to that one. Else, with `delta`, it is that of the
    delta, which the adapter is then made of.
    """

    blob: m.BlobRef
    part: PartialBlob
    adapter: m.BlobRef
    delta: m.DeltaRef | None = None
    merged: m.BlobRef | None = None


@dataclass(kw_only=True)
class Upload(Transfer):
    """`asking`: the coordinator has been asked, or is to be asked, how much it has."""

    offer: m.Offer
    content: bytes
    asking: bool = False
