"""The forwarding core, without sockets and processes: messages, names, events, whose answer is whose."""

from __future__ import annotations

import asyncio
import json
import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcp_peers import on_loop

from skate.serve import mcp
from skate.serve.mcp import messages
from skate.serve.mcp.calls import Calls
from skate.serve.mcp.checks import OutputChecks
from skate.serve.mcp.entries import checked
from skate.serve.mcp.events import EventReader, EventTooLarge, event
from skate.serve.mcp.messages import Failure, Notification, Request, Result, RpcError
from skate.serve.mcp.names import KINDS, TOOLS, Names, split, split_uri
from skate.serve.mcp.stdio import LineReader

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


# messages


@given(st.integers(0, 2**60) | st.text(min_size=1), st.text(min_size=1), st.dictionaries(st.text(), VALUES))
def test_a_request_survives_packing_on_one_line(number: Any, method: str, params: dict[str, Any]) -> None:
    packed = Request(number, method, json.dumps(params, indent=1).encode()).pack()
    assert b"\n" not in packed and b"\r" not in packed
    found = messages.unpack(packed)
    assert isinstance(found, Request)
    assert (found.id, found.method, json.loads(found.params)) == (number, method, params)


@given(VALUES)
def test_results_and_errors_survive_packing(value: Any) -> None:
    raw = json.dumps(value).encode()
    assert messages.unpack(Result(7, raw).pack()) == Result(7, raw)
    error = RpcError(-32000, "down", value)
    failure = messages.unpack(Failure(7, error.packed()).pack())
    assert isinstance(failure, Failure)
    assert RpcError.unpack(failure.error).data == value


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b"", messages.PARSE_ERROR),
        (b"{", messages.PARSE_ERROR),
        (b"Starting server...", messages.PARSE_ERROR),
        (b'{"jsonrpc": "2.0", "id": 1, "method": "\xff"}', messages.PARSE_ERROR),
        (b'{"jsonrpc": "2.0", "id": 1, "result": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", messages.PARSE_ERROR),
        (b"[]", messages.INVALID_REQUEST),
        (b'[{"jsonrpc": "2.0", "id": 1, "method": "ping"}]', messages.INVALID_REQUEST),
        (b"{}", messages.INVALID_REQUEST),
        (b'{"jsonrpc": "1.0", "id": 1, "method": "ping"}', messages.INVALID_REQUEST),
        (b'{"jsonrpc": "2.0", "id": null, "method": "ping"}', messages.INVALID_REQUEST),
        (b'{"jsonrpc": "2.0", "id": 1.5, "method": "ping"}', messages.INVALID_REQUEST),
        (b'{"jsonrpc": "2.0", "id": 1, "method": "ping", "params": [1]}', messages.INVALID_REQUEST),
        (b'{"jsonrpc": "2.0", "id": 1, "method": "ping", "result": {}}', messages.INVALID_REQUEST),
        (b'{"jsonrpc": "2.0", "id": 1}', messages.INVALID_REQUEST),
        (b'{"jsonrpc": "2.0", "id": 1, "result": {}, "error": {}}', messages.INVALID_REQUEST),
        (b'{"jsonrpc": "2.0", "result": {}}', messages.INVALID_REQUEST),
    ],
)
def test_what_is_no_message_is_told_apart(line: bytes, code: int) -> None:
    with pytest.raises(RpcError) as caught:
        messages.unpack(line)
    assert caught.value.code == code


# events


@given(st.lists(st.binary(min_size=1).filter(lambda data: not set(data) & set(b"\r\n")), max_size=5), st.data())
def test_events_come_out_however_the_stream_is_cut(datas: list[bytes], data: Any) -> None:
    stream = b": ping\n\n" + b"".join(map(event, datas))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    reader = EventReader()
    found = []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        found += reader.feed(stream[start:end])
    assert found == datas


def test_events_of_several_lines_and_other_kinds() -> None:
    stream = b"id: 7\r\nretry: 10\r\ndata:\r\n\r\nevent: other\r\ndata: x\r\n\r\ndata: {\r\ndata: }\r\n\r\n"
    assert EventReader().feed(stream) == [b"{\n}"]


def test_an_endless_event_is_cut_off() -> None:
    reader = EventReader(limit=1000)
    with pytest.raises(EventTooLarge):
        for _ in range(100):
            reader.feed(b"data: " + b"x" * 100)


# lines of a process


@given(st.lists(st.binary(max_size=30).filter(lambda line: b"\n" not in line), max_size=6), st.integers(1, 7))
def test_lines_come_out_however_they_are_cut(lines: list[bytes], size: int) -> None:
    stream = b"".join(line + b"\n" for line in lines)
    reader = LineReader(limit=1000)
    found = [line for start in range(0, len(stream), size) for line in reader.feed(stream[start : start + size])]
    assert found == [(line, False) for line in lines if line.strip()]


def test_a_line_that_is_too_long_is_cut_and_the_next_is_whole() -> None:
    reader = LineReader(limit=10_000)
    found = reader.feed(b'{"id": 1, ') + reader.feed(b"x" * 20_000) + reader.feed(b"y" * 20_000 + b"\nnext\n")
    assert [(line[:10], too_long) for line, too_long in found] == [(b'{"id": 1, ', True), (b"next", False)]
    assert len(found[0][0]) == LineReader.KEPT


# names


def test_tools_and_resources_get_their_servers_name_and_lose_it() -> None:
    names = Names("my_files")
    item = messages.encode({"name": "read__all", "inputSchema": {}, "x": 1})
    inner, shown = names.shown(TOOLS, messages.fields(item))
    assert (inner, json.loads(shown)["name"], json.loads(shown)["x"]) == ("read__all", "my_files__read__all", 1)
    assert split("my_files__read__all") == ("my_files", "read__all")
    resource = messages.encode({"uri": "file:///a+b", "name": "a"})
    inner, shown = names.shown(KINDS["resources/list"], messages.fields(resource))
    outer = json.loads(shown)["uri"]
    assert (inner, outer) == ("file:///a+b", "my.files+file:///a+b")
    assert split_uri(outer) == (names.uri_prefix, "file:///a+b")


@pytest.mark.parametrize("name", ["", "1a", "a__b", "a_", "_a", "a b", "a/b", "ä"])
def test_a_name_that_could_not_be_told_apart_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="name of a server"):
        Names(name)


@pytest.mark.parametrize("name", ["add", "__add", "add__", ""])
def test_a_name_without_a_server_is_an_error(name: str) -> None:
    if name == "__add":
        assert split(name) == ("", "add")  # no server is called so
        return
    with pytest.raises(RpcError):
        split(name)


@pytest.mark.parametrize("item", [b"[]", b"{}", b'{"name": 3}', b'{"name": ""}', b'{"name": "x", "inputSchema": 3}'])
def test_a_tool_that_cannot_be_one_is_refused(item: bytes) -> None:
    with pytest.raises(RpcError):
        checked("tools", item)


def test_resources_inside_of_results_are_renamed_and_nothing_else() -> None:
    result = {
        "content": [
            {"type": "text", "text": 'the "uri" file:///a'},
            {"type": "resource_link", "uri": "file:///a", "name": "a"},
            {"type": "resource", "resource": {"uri": "file:///b", "text": "b"}},
        ],
        "structuredContent": {"uri": "not a resource"},
    }
    found = json.loads(Names("s").with_outer_uris(messages.encode(result)))
    assert found["content"][0] == result["content"][0]
    assert found["content"][1]["uri"] == "s+file:///a"
    assert found["content"][2]["resource"]["uri"] == "s+file:///b"
    assert found["structuredContent"] == result["structuredContent"]


# calls


class Told(list[Request | Notification]):
    """A relay that keeps what it is given."""

    __call__ = list.append


def read(line: bytes) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(line)
    return found


@on_loop
async def test_each_call_gets_its_own_answer_and_progress() -> None:
    stray, first, second = Told(), Told(), Told()
    calls = Calls(stray)
    params = messages.encode({"name": "x", "_meta": {"progressToken": "mine", "other": 1}})
    a, line_a = calls.begin("tools/call", params, first)
    b, line_b = calls.begin("tools/call", params, second)
    tokens = [read(line)["params"]["_meta"]["progressToken"] for line in (line_a, line_b)]
    assert tokens == [a.number, b.number] and read(line_a)["params"]["_meta"]["other"] == 1
    calls.take(
        Notification("notifications/progress", messages.encode({"progressToken": b.number, "progress": 1, "total": 2}))
    )
    assert not first
    assert read(second[0].pack())["params"] == {"progressToken": "mine", "progress": 1, "total": 2}
    calls.take(Result(b.number, b'{"b": 1}'))
    calls.take(Failure(a.number, RpcError(-1, "no").packed()))
    assert await b.answer == b'{"b": 1}'
    with pytest.raises(RpcError, match="no"):
        await a.answer
    assert len(calls) == 0 and not stray


@on_loop
async def test_late_and_foreign_answers_are_dropped() -> None:
    told = Told()
    calls = Calls(told)
    call, _ = calls.begin("tools/call", b'{"_meta": {"progressToken": 1}}', told)
    assert read(calls.cancelled(call, "why"))["params"] == {"requestId": call.number, "reason": "why"}
    for late in (
        Result(call.number, b"{}"),
        Result("x", b"{}"),
        Failure(None, b"{}"),
        Notification("notifications/progress", b'{"progressToken": 1}'),
        Notification("notifications/progress", b'{"progressToken": {}}'),
    ):
        calls.take(late)
    assert not call.answer.done() and not told


@on_loop
async def test_what_a_server_sends_goes_to_the_only_call_or_to_none() -> None:
    stray, relay = Told(), Told()
    calls = Calls(stray)
    asked = Request(5, "sampling/createMessage", b"{}")
    calls.take(asked)
    assert stray == [asked]
    call, _ = calls.begin("tools/call", b"{}", relay)
    calls.take(asked)
    assert relay == [asked]
    other, _ = calls.begin("tools/call", b"{}", Told())
    calls.take(asked)
    assert len(stray) == 2  # whose it is cannot be known
    calls.take(asked, call)
    assert len(relay) == 2  # unless its stream tells
    calls.end(call)
    calls.end(other)


@on_loop
async def test_wrong_answers_become_clean_errors() -> None:
    calls = Calls(Told())
    for answer in (Result(1, b"3"), Result(2, b"[]"), Failure(3, b'"no error object"')):
        call, _ = calls.begin("tools/call", b"{}", None)
        calls.take(answer)
        with pytest.raises(RpcError) as caught:
            await call.answer
        assert caught.value.code == messages.INTERNAL_ERROR


@on_loop
async def test_when_a_server_dies_every_call_hears_of_it() -> None:
    calls = Calls(Told())
    open_calls = [calls.begin("tools/call", b"{}", None)[0] for _ in range(3)]
    assert calls.fail_one(open_calls[0].number, RpcError(-32000, "too long"))
    assert not calls.fail_one(99, RpcError(-32000, "nobody"))
    calls.fail(RpcError(-32000, "died"))
    results = await asyncio.gather(*(call.answer for call in open_calls), return_exceptions=True)
    assert [str(error) for error in results] == ["too long", "died", "died"]


# promises about answers


def test_output_is_held_against_its_schema() -> None:
    checks = OutputChecks()
    schema = messages.encode({"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]})
    good = messages.encode({"content": [], "structuredContent": {"n": 1}})
    checks.check("t", schema, good)
    checks.check("t", None, b'{"content": []}')
    checks.check("t", schema, b'{"content": [], "isError": true}')
    for bad in (b'{"content": []}', b'{"content": [], "structuredContent": {"n": "x"}}', b'{"content": 3}', b"{}"):
        with pytest.raises(RpcError) as caught:
            checks.check("t", schema, bad)
        assert caught.value.code == messages.INTERNAL_ERROR


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "nonsense"},
        {"pattern": "(a+)+$"},
        {"$ref": "https://example.invalid/schema.json"},
        {"$ref": "#/nowhere"},
    ],
)
def test_schemas_that_cannot_be_used_are_not_held_against_the_answer(schema: dict[str, Any]) -> None:
    OutputChecks().check("t", messages.encode(schema), b'{"content": [], "structuredContent": {"a": 1}}')
    assert True  # it neither raised, nor asked a network, nor ran the pattern


# recipes


def test_applications_can_be_sent_to_other_processes() -> None:
    made = mcp.gateway(
        {"a": "http://127.0.0.1:1/mcp", "b": mcp.bridge(["x"], per_session=True), "c": mcp.app("module:server")},
        access=mcp.Access(tokens=[mcp.Token("0123456789abcdef", tools=["a__*"])]),
    )
    copy = pickle.loads(pickle.dumps(made))
    assert copy.servers.keys() == made.servers.keys()
    assert copy.options == made.options and copy.status() == {}


@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (lambda: mcp.gateway({}), ValueError, "needs servers"),
        (lambda: mcp.gateway({"a__b": "http://x/"}), ValueError, "name of a server"),
        (lambda: mcp.gateway({"a": 3}), TypeError, "'a': a server is"),
        (lambda: mcp.gateway({"a": "ftp://x"}), ValueError, "no address"),
        (lambda: mcp.gateway({"a": "http://x/"}, limits={"calls": 1}), ValueError, "unknown limits: calls"),
        (lambda: mcp.gateway({"a": "http://x/"}, limits={"call": 0}), ValueError, "call must be"),
        (lambda: mcp.gateway({"a": "http://x/"}, path="mcp"), ValueError, "path must begin"),
        (lambda: mcp.remote("http://x/", headers={"a": "b\r\nc: d"}), ValueError, "line break"),
        (lambda: mcp.bridge("python server.py"), TypeError, "list of texts"),
        (lambda: mcp.bridge([]), TypeError, "list of texts"),
        (lambda: mcp.bridge(["x"], per_session=True, stateless=True), ValueError, "needs sessions"),
        (lambda: mcp.app(3), TypeError, "server must be"),
        (lambda: mcp.app("module"), TypeError, "module:name"),
    ],
)
def test_mistakes_are_told_where_they_are_made(make: Any, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        make()
