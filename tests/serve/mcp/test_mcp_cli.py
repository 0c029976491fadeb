"""`skate mcp`: a user's way to all of it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from mcp_peers import program

from skate.serve import mcp
from skate.serve.mcp import config

SERVER = """
from mcp.server.mcpserver import MCPServer

def make():
    server = MCPServer("calculator")

    @server.tool()
    def add(a: int, b: int) -> int:
        "Add two numbers."
        return a + b

    @server.tool()
    def shout(text: str) -> str:
        if not text:
            raise ValueError("nothing to shout")
        return text.upper()

    return server

server = make()
"""
SECRET = "a-long-secret-for-tests"


@contextlib.contextmanager
def started(folder: Path, *words: str, **variables: str) -> Iterator[str]:
    """The command with a server; its address. Ctrl-C ends it, and well."""
    process = subprocess.Popen(
        [sys.executable, "-m", "skate", "mcp", *words],
        cwd=folder,
        env={**os.environ, **variables},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    try:
        said = []
        for line in process.stderr:
            said.append(line)
            if found := re.search(r"MCP at (http://\S+?)[.,] ", line):
                yield found[1]
                break
        else:
            pytest.fail("".join(said))
    finally:
        process.send_signal(signal.SIGINT)
        _, rest = process.communicate(timeout=60)
        assert process.returncode in (0, 130, -signal.SIGINT) and "KeyboardInterrupt" not in rest, rest


def skate(*words: str, code: int = 0, **variables: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "skate", "mcp", *words],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_a_server_is_run_listed_and_called(tmp_path: Path) -> None:
    (tmp_path / "calculator.py").write_text(SERVER)
    with started(tmp_path, "run", "calculator:make", "--port", "0", "--token-env", "T", T=SECRET) as url:
        assert "a bearer token is needed" in skate("list", url, code=1)
        token = {"T": SECRET}
        listed = skate("list", url, "--token-env", "T", **token)
        assert re.search(r"tool +add +Add two numbers\.", listed)
        names = [
            tool["name"] for tool in json.loads(skate("list", url, "--json", "--token-env", "T", **token))["tools"]
        ]
        assert names == ["add", "shout"]
        assert skate("call", url, "add", "a=1", "b=2", "--token-env", "T", **token) == "3\n"
        assert skate("call", url, "shout", "text=12", "--token-env", "T", **token) == "12\n"
        found = json.loads(skate("call", url, "add", "a=1", "b=2", "--json", "--token-env", "T", **token))
        assert found["structuredContent"] == {"result": 3}
        assert "Error executing tool shout" in skate("call", url, "shout", "text=", "--token-env", "T", code=1, **token)
        assert "key=value" in skate("call", url, "add", "1", "2", "--token-env", "T", code=2, **token)


@pytest.mark.slow
def test_a_command_is_bridged(tmp_path: Path) -> None:
    with started(tmp_path, "bridge", "--port", "0", "--call-timeout", "0.3", "--", *program(tmp_path)) as url:
        assert skate("call", url, "pid").strip().isdigit()
        assert "no answer to tools/call in 0.3 s" in skate("call", url, "hang", code=1)


@pytest.mark.slow
def test_a_gateway_is_served_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "calculator.py").write_text(SERVER)
    command = json.dumps(program(tmp_path))
    (tmp_path / "gateway.toml").write_text(f"""
port = 0
[servers.calc]
module = "calculator:server"
[servers.rude]
command = {command}
[servers.gone]
url = "http://127.0.0.1:1/mcp"
headers = {{ authorization = "Bearer ${{T}}" }}
[access]
tokens = [{{ env = "T", tools = ["calc__*", "rude__pid"] }}]
""")
    assert "fine" in skate("gateway", str(tmp_path / "gateway.toml"), "--check", T=SECRET)
    with started(tmp_path, "gateway", "gateway.toml", T=SECRET) as url:
        listed = json.loads(skate("list", url, "--json", "--token-env", "T", T=SECRET))
        assert [tool["name"] for tool in listed["tools"]] == ["calc__add", "calc__shout", "rude__pid"]
        assert skate("call", url, "calc__add", "a=20", "b=22", "--token-env", "T", T=SECRET) == "42\n"
        assert "Unknown name 'rude__exit'" in skate("call", url, "rude__exit", "--token-env", "T", code=1, T=SECRET)


@pytest.mark.slow
def test_a_server_is_run_with_replicas(tmp_path: Path) -> None:
    (tmp_path / "calculator.py").write_text(SERVER)
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with started(tmp_path, "run", "calculator:make", "--port", str(port), "--replicas", "2") as url:
        assert skate("call", url, "add", "a=1", "b=2") == "3\n"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("servers = 3", "servers"),
        ("[servers]\n", "needs servers"),
        ("[servers.a]\n", "one of command, url, module, this one has none"),
        ('[servers.a]\nurl = "http://x/"\ncommand = ["y"]', "this one has command and url"),
        ('[servers.a]\nurl = "http://x/"\nper_session = true', "per_session goes with command"),
        ('[servers.a]\nurl = "http://x/"\ntimeout = 3', "unknown field `timeout`"),
        ('prot = 1\n[servers.a]\nurl = "http://x/"', "unknown field `prot`"),
        ('[servers.a]\nurl = "http://x/"\n[limits]\ncal = 3', r"unknown field `cal` - at `\$.limits`"),
        ('[servers.a]\nurl = "http://x/"\n[limits]\ncall = "3"', r"Expected `float.*at `\$.limits.call`"),
        ('[servers.a]\nurl = "http://x/"\n[limits]\ncall = -3', "call must be a number of seconds"),
        ('[servers.a]\nurl = "http://x/"\n[[access.tokens]]\nsecret = "x"', "unknown field `secret`"),
        ('[servers.a]\nurl = "http://x/"\n[[access.tokens]]\nenv = "NO_SUCH"', "NO_SUCH.* at least 16"),
        ('[servers.a]\nurl = "http://x/"\nheaders = { a = "${NO_SUCH}" }', "servers.a.headers.a.*NO_SUCH is not set"),
        ('[servers.a__b]\nurl = "http://x/"', "name of a server"),
        ('[servers.a]\nmodule = "m"', "module:name"),
        ("x = [", "gateway.toml: "),
    ],
)
def test_what_is_wrong_in_a_file_is_named(text: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "gateway.toml"
    path.write_text(text)
    with pytest.raises(ValueError, match=says) as caught:
        config.read(path)
    assert "gateway.toml" in str(caught.value)


def test_a_file_can_say_all_that_a_program_can(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEY", "value")
    path = tmp_path / "gateway.toml"
    path.write_text("""
host = "0.0.0.0"
port = 9
path = "/x"
name = "mine"
instructions = "use it"
stateless = true
check_output = false
max_sessions = 5
[servers.one]
command = ["a", "b"]
env = { K = "<${KEY}>" }
cwd = "/tmp"
per_session = true
[servers.two]
url = "https://example.com/mcp"
one_session = true
[access]
hosts = ["example.com"]
origins = ["https://example.com"]
[limits]
call = 1.5
backoff = 9
""")
    found = config.read(path)
    assert (found.host, found.port) == ("0.0.0.0", 9)
    app = found.app
    options = app.options
    assert (options.path, app.name, app.instructions, options.stateless, app.check_output, options.max_sessions) == (
        "/x", "mine", "use it", True, False, 5,
    )  # fmt: skip
    assert app.servers["one"].command == (("a", "b"), {"K": "<value>"}, "/tmp")
    assert app.servers["one"].per_session and app.servers["two"].url == "https://example.com/mcp"
    assert options.access == mcp.Access([], ["example.com"], ["https://example.com"])
    assert (app.limits.call, app.limits.backoff, app.limits.start) == (1.5, 9, 30)


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_the_status_of_a_gateway_is_shown_to_those_who_may_use_all_of_it(tmp_path: Path) -> None:
    good, bad = program(tmp_path), program(tmp_path, "print('no settings', file=sys.stderr, flush=True); sys.exit(2)")
    (tmp_path / "gateway.toml").write_text(f"""
port = 0
[servers.good]
command = {json.dumps(good)}
[servers.bad]
command = {json.dumps(bad)}
[access]
tokens = [{{ env = "T" }}, {{ env = "U", tools = ["good__*"] }}]
""")
    tokens = {"T": SECRET, "U": SECRET + "-other"}
    with started(tmp_path, "gateway", "gateway.toml", **tokens) as url:
        assert "a bearer token is needed" in skate("status", url, code=1)
        assert "for those who may use all of it" in skate("status", url, "--token-env", "U", code=1, **tokens)
        deadline = time.monotonic() + 60
        while "no settings" not in (said := skate("status", url, "--token-env", "T", code=1, **tokens)):
            assert time.monotonic() < deadline
        assert re.search(r"bad +down +0 +the server's process ended with 2: no settings", said)
        found = json.loads(skate("status", url, "--json", "--token-env", "T", code=1, **tokens))
        assert set(found) == {"good", "bad"} and set(found["good"]) == {"state", "failure", "restarts"}


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("list", "http://127.0.0.1:1/", "--token-env", "NO_SUCH"), "NO_SUCH is not set"),
        (("status", "http://127.0.0.1:1/"), "127.0.0.1:1"),
        (("call", "http://127.0.0.1:1/", "x"), "127.0.0.1:1"),
        (("run", "nocolon"), "module:name"),
        (("bridge", "--path", "x", "--", "true"), "path must begin"),
        (("bridge", "--call-timeout", "-1", "--", "true"), "call must be a number of seconds"),
    ],
)
def test_bad_input_is_said_in_a_line(words: tuple[str, ...], says: str) -> None:
    assert says in skate(*words, code=1)


@pytest.mark.parametrize(
    "words",
    [
        ("list", "ftp://x"),
        ("list",),
        ("bridge",),
        ("bridge", "--port", "99999", "--", "true"),
        ("gateway", "no-such.toml"),
        ("call", "http://127.0.0.1:1/", "x", "--timeout", "0"),
    ],
)
def test_wrong_usage_is_told_apart(words: tuple[str, ...]) -> None:
    assert "Error: " in skate(*words, code=2)
