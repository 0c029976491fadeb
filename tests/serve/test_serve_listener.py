"""What is heard from the controller when a call to it is lost."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest

import skate
from skate.serve import context, listener
from skate.serve.told import Told

KEY = ("replicas", "app", "deployment")


class Hears(listener.Listener):
    """Keeps what it hears."""

    def __init__(self) -> None:
        super().__init__(KEY)
        self.heard: list[int] = []

    def hear(self, told: Told, asked: int | None = None) -> None:
        self.version = told[KEY][0]
        self.heard.append(self.version)

    def session_ended(self) -> None:
        self.closed = True

    def nobody_there(self) -> None:
        self.closed = True


def controlled(monkeypatch: pytest.MonkeyPatch, answers: Any) -> None:
    """The controller gives these answers, in turn."""
    told = iter(answers)
    listen = SimpleNamespace(remote=lambda known, seconds: next(told))
    monkeypatch.setattr(context, "controller", lambda: SimpleNamespace(listen=listen))


def test_a_lost_call_is_made_anew_on_a_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "LISTEN_S", 0.01)
    monkeypatch.setattr(listener, "OVERDUE_S", 0.01)
    monkeypatch.setattr(listener, "RETRY_S", 0.01)

    async def main() -> list[int]:
        loop = asyncio.get_running_loop()
        lost, news, never = loop.create_future(), loop.create_future(), loop.create_future()
        news.set_result({KEY: (7, None)})
        controlled(monkeypatch, [lost, news, never])
        monkeypatch.setattr(context, "loop", loop)
        one = Hears()
        one.listen()
        async with asyncio.timeout(60):
            while not one.heard:
                await asyncio.sleep(0.01)
        one.stop_listening()
        return one.heard

    assert asyncio.run(main()) == [7]


def test_an_overdue_answer_begins_no_second_round_of_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(skate, "is_initialized", lambda: True)
    monkeypatch.setattr(context, "loop", None)
    asked: list[Future[Any]] = [Future() for _ in range(4)]
    controlled(monkeypatch, [SimpleNamespace(future=lambda each=each: each) for each in asked])
    one = Hears()
    one.listen()
    one.ask_if_overdue()
    assert one._call == 1  # it has time yet
    monkeypatch.setattr(listener.time, "monotonic", lambda: one._asked_at + listener.LISTEN_S + listener.OVERDUE_S + 1)
    one.ask_if_overdue()
    assert one._call == 2
    asked[1].set_result({KEY: (3, None)})
    asked[0].set_result({KEY: (2, None)})  # after all
    assert one.heard == [3]
    assert one._call == 3
