"""The socket between driver and zygote: what is no request, or no report, does nothing."""

from __future__ import annotations

import signal
import socket
from types import SimpleNamespace

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from skate.engines.local.pool import Pool
from skate.engines.local.zygote import understood

encode = msgspec.msgpack.encode
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.binary(max_size=5) | st.floats()
    | st.sampled_from(["fork", "signal", "preload", "import", "ended"]),
    lambda inner: st.lists(inner, max_size=4), max_leaves=8,
)  # fmt: skip


@given(message=st.binary(max_size=40) | PLAIN.map(encode), descriptors=st.integers(0, 5))
@example(b"\x91" * 10_000 + b"\x90", 4)
@example(b"\xdd\xff\xff\xff\xff", 4)
@example(encode(["fork", 1]), 3)
@example(encode(["signal", 5, 0]), 0)
@example(encode(["signal", 5, 10_000]), 0)
@example(encode(["signal", 5]), 0)
@example(encode(["preload", "os"]), 0)
@example(encode(["import", ["os", 1]]), 0)
@example(encode([]), 0)
def test_only_requests_are_understood(message, descriptors):
    kind, *rest = understood(message, descriptors)
    if kind == "fork":
        assert descriptors == 4 and isinstance(rest[0], int)
    elif kind == "signal":
        assert isinstance(rest[0], int) and 0 < rest[1] < signal.NSIG
    elif kind in ("preload", "import"):
        assert all(isinstance(module, str) for module in rest[0])
    else:
        assert (kind, rest) == ("", [])


@pytest.mark.parametrize("request_", [["fork", 7], ["preload", ["numpy"]], ["import", ["abc"]], ["signal", 12, 9]])
def test_requests_are_understood(request_):
    assert understood(encode(request_), 4) == request_


@given(st.lists(st.binary(min_size=1, max_size=40) | PLAIN.map(encode), max_size=5))
def test_reports_that_are_none_are_passed_over(messages):
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        for message in [*messages, encode(["ended", 3, -9, 0])]:
            theirs.send(message)
        heard: list[tuple[str, int, int, int]] = []
        pool = Pool(SimpleNamespace(pid=0, control=ours))  # type: ignore[arg-type]
        assert pool.reports(lambda *report: heard.append(report))
        assert heard[-1] == ("ended", 3, -9, 0)
        assert all(kind in ("forked", "ended") for kind, *_ in heard)
