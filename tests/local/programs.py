"""Programs run apart from the test process: what they print, how they end, and what they leave behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

MARK = "SKATE_TEST_MARK"
BEGIN = """
import gc, os, signal, sys, threading, time
import skate as ray
"""


class Program:
    """A running Python program with a mark in its environment, which all its processes inherit."""

    def __init__(self, text: str, *args: str, folder: Path | None = None, **options: object) -> None:
        self.mark = uuid.uuid4().hex
        environment = {**os.environ, MARK: self.mark, "PYTHONUNBUFFERED": "1", **dict(options.pop("env", {}))}
        options.setdefault("stdout", subprocess.PIPE)
        options.setdefault("stderr", subprocess.PIPE)
        self.process = subprocess.Popen(
            [sys.executable, "-c", BEGIN + textwrap.dedent(text), *args],
            env=environment,
            cwd=folder,
            text=True,
            errors="backslashreplace",
            **options,
        )

    @property
    def pid(self) -> int:
        return self.process.pid

    def until(self, line: str) -> None:
        """Read its output up to this line, and not a byte further: what follows is for `end` and for select()."""
        while found := _line(self.process.stdout.fileno()):
            if found.strip() == line:
                return
        raise AssertionError(f"the program ended without {line!r}: {self.process.stderr.read()}")

    def interrupt(self) -> None:
        self.process.send_signal(signal.SIGINT)

    def end(self, timeout: float = 60) -> tuple[int, str, str]:
        """Exit status and what it printed."""
        out, err = self.process.communicate(timeout=timeout)
        return self.process.returncode, out, err

    def family(self) -> list[psutil.Process]:
        """Every process that has the mark."""
        return marked(self.mark)

    def stop(self) -> None:
        for process in [*self.family(), psutil.Process(self.pid)] if psutil.pid_exists(self.pid) else self.family():
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        self.process.wait(90)
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()


def _line(descriptor: int) -> str:
    read = b""
    while not read.endswith(b"\n") and (byte := os.read(descriptor, 1)):
        read += byte
    return read.decode(errors="backslashreplace")


@contextmanager
def program(text: str, *args: str, **options: object) -> Iterator[Program]:
    """Run a program; whatever is left of it at the end is killed."""
    started = Program(text, *args, **options)
    try:
        yield started
    finally:
        started.stop()


def output_of(text: str, *args: str, timeout: float = 60, **options: object) -> str:
    """What a program prints that has to end well."""
    with program(text, *args, **options) as started:
        status, out, err = started.end(timeout)
        assert status == 0, f"status {status}\n{out[-2000:]}\n{err[-4000:]}"
        return out


def marked(mark: str) -> list[psutil.Process]:
    """The processes with a mark in their environment; zombies have none."""
    wanted = f"{MARK}={mark}".encode()
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            environment = Path("/proc", entry, "environ").read_bytes()
        except OSError:
            continue
        if wanted in environment.split(b"\0"):
            found.append(psutil.Process(int(entry)))
    return found


def eventually(condition: Callable[[], object], patience: float = 60.0) -> bool:
    """Whether a condition comes true within so many seconds."""
    deadline = time.monotonic() + patience
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def zygote_of(pid: int | None = None) -> int:
    """The process that forks a driver's workers: its child that leads a session of its own."""
    (found,) = [child.pid for child in psutil.Process(pid).children() if os.getsid(child.pid) == child.pid]
    return found
