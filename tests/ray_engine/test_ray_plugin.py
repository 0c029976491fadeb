"""A service of plugins on real Ray, as `skate plugin run` starts it with ``use_ray = true``."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import psutil
import pytest

pytest.importorskip("ray", reason="Ray is not installed: `make test-ray` installs it")
pytest.importorskip("httpx2", reason="needs the extra skate-ray[plugin]")


@pytest.mark.timeout(180)
def test_a_service_chosen_by_configuration_ends_in_good_order(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (tmp_path / "config.toml").write_text(
        f'load_builtin_plugins = ["echo"]\n[server]\nuse_ray = true\nport = {port}\nnum_cpus = 2\n'
    )
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
    environment.pop("SKATE_ENGINE", None)
    with open(tmp_path / "log", "wb") as log:
        service = subprocess.Popen(
            [sys.executable, "-m", "skate", "plugin", "run"], cwd=tmp_path, env=environment, stdout=log, stderr=log
        )
    try:
        url = f"http://127.0.0.1:{port}/api/v1/echo?message=hello"
        deadline = time.monotonic() + 100
        while True:
            try:
                with urllib.request.urlopen(url, timeout=60) as answer:
                    assert json.load(answer)["data"] == "hello"
                break
            except OSError:
                assert service.poll() is None and time.monotonic() < deadline, (tmp_path / "log").read_text()
                time.sleep(0.2)
        started = psutil.Process(service.pid).children(recursive=True)
        assert any("raylet" in process.name() for process in started)
        service.send_signal(signal.SIGTERM)
        assert service.wait(60) == 0, (tmp_path / "log").read_text()
        assert not psutil.wait_procs(started, timeout=30)[1], "processes were left"
    finally:
        service.kill()
        service.wait()
