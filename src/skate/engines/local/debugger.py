"""pdb for a worker: its terminal is whoever attaches to its `Door`.

Stepping stays inside of the call that has stopped, and out of the engine: the debugger ends when that call ends, and
steps over what Skate does in between.
"""

from __future__ import annotations

import bdb
import code
import contextlib
import dis
import inspect
import itertools
import os
import pdb
import signal
import sys
import threading
import time
from types import FrameType, TracebackType
from typing import Any, TextIO, cast

from skate.core.debug_wire import Stop
from skate.engines.local.breakpoints import name_of_call, say
from skate.engines.local.debug_door import Cancelled, Door, announce
from skate.engines.local.interrupts import at_work
from skate.engines.local.worker_client import WorkerClient

_PACKAGE = os.path.dirname(os.path.dirname(os.path.dirname(__file__))) + os.sep
_OURS = tuple(
    _PACKAGE + name
    for name in ("engines", "core", "api.py", "actor", "remote_function.py", "runtime_context.py", "session.py")
)
"""What the paths of the files begin with that are stepped over, with all that they call."""
LATE = 1.0
"""Seconds for which a Ctrl-C may come too late: it was meant for a program that goes on by now."""

_numbers = itertools.count(1)
_active: dict[int, Debugger] = {}
"""By thread."""


def stop(client: WorkerClient, frame: FrameType, header: str) -> None:
    """Stop at a frame until somebody lets it go on."""
    active = _active.get(threading.get_ident())
    if active is not None:
        active.stop_again(frame, header)
        return
    made = _make(client, "breakpoint", frame, frame.f_lineno)
    if made is not None:
        made.begin(frame, header)


def post_mortem(client: WorkerClient, error: BaseException, name: str, trace: TracebackType) -> BaseException:
    """Wait at the frame of an error; the error that the call fails with: another one when it was cancelled."""
    if threading.get_ident() in _active or isinstance(error, bdb.BdbQuit):
        return error  # the debugger's own
    last = _innermost(trace)
    made = _make(client, "post-mortem", last.tb_frame, last.tb_lineno)
    if made is None:
        return error
    made.message(f"{type(error).__name__}: {error}")
    return made.look_back(trace) or error


def _make(client: WorkerClient, kind: str, frame: FrameType, line: int) -> Debugger | None:
    try:
        made = Debugger(client, kind, frame, line)
    except OSError as problem:
        say(f"a breakpoint at {frame.f_code.co_filename}:{line} was passed over: {problem}")
        return None
    announce(made.describe(), client.welcome.session_folder, "waits")
    return made


def _innermost(trace: TracebackType) -> TracebackType:
    """Where the user's code was."""
    found = trace
    following: TracebackType | None = trace
    while following is not None:
        if not following.tb_frame.f_code.co_filename.startswith(_OURS):
            found = following
        following = following.tb_next
    return found


class Debugger(pdb.Pdb):
    """One stop and all that follows from it, until the program goes on freely or its call ends.

    Args:
        client: the worker's engine.
        kind: as in `Stop`.
        frame: where it has stopped.
        line: and the line there.
    """

    def __init__(self, client: WorkerClient, kind: str, frame: FrameType, line: int) -> None:
        self.client = client
        self.kind = kind
        self.number = next(_numbers)
        self.edge: FrameType = frame
        """The frame with whose end the debugger ends: the engine has called it."""
        self.raising = False
        """An exception goes through `edge`."""
        self.over = False
        self.ended = 0.0
        self.interrupted = False
        """Ctrl-C came, and it has not stopped since."""
        self.stopped = False
        """It shows a prompt, or does what was typed there."""
        self.before: Any = None
        """The handler of SIGINT that was there before ours."""
        self.main = threading.get_ident() == client.main
        self._note(frame, line)
        self.door = Door(client, self.number, self.describe, self._screen, self._complete)
        self.door.on_attach = self._take_signals
        terminal = cast("TextIO", self.door)
        readline = sys.modules.get("readline", self)
        sys.modules["readline"] = None  # type: ignore[assignment]  # it would talk to a terminal that is not there
        try:
            super().__init__(stdin=terminal, stdout=terminal, nosigint=True)
        finally:
            del sys.modules["readline"]
            if readline is not self:
                sys.modules["readline"] = readline  # type: ignore[assignment]
        self.use_rawinput = False
        _active[threading.get_ident()] = self

    # ------------------------------------------------------------------ stopping

    def begin(self, frame: FrameType, header: str) -> None:
        """Stop at the next line of this frame."""
        self.edge = _edge(frame)
        if header:
            self.message(header)
        self._trace(frame)  # nothing may be called after this, or it would be traced

    def stop_again(self, frame: FrameType, header: str) -> None:
        """Stop at a breakpoint in what runs under this debugger already."""
        if self.stopped:
            self.message("(a breakpoint in what was typed here was passed over)")
        else:
            self.begin(frame, header)

    def _trace(self, frame: FrameType) -> None:
        self.set_trace(frame)
        outside = self.edge.f_back
        while outside is not None:
            outside.f_trace = None
            outside = outside.f_back
        self.botframe = self.edge

    def look_back(self, trace: TracebackType) -> BaseException | None:
        """Show where an error was raised, until somebody has seen enough; an error when the call was cancelled."""
        self.reset()
        try:
            self.interaction(None, trace)
        except Cancelled:
            self.finish("The call was cancelled.")
            return self._cancel()
        finally:
            self.finish("The call fails with its error.")
        return None

    def get_stack(self, f: FrameType | None, t: TracebackType | None) -> tuple[list[tuple[FrameType, int]], int]:
        """As pdb does; after an error the place is the innermost frame that is not the engine's."""
        stack, place = super().get_stack(f, t)
        while t is not None and place > 0 and stack[place][0].f_code.co_filename.startswith(_OURS):
            place -= 1
        return stack, place

    def interaction(self, frame: FrameType | None, tb_or_exc: Any) -> None:
        """Prompt until a command lets the program go on."""
        if frame is not None:
            self._note(frame, frame.f_lineno)
        self.stopped = True
        self.interrupted = False
        try:
            super().interaction(frame, tb_or_exc)
        finally:
            self.stopped = False
        if frame is not None and not self.quitting and sys.gettrace() is None:
            self.finish("The program goes on.")

    def stop_here(self, frame: FrameType) -> bool:
        """As bdb does, but in nothing that the engine calls."""
        if not super().stop_here(frame):
            return False
        around: FrameType | None = frame
        while around is not None and around is not self.edge:
            if around.f_code.co_filename.startswith(_OURS):
                return False
            around = around.f_back
        return True

    def trace_dispatch(self, frame: FrameType, event: str, arg: Any) -> Any:
        """As bdb does, up to the end of the call."""
        if self.over:
            return None
        try:
            following = super().trace_dispatch(frame, event, arg)
        except Cancelled:
            self.finish("The call was cancelled.")
            raise self._cancel() from None
        except bdb.BdbQuit:
            self.finish("The call ends here.")
            place = f"{frame.f_code.co_filename}:{frame.f_lineno}"
            raise bdb.BdbQuit(f"the debugger was told to quit at {place}, which ends the call") from None
        except BaseException as error:
            self.finish(f"The debugger fails: {type(error).__name__}: {error}")
            raise
        if self.over:
            return None
        if frame is self.edge:
            if event == "line":
                self.raising = False
            elif event == "exception":
                self.raising = True
            elif event == "return" and (self.raising or not _suspends(frame)):
                self.finish("The call has ended.")
                return None
        return following

    def _cancel(self) -> BaseException:
        """What a cancel raises in this call."""
        if self.client.on_cancel is not None:  # on an event loop
            import asyncio

            return asyncio.CancelledError()
        self.client.interruptible = False
        return KeyboardInterrupt()

    def finish(self, text: str) -> None:
        """Let the program go on, and whoever is attached go home; harmless the second time."""
        if self.over:
            return
        self.over = True
        self.ended = time.monotonic()
        sys.settrace(None)
        _active.pop(threading.get_ident(), None)
        if not _active:
            self.clear_all_breaks()
        self.door.end(text)
        self.forget()  # its frames and what is in them: the handler of SIGINT keeps this object
        self.botframe = self.stopframe = self.returnframe = None
        self.curframe_locals = {}
        del self.edge

    # ------------------------------------------------------------------- telling

    def _note(self, frame: FrameType, line: int) -> None:
        _, name = name_of_call(self.client)
        self.place = Stop(
            f"{os.getpid()}-{self.number}",
            self.kind,
            name,
            os.getpid(),
            frame.f_code.co_filename,
            line,
            frame.f_code.co_name,
            time.time(),
            can_interrupt=self.main,
        )

    def describe(self) -> Stop:
        """Where it has stopped."""
        return self.place

    def _screen(self) -> str:
        if not self.stack:
            return ""
        return f"> {self.format_stack_entry(self.stack[self.curindex], pdb.line_prefix)}\n"

    def _complete(self, text: str, line: str, begin: int, end: int) -> list[str]:
        """How a text could go on: a command's name, or what the command takes; else a name in the program."""
        lead = line[:begin].strip()
        command, _, _ = self.parseline(lead) if lead else (None, None, "")
        find = self.completenames if not lead else getattr(self, f"complete_{command}", self.completedefault)
        try:
            found = list(find(text, line, begin, end))
            if not lead:
                found += self.completedefault(text, line, begin, end)
        except Exception:  # noqa: BLE001  names may be looked up in any object, with any outcome
            return []
        return sorted({str(name) for name in found})[:1000]

    # ------------------------------------------------------------------ commands

    def do_quit(self, arg: str) -> bool:
        """q(uit): end the call with an error."""
        self._user_requested_quit = True
        self.set_quit()
        return True

    do_q = do_exit = do_quit

    def do_run(self, arg: str) -> None:
        """run, restart: not in a worker."""
        self.error("a task cannot be started again from here")

    do_restart = do_run

    def do_interact(self, arg: str) -> None:
        """interact: a Python prompt with the names of this frame; Ctrl-D at your terminal leaves the debugger."""
        frame = self.stack[self.curindex][0]
        leave = {"exit": sys.exit, "quit": sys.exit}  # Python's own close stdin
        console = _Console({**frame.f_globals, **frame.f_locals, **leave}, self.door)
        with contextlib.suppress(SystemExit):
            console.interact("exit() goes back to pdb.", "")

    # ------------------------------------------------------------------- signals

    def _take_signals(self) -> None:
        if self.main and signal.getsignal(signal.SIGINT) != self._on_interrupt:
            self.before = signal.signal(signal.SIGINT, self._on_interrupt)

    def _on_interrupt(self, number: int, frame: FrameType | None) -> None:
        """Ctrl-C of whoever is attached: stop at the next line; the second time, interrupt even a long call."""
        if self.over:
            if time.monotonic() - self.ended > LATE:
                signal.signal(signal.SIGINT, self.before)
                if callable(self.before):
                    self.before(number, frame)
            return
        busy = at_work(frame)
        if self.stopped:
            if not self.door.asking and not busy:
                raise KeyboardInterrupt  # it ends what was typed; the prompt comes back
            return
        inside = frame
        while inside is not None and inside is not self.edge:
            inside = inside.f_back
        if inside is None:  # suspended: something else has the event loop
            self.set_next(self.edge)
            sys.settrace(self.trace_dispatch)
        elif self.interrupted and not busy:
            raise KeyboardInterrupt
        elif frame is not None:
            self.interrupted = True
            self._trace(frame)


class _Console(code.InteractiveConsole):
    def __init__(self, names: dict[str, Any], door: Door) -> None:
        super().__init__(names, "<debugger>")
        self.door = door

    def raw_input(self, prompt: str = "") -> str:
        self.door.write(prompt)
        return self.door.readline().rstrip("\n")

    def write(self, data: str) -> None:
        self.door.write(data)

    def runcode(self, code: Any) -> None:
        out, sys.stdout = sys.stdout, self.door
        try:
            super().runcode(code)
        finally:
            sys.stdout = out


def _edge(frame: FrameType) -> FrameType:
    """The outermost frame around this one in which no code of ours lies between."""
    outer: FrameType | None = frame
    while outer is not None and not outer.f_code.co_filename.startswith(_OURS):
        frame, outer = outer, outer.f_back
    return frame


def _suspends(frame: FrameType) -> bool:
    """Whether a frame that gives control back is a generator or coroutine that will go on."""
    kind = inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR
    if not frame.f_code.co_flags & kind or frame.f_lasti < 0:
        return False
    return dis.opname[frame.f_code.co_code[frame.f_lasti]] == "YIELD_VALUE"
