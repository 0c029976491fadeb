"""The gateway, with the official client before it and servers of every kind behind it."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from mcp.server.mcpserver import Context, MCPServer
from mcp.shared.exceptions import MCPError
from mcp_peers import BOTH, CANCELLED, Client, calculator, on_loop, program, serving, words
from mcp_types import (
    CreateMessageResult,
    ElicitRequestParams,
    ElicitResult,
    PromptReference,
    TextContent,
    ToolListChangedNotification,
)
from pydantic import BaseModel

from skate.serve import mcp


class Size(BaseModel):
    """What a user is asked for."""

    size: int


both = pytest.mark.parametrize("mode", BOTH)


async def model(_context: Any, params: Any) -> CreateMessageResult:
    """The client's model: says back what it was asked."""
    said = f"<{params.messages[0].content.text}>"
    return CreateMessageResult(role="assistant", content=TextContent(type="text", text=said), model="echo")


@both
@on_loop
async def test_everything_a_server_has_is_reached_through_the_gateway(mode: str) -> None:
    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(serving(mcp.app(calculator)))
        gateway = mcp.gateway({"far": url, "near": mcp.app(calculator)})
        client = await stack.enter_async_context(Client(await stack.enter_async_context(serving(gateway)), mode=mode))
        tools = [tool.name for tool in (await client.list_tools()).tools]
        assert tools == [
            f"{where}__{name}" for where in ("far", "near") for name in ("add", "count", "sleep", "ask", "fail")
        ]
        for where in ("far", "near"):
            assert (await client.call_tool(f"{where}__add", {"a": 1, "b": 2})).structured_content == {"result": 3}
            assert (await client.call_tool(f"{where}__fail", {})).is_error
            steps: list[tuple[float, float | None, str | None]] = []

            async def step(done: float, of: float | None, text: str | None, steps: list[Any] = steps) -> None:
                steps.append((done, of, text))

            counted = await client.call_tool(f"{where}__count", {"to": 3}, progress_callback=step)
            assert words(counted) == "counted to 3"
            assert steps == [(1, 3, "at 0"), (2, 3, "at 1"), (3, 3, "at 2")]
            read = await client.read_resource(f"{where}+note://one")
            assert (read.contents[0].uri, read.contents[0].text) == (f"{where}+note://one", "the first note")
            assert (await client.read_resource(f"{where}+note://x/text")).contents[0].text == "the note x"
            greeting = await client.get_prompt(f"{where}__greet", {"name": "Ada"})
            assert greeting.messages[0].content.text == "Say hello to Ada."
        assert [str(r.uri) for r in (await client.list_resources()).resources] == ["far+note://one", "near+note://one"]
        templates = (await client.list_resource_templates()).resource_templates
        assert [t.uri_template for t in templates] == ["far+note://{name}/text", "near+note://{name}/text"]
        assert [p.name for p in (await client.list_prompts()).prompts] == ["far__greet", "near__greet"]
        assert gateway.status()["far"]["state"] == gateway.status()["near"]["state"] == "up"
        assert client.instructions == "far: It can add.\n\nnear: It can add."


@both
@on_loop
async def test_a_server_can_ask_the_clients_model_through_the_gateway(mode: str) -> None:
    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(serving(mcp.app(calculator)))
        endpoint = await stack.enter_async_context(serving(mcp.gateway({"far": url})))
        clients = [
            await stack.enter_async_context(Client(endpoint, mode=mode, sampling_callback=model)) for _ in range(2)
        ]
        asked = [
            client.call_tool("far__ask", {"question": f"{number}-{turn}"})
            for turn in range(5)
            for number, client in enumerate(clients)
        ]
        answers = [words(result) for result in await asyncio.gather(*asked)]
        assert answers == [f"the model says <{n}-{turn}>" for turn in range(5) for n in range(2)]
        alone = await stack.enter_async_context(Client(endpoint, mode=mode))
        with pytest.raises(MCPError):  # this one has no model
            await alone.call_tool("far__ask", {"question": "?"})


@both
@on_loop
async def test_a_server_can_ask_the_user_through_the_gateway(mode: str) -> None:
    server = MCPServer("shop")

    @server.tool()
    async def buy(thing: str, ctx: Context) -> str:
        answer = await ctx.elicit(f"Which size of {thing}?", Size)
        return f"{thing}: {answer.action} {getattr(answer, 'data', None)}"

    async def user(_context: Any, params: ElicitRequestParams) -> ElicitResult:
        return ElicitResult(action="accept", content={"size": len(params.message)})

    async with AsyncExitStack() as stack:
        endpoint = await stack.enter_async_context(serving(mcp.gateway({"shop": mcp.app(server)})))
        client = await stack.enter_async_context(Client(endpoint, mode=mode, elicitation_callback=user))
        assert words(await client.call_tool("shop__buy", {"thing": "hats"})) == "hats: accept size=19"


@both
@on_loop
async def test_a_cancelled_call_is_cancelled_at_its_server(mode: str) -> None:
    CANCELLED.clear()
    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(serving(mcp.app(calculator)))
        endpoint = await stack.enter_async_context(serving(mcp.gateway({"far": url})))
        client = await stack.enter_async_context(Client(endpoint, mode=mode))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1.5):
                await client.call_tool("far__sleep", {"seconds": 33})
        for _ in range(3000):
            if CANCELLED:
                break
            await asyncio.sleep(0.02)
        assert CANCELLED == [33]
        assert (await client.call_tool("far__add", {"a": 1, "b": 1})).structured_content == {"result": 2}


@pytest.mark.slow
@on_loop
async def test_a_server_that_fails_does_not_hide_the_others(tmp_path: Path) -> None:
    servers = {
        "good": mcp.app(calculator),
        "gone": "http://127.0.0.1:1/mcp",
        "missing": mcp.bridge([str(tmp_path / "no-such-program")]),
        "dying": mcp.bridge(program(tmp_path, "sys.exit(4)")),
        "mute": mcp.bridge(program(tmp_path, "time.sleep(1000)")),
        "broken": mcp.bridge(program(tmp_path, "TOOLS = 3")),
    }
    gateway = mcp.gateway(servers, limits={"start": 3.0, "lists": 2.0})
    async with serving(gateway) as endpoint, Client(endpoint) as client:
        begun = time.monotonic()
        tools = {tool.name.partition("__")[0] for tool in (await client.list_tools()).tools}
        assert tools == {"good"} and time.monotonic() - begun < 30
        assert (await client.call_tool("good__add", {"a": 1, "b": 2})).structured_content == {"result": 3}
        for name, why in (
            ("gone", "down"),
            ("missing", "cannot be started"),
            ("dying", "down"),
            ("mute", "did not start within 3 s"),
        ):
            with pytest.raises(MCPError, match=why) as caught:
                await client.call_tool(f"{name}__pid", {})
            assert caught.value.error.data == {"server": name}
        found = gateway.status()
        assert {name: row["state"] for name, row in found.items()} == {
            "good": "up", "gone": "down", "missing": "down", "dying": "down", "mute": "down", "broken": "up",
        }  # fmt: skip
        with pytest.raises(MCPError, match="no server 'other'"):
            await client.call_tool("other__add", {})


@on_loop
async def test_a_server_that_comes_back_is_used_again(tmp_path: Path) -> None:
    gateway = mcp.gateway({"rude": mcp.bridge(program(tmp_path))})
    async with serving(gateway) as endpoint, Client(endpoint) as client:
        first = words(await client.call_tool("rude__pid", {}))
        with pytest.raises(MCPError, match="ended with 3"):
            await client.call_tool("rude__exit", {})
        second, deadline = "", time.monotonic() + 60
        while not second:
            try:
                second = words(await client.call_tool("rude__pid", {}))
            except MCPError:
                assert time.monotonic() < deadline
                await asyncio.sleep(0.02)
        assert second != first
        assert gateway.status()["rude"] == {"state": "up", "failure": None, "restarts": 1}


CHANGING = """
def handle(m):
    if (m.get("params") or {}).get("name") == "grow":
        TOOLS.append(tool("t%d" % len(TOOLS)))
        say({"jsonrpc": "2.0", "method": "notifications/tools/list_changed"})
        answer(m["id"], text(str(LISTED)))
        return True
    if m.get("method") == "tools/list": LISTED.append(1)
LISTED = []
TOOLS = [tool("grow")]
"""


@both
@on_loop
async def test_lists_are_remembered_until_the_server_says_that_they_changed(mode: str, tmp_path: Path) -> None:
    heard = asyncio.Event()

    async def handler(message: Any) -> None:
        if isinstance(message, ToolListChangedNotification):
            heard.set()

    async with AsyncExitStack() as stack:
        endpoint = await stack.enter_async_context(
            serving(mcp.gateway({"it": mcp.bridge(program(tmp_path, CHANGING))}))
        )
        client = await stack.enter_async_context(Client(endpoint, mode=mode, message_handler=handler, cache=None))
        if mode == "auto":
            listening = await stack.enter_async_context(client.listen(tools_list_changed=True))
        for _ in range(5):
            assert [tool.name for tool in (await client.list_tools()).tools] == ["it__grow"]
        heard.clear()
        assert words(await client.call_tool("it__grow", {})) == "[1]"  # five lists, one of them asked for
        async with asyncio.timeout(5):
            if mode == "auto":
                assert await anext(aiter(listening)) is not None
            else:
                await heard.wait()
        assert [tool.name for tool in (await client.list_tools()).tools] == ["it__grow", "it__t1"]


@on_loop
async def test_each_client_session_has_sessions_of_its_own_which_end_with_it() -> None:
    server = MCPServer("counter")
    seen: dict[Any, int] = {}

    @server.tool()
    def hit(ctx: Context) -> int:
        number = ctx.request_context.request.headers["mcp-session-id"]
        seen[number] = seen.get(number, 0) + 1
        return seen[number]

    behind = mcp.app(server)
    async with serving(behind) as url, serving(mcp.gateway({"c": url})) as endpoint:
        for _ in range(2):
            async with Client(endpoint, mode="legacy") as client:
                found = [(await client.call_tool("c__hit", {})).structured_content for _ in range(3)]
                assert found == [{"result": 1}, {"result": 2}, {"result": 3}]
        assert len(seen) == 2
        open_sessions = set(behind._manager._server_instances)
        assert not open_sessions & set(seen)  # only the gateway's own is left


@on_loop
async def test_a_stateless_gateway_needs_no_sessions(tmp_path: Path) -> None:
    gateway = mcp.gateway(
        {"a": mcp.app(calculator, stateless=True), "b": mcp.bridge(program(tmp_path))}, stateless=True
    )
    async with serving(gateway) as endpoint:
        for mode in BOTH:
            async with Client(endpoint, mode=mode) as client:
                assert (await client.call_tool("a__add", {"a": 1, "b": 2})).structured_content == {"result": 3}
                assert words(await client.call_tool("b__pid", {})).isdigit()
                assert words(await client.call_tool("a__count", {"to": 2})) == "counted to 2"


@on_loop
async def test_a_session_that_its_server_forgot_is_begun_again() -> None:
    behind = mcp.app(calculator)
    async with (
        serving(behind) as url,
        serving(mcp.gateway({"a": url})) as endpoint,
        Client(endpoint, mode="legacy") as client,
    ):
        assert (await client.call_tool("a__add", {"a": 1, "b": 2})).structured_content == {"result": 3}
        for transport in list(behind._manager._server_instances.values()):
            await transport.terminate()
        assert (await client.call_tool("a__add", {"a": 2, "b": 2})).structured_content == {"result": 4}


@on_loop
async def test_completions_and_subscriptions_find_their_server(tmp_path: Path) -> None:
    extra = """
CAPABILITIES = {"resources": {"subscribe": True}, "completions": {}, "prompts": {}, "tools": {}}
def handle(m):
    p = m.get("params") or {}
    if m.get("method") == "completion/complete":
        answer(m["id"], {"completion": {"values": [p["ref"].get("name") or p["ref"]["uri"]]}})
    elif m.get("method") == "resources/subscribe":
        answer(m["id"], {})
        say({"jsonrpc": "2.0", "method": "notifications/resources/updated", "params": {"uri": p["uri"]}})
    elif m.get("method") == "resources/unsubscribe": answer(m["id"], {})
    else: return False
    return True
"""
    heard: asyncio.Queue[Any] = asyncio.Queue()

    async def handler(message: Any) -> None:
        heard.put_nowait(message)

    gateway = mcp.gateway({"x": mcp.bridge(program(tmp_path, extra), per_session=True)})
    async with serving(gateway) as endpoint, Client(endpoint, mode="legacy", message_handler=handler) as client:
        ref = PromptReference(type="ref/prompt", name="x__greet")
        completed = await client.complete(ref, {"name": "a", "value": "b"})
        assert completed.completion.values == ["greet"]
        await client.session.subscribe_resource("x+mem://1")
        async with asyncio.timeout(5):
            while (message := await heard.get()).method != "notifications/resources/updated":
                pass
        assert str(message.params.uri) == "x+mem://1"
        await client.session.unsubscribe_resource("x+mem://1")


@both
@on_loop
async def test_a_hundred_calls_at_once_get_their_own_answers(mode: str) -> None:
    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(serving(mcp.app(calculator)))
        endpoint = await stack.enter_async_context(serving(mcp.gateway({"far": url, "near": mcp.app(calculator)})))
        client = await stack.enter_async_context(Client(endpoint, mode=mode))
        calls = [client.call_tool(f"{'far' if n % 2 else 'near'}__add", {"a": n, "b": n}) for n in range(100)]
        results = await asyncio.gather(*calls)
        assert [result.structured_content for result in results] == [{"result": 2 * n} for n in range(100)]
