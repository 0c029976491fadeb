"""Serve in sessions of other kinds: one that two programs share, and one that is a single process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import skate
from skate import serve, standing
from skate.serve.exceptions import DeploymentUnavailableError


@serve.deployment(num_replicas=2)
class Version:
    def __init__(self, number: int) -> None:
        self.number = number

    async def __call__(self) -> int:
        return self.number


OTHER = """
import sys
import skate
from skate import serve

skate.init(address=sys.argv[1])
@serve.deployment
class Other:
    def __call__(self, value):
        return value * 2
if sys.argv[2] == "deploy":
    serve.run(Other.bind(), name="other", route_prefix=None)
print(serve.get_app_handle("first").remote().result(timeout_s=60))
print(sorted(serve.status().applications))
if sys.argv[2] == "shutdown":
    serve.shutdown()
    serve.shutdown()
if sys.argv[2] == "die":
    import os
    os._exit(1)
"""


def test_two_programs_on_a_standing_hub_share_serve_and_it_outlives_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    for name in ("SKATE_ADDRESS", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    hub = standing.start(num_cpus=2)

    def other(what: str) -> list[str]:
        words = [sys.executable, "-c", OTHER, hub.address, what]
        return subprocess.run(words, capture_output=True, text=True, timeout=150).stdout.splitlines()

    try:
        skate.init(address=hub.address)
        serve.start(proxy_location="Disabled")
        first = serve.run(Version.bind(1), name="first", route_prefix=None)
        assert other("deploy") == ["1", "['first', 'other']"]
        assert serve.get_app_handle("other").remote(4).result(timeout_s=60) == 8, "it outlives its program"
        assert other("die") == ["1", "['first', 'other']"]
        skate.shutdown()  # now no driver is there
        skate.init(address=hub.address)
        assert serve.get_app_handle("first").remote().result(timeout_s=60) == 1
        other("shutdown")
        assert serve.status().applications == {}
        with pytest.raises(DeploymentUnavailableError):
            first.remote().result(timeout_s=60)
        again = serve.run(Version.bind(5), name="first", route_prefix=None)
        assert again.remote().result(timeout_s=60) == 5
        serve.shutdown()
    finally:
        skate.shutdown()
        standing.stop(hub, force=True)


# ------------------------------------------------------------------ one process


def test_in_one_process_serve_keeps_no_descriptors() -> None:
    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    before = 0
    for turn in range(4):
        skate.init(engine="inline")
        try:
            handle = serve.run(Version.bind(turn), route_prefix=None)
            assert handle.remote().result(timeout_s=60) == turn
            serve.shutdown()
            names = [os.readlink(f"/proc/self/fd/{one}") for one in os.listdir("/proc/self/fd") if _is_open(one)]
            assert not [name for name in names if "skate-serve" in name]
        finally:
            serve.shutdown()
            skate.shutdown()
        before = before or descriptors()
    assert descriptors() <= before + 2


def _is_open(descriptor: str) -> bool:
    return os.path.lexists(f"/proc/self/fd/{descriptor}")
