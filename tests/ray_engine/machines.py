"""Clusters of several nodes on this machine: each a process of Ray's launcher, with an address of the loopback.

A node is ended by its own process id, never by Ray's command for that: that one ends every Ray on the machine.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

SOURCE = Path(__file__).resolve().parents[2] / "src"
UP_WITHIN = 60.0
"""Seconds in which a node must be there."""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


class Node:
    """A process of the launcher that stays with its node, and everything that it has started."""

    def __init__(self, command: list[str], environment: dict[str, str], log: Path) -> None:
        with open(log, "wb") as file:
            self.process = subprocess.Popen(
                command, env=environment, stdout=file, stderr=subprocess.STDOUT, start_new_session=True, cwd="/"
            )
        self.log = log

    def family(self) -> list[psutil.Process]:
        with contextlib.suppress(psutil.NoSuchProcess):
            me = psutil.Process(self.process.pid)
            return [me, *me.children(recursive=True)]
        return []

    def kill(self) -> None:
        """As if its machine had lost its power."""
        family = self.family()
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGKILL)
        psutil.wait_procs(family, timeout=20)
        self.process.wait(20)


class Machines:
    """A head on 127.0.0.11 and further nodes on 127.0.0.12, 127.0.0.13 and so on. (Ray takes another for 127.0.0.1.)

    Nodes are started without this repository on their import path: they get Skate from the driver.
    """

    def __init__(self, launcher: list[str], **settings: str) -> None:
        self.launcher = launcher
        # Ray's sockets lie below, and their paths must be short
        self.folder = Path(tempfile.mkdtemp(prefix="sk", dir="/tmp"))
        self.port, self.client_port = free_port(), free_port()
        self.address = f"127.0.0.11:{self.port}"
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("SKATE_", "RAY_", "PYTHON"))},
            "RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled", "RAY_TMPDIR": str(self.folder),
            "RAY_health_check_initial_delay_ms": "500", "RAY_health_check_period_ms": "300",
            "RAY_health_check_timeout_ms": "1000", "RAY_health_check_failure_threshold": "3",
            **settings,
        }  # fmt: skip
        self.nodes: list[Node] = []

    def place(self, number: int) -> tuple[str, list[str]]:
        """The address of a node, counted from 1, and what goes before its command."""
        return f"127.0.0.{number + 10}", []

    def head(self, *options: str) -> Node:
        """Start the head."""
        return self._start(
            *("--head", "--port", str(self.port), "--include-dashboard=false", *options),
            *([f"--ray-client-server-port={self.client_port}"] if importlib.util.find_spec("grpc") else []),
        )

    def join(self, *options: str) -> Node:
        """Start one more node."""
        return self._start("--address", self.address, *options)

    def _start(self, *words: str) -> Node:
        number = len(self.nodes) + 1
        address, prefix = self.place(number)
        node = Node(
            [
                *(*prefix, *self.launcher, "start", *words, f"--node-ip-address={address}", "--num-cpus=2", "--block"),
                *("--object-store-memory=80000000", "--disable-usage-stats"),
            ],
            self.environment,
            self.folder / f"node-{number}.log",
        )
        self.nodes.append(node)
        self._await(node)
        return node

    def _await(self, node: Node) -> None:
        end = time.monotonic() + UP_WITHIN
        while b"Ray runtime started" not in node.log.read_bytes():
            if node.process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"a node did not come up:\n{node.log.read_text(errors='replace')}")
            time.sleep(0.05)

    def close(self) -> None:
        """End everything."""
        for node in reversed(self.nodes):
            node.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


class Apart(Machines):
    """Two nodes, each in a network namespace of its own, joined by a cable; it takes rights that few machines give."""

    def __init__(self, launcher: list[str], **settings: str) -> None:
        super().__init__(launcher, **settings)
        self.names = [f"skate{os.getpid()}{side}" for side in "ab"]
        self.net = f"10.231.{os.getpid() % 250}"
        self.address = f"{self.net}.1:{self.port}"
        first, second = self.names
        for name in self.names:
            ip("netns", "add", name)
        ip("link", "add", "cable", "netns", first, "type", "veth", "peer", "name", "cable", "netns", second)
        for number, name in enumerate(self.names, 1):
            ip("-n", name, "address", "add", f"{self.net}.{number}/24", "dev", "cable")
            ip("-n", name, "link", "set", "cable", "up")
            ip("-n", name, "link", "set", "lo", "up")

    def place(self, number: int) -> tuple[str, list[str]]:
        """Each in its namespace."""
        return f"{self.net}.{number}", self.inside(number)

    def inside(self, number: int) -> list[str]:
        """What goes before a command that is to run beside a node."""
        return ["ip", "netns", "exec", self.names[number - 1]]

    def cut(self) -> None:
        """Pull the cable."""
        ip("-n", self.names[1], "link", "set", "cable", "down")

    def close(self) -> None:
        """The namespaces too; the cable goes with them."""
        super().close()
        for name in self.names:
            ip("netns", "delete", name)


class Strangers(Apart):
    """The same, and the second shares neither files nor process numbers with the first, and has a name of its own."""

    def place(self, number: int) -> tuple[str, list[str]]:
        """The address of a node, and what gives it a machine's view of itself."""
        address, prefix = super().place(number)
        if number > 1:
            begin = f'mount -t tmpfs none "{self.folder}" && hostname machine{number} && exec "$@"'
            prefix += [*UNSHARE, "sh", "-c", begin, "sh"]
        return address, prefix


UNSHARE = ["unshare", "--mount", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc"]


def can_be_strange() -> bool:
    """Whether this machine lets us make what `Strangers` needs."""
    try:
        subprocess.run([*UNSHARE, "mount", "-t", "tmpfs", "none", "/mnt"], check=True, capture_output=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return False
    return can_be_apart()


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, timeout=20)


def can_be_apart() -> bool:
    """Whether this machine lets us make network namespaces and cables."""
    name = f"skate{os.getpid()}try"
    try:
        ip("netns", "add", name)
    except (OSError, subprocess.SubprocessError):
        return False
    try:
        ip("link", "add", "cable", "netns", name, "type", "veth", "peer", "name", "eb", "netns", name)
    except subprocess.SubprocessError:
        return False
    finally:
        ip("netns", "delete", name)
    return True


def rays_own() -> list[str]:
    """Ray's launcher, as a command."""
    return [sys.executable, "-m", "ray.scripts.scripts"]


def skates() -> list[str]:
    """`skate start` with the engine `ray`, which hands over to it."""
    code = f"import sys; sys.path.insert(0, {str(SOURCE)!r}); from skate.cli import main; main()"
    return [sys.executable, "-c", code]
