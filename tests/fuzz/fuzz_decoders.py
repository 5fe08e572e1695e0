"""The decoders under a fuzzer that follows coverage: python tests/fuzz/fuzz_decoders.py -max_total_time=60

Needs `atheris` (pip install atheris), which no other test does. The first byte says which decoder.
"""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["fedmq"]):
    from fedmq.codec import raw
    from fedmq.errors import RemoteProtocolError
    from fedmq.protocol import messages as m
    from fedmq.protocol.frames import Codec

CODECS = [Codec(types) for types in (m.TO_COORDINATOR, m.TO_WORKER, m.DATA_TO_COORDINATOR, m.DATA_TO_WORKER)]


def one(data: bytes) -> None:
    which, content = (data[0] if data else 0) % (len(CODECS) + 1), data[1:]
    try:
        if which < len(CODECS):
            message = CODECS[which].decode(content)
            assert CODECS[which].encode(message) == content
        else:
            raw.decode(content, raw.read_spec(content))
    except RemoteProtocolError:
        pass


if __name__ == "__main__":
    atheris.Setup(sys.argv, one)
    atheris.Fuzz()
