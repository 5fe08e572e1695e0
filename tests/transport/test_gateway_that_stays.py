"""A gateway that a kill does not end, as one in the middle of a call to a disk or a driver that does not answer.

Such a call cannot be had at will. But the end of a process that is traced is not told to its parent before its tracer
has looked at it: the coordinator waits for it as it would for the other.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from gateway_site import Site

from fedmq.transport import gateway

TRACER = """
import ctypes, sys
PTRACE_SEIZE = 0x4206
libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p]
print(0 if libc.ptrace(PTRACE_SEIZE, int(sys.argv[1]), None, None) == 0 else ctypes.get_errno(), flush=True)
sys.stdin.read()
"""


class Tracer:
    """Looks at the end of a process only when it lets it go."""

    def __init__(self, pid: int) -> None:
        command = [sys.executable, "-c", TRACER, str(pid)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        if (error := int(self._process.stdout.readline())) != 0:
            self.let_go()
            pytest.skip(f"no process may be traced here: {os.strerror(error)}")

    def let_go(self) -> None:
        self._process.communicate()


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setattr(gateway, "_RESTART_S", 0.0)
    with closing(Site(tmp_path)) as made:
        yield made


def test_one_that_does_not_end_when_it_is_killed_holds_nobody_up(site: Site) -> None:
    pid = site.pid
    site.knock(b"hello")
    tracer = Tracer(pid)
    try:
        site.kill()
        (notice,) = site.notices
        assert notice.text.startswith("the gateway does not end though it was killed: another takes its place")
        site.come_back(b"again")
        assert Path(f"/proc/{pid}").exists() and site.pid != pid
    finally:
        tracer.let_go()
    site.kill()
    site.come_back(b"and again")
    assert not Path(f"/proc/{pid}").exists(), "it was reaped"
