"""A well-known server from npm behind the bridge, and the official client for TypeScript: where both are installed."""

from __future__ import annotations

import asyncio
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from mcp_peers import BOTH, Client, on_loop, serving, words
from mcp_types import (
    CreateMessageResult,
    ElicitResult,
    ListRootsResult,
    PromptReference,
    Root,
    TextContent,
)

from skate.serve import mcp

MODULES = Path(os.environ.get("NODE_PATH", "node_modules"))
EVERYTHING = MODULES / "@modelcontextprotocol" / "server-everything" / "dist" / "index.js"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed"),
]
both = pytest.mark.parametrize("mode", BOTH)


async def model(_context: Any, _params: Any) -> CreateMessageResult:
    return CreateMessageResult(role="assistant", content=TextContent(type="text", text="it is sampled"), model="m")


async def user(_context: Any, _params: Any) -> ElicitResult:
    return ElicitResult(action="accept", content={"name": "Ada", "check": True})


async def roots(_context: Any) -> ListRootsResult:
    return ListRootsResult(roots=[Root(uri="file:///tmp")])


@pytest.mark.skipif(not EVERYTHING.exists(), reason="NODE_PATH has no @modelcontextprotocol/server-everything")
@both
@on_loop
async def test_the_server_that_has_everything_works_behind_bridge_and_gateway(mode: str) -> None:
    server = mcp.bridge(["node", str(EVERYTHING)], per_session=True)
    async with (
        serving(mcp.gateway({"all": server})) as url,
        Client(url, mode=mode, sampling_callback=model, elicitation_callback=user, list_roots_callback=roots) as client,
    ):
        names = {tool.name for tool in (await client.list_tools()).tools}
        asks = {"all__trigger-sampling-request", "all__trigger-elicitation-request", "all__get-roots-list"}
        assert asks <= names
        assert words(await client.call_tool("all__echo", {"message": "hi"})) == "Echo: hi"
        steps = []

        async def step(done: float, *_: Any) -> None:
            steps.append(done)

        await client.call_tool(
            "all__trigger-long-running-operation", {"duration": 0.4, "steps": 4}, progress_callback=step
        )
        assert steps == [1, 2, 3, 4]
        sampled = await client.call_tool("all__trigger-sampling-request", {"prompt": "x", "maxTokens": 9})
        assert "it is sampled" in words(sampled)
        assert "provided" in words(await client.call_tool("all__trigger-elicitation-request", {}))
        assert "file:///tmp" in words(await client.call_tool("all__get-roots-list", {}))
        structured = await client.call_tool("all__get-structured-content", {"location": "New York"})
        assert structured.structured_content is not None and "temperature" in structured.structured_content
        image = await client.call_tool("all__get-tiny-image", {})
        assert [part.type for part in image.content] == ["text", "image", "text"]
        links = await client.call_tool("all__get-resource-links", {"count": 2})
        uri = str(links.content[1].uri)  # type: ignore[union-attr]
        assert uri.startswith("all+demo://") and (await client.read_resource(uri)).contents
        ref = PromptReference(type="ref/prompt", name="all__completable-prompt")
        completed = await client.complete(ref, {"name": "department", "value": "E"})
        assert completed.completion.values == ["Engineering"]


CLIENT = """
const { createRequire } = require("module");
const need = createRequire(process.env.NODE_PATH + "/x.js");
const { Client } = need("@modelcontextprotocol/sdk/client/index.js");
const { StreamableHTTPClientTransport } = need("@modelcontextprotocol/sdk/client/streamableHttp.js");
const types = need("@modelcontextprotocol/sdk/types.js");
(async () => {
  const client = new Client({ name: "ts", version: "1" }, { capabilities: { sampling: {} } });
  client.setRequestHandler(types.CreateMessageRequestSchema, async () => (
    { role: "assistant", model: "m", content: { type: "text", text: "sampled" } }));
  const transport = new StreamableHTTPClientTransport(new URL(process.argv[2]));
  await client.connect(transport);
  const said = {};
  said.tools = (await client.listTools()).tools.map((tool) => tool.name);
  const call = (name, given, how) => client.callTool({ name, arguments: given }, undefined, how);
  const steps = [];
  await call("c__count", { to: 3 }, { onprogress: (p) => steps.push(p.progress) });
  said.steps = steps;
  said.asked = (await call("c__ask", { question: "?" })).content[0].text;
  const sums = await Promise.all([...Array(30).keys()].map((n) => call("c__add", { a: n, b: n })));
  said.sums = sums.every((sum, n) => sum.structuredContent.result === 2 * n);
  said.slept = (await call("c__sleep", { seconds: 5.5 })).content[0].text;  // its stream begins with an id alone
  said.read = (await client.readResource({ uri: "c+note://one" })).contents[0].text;
  said.prompt = (await client.getPrompt({ name: "c__greet", arguments: { name: "Ada" } })).messages[0].content.text;
  await transport.terminateSession();
  await client.close();
  console.log(JSON.stringify(said));
})().catch((error) => { console.error(error); process.exit(1); });
"""


@pytest.mark.skipif(not (MODULES / "@modelcontextprotocol" / "sdk").exists(), reason="NODE_PATH has no MCP SDK")
@on_loop
async def test_the_official_client_for_typescript_understands_the_gateway(tmp_path: Path) -> None:
    import json

    from mcp_peers import calculator

    (tmp_path / "client.cjs").write_text(CLIENT)
    async with serving(mcp.gateway({"c": mcp.app(calculator)})) as url:
        process = await asyncio.create_subprocess_exec(
            "node", str(tmp_path / "client.cjs"), url,
            env={**os.environ, "NODE_PATH": str(MODULES.resolve())},
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    said = json.loads(out)
    assert said.pop("tools") == ["c__add", "c__count", "c__sleep", "c__ask", "c__fail"]
    assert said == {
        "steps": [1, 2, 3], "asked": "the model says sampled", "sums": True, "slept": "woke",
        "read": "the first note", "prompt": "Say hello to Ada.",
    }  # fmt: skip
