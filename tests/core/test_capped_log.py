"""A log never takes more than twice its limit, and whoever follows it misses nothing that is kept."""

from __future__ import annotations

import os
from pathlib import Path

from skate.core.capped_log import OLDER, CappedLog, Tail, read_log, remove_log


def test_log_keeps_the_newest_and_stays_within_twice_its_limit(tmp_path: Path) -> None:
    path = str(tmp_path / "log")
    log = CappedLog(path, 1000)
    for number in range(1000):
        log.write(b"line %d\n" % number)
        assert sum(os.path.getsize(part) for part in (path, path + OLDER) if os.path.exists(part)) <= 2000
    log.close()
    lines = read_log(path).splitlines()
    assert lines == [f"line {number}" for number in range(1000 - len(lines), 1000)]
    assert len("\n".join(lines)) >= 1000


def test_one_piece_larger_than_the_limit_is_cut(tmp_path: Path) -> None:
    log = CappedLog(str(tmp_path / "log"), 100)
    log.write(b"a" * 50)
    log.write(b"b" * 5000 + b"end")
    log.close()
    assert read_log(str(tmp_path / "log")) == "a" * 50 + "b" * 97 + "end"


def test_log_goes_on_where_it_was(tmp_path: Path) -> None:
    for word in (b"one ", b"two"):
        log = CappedLog(str(tmp_path / "log"), 100)
        log.write(word)
        log.close()
    assert read_log(str(tmp_path / "log")) == "one two"


def test_tail_follows_across_new_beginnings(tmp_path: Path) -> None:
    path = str(tmp_path / "log")
    tail = Tail(path)
    assert tail.read() == b""  # nobody writes yet
    log = CappedLog(path, 100)
    seen = b""
    for number in range(100):
        log.write(b"line %d\n" % number)
        if number % 3 == 0:
            seen += tail.read()
    seen += tail.read()
    tail.close()
    log.close()
    assert seen == b"".join(b"line %d\n" % number for number in range(100))


def test_removed_log_is_empty(tmp_path: Path) -> None:
    path = str(tmp_path / "log")
    log = CappedLog(path, 10)
    for _ in range(5):
        log.write(b"123456")
    log.close()
    remove_log(path)
    remove_log(path)
    assert read_log(path) == "" and not os.listdir(tmp_path)
