"""Ctrl-C: at once where it does no harm, later where the hub is being changed, never lost."""

from __future__ import annotations

import inspect
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from skate.engines.local import interrupts, turns
from skate.engines.local.arena import Arena
from skate.engines.local.interrupts import Interrupts
from skate.engines.local.link import Link
from skate.engines.local.pool import Pool
from skate.engines.local.pump import Pump
from skate.engines.local.requests import Requests
from skate.engines.local.scheduler import Scheduler
from skate.engines.local.timers import Timers
from skate.engines.local.turns import Turns

HUB = inspect.getfile(Requests)


@pytest.fixture
def handling() -> Iterator[Interrupts]:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    made = Interrupts()
    yield made
    made.close()
    signal.signal(signal.SIGINT, before)


def called_from(path: str, name: str, action: Callable[[], Any]) -> Any:
    """Run `action` below a function of that name in a file of that path."""
    found: dict[str, Any] = {}
    exec(compile(f"def {name}(action):\n    return action()", path, "exec"), found)
    return found[name](action)


def press() -> None:
    signal.raise_signal(signal.SIGINT)


def test_ctrl_c_outside_of_the_hub_is_raised_at_once(handling):
    with pytest.raises(KeyboardInterrupt):
        press()
    handling.deliver()


def test_ctrl_c_inside_the_hub_waits_until_the_thread_has_left_it(handling):
    after = []

    def change() -> None:
        press()
        time.sleep(0.02)
        after.append("the change was completed")

    called_from(HUB, "receive", change)
    assert after == ["the change was completed"]
    with pytest.raises(KeyboardInterrupt):
        handling.deliver()


def test_ctrl_c_that_waited_is_raised_though_nobody_delivers_it(handling):
    with pytest.raises(KeyboardInterrupt):
        called_from(HUB, "receive", press)
        for _ in range(3000):
            time.sleep(0.01)
    handling.deliver()


def test_one_ctrl_c_is_raised_once(handling):
    called_from(HUB, "receive", press)
    with pytest.raises(KeyboardInterrupt):
        handling.deliver()
    handling.deliver()
    time.sleep(0.02)


@pytest.mark.parametrize("limit", ["PATIENCE", "LONGEST"])
def test_ctrl_c_in_a_hub_that_does_not_come_back_is_raised_in_the_end(handling, monkeypatch, limit):
    monkeypatch.setattr(interrupts, limit, 0.02)

    def hang() -> None:
        press()
        for _ in range(2000):
            time.sleep(0.001)
            sum(range(20_000 if limit == "PATIENCE" else 0))

    with pytest.raises(KeyboardInterrupt):
        called_from(HUB, "receive", hang)
    handling.deliver()


def test_waiting_in_get_is_not_protected(handling):
    """That is where a Ctrl-C finds a driver most of the time."""
    for sleeper in (Turns._lead, turns._Follower.sleep, Pump.work):
        code = sleeper.__code__
        assert not called_from(code.co_filename, code.co_name, lambda: interrupts._inside(sys._getframe()))


STATE_CHANGERS = [cls for cls in Requests.__mro__ if cls is not object] + [Scheduler, Arena, Link, Pool, Timers]


@pytest.mark.parametrize("cls", STATE_CHANGERS, ids=lambda cls: cls.__name__)
def test_every_part_of_the_hub_is_protected(cls, handling):
    assert called_from(inspect.getfile(cls), "anything", lambda: interrupts._inside(sys._getframe()))


def test_user_code_is_not_protected(handling):
    assert not called_from("/home/somebody/script.py", "close", lambda: interrupts._inside(sys._getframe()))


def test_another_thread_does_not_raise_what_is_the_main_threads(handling):
    problems: list[BaseException] = []

    def deliver() -> None:
        try:
            handling.deliver()
        except KeyboardInterrupt as error:
            problems.append(error)

    def change() -> None:
        press()
        thread = threading.Thread(target=deliver)
        thread.start()
        thread.join()

    called_from(HUB, "receive", change)
    assert problems == []
    with pytest.raises(KeyboardInterrupt):
        handling.deliver()


def test_a_handler_of_the_user_is_left_alone():
    seen: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: seen.append(number))
    try:
        mine = signal.getsignal(signal.SIGINT)
        handling = Interrupts()
        assert signal.getsignal(signal.SIGINT) is mine
        press()
        handling.close()
        assert seen == [signal.SIGINT] and signal.getsignal(signal.SIGINT) is mine
    finally:
        signal.signal(signal.SIGINT, before)


def test_closing_puts_pythons_handler_back_unless_the_user_has_replaced_ours():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        handling = Interrupts()
        assert signal.getsignal(signal.SIGINT) is not signal.default_int_handler
        handling.close()
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        handling = Interrupts()
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        handling.close()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_session_started_in_another_thread_touches_no_handler():
    before = signal.getsignal(signal.SIGINT)
    made: list[Interrupts] = []
    thread = threading.Thread(target=lambda: made.append(Interrupts()))
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGINT) is before
    made[0].close()
    assert signal.getsignal(signal.SIGINT) is before
