"""What one round merges into the frozen base, as a file that names the one before it.

So the SHA-256 of the newest link stands for all of them: it is the version of the base, beside the base's own digest.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np

from fedmq.codec import raw
from fedmq.errors import RemoteProtocolError
from fedmq.protocol.records import BlobRef
from fedmq.tensors import NamedTensors

#: The name of a tensor without values, which no module can have.
_AFTER = re.compile(r"after:([0-9a-f]{64}):([0-9]{1,15})")


class BaseLink(NamedTuple):
    """One link.

    Attributes:
      factors: as `fedmq.algorithms.aggregate.Aggregator.merged` gave them, float32.
      before: the link that it follows; None of the first.
    """

    factors: NamedTensors
    before: BlobRef | None

    def encoded(self) -> bytes:
        """Safetensors bytes.

        Example:
          >>> link = BaseLink({"h.lora_A.weight": np.ones((1, 2), np.float32)}, BlobRef("0" * 64, 9))
          >>> BaseLink.decoded(link.encoded()).before
          BlobRef(digest='0000000000000000000000000000000000000000000000000000000000000000', nbytes=9)
        """
        after = {} if self.before is None else {f"after:{self.before.digest}:{self.before.nbytes}": _NO_VALUES}
        return raw.encode({**self.factors, **after})

    @classmethod
    def decoded(cls, content: bytes) -> BaseLink:
        """What `encoded` gave.

        Raises:
          RemoteProtocolError: SAFETENSORS, SCHEMA or NONFINITE.
        """
        spec = raw.read_spec(content)
        found = [match for name in spec if (match := _AFTER.fullmatch(name))]
        if len(found) > 1 or any(dtype != "float32" for dtype, _ in spec.values()):
            raise RemoteProtocolError("SCHEMA", "a link of the base follows two others, or is not float32")
        factors = {name: value for name, value in raw.decode(content, spec).items() if not _AFTER.fullmatch(name)}
        return cls(factors, BlobRef(found[0][1], int(found[0][2])) if found else None)


_NO_VALUES = np.zeros(0, np.float32)
