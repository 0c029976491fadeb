"""The harness's side of a contestant: launch it, ask it, end it with all processes below it."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import memory

HERE = Path(__file__).resolve().parent
MARK = "FIGURE "
"""Before a number that a child answers with."""


class ContestantFailed(Exception):
    """A contestant raised, died or did not answer in time; the message has its last words."""


@dataclass(frozen=True)
class Entrant:
    """Who takes part: a package under an interpreter."""

    name: str  # the column's title
    package: str  # skate, ray, futures, pipe or memcpy
    python: str
    options: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)


class Child:
    """A process that answers what it reads from its standard input, for which it waits between two requests."""

    def __init__(self, name: str, command: list[str], environment: dict[str, str]) -> None:
        self.name = name
        self.log = TemporaryFile("w+")  # noqa: SIM115  closed in end()
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            env=environment,
            # Its own group: Ctrl-C reaches the harness alone, which then ends everybody in order.
            start_new_session=True,
        )
        self.unread = b""

    def tell(self, words: str) -> None:
        """Send one line."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(words.encode() + b"\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise ContestantFailed(self._obituary()) from None

    def figure(self, seconds: float) -> float:
        """The number after `MARK` in what it prints next; other lines are a package's own."""
        deadline = time.monotonic() + seconds
        while True:
            line = self.line(deadline - time.monotonic()).decode(errors="replace")
            if line.startswith(MARK):
                return float(line.removeprefix(MARK))

    def line(self, seconds: float) -> bytes:
        """The next line that it prints; ContestantFailed when none comes within `seconds`."""
        assert self.process.stdout is not None
        deadline = time.monotonic() + seconds
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            while b"\n" not in self.unread:
                if selector.select(timeout=min(1.0, max(0.0, deadline - time.monotonic()))):
                    chunk = os.read(self.process.stdout.fileno(), 65_536)
                    if not chunk:
                        raise ContestantFailed(self._obituary())
                    self.unread += chunk
                # Its workers may hold the pipe open after its death: look at the process as well.
                elif self.process.poll() is not None:
                    raise ContestantFailed(self._obituary())
                elif time.monotonic() > deadline:
                    raise ContestantFailed(f"{self.name}: no answer within {seconds:.0f} s")
        line, _, self.unread = self.unread.partition(b"\n")
        return line

    def _obituary(self) -> str:
        try:
            code: int | str = self.process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            code = "none yet"
        self.log.seek(0)
        last = self.log.read()[-1500:]
        return f"{self.name} ended, exit code {code}; the end of its log:\n{last}"

    def idle_cpu(self, seconds: float) -> float:
        """The share of one CPU that it and the processes below it use while nobody asks."""
        family = memory.tree(self.process.pid)
        before = memory.cpu_seconds(family)
        time.sleep(seconds)
        after = memory.cpu_seconds(family)
        return sum(used - before[pid] for pid, used in after.items()) / seconds

    def end(self, seconds: float = 30.0, words: bytes = b"") -> None:
        """Close its input, after some last `words`; kill it and everything below it where it does not go."""
        family = memory.tree(self.process.pid)
        with contextlib.suppress(subprocess.TimeoutExpired, ValueError, OSError):
            self.process.communicate(words, timeout=seconds)
        if self.process.returncode != 0:
            self.kill({*family, *memory.session(self.process.pid)})
        self.log.close()

    def kill(self, family: set[int]) -> None:
        """End these processes, it among them."""
        for pid in family:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()


class Contestant(Child):
    """One that runs the cases of `contestant.py`, asked and answering in JSON."""

    def __init__(self, entrant: Entrant) -> None:
        command = [entrant.python, str(HERE / "contestant.py"), entrant.package, json.dumps(entrant.options)]
        super().__init__(entrant.name, command, entrant.environment)
        self.entrant = entrant

    def ask(self, seconds: float = 300.0, **request: str) -> dict[str, Any]:
        """Send one request and return its answer; raise ContestantFailed after `seconds`."""
        self.tell(json.dumps(request))
        answer: dict[str, Any] = json.loads(self.line(seconds))
        if "error" in answer:
            raise ContestantFailed(str(answer["error"]))
        return answer

    def sample(self, case: str, seconds: float) -> dict[str, float]:
        """Let it run `case` once."""
        figures: dict[str, float] = self.ask(seconds, do="sample", case=case)["figures"]
        return figures

    def end(self, seconds: float = 30.0, words: bytes = b'{"do": "quit"}\n') -> None:
        """Ask it to go."""
        super().end(seconds, words)
