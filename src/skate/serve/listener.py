"""Hearing from the controller: a call that stays open until something changes, made anew with each answer."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
import traceback
from abc import ABC, abstractmethod
from functools import partial
from typing import Any

import skate
from skate import exceptions
from skate.serve import context
from skate.serve.exceptions import NotRunningError
from skate.serve.told import Told

LISTEN_S = 30.0
"""Seconds after which the controller answers though nothing has changed."""
OVERDUE_S = 10.0
"""Seconds that an answer may take beyond that."""
RETRY_S = 0.2
"""Seconds before the controller is asked again when it did not answer."""


class Listener(ABC):
    """Hears of one topic.

    Args:
        key: the topic.
    """

    def __init__(self, key: tuple[str, ...]) -> None:
        self.key = key
        self.version = -1
        self.closed = False
        self._listening = False
        self._asked_at = 0.0
        """When the controller was called whose answer comes by a callback; 0: never."""
        self._call = 0
        """The number of the call whose answer is waited for."""
        self._task: Any = None

    @abstractmethod
    def hear(self, told: Told, asked: int | None = None) -> None:
        """Take in what the controller told; `asked`: the version that was known here when it was asked."""

    @abstractmethod
    def session_ended(self) -> None:
        """There is nobody to be asked any more."""

    @abstractmethod
    def nobody_there(self) -> None:
        """Serve does not run: nobody can be asked now."""

    def listen(self) -> None:
        """Have the controller tell of changes, on the replica's loop or else in a thread of its own."""
        if self._listening or self.closed:
            return
        self._listening = True
        loop = context.loop
        if loop is not None:
            loop.call_soon_threadsafe(self._listen_on_loop)
        else:
            self._ask()

    def _listen_on_loop(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._listen())

    async def _listen(self) -> None:
        while not self.closed:
            try:
                asked = self.version
                async with asyncio.timeout(LISTEN_S + OVERDUE_S):  # a call may be lost with a controller that dies
                    told = await context.controller().listen.remote({self.key: asked}, LISTEN_S)
            except NotRunningError:
                self.nobody_there()
                await asyncio.sleep(RETRY_S)
                continue
            except (exceptions.RayError, RuntimeError, TimeoutError):
                await asyncio.sleep(RETRY_S)
                continue
            self.hear(told, asked)

    def _ask(self) -> None:
        """Call the controller; its answer comes by a callback, which calls again."""
        if self.closed:
            return
        if not skate.is_initialized():  # the session has ended, and to ask for an actor would begin another
            self.session_ended()
            return
        asked, self._asked_at = self.version, time.monotonic()
        try:
            answer = context.controller().listen.remote({self.key: asked}, LISTEN_S).future()
        except NotRunningError:
            self.nobody_there()
            self._ask_later()
            return
        except (exceptions.RayError, RuntimeError):
            self._ask_later()
            return
        self._call += 1
        answer.add_done_callback(partial(self._answered, self._call, asked))

    def ask_if_overdue(self) -> None:
        """Call the controller anew when its answer is long overdue: a call may be lost with a controller that dies."""
        if self._asked_at and time.monotonic() - self._asked_at > LISTEN_S + OVERDUE_S:
            self._ask()

    def _ask_later(self) -> None:
        timer = threading.Timer(RETRY_S, self._ask)
        timer.daemon = True
        timer.start()

    def _answered(self, call: int, asked: int, answer: Any) -> None:
        if self.closed or call != self._call:  # overdue, and asked for anew
            return
        if answer.cancelled() or answer.exception() is not None:
            self._ask_later()
            return
        try:
            self.hear(answer.result(), asked)
        except Exception:  # noqa: BLE001  whatever it is, who does not ask again hears nothing any more
            traceback.print_exc()
            self._ask_later()
            return
        self._ask()

    def stop_listening(self) -> None:
        """Ask no more."""
        if self._task is not None:
            with contextlib.suppress(RuntimeError):  # its loop has ended already, and the task with it
                self._task.get_loop().call_soon_threadsafe(self._task.cancel)
