"""``skate plugin`` and ``skate config``: a new plugin works, a changed one is served anew, secrets stay hidden."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="plugins need the extra `plugin`")
pytest.importorskip("httpx2", reason="plugins need the extra `plugin`")


def skate(*words: str, folder: Path, expect: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "skate", *words], cwd=folder, capture_output=True, text=True, timeout=50
    )
    assert done.returncode == expect, done.stdout + done.stderr
    return done.stdout + done.stderr


@contextmanager
def served(*words: str, folder: Path) -> Iterator[str]:
    """A service that runs; its URL."""
    process = subprocess.Popen(
        [sys.executable, "-m", "skate", "plugin", "run", "--port", "0", *words],
        cwd=folder,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    said = ""
    try:
        for line in process.stderr:
            said += line
            if found := re.search(r"listening at (\S+?),? ", line):
                break
        else:
            raise AssertionError(said)
        yield found[1]
    finally:
        process.send_signal(signal.SIGINT)
        said += process.communicate(timeout=30)[1]
    assert process.returncode == 0, said
    assert "Traceback" not in said


def get(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=60) as answer:
        return json.load(answer)["data"]


def tried(url: str) -> Any:
    """What is answered; None while the service that answers is being replaced."""
    try:
        return get(url)
    except OSError:
        return None


def test_a_new_plugin_works_and_so_does_its_test(tmp_path: Path) -> None:
    assert "wrote greeter.py" in skate("plugin", "new", "greeter", folder=tmp_path)
    assert "exists already" in skate("plugin", "new", "greeter", folder=tmp_path, expect=1)
    assert "must be a module's name" in skate("plugin", "new", "Greeter-1", folder=tmp_path, expect=2)
    listed = json.loads(skate("plugin", "list", "--load-plugins", "greeter", "--json", folder=tmp_path))
    assert listed["plugins"][0]["apis"] == ["/api/v1/greeter"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_greeter.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert done.returncode == 0 and "1 passed" in done.stdout, done.stdout


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("class", "a word of the language"),
        ("json", "is a module already"),
        ("fastapi", "is a module already"),
        ("echo", "taken by Skate"),
        ("version", "taken by Skate"),
        ("../evil", "must be a module's name"),
        ("", "must be a module's name"),
    ],
)
def test_a_new_plugin_gets_no_name_that_could_not_work(tmp_path: Path, name: str, says: str) -> None:
    assert says in skate("plugin", "new", name, folder=tmp_path, expect=2)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("engine", ["inline", "local"])
def test_a_service_runs_until_ctrl_c(tmp_path: Path, engine: str) -> None:
    skate("plugin", "new", "greeter", folder=tmp_path)
    (tmp_path / "config.toml").write_text(
        "load_plugins = ['greeter']\n[plugins.greeter]\ngreeting = 'good day'\n"
        "[auth.rules]\n'/api/v1/greeter/*' = ['sesame']\n'/docs' = ['sesame']\n"
    )
    with served("--engine", engine, "--load-builtin-plugins", "echo", folder=tmp_path) as url:
        for path in ("/api/v1/greeter", "/api/v1/greeter/", "/docs", "/api/v1/echo/../greeter"):
            with pytest.raises(urllib.error.HTTPError, match=r"40[01]"):
                get(url + path)
        asked = urllib.request.Request(f"{url}/api/v1/greeter?who=Ada", headers={"authorization": "Bearer sesame"})
        with urllib.request.urlopen(asked, timeout=60) as answer:
            assert json.load(answer)["data"] == "good day Ada"
        assert get(f"{url}/api/v1/echo?message=x") == "x"
        metrics = urllib.request.urlopen(f"{url}/metrics").read().decode()
        counted = r"skate_plugin_requests_total\{.*route=\"/api/v1/greeter\",status=\"200\"\} 1.0"
        assert re.search(counted, metrics)
        with pytest.raises(urllib.error.HTTPError, match="404"):
            get(f"{url}/api/v1/echo/nobody")


def test_a_changed_plugin_is_served_within_a_second(tmp_path: Path) -> None:
    skate("plugin", "new", "greeter", folder=tmp_path)
    with served("--reload", "--load-plugins", "greeter", folder=tmp_path) as url:
        assert get(f"{url}/api/v1/greeter") == "hello world"
        file = tmp_path / "greeter.py"
        text = file.read_text()
        file.write_text(text.replace('"hello"', '"good morning"'))
        begun = time.monotonic()
        while tried(f"{url}/api/v1/greeter") != "good morning world":
            assert time.monotonic() - begun < 60
            time.sleep(0.01)
        took = time.monotonic() - begun
        begun = time.monotonic()
        subprocess.run([sys.executable, "-c", "import skate.plugin, fastapi"], check=True, timeout=60)
        assert took < max(1.0, 4 * (time.monotonic() - begun)), "longer than a second, and this machine is not busy"
        file.write_text("1 / 0")  # broken: told, and served again once it is mended
        time.sleep(0.5)
        file.write_text(text)
        begun = time.monotonic()
        while tried(f"{url}/api/v1/greeter") != "hello world":
            assert time.monotonic() - begun < 60


def test_what_the_user_can_mend_is_told_without_a_traceback(tmp_path: Path) -> None:
    for words, says in (
        (["--set", "server.prot=1"], r"the command line: \[server\] has no setting 'prot'. Did you mean 'port'"),
        (["--strict", "--load-plugins", "nowhere"], "nowhere: there is no module 'nowhere'"),
        (["--host", "192.0.2.1"], "cannot listen at 192.0.2.1:8080"),
        (["--host", "192.0.2.1", "--reload"], "cannot listen at 192.0.2.1:8080"),
        (["--host", "192.0.2.1", "--engine", "local"], "cannot listen at 192.0.2.1:8080"),
        (["--engine", "lokal"], "no engine 'lokal'"),
    ):
        said = skate("plugin", "run", *words, folder=tmp_path, expect=1)
        assert re.search(says, said) and "Traceback" not in said, said


def test_config_show_tells_where_values_come_from_and_hides_secrets(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(
        "load_plugins = ['a']\n[server]\nport = 1\n[auth.rules]\n'/x' = ['sesame1']\n[plugins.a]\napi_key = 'sesame2'\n"
        "url = 'http://me:sesame3@host/'\n[[plugins.a.list]]\npassword = 'sesame4'\n"
    )
    (tmp_path / "pyproject.toml").write_text("[tool.skate.server]\nport = 2\nhost = '127.0.0.2'\n")
    (tmp_path / ".env").write_text("SKATE_SERVER__PORT=3\nSKATE_PLUGINS__A__TOKEN=sesame5\n")
    shown = skate("config", "show", "--set", "server.num_cpus=4", folder=tmp_path)
    assert "sesame" not in shown
    for pattern in (
        r"server.port +3 +\.env",
        r"server.host +127.0.0.2 +pyproject.toml, \[tool.skate\]",
        r"load_plugins +\[\"a\"\] +config.toml",
        r"server.num_cpus +4 +the command line",
        r"auth.rules./x +•+ +config.toml",
        r"plugins.a.url +http://•+@host/ +config.toml",
    ):
        assert re.search(pattern, shown), (pattern, shown)


def test_sources_of_settings_weigh_more_and_more(tmp_path: Path) -> None:
    """Each source gives what all before it gave, and one thing more."""
    names = [f"plugins.p.s{number}" for number in range(5)]

    def table(source: int) -> str:
        return "".join(f"s{number} = {source}\n" for number in range(source, 5))

    (tmp_path / "config.toml").write_text("[server]\nport = 9001\n[plugins.p]\n" + table(0))
    (tmp_path / "pyproject.toml").write_text("[tool.skate.plugins.p]\n" + table(1))
    (tmp_path / ".env").write_text("".join(f"SKATE_PLUGINS__P__S{number}=2\n" for number in range(2, 5)))
    environment = {**os.environ, **{f"SKATE_PLUGINS__P__S{number}": "3" for number in range(3, 5)}}
    done = subprocess.run(
        [sys.executable, "-m", "skate", "config", "show", "--set", "plugins.p.s4=4"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=50,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = {line.split()[0]: line.split(maxsplit=2)[1:] for line in done.stdout.splitlines() if "." in line}
    wheres = ["config.toml", "pyproject.toml, [tool.skate]", ".env", "the environment", "the command line"]
    assert [rows[name] for name in names] == [[str(number), where] for number, where in enumerate(wheres)]
    assert rows["server.port"] == ["9001", "config.toml"]  # a file with such a table alone is ours too


def test_somebody_elses_config_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text('title = "a blog"\n[params]\nport = 1\n')
    assert "nothing is configured" in skate("config", "show", folder=tmp_path)


def test_a_reloading_service_ends_with_its_watcher(tmp_path: Path) -> None:
    skate("plugin", "new", "greeter", folder=tmp_path)
    command = [sys.executable, "-m", "skate", "plugin", "run", "--port", "0", "--reload", "--load-plugins", "greeter"]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        found = next(filter(None, (re.search(r"listening at (\S+),", line) for line in process.stderr)))
        assert get(f"{found[1]}/api/v1/greeter") == "hello world"
    finally:
        process.kill()
        process.wait(10)
    with process.stderr as said:
        said.read()  # ends when nobody is left who has the other end
    assert tried(f"{found[1]}/api/v1/greeter") is None
