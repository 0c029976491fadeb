"""What workers write reaches the terminal whole, line by line, with its origin."""

from __future__ import annotations

import fcntl
import io
import os
from collections import deque
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skate.engines.local import logs
from skate.engines.local.logs import LONGEST, LogPipe


class Output:
    """A worker's end of a pipe, the log that reads the other, and what came out."""

    def __init__(self, quiet: bool = False, to_stderr: bool = False) -> None:
        read_fd, self.write_fd = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        fcntl.fcntl(self.write_fd, fcntl.F_SETPIPE_SZ, 1 << 20)
        self.tail: deque[str] = deque(maxlen=20)
        self.log = LogPipe(read_fd, self.tail, to_stderr, quiet)

    def write(self, data: bytes) -> None:
        while data:
            data = data[os.write(self.write_fd, data) :]

    def end(self) -> None:
        if self.write_fd >= 0:
            os.close(self.write_fd)
            self.write_fd = -1

    def close(self) -> None:
        self.end()
        os.close(self.log.fd)


@pytest.fixture
def output() -> Iterator[Output]:
    made = Output()
    yield made
    made.close()


def test_a_line_shows_its_origin(output, capsys):
    output.write(b"hello\nworld\n")
    assert output.log.read("f pid=7")
    assert capsys.readouterr().out == "(f pid=7) hello\n(f pid=7) world\n"
    assert list(output.tail) == ["hello", "world"]


def test_part_of_a_line_waits_for_its_rest(output, capsys):
    output.write(b"hel")
    output.log.read("f")
    assert capsys.readouterr().out == ""
    output.write(b"lo\nand")
    output.log.read("f")
    assert capsys.readouterr().out == "(f) hello\n"
    output.end()
    assert output.log.read("f") is False
    assert capsys.readouterr().out == "(f) and\n"
    assert output.log.read("f") is False
    assert capsys.readouterr().out == ""


def test_nothing_to_read_is_not_the_end(output):
    assert output.log.read("f") is True


def test_stderr_goes_to_stderr(capsys):
    output = Output(to_stderr=True)
    output.write(b"oh\n")
    output.log.read("f")
    assert capsys.readouterr() == ("", "(f) oh\n")
    output.close()


def test_a_quiet_log_shows_nothing_and_remembers_the_last_lines(capsys):
    output = Output(quiet=True)
    output.write(b"".join(b"%d\n" % i for i in range(100)))
    output.log.read("f")
    assert capsys.readouterr() == ("", "")
    assert list(output.tail) == [str(i) for i in range(80, 100)]
    output.close()


def test_bytes_that_are_no_text_are_shown_escaped(output, capsys):
    output.write(b"caf\xe9 \xff\xfe ok \xc3\xa9\r\n")
    output.log.read("f")
    assert capsys.readouterr().out == "(f) caf\\xe9 \\xff\\xfe ok é\n"


def test_a_letter_cut_in_two_by_a_read_is_whole_in_the_line(output, capsys, monkeypatch):
    monkeypatch.setattr(logs, "READ_SIZE", 5)
    output.write("ab€de\n".encode())
    for _ in range(3):
        output.log.read("f")
    assert capsys.readouterr().out == "(f) ab€de\n"


def test_a_very_long_line_is_complete_once_it_ends(output, capsys):
    line = b"x" * (LONGEST - 10)
    output.write(line + b"\n")
    output.log.drain("f")
    assert capsys.readouterr().out == f"(f) {line.decode()}\n"


def test_a_line_without_end_is_shown_in_parts_and_nothing_is_lost(output, capsys, monkeypatch):
    monkeypatch.setattr(logs, "LONGEST", 1000)
    output.write(b"y" * 200_000)
    for _ in range(5):
        output.log.read("f")
    shown = capsys.readouterr().out
    assert shown.count("y") == 200_000 and shown.endswith("\n")


@given(chunks=st.lists(st.binary(max_size=30), max_size=15), reads=st.lists(st.booleans(), max_size=15))
@settings(max_examples=100)
def test_however_it_is_cut_every_line_is_shown_once(chunks, reads):
    output, shown = Output(quiet=True), []
    output.log.tail = shown  # type: ignore[assignment]
    try:
        for number, chunk in enumerate(chunks):
            output.write(chunk)
            if number < len(reads) and reads[number]:
                output.log.read("f")
        output.end()
        output.log.drain("f")
    finally:
        output.close()
    whole = b"".join(chunks)
    expected = whole.split(b"\n")
    if not expected[-1]:
        expected.pop()
    assert shown == [line.decode("utf-8", "backslashreplace").rstrip("\r") for line in expected]


@pytest.mark.parametrize("length", [63, 64, 1000], ids=lambda n: f"{n} bytes a line")
def test_all_that_a_dead_worker_left_is_shown(output, capsys, length):
    lines = (1 << 20) // length - 1
    output.write((b"z" * (length - 1) + b"\n") * lines)
    output.end()
    output.log.drain("f")
    assert capsys.readouterr().out.count("\n") == lines


@pytest.mark.parametrize("length", [63, 64, 1000], ids=lambda n: f"{n} bytes a line")
def test_all_that_a_dead_worker_left_is_shown_though_its_child_holds_the_pipe(output, capsys, length):
    lines = (1 << 20) // length - 1
    output.write((b"z" * (length - 1) + b"\n") * lines + b"no end")
    output.log.drain("f")
    shown = capsys.readouterr().out
    assert shown.count("\n") == lines + 1 and shown.endswith("(f) no end\n")


def test_a_terminal_that_cannot_show_a_letter_shows_it_escaped(output, monkeypatch):
    buffer = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(buffer, encoding="ascii"))
    output.write("naïve €\nplain\n".encode())
    output.log.read("f")
    assert buffer.getvalue().splitlines() == [b"(f) na\\xefve \\u20ac", b"(f) plain"]


@pytest.mark.parametrize("stream", [None, "closed"])
def test_a_driver_without_a_terminal_goes_on(output, monkeypatch, stream):
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr("sys.stdout", None if stream is None else closed)
    output.write(b"unheard\n")
    assert output.log.read("f")
    assert list(output.tail) == ["unheard"]
