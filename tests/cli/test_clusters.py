"""With the engine `ray`, `skate start`, `stop`, `status`, `up` and others hand over to Ray's launcher, after a check.

No test runs a launcher: what would take the place of this process is caught before it does.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from skate import launcher
from skate.cli.commands import parse

LAUNCHER = "/there/is/no/such/ray"
Hand = Callable[..., list[str]]


@pytest.fixture(autouse=True)
def surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory without configuration, and a launcher that cannot run."""
    monkeypatch.chdir(tmp_path)
    for name in ("SKATE_ENGINE", "SKATE_ADDRESS", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(launcher, "find", lambda: LAUNCHER)


@pytest.fixture
def handed(monkeypatch: pytest.MonkeyPatch) -> Hand:
    """Run a command line; the words that Ray's launcher would get."""

    def run(*words: str) -> list[str]:
        caught: list[Any] = []
        monkeypatch.setattr(os, "execve", lambda *given: caught.append(given))
        program = parse(words)
        assert program is not None, "it did not hand over"
        program()
        ((path, found, _),) = caught
        assert path == LAUNCHER and found[0] == "ray"
        return list(found[1:])

    return run


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a command line that must not hand over; what it says."""

    def run(*words: str, code: int = 2) -> str:
        with pytest.raises(SystemExit) as ended:
            parse(words)
        assert ended.value.code == code
        return capsys.readouterr().err

    return run


@pytest.fixture
def somebody() -> Any:
    """An address where something listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def test_a_head_is_started_with_our_options_checked_and_the_others_as_they_stand(handed: Hand) -> None:
    words = handed(
        *("start", "--engine", "ray", "--head", "--port", "7001", "--num-cpus", "3", "--resources", '{"disk": 2}'),
        *("--labels", "zone=here,kind=small", "--temp-dir", "/tmp/x", "--block", "--include-dashboard=false"),
    )
    assert words == [
        *("start", "--head", "--port", "7001", "--num-cpus", "3", "--resources", '{"disk": 2}'),
        *("--labels", "zone=here,kind=small", "--block", "--temp-dir", "/tmp/x", "--include-dashboard=false"),
    ]


def test_a_node_joins_where_somebody_listens(handed: Hand, somebody: str) -> None:
    assert handed("start", "--engine=ray", "--address", somebody) == ["start", "--address", somebody]


@pytest.mark.parametrize("how", ["variable", "file"])
def test_the_engine_is_chosen_from_outside_too(handed: Hand, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    if how == "file":
        Path("config.toml").write_text("[server]\nuse_ray = true\n")
    else:
        monkeypatch.setenv("SKATE_ENGINE", "ray")
    assert handed("status", "-v") == ["status", "-v"]


def test_status_asks_the_configured_cluster(handed: Hand, somebody: str) -> None:
    Path("config.toml").write_text(f"[engine]\nname = 'ray'\naddress = '{somebody}'\n")
    assert handed("status") == ["status", "--address", somebody]


def test_stop_says_how_far_it_reaches(handed: Hand, capsys: pytest.CaptureFixture[str]) -> None:
    assert handed("stop", "--engine", "ray", "--force", "-g", "9") == ["stop", "--force", "-g", "9"]
    assert "all processes of Ray that this user runs on this machine" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("start",), "--head begins a cluster"),
        (("start", "--head", "--address", "a:1"), "--head begins a cluster"),
        (("start", "--address", "a:1", "--port", "7"), "--port is where a head listens"),
        (("start", "--head", "--port", "70000"), "70000"),
        (("start", "--head", "--num-cpus", "-1"), "-1"),
        (("start", "--head", "--resources", "{"), "no JSON"),
        (("start", "--head", "--name", "x"), "--node-name"),
        (("start", "--address", "nonsense"), "HOST:PORT"),
        (("stop", "--name", "x"), "--name is for standing hubs"),
        (("stop", "--all"), "ends all there is"),
        (("stop", "--timeout", "3"), "--grace-period"),
        (("status", "--json"), "--json is for standing hubs"),
    ],
)
def test_what_a_cluster_cannot_take_is_refused(refused: Callable[..., str], words: tuple[str, ...], said: str) -> None:
    assert said in refused(words[0], "--engine", "ray", *words[1:])


@pytest.mark.parametrize("command", ["start", "status"])
def test_nobody_at_the_address_is_told_at_once(refused: Callable[..., str], command: str) -> None:
    assert "There is no Ray cluster at '127.0.0.1:1'" in refused(
        command, "--engine", "ray", "--address", "127.0.0.1:1", code=1
    )


def test_without_the_engine_ray_these_are_about_hubs(refused: Callable[..., str]) -> None:
    assert "No such option" in refused("start", "--temp-dir", "/tmp/x")
    assert "for clusters" in refused("start", "--port", "7001")
    assert "for clusters" in refused("start", "--engine", "local", "--address", "a:1")
    assert "standing hubs" in refused("start", "--engine", "inline")


def test_a_wrong_setting_is_told(refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKATE_ENGINE__NMAE", "ray")
    assert "Did you mean 'name'?" in refused("start", code=1)


def test_without_ray_the_extra_is_named(refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(launcher.sysconfig, "get_path", lambda name: "/nowhere")
    monkeypatch.setattr(launcher.shutil, "which", lambda name: None)
    for words in (("start", "--head"), ("stop",), ("status",)):
        assert "pip install 'skate-ray[ray]'" in refused(words[0], "--engine", "ray", *words[1:], code=1)


def test_the_launcher_is_the_one_of_this_python_before_that_of_the_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    for name in ("beside", "path"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "ray").write_text("#!/bin/sh\n")
        (tmp_path / name / "ray").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    monkeypatch.setattr(launcher.sysconfig, "get_path", lambda name: str(tmp_path / "beside"))
    assert launcher.find() == str(tmp_path / "beside" / "ray")
    (tmp_path / "beside" / "ray").unlink()
    assert launcher.find() == str(tmp_path / "path" / "ray")


def test_ray_s_programs_do_not_get_skate_for_ray() -> None:
    from skate.compat.hook import SITE

    given = {"PYTHONPATH": os.pathsep.join((SITE, "/mine")), "A": "1"}
    assert launcher.environment(given) == {"PYTHONPATH": "/mine", "A": "1"}
    assert launcher.environment({"PYTHONPATH": SITE}) == {}


# ------------------------------------------------------------------------- files

GOOD = """\
cluster_name: good
max_workers: 4
provider: {type: aws, region: eu-west-1}
head_node_type: head
available_node_types:
  head:
    node_config: {InstanceType: m5.large}
  worker:
    node_config: {InstanceType: m5.xlarge}
    resources: {CPU: 4}
    min_workers: 1
    max_workers: 4
"""


@pytest.fixture
def cluster(tmp_path: Path) -> Callable[..., str]:
    pytest.importorskip("yaml")

    def write(text: str = GOOD) -> str:
        (tmp_path / "cluster.yaml").write_text(text)
        return "cluster.yaml"

    return write


def test_a_good_file_is_handed_on_with_all_that_follows_it(handed: Hand, cluster: Callable[..., str]) -> None:
    name = cluster()
    assert handed("up", name, "--max-workers", "4", "--no-restart") == [
        "up",
        name,
        "--max-workers",
        "4",
        "--no-restart",
    ]
    assert handed("up", "-y", name) == ["up", name, "--yes"]
    assert handed("down", "--yes", name) == ["down", name, "--yes"]
    assert handed("exec", name, "ls -l", "--tmux") == ["exec", name, "ls -l", "--tmux"]
    assert handed("attach", name) == ["attach", name]
    assert handed("submit", name, "script.py", "--epochs", "3") == ["submit", name, "script.py", "--epochs", "3"]


def test_a_bad_file_is_not(refused: Callable[..., str], cluster: Callable[..., str]) -> None:
    said = refused("up", cluster(GOOD.replace("max_workers: 4\np", "max_worker: 4\np")), code=1)
    assert "cluster.yaml, line 2: the file has no field 'max_worker'. Did you mean 'max_workers'?" in said


def test_check_starts_nothing_and_needs_no_ray(
    cluster: Callable[..., str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(launcher, "find", lambda: pytest.fail("it looked for the launcher"))
    assert parse(["up", "--check", cluster()]) is None
    assert "as Ray takes it" in capsys.readouterr().out


def test_no_file_is_told(refused: Callable[..., str]) -> None:
    assert "nowhere.yaml" in refused("up", "nowhere.yaml")
    assert "CLUSTER_FILE" in refused("up")
