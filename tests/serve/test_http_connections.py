"""Connections on their way between proxy and replicas, with plain processes in place of actors."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import socket
import stat
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from plain import TARGET, Serving, read_all, reply

from skate.serve.connections import Settings


def answers() -> Any:
    """An application: what it does is in the path."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        path = scope["path"]
        if path == "/sleep":
            await asyncio.sleep(float(scope["query_string"]))
        elif path == "/half":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"half", "more_body": True})
            await asyncio.sleep(30)
        elif path == "/raise":
            raise RuntimeError("the secret reason")
        elif path == "/die":
            os.kill(os.getpid(), signal.SIGKILL)
        elif path == "/early":  # answers ahead of the body's end
            await reply(send, b"early")
            return
        body = await read_all(receive)
        await reply(send, b"%d %d" % (os.getpid(), len(body)))

    return app


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[Callable[..., Serving]]:
    made: list[Serving] = []

    def make(*replicas: str, settings: Settings | None = None, **use: Any) -> Serving:
        one = Serving(str(tmp_path), answers, settings)
        made.append(one)
        for name in replicas:
            one.add(name, **use)
        return one

    yield make
    for one in made:
        one.close()


class Browser:
    """A client that keeps its connection."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.settimeout(60)
        self.unread = b""

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def get(self, path: str = "/") -> tuple[int, bytes]:
        self.send(b"GET %s HTTP/1.1\r\nHost: test\r\n\r\n" % path.encode())
        return self.answer()

    def until(self, mark: bytes) -> bytes:
        while mark not in self.unread:
            more = self.socket.recv(65536)
            if not more:
                raise EOFError(self.unread)
            self.unread += more
        found, _, self.unread = self.unread.partition(mark)
        return found

    def answer(self) -> tuple[int, bytes]:
        self.head = self.until(b"\r\n\r\n").decode("latin-1").lower()
        size = int(re.findall(r"content-length: (\d+)", self.head)[0])
        while len(self.unread) < size:
            self.unread += self.socket.recv(65536)
        body, self.unread = self.unread[:size], self.unread[size:]
        return int(self.head.split()[1]), body

    def is_closed(self) -> bool:
        try:
            return not self.socket.recv(1)
        except ConnectionError:
            return True

    def close(self) -> None:
        self.socket.close()


@pytest.fixture
def browse() -> Iterator[Callable[[Serving], Browser]]:
    with contextlib.ExitStack() as stack:

        def make(serving: Serving) -> Browser:
            made = Browser(serving.port)
            stack.callback(made.close)
            return made

        yield make


def test_many_requests_on_one_connection_reach_the_replica(serving: Any, browse: Any) -> None:
    one = serving("a")
    client = browse(one)
    pid = one.replicas["a"].pid
    assert [client.get(f"/{number}") for number in range(20)] == [(200, b"%d 0" % pid)] * 20
    assert "x-request-id" in client.head


def test_pipelined_requests_are_answered_in_order(serving: Any, browse: Any) -> None:
    client = browse(serving("a"))
    client.send(
        b"".join(b"POST /p HTTP/1.1\r\nHost: t\r\nContent-Length: %d\r\n\r\n%b" % (n, b"x" * n) for n in range(5))
    )
    assert [client.answer()[1].split()[1] for _ in range(5)] == [b"%d" % n for n in range(5)]


def test_a_connection_that_is_idle_outlives_its_replica(serving: Any, browse: Any) -> None:
    one = serving("a", "b")
    clients = [browse(one) for _ in range(8)]
    before = {client.get()[1].split()[0] for client in clients}
    assert len(before) == 2, "connections are spread over the replicas"
    time.sleep(0.1)  # or the last answer might not be over for its replica
    one.kill("a")
    survivor = str(one.replicas["b"].pid).encode()
    assert {client.get()[1].split()[0] for client in clients} == {survivor}


def test_a_request_that_dies_with_its_replica_is_answered_502_with_an_id(serving: Any, browse: Any) -> None:
    one = serving("a")
    client = browse(one)
    status, body = client.get("/die")
    assert status == 502
    assert "x-request-id" in client.head
    assert b"died" in body
    assert client.is_closed()


def test_a_body_still_being_sent_does_not_hide_the_502(serving: Any, browse: Any) -> None:
    one = serving("a")
    client = browse(one)
    client.send(b"POST /sleep?30 HTTP/1.1\r\nHost: t\r\nContent-Length: 1000000\r\n\r\n" + b"x" * 200_000)
    time.sleep(0.2)
    one.kill("a")
    assert client.answer()[0] == 502


def test_half_an_answer_ends_with_an_error_and_not_as_if_it_were_whole(serving: Any, browse: Any) -> None:
    one = serving("a")
    client = browse(one)
    client.send(b"GET /half HTTP/1.0\r\nHost: t\r\n\r\n")  # this client takes the end of the connection for the end
    client.until(b"half")
    one.kill("a")
    with pytest.raises(ConnectionResetError):
        client.socket.recv(10)


def test_a_replica_that_goes_hands_its_connections_on(serving: Any, browse: Any) -> None:
    one = serving("a")
    idle, busy = browse(one), browse(one)
    old = one.replicas["a"].pid
    assert idle.get()[1] == b"%d 0" % old
    busy.send(b"GET /sleep?1 HTTP/1.1\r\nHost: t\r\n\r\n")
    time.sleep(0.1)
    one.add("b")
    os.kill(old, signal.SIGTERM)
    new = one.replicas["b"].pid
    deadline = time.monotonic() + 60
    while (found := idle.get()) != (200, b"%d 0" % new):  # every answer is a good one, whoever gives it
        assert found == (200, b"%d 0" % old)
        assert time.monotonic() < deadline
    assert busy.answer()[1] == b"%d 0" % old, "what it had begun it ends"
    while (found := busy.get()) != (200, b"%d 0" % new):
        assert found == (200, b"%d 0" % old)
    one.replicas["a"].join(60)
    assert one.replicas["a"].exitcode == 0


def test_what_comes_while_there_is_no_replica_waits_for_one(serving: Any, browse: Any) -> None:
    one = serving()
    client = browse(one)
    client.send(b"GET / HTTP/1.1\r\nHost: t\r\n\r\n")
    time.sleep(0.2)
    one.add("a")
    assert client.answer()[0] == 200


def test_a_new_replica_gets_its_share_of_the_connections(serving: Any, browse: Any) -> None:
    one = serving("a")
    clients = [browse(one) for _ in range(10)]
    for client in clients:
        client.get()
    one.add("b")
    deadline = time.monotonic() + 60
    while True:
        time.sleep(0.1)
        served = [client.get()[1] for client in clients]
        if sorted(map(served.count, set(served))) == [5, 5]:
            break
        assert time.monotonic() < deadline, served


def test_the_proxys_death_is_not_noticed(serving: Any, browse: Any) -> None:
    one = serving("a")
    client = browse(one)
    assert client.get()[0] == 200
    port = one.port
    one.proxy.kill()
    one.proxy.join()
    assert client.get()[0] == 200, "its replica serves it as before"
    late = browse(one)
    late.send(b"GET / HTTP/1.1\r\nHost: t\r\n\r\n")  # accepted by nobody yet
    one.start_proxy()
    assert late.answer()[0] == 200
    assert one.port == port
    one.add("b")
    time.sleep(0.2)
    one.kill("a")
    assert client.get()[0] == 200, "the new proxy has duplicates of the connections again"


def test_paths_without_a_route_get_404_and_may_go_on(serving: Any, browse: Any) -> None:
    one = serving("a", settings=Settings({"/here": TARGET}))
    client = browse(one)
    status, body = client.get("/there")
    assert (status, b"/-/routes" in body) == (404, True)
    assert client.get("/-/routes") == (200, b'{"/here":"app"}')
    deadline = time.monotonic() + 60
    while client.get("/here/x")[0] != 200:  # at once, it is the proxy that would pass the request on, by a handle
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert client.get("/h%65re/x")[0] == 200
    assert client.get("/hereabouts")[0] == 404
    assert client.get("/-/nothing")[0] == 404


@pytest.mark.parametrize(
    "line",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS on a plain port
        b"GET\r\n\r\n",
        b"G@T / HTTP/1.1\r\n\r\n",
        b"GET nowhere HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nbad header\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: t\r\nContent-Length: ten\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
)
def test_what_is_not_http_is_refused_and_hurts_nobody(serving: Any, browse: Any, line: bytes) -> None:
    one = serving("a")
    client = browse(one)
    client.send(line)
    assert b"400" in client.until(b"\r\n\r\n")
    assert browse(one).get()[0] == 200


def test_a_first_line_without_end_is_refused(serving: Any, browse: Any) -> None:
    one = serving("a")
    client = browse(one)
    with contextlib.suppress(ConnectionError):
        client.send(b"GET /" + b"a" * 40_000)
    assert client.answer()[0] in (414, 431)


def test_headers_too_large_are_refused(serving: Any, browse: Any) -> None:
    one = serving("a")
    client = browse(one)
    with contextlib.suppress(ConnectionError):
        client.send(b"GET / HTTP/1.1\r\n" + b"X-Long: %b\r\n" % (b"a" * 1000) * 200)
    assert client.answer()[0] == 431
    assert browse(one).get()[0] == 200


def test_headers_within_the_limit_and_a_large_body_in_one_go_are_taken(serving: Any, browse: Any) -> None:
    client = browse(serving("a"))
    client.send(b"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 300000\r\n\r\n" + b"x" * 300_000)
    assert client.answer()[1].split()[1] == b"300000"


def test_a_body_over_the_limit_is_refused(serving: Any, browse: Any) -> None:
    one = serving("a", settings=Settings({"/": TARGET}, max_body_bytes=100))
    client = browse(one)
    client.send(b"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 10\r\n\r\n" + b"x" * 10)
    assert client.answer()[0] == 200
    client.send(b"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 101\r\n\r\n" + b"x" * 101)
    assert client.answer()[0] == 413
    client = browse(one)
    client.send(
        b"POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n"
        + b"40\r\n"
        + b"x" * 64
        + b"\r\n40\r\n"
        + b"x" * 64
        + b"\r\n0\r\n\r\n"
    )
    assert client.answer()[0] == 413


def test_an_answer_ahead_of_the_body_leaves_the_connection_usable(serving: Any, browse: Any) -> None:
    one = serving("a", "b")
    client = browse(one)
    client.send(b"POST /early HTTP/1.1\r\nHost: t\r\nContent-Length: 10\r\n\r\n12345")
    assert client.answer() == (200, b"early")
    client.send(b"67890")
    assert client.get("/x")[0] == 200


def test_a_handler_that_raises_is_500_with_an_id_and_without_the_reason(serving: Any, browse: Any) -> None:
    client = browse(serving("a"))
    client.send(b"GET /raise HTTP/1.1\r\nHost: t\r\nX-Request-ID: my-id\r\n\r\n")
    status, body = client.answer()
    assert (status, body) == (500, b"Internal Server Error")
    assert "x-request-id: my-id" in client.head
    assert client.get()[0] == 200


def test_a_request_that_takes_too_long_is_answered_408(serving: Any, browse: Any) -> None:
    client = browse(serving("a", settings=Settings({"/": TARGET}, request_timeout_s=0.2)))
    assert client.get("/sleep?5")[0] == 408
    assert client.get("/sleep?0")[0] == 200


def test_idle_connections_are_closed_in_time(serving: Any, browse: Any) -> None:
    one = serving("a", settings=Settings({"/": TARGET}, keep_alive_timeout_s=0.3))
    silent, used = browse(one), browse(one)
    assert used.get()[0] == 200
    began = time.monotonic()
    assert used.is_closed()
    assert silent.is_closed()
    assert 0.2 < time.monotonic() - began < 30


def test_requests_wait_for_their_turn_and_those_too_many_are_turned_away(serving: Any, browse: Any) -> None:
    one = serving("a", most=1, max_queued=1)
    first, second, third = browse(one), browse(one), browse(one)
    for client in (first, second):
        client.send(b"GET /sleep?1 HTTP/1.1\r\nHost: t\r\n\r\n")
        time.sleep(0.2)
    status, _ = third.get()
    assert status == 503
    assert "retry-after" in third.head
    assert first.answer()[0] == second.answer()[0] == 200


def test_a_client_that_goes_away_gives_its_turn_back(serving: Any, browse: Any) -> None:
    one = serving("a", most=1)
    first, second = browse(one), browse(one)
    first.send(b"GET /sleep?30 HTTP/1.1\r\nHost: t\r\n\r\n")
    time.sleep(0.1)
    second.send(b"GET / HTTP/1.1\r\nHost: t\r\n\r\n")
    time.sleep(0.1)
    first.close()
    assert second.answer()[0] == 200


def test_the_socket_of_a_replica_is_for_its_owner_alone(serving: Any) -> None:
    one = serving("a")
    assert stat.S_IMODE(os.stat(one.paths["a"]).st_mode) == 0o600


def test_a_port_that_is_taken_is_named() -> None:
    from skate.serve.http_sockets import bind

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=f"port {port}: another program does"):
            bind("127.0.0.1", port)


def test_a_slow_client_does_not_hold_up_others(serving: Any, browse: Any) -> None:
    one = serving("a")
    slow, head = browse(one), browse(one)
    slow.send(b"GET /slow HT")
    head.send(b"GET / HTTP/1.1\r\nHost: t\r\nX-Part")
    assert browse(one).get()[0] == 200
    slow.send(b"TP/1.1\r\nHost: t\r\n\r\n")
    head.send(b": x\r\n\r\n")
    assert (slow.answer()[0], head.answer()[0]) == (200, 200)
