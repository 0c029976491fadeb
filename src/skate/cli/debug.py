"""`skate debug`: a terminal for breakpoints that wait in workers. Uses the public API alone."""

from __future__ import annotations

import contextlib
import io
import queue
import signal
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any

from skate.cli.table import table
from skate.util.rpdb import Attached, Stop, attach, waiting

GRACE = 0.5
"""Seconds within which the next breakpoint of the same process still belongs to this sitting."""
LOOK_EVERY = 0.1
DELIMITERS = " \t\n`@#$%^&*()=+[{]}\\|;:'\",<>?"
"""What separates the words that Tab completes, as in pdb."""


def find(folder: str | None = None) -> list[Stop]:
    """The breakpoints that somebody could look at; ends the process when `folder` is none."""
    try:
        return waiting(folder)
    except OSError as problem:
        say(f"--folder {folder}: {problem.strerror}")
        sys.exit(2)


def listing(stops: Sequence[Stop]) -> str:
    """A table of breakpoints."""
    if not stops:
        return "No breakpoint is waiting."
    head = ("id", "task", "at", "in", "for", "")
    return table(head, [row(stop) for stop in stops])


def row(stop: Stop) -> tuple[str, ...]:
    """A breakpoint as a line of the table."""
    seconds = max(0, int(time.time() - stop.since)) if stop.since else None
    age = "?" if seconds is None else f"{seconds // 60} min" if seconds >= 120 else f"{seconds} s"
    what = [stop.kind] if stop.kind != "breakpoint" else []
    what += [stop.state] if stop.state != "waits" else []
    return stop.id, stop.task, f"{stop.file}:{stop.line}", stop.function, age, ", ".join(what)


def debug(which: str | None, follow: bool, folder: str | None) -> int:
    """Attach to breakpoints, one after another; the exit code of the command."""
    try:
        if not follow:
            return sitting(which, folder)
        while True:
            stops = free(folder)
            if stops:
                sitting(stops[0].id, folder)
            else:
                time.sleep(LOOK_EVERY)
    except KeyboardInterrupt:
        return 130


def free(folder: str | None) -> list[Stop]:
    """Those that nobody is attached to."""
    return [stop for stop in waiting(folder) if stop.state == "waits"]


def sitting(which: str | None, folder: str | None) -> int:
    """One breakpoint, and those to which the same process comes at once after it."""
    stop = choose(which, folder)
    if isinstance(stop, int):
        return stop
    following: Stop | None = stop
    while following is not None:
        try:
            session = attach(following, folder)
        except OSError as problem:
            say(str(problem))
            return 1
        with contextlib.closing(session):
            if Terminal(session).serve():
                return 0
        following = next_of(stop.pid, folder)
    return 0


def choose(which: str | None, folder: str | None) -> Stop | int:
    """The breakpoint to attach to, or the exit code when there is none."""
    stops = find(folder)
    if which is not None:
        named = [stop for stop in stops if stop.id == which]
        if not named:
            say(f"There is no breakpoint {which}." + (f"\n{listing(stops)}" if stops else " None is waiting."))
            return 1
        return named[0]
    stops = [stop for stop in stops if stop.state == "waits"] or stops
    if not stops:
        say("No breakpoint is waiting. A task or an actor that calls breakpoint() waits for this command.")
        return 1
    if len(stops) == 1:
        return stops[0]
    say(listing(stops))
    if not sys.stdin.isatty():
        say("Several are waiting: choose one with --id.")
        return 2
    return ask(stops)


def ask(stops: Sequence[Stop]) -> Stop | int:
    """Let the user choose."""
    while True:
        try:
            answer = input(f"Which one? [{stops[0].id}] ").strip()
        except (EOFError, KeyboardInterrupt):
            print()
            return 130
        found = [stop for stop in stops if stop.id == (answer or stops[0].id) or str(stop.pid) == answer]
        if found:
            return found[0]
        say(f"There is no breakpoint {answer}.")


def next_of(pid: int, folder: str | None) -> Stop | None:
    """The breakpoint to which a process comes within a moment."""
    deadline = time.monotonic() + GRACE
    while time.monotonic() < deadline:
        for stop in free(folder):
            if stop.pid == pid:
                return stop
        time.sleep(LOOK_EVERY)
    return None


class Terminal:
    """Shows what an attached breakpoint says, and sends what is typed.

    A thread reads from the breakpoint, so that its end is seen even while somebody thinks at the prompt.
    """

    def __init__(self, session: Attached) -> None:
        self.session = session
        self.inbox: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        self.found: queue.SimpleQueue[list[str]] = queue.SimpleQueue()
        """Answers to Tab."""
        self.typing = False
        self.over = False
        self.readline = editor(self.complete)
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")  # a program may hold any text

    def serve(self) -> bool:
        """Until the program goes on (False), or the user leaves (True)."""
        threading.Thread(target=self._read, name="reader", daemon=True).start()
        try:
            return self._talk()
        finally:
            self.over = True
            if self.readline is not None:
                self.readline.set_completer(None)

    def _talk(self) -> bool:
        while True:
            try:
                kind, what = self.inbox.get()
                if kind == "out":
                    sys.stdout.write(what)
                    sys.stdout.flush()
                elif kind == "prompt":
                    if self._prompt(what):
                        return True
                elif kind == "end":
                    say(what)
                    return False
            except KeyboardInterrupt:
                if not self.over and not self.session.interrupt():
                    say("This one cannot be interrupted: it does not run on its process's main thread.")

    def _prompt(self, prompt: str) -> bool:
        """Send what is typed; True when the user leaves."""
        while True:
            try:
                self.typing = True
                line = input(prompt)
                self.typing = False
            except KeyboardInterrupt:
                self.typing = False
                print()
                if self.over:
                    return False  # it has ended under our hands: the reason is in the inbox
                continue
            except EOFError:
                self.typing = False
                print()
                say("Left; the breakpoint waits on.")
                return True
            with contextlib.suppress(OSError):  # the reader tells that it is gone
                self.session.send("line", line)
            return False

    def _read(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # Ctrl-C is for the thread that types
        try:
            while not self.over:
                messages = self.session.read()
                if messages is None:
                    messages = [("end", "The worker is gone.")]
                for kind, what in messages:
                    if kind == "completions":
                        self.found.put(what)
                        continue
                    self.inbox.put((kind, what))
                    if kind == "end":
                        self._stop_typing()
                        return
        except (OSError, ValueError):
            self.inbox.put(("end", "The connection was closed."))

    def _stop_typing(self) -> None:
        self.over = True
        main = threading.main_thread().ident
        while self.typing and main is not None:  # more than once: readline may miss one that comes with a key
            signal.pthread_kill(main, signal.SIGINT)
            time.sleep(0.05)

    def complete(self, text: str, number: int) -> str | None:
        """As readline asks: completion `number` of `text`."""
        if self.readline is None:
            return None
        if number == 0:
            begin, end = self.readline.get_begidx(), self.readline.get_endidx()
            self.completions: list[str] = []
            with contextlib.suppress(OSError, queue.Empty):
                self.session.send("complete", [text, self.readline.get_line_buffer(), begin, end])
                self.completions = self.found.get(timeout=1)
        return self.completions[number] if number < len(self.completions) else None


def editor(complete: Any) -> Any:
    """The module `readline`, set up, where somebody types; else None."""
    if not sys.stdin.isatty():
        return None
    try:
        import readline
    except ImportError:
        return None
    readline.set_completer(complete)
    readline.set_completer_delims(DELIMITERS)
    readline.parse_and_bind("tab: complete")
    return readline


def say(text: str) -> None:
    """Something from `skate debug` itself."""
    print(text, file=sys.stderr, flush=True)
