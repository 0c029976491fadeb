"""What workers write is kept in files, and never more of it than was asked for."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from skate.core.keeping import Keeping, keeping
from skate.engines.local.history import Card, Event
from skate.engines.local.logbook import EVENTS, Logbook, file_name


def worker(client: int = 5) -> Any:
    return SimpleNamespace(card=Card(client), pid=4711)


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in (folder / "logs").iterdir())


def test_output_is_kept_as_it_was_written(tmp_path: Path) -> None:
    book = Logbook(str(tmp_path), Keeping())
    for data in (b"one\n", b"\xff two", b" three\n"):
        book.keep(worker(), "out", data)
    path = tmp_path / "logs" / file_name(Card(5), 4711, "out")
    assert path.read_bytes() == b"one\n\xff two three\n"
    assert path.stat().st_mode & 0o777 == 0o600 and path.parent.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("chunk", [1, 7, 64, 1000])
def test_a_file_keeps_its_last_part(tmp_path: Path, chunk: int) -> None:
    book = Logbook(str(tmp_path), Keeping(log_bytes=200))
    written = b"".join(b"%05d\n" % number for number in range(1000))
    for start in range(0, len(written), chunk):
        book.keep(worker(), "out", written[start : start + chunk])
        assert size(tmp_path) <= 200
    path = tmp_path / "logs" / file_name(Card(5), 4711, "out")
    older = path.with_name(path.name + ".1")
    kept = (older.read_bytes() if older.exists() else b"") + path.read_bytes()
    assert written.endswith(kept) and len(kept) >= min(chunk, 100)


def test_the_files_written_to_longest_ago_go_first(tmp_path: Path) -> None:
    book = Logbook(str(tmp_path), Keeping(log_files=3))
    for client in (1, 2, 3, 1, 4):
        book.keep(worker(client), "err", b"x")
    assert set(os.listdir(tmp_path / "logs")) == {file_name(Card(n), 4711, "err") for n in (3, 1, 4)}


def test_nothing_is_kept_with_no_bytes_or_no_folder(tmp_path: Path) -> None:
    Logbook(str(tmp_path), Keeping(log_bytes=0)).keep(worker(), "out", b"x")
    Logbook("", Keeping()).keep(worker(), "out", b"x")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_gone_stops_the_book_and_nothing_else(tmp_path: Path) -> None:
    book = Logbook(str(tmp_path), Keeping())
    book.keep(worker(), "out", b"x")
    shutil.rmtree(tmp_path / "logs")
    for _ in range(2):
        book.keep(worker(), "out", b"y")
    assert not (tmp_path / "logs").exists()


def test_no_descriptor_stays_open(tmp_path: Path) -> None:
    book = Logbook(str(tmp_path), Keeping())
    before = len(os.listdir("/proc/self/fd"))
    for client in range(50):
        book.keep(worker(client), "out", b"x")
    assert len(os.listdir("/proc/self/fd")) == before


def test_events_are_lines_of_json(tmp_path: Path) -> None:
    book = Logbook(str(tmp_path), Keeping())
    book.event(Event(1, 2.5, "INFO", "SESSION", "a\nb", {"pid": 3}))
    book.event(Event(2, 3.5, "ERROR", "WORKER", "c", {}))
    lines = (tmp_path / "logs" / EVENTS).read_text().splitlines()
    assert [msgspec.json.decode(line)["message"] for line in lines] == ["a\nb", "c"]


def test_settings_are_those_of_ray_where_it_has_them() -> None:
    found = keeping(
        {"maximum_gcs_dead_worker_cached_count": 7},
        {
            "RAY_task_events_max_num_task_in_gcs": "5",
            "RAY_record_ref_creation_sites": "1",
            "SKATE_EVENT_FILE": "true",
            "SKATE_LOG_BYTES": "100",
        },
    )
    assert found == Keeping(tasks=5, workers=7, sites=True, event_file=True, log_bytes=100)
    assert keeping(None, {}) == Keeping()


@pytest.mark.parametrize("given", [{"task_events_max_num_task_in_gcs": -1}, {"log_bytes": "many"}])
def test_wrong_settings_are_named(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(given))):
        keeping(given, {})
