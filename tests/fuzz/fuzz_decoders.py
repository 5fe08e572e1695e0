"""The decoders under a fuzzer that follows coverage: python tests/fuzz/fuzz_decoders.py -max_total_time=60

Needs atheris. By night a test runs it from valid inputs on. The first byte of an input says which decoder.
"""

from __future__ import annotations

import sys

import atheris
import numpy as np

with atheris.instrument_imports(include=["fedmq"]):
    from fedmq.codec import raw
    from fedmq.codec.update import BY_NAME
    from fedmq.errors import RemoteProtocolError
    from fedmq.protocol import messages as m
    from fedmq.protocol.frames import Codec

SPEC = {"a": ("float32", (2, 3)), "b": ("float32", (5,))}
DELTA = {name: np.ones(shape, np.float32) for name, (_, shape) in SPEC.items()}
DELTA_CODECS = [make() for make in BY_NAME.values()]
#: what a fuzzer would not find: the header of each
HEADERS = [codec.encode(DELTA, codec.init(DELTA))[0][:24] for codec in DELTA_CODECS]
CODECS = [Codec(types) for types in (m.TO_COORDINATOR, m.TO_WORKER, m.DATA_TO_COORDINATOR, m.DATA_TO_WORKER)]


def one(data: bytes) -> None:
    which, content = (data[0] if data else 0) % (len(CODECS) + 1 + len(DELTA_CODECS)), data[1:]
    try:
        if which < len(CODECS):
            message = CODECS[which].decode(content)
            assert CODECS[which].encode(message) == content
        elif which == len(CODECS):
            raw.decode(content, raw.read_spec(content))
        else:
            delta = which - len(CODECS) - 1
            DELTA_CODECS[delta].decode(HEADERS[delta] + content, SPEC)
    except RemoteProtocolError:
        pass


if __name__ == "__main__":
    atheris.Setup(sys.argv, one)
    atheris.Fuzz()
