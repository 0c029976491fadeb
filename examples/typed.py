"""What a type checker knows about a Skate program: `ObjectRef[R]` is exact through `get`.

This file is checked by `mypy --strict`; `assert_type` fails the check wherever the type that the
checker found is not the one written here. When run, the program does what it says.
"""

from __future__ import annotations

import asyncio
from typing import assert_type

import skate as ray
from skate import ObjectRef


@ray.remote
def square(number: int) -> int:
    return number * number


@ray.remote(num_cpus=0.5, max_retries=0)
def describe(number: int, unit: str = "m") -> str:
    return f"{number} {unit}"


class Account:
    """A balance that only its own methods change."""

    def __init__(self, owner: str, balance: int = 0) -> None:
        self.owner = owner
        self.balance = balance

    @ray.method
    def deposit(self, amount: int) -> int:
        self.balance += amount
        return self.balance

    @ray.method
    def statement(self) -> dict[str, int]:
        return {self.owner: self.balance}


RemoteAccount = ray.remote(Account)  # a decorator works too, but mypy overlooks those of classes


def tasks() -> None:
    nine = square.remote(3)
    assert_type(nine, ObjectRef[int])
    assert_type(ray.get(nine), int)
    assert_type(ray.get([nine, square.remote(4)]), list[int])
    assert_type(ray.get(square.options(num_cpus=0.5).remote(5), timeout=10), int)

    # A reference goes wherever its value may go.
    text = describe.remote(nine, unit="km")
    assert_type(text, ObjectRef[str])
    assert ray.get(text) == "9 km"

    stored = ray.put(["a", "b"])
    assert_type(stored, ObjectRef[list[str]])
    assert ray.get(stored) == ["a", "b"]

    done, waiting = ray.wait([nine, square.remote(6)], num_returns=2)
    assert_type(done, list[ObjectRef[int]])
    assert_type(waiting, list[ObjectRef[int]])
    assert sorted(ray.get(done)) == [9, 36]


def actors() -> None:
    account = RemoteAccount.remote("Ada", balance=10)
    balance = account.deposit.remote(5)
    assert_type(balance, ObjectRef[int])
    assert_type(ray.get(balance), int)
    assert_type(ray.get(account.statement.remote()), dict[str, int])
    assert ray.get(account.statement.remote()) == {"Ada": 15}


async def awaited() -> int:
    number = await square.remote(7)
    assert_type(number, int)
    return number


def main() -> None:
    ray.init()
    tasks()
    actors()
    assert asyncio.run(awaited()) == 49
    print("typed: what the checker found is what came back")
    ray.shutdown()


if __name__ == "__main__":
    main()
