"""What several machines are to serve: pages of the board, and which machines get proxies."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from skate.serve import board
from skate.serve.context import HEAD
from skate.serve.fronts import machines_without

GONE = board.Place(2**22 + 1, 3, 0xABC)  # no process has this number: as seen from another machine


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    yield
    board.forget()


def node(name: str, host: str, *, alive: bool = True, head: bool = False) -> dict[str, Any]:
    return {"NodeID": name, "NodeManagerHostname": host, "Alive": alive, "Resources": {HEAD: 1.0} if head else {}}


NODES = [
    node("h", "one", head=True),
    node("a", "two"),
    node("b", "two"),
    node("c", "three"),
    node("d", "four", alive=False),
]


@pytest.mark.parametrize(
    ("used", "known", "wanted"),
    [
        ((), (), []),
        (("h",), (), []),  # the head has one already
        (("h", "a"), (), ["a"]),
        (("a", "b"), (), ["a"]),  # two nodes of one machine
        (("b", "c"), ("a",), ["c"]),
        (("d",), (), []),  # a node that is gone
        (("c",), ("d",), ["c"]),
    ],
)
def test_a_machine_with_replicas_gets_one_proxy(used: Any, known: Any, wanted: list[str]) -> None:
    assert machines_without(NODES, used, known) == wanted


def test_processes_of_a_machine_that_cannot_reach_the_board_share_a_page(tmp_path: Path) -> None:
    ours = board.attach(GONE, lambda: str(tmp_path))
    board.forget()  # as another process of this machine
    theirs = board.attach(GONE, lambda: str(tmp_path))
    assert theirs is not ours and theirs.identity == ours.identity and ours.place is None
    word = board.word_of(7)
    board.note(ours.words, word, 42)
    assert board.had_begun(theirs.words, word, 42, 0) and not board.had_begun(theirs.words, word, 43, 0)
    assert [entry.stat().st_mode & 0o777 for entry in tmp_path.iterdir()] == [0o600]


def test_without_a_folder_a_process_has_a_page_of_its_own() -> None:
    one, other = board.attach(GONE), board.attach(GONE)
    assert one.identity != other.identity


def test_a_folder_that_is_not_there_is_none(tmp_path: Path) -> None:
    one, other = (board.attach(GONE, lambda: str(tmp_path / "no")) for _ in range(2))
    assert one.identity != other.identity


def test_a_board_that_can_be_reached_is_the_same_page_for_all() -> None:
    made = board.create()
    assert made.place is not None
    board.forget()
    assert board.attach(made.place).identity == made.identity
